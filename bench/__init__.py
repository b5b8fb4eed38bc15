"""How fast, how big and how steady the workflows' steps are, against plain COPY and against other loaders."""
