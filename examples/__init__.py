"""Runnable examples; docs/extending.md explains them. They use only what scripts outside this repository may use."""
