"""How fast environments and updates are, beside others."""
