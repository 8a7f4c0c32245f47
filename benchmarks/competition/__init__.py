"""Trained teams against other replicas, scripts and a fresh Eve."""
