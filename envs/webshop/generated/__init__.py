"""Generated shops: articles, attributes and wishes made by rule from a seed."""
