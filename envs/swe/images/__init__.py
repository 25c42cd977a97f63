"""Builds the images that sandboxes start from, with a registry or without."""
