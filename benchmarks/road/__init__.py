"""How long the road of a training step is, and what else the package holds."""
