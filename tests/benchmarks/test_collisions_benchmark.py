"""Touches counted from observations are those that the environment charges for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning.collisions import ENV, EPISODES_SEED, LENGTH, touches
from marl.play.rollout import play
from marl.scripted.by_name import scripted


@pytest.mark.parametrize("script", ["fixed", "coast"])
def test_touches_are_what_the_rewards_leave(script: str) -> None:
    """Mean reward of a step = G / 2 - touches / 3, with G = - sum over landmarks of the least distance."""
    player, episodes = scripted(ENV, script), 60
    counted = touches(player, episodes)
    played = play(ENV, player, episodes, EPISODES_SEED, backend="torch", batch=episodes, record=True,
                  env_args={"max_cycles": LENGTH + 1})  # fmt: skip
    assert played.obs is not None and played.rewards is not None
    seen = np.stack(list(played.obs.values()))[:, 1:]  # [N, T, E, O]
    landmarks = np.linalg.norm(seen[..., 4:10].reshape(*seen.shape[:3], 3, 2), axis=-1)
    least = landmarks.min(0).sum(-1)  # [T, E]
    left = -0.5 * least - played.rewards[:LENGTH].mean(-1)
    assert np.allclose(counted, 3.0 * left.sum(0), atol=1e-3)
    assert counted.sum() > 20
