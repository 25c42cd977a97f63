"""Tools that import, export, compare or show a shop. The environment imports none of them."""
