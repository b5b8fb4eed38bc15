"""What the three workflows share: the loader and their settings."""
