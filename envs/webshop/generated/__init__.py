"""A shop of our own: articles, attributes and wishes made by rule from a seed."""
