"""Is what is sampled what is trained, in every model family? `python -m benchmarks.families`."""
