"""What the workflows share: the loader and their settings."""
