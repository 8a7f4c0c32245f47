"""Actors and critics, and the batched perceptrons that they are made of."""
