"""The official shop on disk: read once from its files, then opened by any number of processes."""
