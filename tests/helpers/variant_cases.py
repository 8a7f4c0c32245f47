"""What the tests of speaker_listener_variant share."""

from __future__ import annotations

from typing import Any

VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_symbols": 5, "max_cycles": 4},
    {"num_landmarks": 2, "num_symbols": 1},
    {"num_landmarks": 6, "num_symbols": 2},
    {"num_speakers": 3},
    {"num_listeners": 3},
    {"num_speakers": 2, "num_listeners": 3, "num_landmarks": 4},
    {"noise": 0.3},
    {"erasure": 0.4},
    {"noise": 0.9, "erasure": 0.2, "num_symbols": 2},
    {"delay": 1},
    {"delay": 3, "noise": 0.5, "num_symbols": 4},
    {"message_length": 3, "num_symbols": 2},
    {"silence": True, "message_cost": 0.2},
    {"velocity": False},
    {"velocity": False, "attributes": (2, 3), "num_landmarks": 4, "delay": 1},
    {
        "num_speakers": 3,
        "num_listeners": 2,
        "num_landmarks": 5,
        "num_symbols": 4,
        "message_length": 2,
        "noise": 0.2,
        "erasure": 0.1,
        "delay": 2,
        "silence": True,
        "message_cost": 0.1,
        "max_cycles": 8,
    },
    {"attributes": (2, 3), "num_landmarks": 6, "max_cycles": 5},
    {
        "attributes": [3, 3],
        "held_out": 3,
        "goals": "held_out",
        "num_landmarks": 2,
        "num_speakers": 2,
        "message_length": 2,
        "noise": 0.3,
        "erasure": 0.2,
        "delay": 1,
        "max_cycles": 6,
    },
]

GAMES: list[dict[str, Any]] = [
    {},
    {"attributes": [2, 3], "num_candidates": 6, "message_length": 1, "num_symbols": 6},
    {"attributes": (2, 2, 2), "held_out": 2, "num_candidates": 3, "silence": True, "message_cost": 0.1},
    {
        "attributes": [3, 4],
        "held_out": 3,
        "goals": "held_out",
        "num_candidates": 5,
        "num_symbols": 4,
        "noise": 0.4,
        "erasure": 0.2,
        "delay": 2,
    },
]


def label(kwargs: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in kwargs.items()) or "default"
