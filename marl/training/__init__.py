"""The loop, and the composition of a run from its configuration."""
