"""How well the world models predict, and the simulator in their place."""
