"""Answers that mend nothing and try to be graded as if they did."""
