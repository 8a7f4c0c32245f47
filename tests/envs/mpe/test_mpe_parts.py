"""Goals with parts: which combinations are goals and landmarks, what is seen of them, who was right; the Lewis game."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from envs import UserError
from envs.mpe import make, make_scenario, parallel_env
from envs.mpe.variants.parts import Parts
from envs.mpe.variants.referential import Referential
from envs.mpe.variants.settings import Variant

ID, GAME = "speaker_listener_variant", "referential_game"
SOME: dict[str, Any] = {"attributes": [3, 3], "held_out": 3}


def test_held_out_combinations_lie_on_diagonals() -> None:
    square = Parts((3, 3), 5)
    assert [square.values[c] for c in square.held] == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    assert sorted(square.held + square.training) == list(range(9))
    assert [Parts((2, 3), 2).values[c] for c in Parts((2, 3), 2).held] == [(0, 0), (1, 1)]
    assert square.one_hots[square.values.index((1, 2))].tolist() == [0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("goals", ["training", "held_out"])
@pytest.mark.parametrize(("env_id", "count"), [(ID, "num_landmarks"), (GAME, "num_candidates")])
def test_goals_of_the_pool_among_training_combinations(env_id: str, count: str, goals: str) -> None:
    """Both backends: goals uniform over their pool, in a uniform place, the rest distinct training combinations."""
    parts = Parts((3, 3), 3, goals)
    world = make(env_id, 6000, **SOME, goals=goals, **{count: 4}).world
    drawn, slot = world.facts["combination"].numpy(), world.facts["goal"][0].numpy()
    rng = np.random.default_rng(0)
    ours = [parts.draw(4, rng) for _ in range(6000)]
    for combinations, goal in ((drawn, slot), (np.array([row for row, _ in ours]).T, np.array([g for _, g in ours]))):
        target = combinations[goal, np.arange(6000)]
        expected = parts.held if goals == "held_out" else parts.training
        assert stats.chisquare(np.bincount(target, minlength=9)[expected]).pvalue > 1e-4
        assert sorted(set(target.tolist())) == expected
        assert stats.chisquare(np.bincount(goal, minlength=4)).pvalue > 1e-4
        ordered = np.sort(combinations, axis=0)
        assert (ordered[1:] > ordered[:-1]).all(), "no combination twice"
        others = combinations[:, np.arange(6000)][np.arange(4)[:, None] != goal]
        assert sorted(set(others.tolist())) == parts.training
        if goals == "held_out":
            assert stats.chisquare(np.bincount(others, minlength=9)[parts.training]).pvalue > 1e-4


def test_observations_by_hand() -> None:
    env = parallel_env(ID, attributes=[2, 3], num_landmarks=2, num_symbols=4, message_length=2)
    env.reset(seed=0)
    world = env.unwrapped.world
    world.combinations, world.goals = [5, 1], [1]  # (1, 2) and (0, 1); the goal is the second
    seen = env.step({"speaker_0": 2 + 4 * 3, "listener_0": 0})[0]
    assert seen["speaker_0"].tolist() == [1, 0, 0, 1, 0]
    assert seen["listener_0"][6:16].tolist() == [0, 1, 0, 0, 1, 1, 0, 0, 1, 0]
    assert seen["listener_0"][16:].tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    spec = make_scenario(ID, attributes=[2, 3], num_landmarks=2, num_symbols=4, message_length=2).spec()
    assert [(r.start, r.size, r.meaning) for r in spec.routes] == [(16, 4, (0, 2, 3)), (20, 4, (0, 2, 3))]


def test_who_was_right_by_hand() -> None:
    variant = Variant(attributes=(2, 2), num_landmarks=2)
    goal = np.array([[1.0, 0, 0, 1]] * 2)  # (0, 1)
    shown = [0, 1, 0, 1, 1, 0, 0, 1]  # (1, 1) and (0, 1)
    near_second = [0, 0, 0.5, 0.5, 0.1, -0.2, *shown, 0, 0, 0]
    near_first = [0, 0, 0.1, 0.1, 0.3, 0.2, *shown, 0, 0, 0]
    seen = np.array([near_second, near_first])
    assert variant.goal_slot(goal, seen).tolist() == [1, 1]
    assert variant.found(goal, seen, np.zeros(2)).tolist() == [True, False]
    plain = Variant(num_landmarks=4, num_symbols=2)
    seen = np.array([[0.0, 0, 3, 3, 1, 1, -0.5, 0.5, 2, 2, 1, 0]])
    assert plain.found(np.eye(4)[[2]], seen, np.zeros(1)).tolist() == [True]
    game = Referential(attributes=(2, 2), num_landmarks=2)
    assert game.found(goal, np.array([shown, shown]), np.array([1, 0])).tolist() == [True, False]
    with pytest.raises(UserError, match="known of a single listener"):
        Variant(num_listeners=2).found(goal, seen, np.zeros(1))


@pytest.mark.parametrize("backend", ["torch", "pettingzoo"])
def test_a_pick_is_paid_in_the_last_step_and_a_message_in_the_first(backend: str) -> None:
    kwargs: dict[str, Any] = {"silence": True, "message_cost": 0.25, "delay": 1}
    for right in (True, False):
        paid = []
        if backend == "torch":
            env = make(GAME, 1, **kwargs)
            slot = int(env.world.facts["goal"])
            pick = slot if right else (slot + 1) % 3
            paid = [env.step(torch.tensor([[[0, 3]], [[pick, 0]]])).reward[:, 0].tolist() for _ in range(3)]
        else:
            real = parallel_env(GAME, **kwargs)
            real.reset(seed=5)
            slot = real.unwrapped.world.goals[0]
            pick = slot if right else (slot + 1) % 3
            paid = [list(real.step({"speaker_0": 0 + 4 * 3, "listener_0": pick})[1].values()) for _ in range(3)]
            assert not real.agents
        assert paid == [[-0.25] * 2, [0.0] * 2, [float(right)] * 2]


def test_a_game_that_cannot_be_is_refused() -> None:
    for build in (make_scenario, parallel_env):
        with pytest.raises(UserError, match="needs attributes"):
            build(GAME, attributes=[])
        with pytest.raises(UserError, match=r"num_candidates must be an integer in \[1, 6\], got 7"):
            build(GAME, **SOME, num_candidates=7)
        with pytest.raises(UserError, match="delay must be an integer"):
            build(GAME, delay=-1)
    env = make(GAME, 2)
    before = env.world.said.clone()
    with pytest.raises(UserError, match=r"agent 'listener_0', head 'choice' .* \[0, 2\], got 3"):
        env.step(torch.tensor([[[0, 0], [0, 0]], [[0, 0], [3, 0]]]))
    assert torch.equal(env.world.said, before)
