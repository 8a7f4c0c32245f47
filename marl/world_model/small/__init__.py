"""A small world model: least squares, and networks for what is left."""
