"""DreamerV2's categorical world model."""
