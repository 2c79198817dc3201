"""Speed of the products of signals on the sphere."""
