"""Scripts that produce every number and figure of the documentation, in rooms, and their results."""
