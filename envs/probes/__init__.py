"""Tiny environments with known answers, each isolating one fault of a learner."""

from envs.probes.env import PROBES, Probe, make
from envs.probes.parallel import (
    answer_observation,
    choose_action,
    constant_value,
    discounted_value,
    matching_game,
    recall,
    track_observation,
    truncated_value,
    value_from_observation,
    witness_game,
)

__all__ = [
    "PROBES",
    "Probe",
    "answer_observation",
    "choose_action",
    "constant_value",
    "discounted_value",
    "make",
    "matching_game",
    "recall",
    "track_observation",
    "truncated_value",
    "value_from_observation",
    "witness_game",
]
