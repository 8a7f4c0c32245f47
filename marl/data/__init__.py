"""From environments to batches: the collector and the replay buffer."""
