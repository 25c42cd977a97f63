"""Our advantages and losses against those of other packages."""
