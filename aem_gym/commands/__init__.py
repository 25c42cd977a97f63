"""The commands of `aem-gym`, one module each. Heavy imports stay inside the functions."""
