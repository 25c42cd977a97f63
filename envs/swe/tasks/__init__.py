"""Tasks: repositories with something to mend, and the tests that tell whether it was."""
