"""Images of sandboxes: bases, packages, what is derived from prebuilt ones; registry or none."""
