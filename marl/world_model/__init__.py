"""The optional world model: DreamerV2's categorical state-space model, and a linear one, as a source of batches.

Imports marl and envs; nothing outside this package imports it but the composition in marl/training/experiment.py.
"""
