"""How fast SWE sandboxes are."""
