"""Ways to sample from a model: `hf` (any transformers model, in this process)."""
