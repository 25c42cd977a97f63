"""Training: configuration, warm start, learner, trainer, checkpoints."""
