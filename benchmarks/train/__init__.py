"""How fast, and how large, is a training step? `python -m benchmarks.train --help`."""
