"""Trained policies in environments: who acts, and the episodes that come of it."""
