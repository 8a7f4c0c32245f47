"""Scripts that produce every number and figure of the documentation, and their results."""
