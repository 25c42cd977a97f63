"""Sandboxes: where an agent's commands run, and nothing else of this machine."""
