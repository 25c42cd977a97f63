"""SWE: real repositories, real tests, in sandboxes."""
