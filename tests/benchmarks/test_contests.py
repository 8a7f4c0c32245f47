"""Both sides of a competitive task on the scale of scripts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.competition.duels import Arena
from benchmarks.sample_efficiency import configuration, side_scores
from benchmarks.world_model import contests
from benchmarks.world_model.sample_tasks import ARMS, EVALUATION_SEED, TASKS
from marl.learner.maddpg import MADDPG
from marl.scripted.by_name import scripted

OPPONENTS = {"adversaries": "direct", "good": "midpoint"}
EPISODES = 20


def earned(place: Arena, adversary: str, good: str) -> dict[str, float]:
    played = place.play({"adversaries": place.script(adversary), "good": place.script(good)})
    return {side: float(returns.mean()) for side, returns in played.items()}


def test_random_play_is_nothing_and_the_best_fair_script_is_one() -> None:
    """Of each side against its own opponent, in these episodes; scripts that see the goal set no scale."""
    players = [scripted("simple_adversary", name, seed=EVALUATION_SEED) for name in ("follow+planned", "random")]
    got = contests.scores("simple_adversary", OPPONENTS, players, EPISODES)
    assert got.shape == (2, 2)
    fair = ("midpoint", "follow", "midpoint_reflex", "follow_reflex", "random")
    place = contests.arena("simple_adversary", EPISODES)
    best = max(earned(place, name, "direct")["adversaries"] for name in fair)
    assert contests.scale("simple_adversary", "adversaries", "direct", EPISODES)[1] == best
    assert earned(place, "omniscient", "direct")["adversaries"] > best
    low, high = contests.scale("simple_adversary", "good", "midpoint", EPISODES)
    assert low == earned(place, "midpoint", "random")["good"]
    assert high == earned(place, "midpoint", "planned")["good"] > low
    assert got[0, 0] == pytest.approx(1.0) and got[0, 1] == pytest.approx(1.0)
    assert got[1, 0] < 0.3 and got[1, 1] < 0.3  # draws of its own


def test_every_replica_is_measured_by_its_own_actors() -> None:
    task = TASKS["simple_adversary"]
    config = configuration("simple_adversary", ARMS["maddpg"], 0, 2)
    learner = MADDPG(task.make(1).spec, config.maddpg, 0, range(2))
    both = side_scores(task, learner, config)
    assert both.shape == (2, 2) and not np.allclose(both[0], both[1])
    learner.actor.mlp.flat.data[1] = learner.actor.mlp.flat.data[0]
    same = side_scores(task, learner, config)
    assert np.array_equal(same[0], both[0]) and np.array_equal(same[1], both[0])
