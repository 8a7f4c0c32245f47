"""Injected faults, and the memory of a long run."""
