"""What is timed. Each module runs alone: python -m benchmarks.<name>."""
