"""Players of referential_game that name attributes one by one, for the tests of goals with parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.mpe import catalogue

ENV = "referential_game"


class Naming:
    """The speaker says the value of each attribute in its place; the listener picks the first candidate that fits.

    Args:
        env_args: of the game.
        constant: the speaker says symbol 0 in every place.
        known_only: what a held-out combination would be called is taken for the first candidate.
    """

    env_id, num_replicas = ENV, 2

    def __init__(self, env_args: dict[str, Any], constant: bool = False, known_only: bool = False) -> None:
        real = catalogue.parallel_env(ENV, **env_args)
        self.spec, self.variant, self.env_args = catalogue.describe(ENV, real), real.unwrapped.variant, dict(env_args)
        self.constant, self.known_only = constant, known_only

    def reset(self, num_envs: int) -> None:
        pass

    def act(self, observations: dict[str, np.ndarray], masks: Any = None) -> dict[str, np.ndarray]:
        values, pick = self.choices(observations)
        said = sum(value * self.variant.vocabulary**place for place, value in enumerate(values))
        return {"speaker_0": said, "listener_0": pick}

    def probabilities(self, observations: dict[str, np.ndarray], masks: Any = None) -> dict[str, np.ndarray]:
        values, pick = self.choices(observations)
        size = self.spec.head_size
        heads = np.stack([np.eye(size)[value] for value in values], axis=1)
        return {"speaker_0": heads, "listener_0": np.eye(size)[pick][:, None]}

    def choices(self, observations: dict[str, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """The symbols said, one array a place, and the candidate picked."""
        variant = self.variant
        ends = np.cumsum(variant.attributes)
        goal, seen = observations["speaker_0"], observations["listener_0"]
        values = [goal[:, end - size : end].argmax(-1) for end, size in zip(ends, variant.attributes, strict=True)]
        shown = seen[:, : variant.own_width].reshape(len(seen), variant.num_landmarks, -1)
        heard = seen[:, variant.own_width :].reshape(len(seen), variant.message_length, -1).argmax(-1)
        named = np.concatenate(
            [np.eye(size)[np.minimum(heard[:, k], size - 1)] for k, size in enumerate(variant.attributes)], axis=-1
        )
        pick = (shown * named[:, None]).sum(-1).argmax(-1)
        if self.known_only:
            held = [variant.parts.values[c] for c in variant.parts.held]
            pick = np.where([tuple(row) in held for row in heard.tolist()], 0, pick)
        return [value * (not self.constant) for value in values], pick
