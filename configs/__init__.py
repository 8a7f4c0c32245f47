"""Tuned values of every task that differ from the defaults in marl/config/schema.py: one YAML file a task."""
