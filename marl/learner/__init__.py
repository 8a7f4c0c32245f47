"""MADDPG: networks, relaxations of discrete choices, losses, the update."""
