"""What is tried on an environment before it is trusted: its routes, its seeds, its pictures."""
