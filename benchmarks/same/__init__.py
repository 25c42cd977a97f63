"""Does the present tree give the same values as an earlier commit? Recordings of both, compared."""
