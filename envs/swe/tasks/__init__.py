"""Tasks: repositories with an issue, and the hidden tests that decide whether it is resolved."""
