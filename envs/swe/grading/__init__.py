"""Grading: a patch, in a fresh sandbox, against hidden tests."""
