"""Predicted memory and time against measured: `python -m benchmarks.estimate`."""
