"""Copying environments out of and into live mpe2 environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mpe_cases import VARIATIONS, Pair, label, real_observation

from envs import UserError
from envs.mpe import MPE_IDS, make, parallel_env


@pytest.mark.parametrize("case", VARIATIONS, ids=label)
def test_store_is_the_inverse_of_load(case: tuple[str, dict[str, Any]]) -> None:
    """A world written out of the port is the world that was read in: same observations, rewards, steps to come."""
    mpe_id, kwargs = case
    pair = Pair(mpe_id, 2, **kwargs)
    pair.reset(seed=3)
    for _ in range(2):
        choices, _ = pair.choose()
        for real, actions in zip(pair.real, choices, strict=True):
            real.step(actions)
    source, env = pair.real[1], pair.env
    copy = parallel_env(mpe_id, **kwargs)
    copy.reset(seed=99)
    if not source.agents:  # ended by success
        source.reset(seed=5)
    env.load_pettingzoo(1, source)
    env.store_pettingzoo(1, copy)
    assert copy.unwrapped.steps == source.unwrapped.steps
    gone = [getattr(landmark, "alive", True) for landmark in source.unwrapped.world.landmarks].count(False)
    for _ in range(3):
        for name in source.possible_agents:
            np.testing.assert_array_equal(real_observation(source, name), real_observation(copy, name))
        if gone or not source.agents:
            break
        actions = {name: int(pair.rng.integers(source.action_space(name).n)) for name in source.agents}
        one, other = source.step(actions), copy.step(actions)
        assert one[1] == other[1] and one[2] == other[2] and one[3] == other[3]


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_what_is_stored_can_be_drawn(mpe_id: str) -> None:
    """mpe2's own picture of a stored world is its picture of the world itself."""
    source, copy = (parallel_env(mpe_id, render_mode="rgb_array") for _ in range(2))
    source.reset(seed=4)
    copy.reset(seed=5)
    env = make(mpe_id, 1, dtype=torch.float64)
    env.load_pettingzoo(0, source)
    env.store_pettingzoo(0, copy)
    copy.unwrapped.original_cam_range = source.unwrapped.original_cam_range
    one, other = source.render(), copy.render()
    assert one.shape == (700, 700, 3) and np.array_equal(one, other)


def test_only_the_given_row_changes() -> None:
    pair = Pair("simple_spread_v3", 3)
    before = pair.env.observe()
    pair.real[0].reset(seed=8)
    pair.env.load_pettingzoo(1, pair.real[0])
    after = pair.env.observe()
    assert torch.equal(before[:, 0::2], after[:, 0::2]) and not torch.equal(before[:, 1], after[:, 1])


def test_a_loaded_row_ends_when_its_real_environment_does() -> None:
    pair = Pair("simple_v3", 3)
    real = pair.real[0]
    real.reset(seed=0)
    for _ in range(20):
        real.step({"agent_0": 0})
    pair.env.load_pettingzoo(2, real)
    ends = [pair.env.step(torch.zeros(1, 3, 1, dtype=torch.int64)).done.tolist() for _ in range(26)]
    assert [count + 1 for count, done in enumerate(ends) if done[2]] == [5]
    assert [count + 1 for count, done in enumerate(ends) if done[0] and done[1]] == [25]


def test_float32_rows_round_once() -> None:
    env, real = make("simple_tag", 1), parallel_env("simple_tag")
    real.reset(seed=0)
    env.load_pettingzoo(0, real)
    for n, name in enumerate(env.spec.agent_names):
        mine = env.split_obs(env.observe())[name][0].numpy()
        np.testing.assert_allclose(mine, real_observation(real, name), atol=2e-7)
        assert n < 4


def test_environments_that_do_not_match() -> None:
    env, real = make("simple_spread", 2), parallel_env("simple_spread")
    real.reset(seed=0)
    with pytest.raises(UserError, match="environments 0 to 1, got 2"):
        env.load_pettingzoo(2, real)
    with pytest.raises(UserError, match="environments 0 to 1, got -1"):
        env.store_pettingzoo(-1, real)
    for other, message in (
        (parallel_env("simple_tag"), r"expected an mpe2 environment simple_spread_v3"),
        (parallel_env("simple_spread", N=4), r"agents: expected \['agent_0', 'agent_1', 'agent_2'\], got"),
        (parallel_env("simple_spread", max_cycles=30), "horizon: expected 25, got 30"),
        (object(), "expected an mpe2 environment simple_spread_v3, got builtins.object"),
    ):
        for exchange in (env.load_pettingzoo, env.store_pettingzoo):
            with pytest.raises(UserError, match=message):
                exchange(0, other)
    tag, real_tag = make("simple_tag", 1, num_landmark_neighbors=1), parallel_env("simple_tag", num_obstacles=1)
    with pytest.raises(UserError, match="landmarks: expected 2, got 1"):
        tag.load_pettingzoo(0, real_tag)


def test_what_is_not_finite_is_refused() -> None:
    env, real = make("simple_spread", 1), parallel_env("simple_spread")
    real.reset(seed=0)
    real.unwrapped.world.agents[0].state.p_vel[0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        env.load_pettingzoo(0, real)
    assert bool(torch.isfinite(env.observe()).all())
