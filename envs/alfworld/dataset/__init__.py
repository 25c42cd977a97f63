"""The official ALFWorld dataset: its problem files, game files and folders."""
