"""Actors and critics of observations that are pictures."""
