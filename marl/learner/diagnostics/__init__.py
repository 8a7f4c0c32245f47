"""What is looked at while agents learn: gradients that are not finite or not exact, entropies, symbols."""
