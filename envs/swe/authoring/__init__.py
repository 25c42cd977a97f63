"""Makes, checks, publishes and shows data and images of SWE; never imported by it."""
