"""Evaluation: what is measured, and how it is run."""
