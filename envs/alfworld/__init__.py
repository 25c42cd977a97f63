"""ALFWorld as a native engine: household tasks in text, with its own generator and oracle."""
