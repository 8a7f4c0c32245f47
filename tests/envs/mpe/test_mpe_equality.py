"""The port against the real mpe2, step for step, in all scenarios and keyword variations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mpe_cases import VARIATIONS, Pair, label, real_observation, real_state, state_of

from envs.mpe import MPE, MPE_IDS, describe

EXACT = 1e-9
Case = tuple[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpe2 1.1.1 can never leave stage 0 of a curriculum: the base class's `curriculum_stage` is a property whose
    setter does nothing. Put plain attributes in its place, as its documentation describes."""
    from mpe2.simple_spread.simple_spread import Scenario as Spread
    from mpe2.simple_tag.simple_tag import Scenario as Tag

    for scenario in (Spread, Tag):
        monkeypatch.setattr(scenario, "curriculum_stage", 0, raising=False)


def play(case: Case, episodes: int, rows: int) -> dict[str, float]:
    """Play whole episodes twice: in one port that only takes over the reset, in one that takes over every state."""
    mpe_id, kwargs = case
    along = Pair(mpe_id, rows, **kwargs)
    afresh = Pair(mpe_id, rows, **kwargs)
    spec = along.env.spec
    assert describe(mpe_id, along.real[0]).differences(spec) == []
    seen = {"contacts": 0.0, "terminated": 0.0, "bonus": 0.0}
    for batch in range(-(-episodes // rows)):
        if kwargs.get("curriculum"):
            for target in (*(real.unwrapped for real in along.real), along.env, afresh.env):
                target.set_curriculum_stage(batch)
        along.reset(1000 * batch)
        playing = np.ones(rows, dtype=bool)
        while playing.any():
            for row, real in enumerate(along.real):
                afresh.env.load_pettingzoo(row, real)
                if not playing[row]:  # mpe2 has no step left in it: show both ports the state where it ended
                    along.env.load_pettingzoo(row, real)
            if afresh.env.scenario.step_draws:
                afresh.env._draws.steps.copy_(along.env._draws.steps)
            choices, actions = along.choose()
            along.follow_treasures()
            steps = along.env.step(actions), afresh.env.step(actions)
            for row in np.nonzero(playing)[0]:
                real = along.real[row]
                _, rewards, terminated, truncated, _ = real.step(choices[row])
                for env, step in zip((along.env, afresh.env), steps, strict=True):
                    check_row(env, step, int(row), real, rewards, terminated, truncated)
                playing[row] = bool(real.agents)
                seen["terminated"] += any(terminated.values())
                seen["bonus"] += max(rewards.values()) > 4.0
                seen["contacts"] += touching_pairs(real)
    return seen


def check_row(env: MPE, step: Any, row: int, real: Any, rewards: Any, terminated: Any, truncated: Any) -> None:
    """One row after one step: observations, rewards, flags, and the state unless it was reset."""
    for n, (name, obs) in enumerate(env.split_obs(step.final_obs).items()):
        assert np.abs(obs[row].numpy() - real_observation(real, name)).max() < EXACT, name
        assert abs(float(step.reward[n, row]) - rewards[name]) < EXACT, name
        assert bool(step.terminated[n, row]) == terminated[name]
        assert bool(step.truncated[n, row]) == truncated[name]
    ended = any(terminated.values()) or any(truncated.values())
    assert bool(step.done[row]) == ended
    if not ended:
        for mine, theirs in zip(state_of(env, row), real_state(real, env.world.movers), strict=True):
            assert np.abs(mine - theirs).max(initial=0.0) < EXACT


def touching_pairs(real: Any) -> int:
    """Pairs of bodies that push each other."""
    bodies = [body for body in real.unwrapped.world.entities if body.collide]
    return sum(
        np.linalg.norm(a.state.p_pos - b.state.p_pos) < a.size + b.size
        for i, a in enumerate(bodies)
        for b in bodies[i + 1 :]
    )


def check_events(case: Case, seen: dict[str, float]) -> None:
    """The comparison means little where nothing happens."""
    mpe_id, kwargs = case
    if mpe_id in ("simple_tag_v3", "simple_world_comm_v3", "simple_push_v3") or kwargs.get("N") == 5:
        assert seen["contacts"] > 0
    if kwargs.get("terminate_on_success"):
        assert seen["terminated"] > 0
    if mpe_id == "collect_treasure_v1":
        assert seen["bonus"] > 0


@pytest.mark.parametrize("case", VARIATIONS, ids=label)
def test_equals_mpe2(case: Case) -> None:
    check_events(case, play(case, episodes=9, rows=3))


@pytest.mark.slow
@pytest.mark.parametrize("case", VARIATIONS, ids=label)
def test_equals_mpe2_for_500_episodes(case: Case) -> None:
    check_events(case, play(case, episodes=500, rows=20))


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_float32_observations(mpe_id: str) -> None:
    """From mpe2's state, within 1e-5 wherever no two bodies touch (a contact magnifies rounding)."""
    pair = Pair(mpe_id, 6, dtype=torch.float32)
    pair.reset(seed=7)
    compared = 0
    for _ in range(10):
        for row, real in enumerate(pair.real):
            pair.env.load_pettingzoo(row, real)
        apart = [touching_pairs(real) == 0 for real in pair.real]
        choices, actions = pair.choose()
        pair.follow_treasures()
        observed = pair.env.split_obs(pair.env.step(actions).final_obs)
        for row, real in enumerate(pair.real):
            real.step(choices[row])
            if apart[row]:
                compared += 1
                for name, obs in observed.items():
                    assert obs.dtype == torch.float32
                    assert np.abs(obs[row].numpy() - real_observation(real, name)).max() < 1e-5, name
    assert compared > 10


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_crowds(mpe_id: str) -> None:
    """One step from worlds shrunk to a tenth: everything touches everything."""
    kwargs = {"num_collectors": 8, "num_deposits": 2, "num_treasures": 8} if mpe_id == "collect_treasure_v1" else {}
    pair = Pair(mpe_id, 4, **kwargs)
    most_paid = 0.0
    for seed in range(6):
        pair.reset(100 * seed)
        for row, real in enumerate(pair.real):
            for entity in real.unwrapped.world.entities:
                entity.state.p_pos = 0.1 * entity.state.p_pos
            pair.env.load_pettingzoo(row, real)
        choices, actions = pair.choose()
        pair.follow_treasures()
        step = pair.env.step(actions)
        for row, real in enumerate(pair.real):
            _, rewards, terminated, truncated, _ = real.step(choices[row])
            check_row(pair.env, step, row, real, rewards, terminated, truncated)
            most_paid = max(most_paid, *rewards.values())
    assert mpe_id != "collect_treasure_v1" or most_paid > 15.0  # several pickups and deliveries at once


def test_message_is_heard_one_step_later() -> None:
    """What the speaker says at a step stands in the observation that this step returns, and no earlier."""
    env = Pair("simple_speaker_listener_v4", 1).env
    slot = env.spec.routes[0].slot
    assert env.reset(0)[1, 0, slot].tolist() == [0.0, 0.0, 0.0]
    for symbol in (2, 0, 1):
        step = env.step(torch.tensor([[[symbol]], [[0]]]))
        assert step.obs[1, 0, slot].tolist() == [float(index == symbol) for index in range(3)]
