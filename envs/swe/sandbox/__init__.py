"""Sandboxes: the commands of an agent run here, apart from the rest of the machine."""
