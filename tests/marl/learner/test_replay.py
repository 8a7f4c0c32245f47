"""The replay: what is stored, sums of n steps, and a restored buffer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_learner import SPEC, E, H, K, N, S, filled, replay, transitions
from toy_envs import Toy

from envs.history import History
from envs.pettingzoo.env import PettingZooEnv
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.data.windows import WindowReplay
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows
from marl.learner.recurrent.maddpg import RecurrentMADDPG


def test_truncation_is_bootstrapped_and_termination_is_not() -> None:
    buffer = replay()
    flags = torch.zeros(S, N, E, dtype=torch.bool)
    term, trunc = flags.clone(), flags.clone()
    term[..., 0], trunc[..., 1] = True, True
    buffer.add(transitions(terminated=term, truncated=trunc))
    batch = buffer.gather(torch.arange(E).repeat(S, 1) + buffer._offset_S1)
    torch.testing.assert_close(batch.discount[0, 0], torch.tensor([0.0, 0.9, 0.9, 0.9]))


def test_replay_returns_what_was_stored() -> None:
    buffer, given = replay(), transitions()
    buffer.add(given)
    batch = buffer.gather(torch.arange(E).repeat(S, 1) + buffer._offset_S1)
    for name in ("obs", "action", "reward", "next_obs"):
        assert torch.equal(getattr(batch, name), getattr(given, name)), name
    assert torch.equal(batch.prev_obs[:, 0], given.prev_obs[:, 0])
    assert torch.equal(batch.joint, joint_rows(given.obs, given.action))


def test_the_window_of_n_steps_slides() -> None:
    """Every row sums its own step and the two after it, not those that filled the window first."""
    buffer, steps = replay(n_step=3, gamma=0.5), [transitions(seed) for seed in range(6)]
    for one in steps:
        buffer.add(one)
    batch = buffer.gather(torch.arange(4 * E).repeat(S, 1) + buffer._offset_S1)
    for k in range(4):
        rows, (now, then, last) = slice(k * E, (k + 1) * E), (one.reward for one in steps[k : k + 3])
        torch.testing.assert_close(batch.reward[..., rows], now + 0.5 * then + 0.25 * last)
        assert torch.equal(batch.obs[:, :, rows], steps[k].obs)
        assert torch.equal(batch.next_obs[:, :, rows], steps[k + 2].next_obs)


def test_a_restored_window_is_its_own() -> None:
    buffer = filled(n_step=3)
    state = buffer.state_dict()
    before = copy.deepcopy(state["window"])
    again = replay(n_step=3)
    again.load_state_dict(state)
    again.add(transitions(20))
    assert all(
        torch.equal(x, now[name]) for x_s, now in zip(before, state["window"], strict=True) for name, x in x_s.items()
    )
    buffer.add(transitions(20))
    assert torch.equal(again.data_SCD[:, : again.size], buffer.data_SCD[:, : buffer.size])


def test_a_smaller_buffer_that_the_rows_just_fill_goes_on_at_its_first_row() -> None:
    """Guard: seen failing (an index out of bounds) with the cursor of the larger one."""
    buffer = replay()
    for seed in range(2):
        buffer.add(transitions(seed))
    small = Replay(SPEC, 2 * E, E, Stream(0, "replay", range(S)), 0.9)
    small.load_state_dict(buffer.state_dict())
    small.add(transitions(7))
    batch = small.gather(torch.arange(2 * E).repeat(S, 1) + small._offset_S1)
    assert torch.equal(batch.obs, torch.cat([transitions(7).obs, transitions(1).obs], 2)) and small.size == 2 * E


def test_replay_returns_the_masks_that_were_stored() -> None:
    spec = replace(SPEC, has_masks=True)
    buffer = Replay(spec, 100, E, Stream(0, "replay", range(S)), 0.9)
    g = torch.Generator().manual_seed(0)
    mask, next_mask = (torch.rand(S, N, E, H, K, generator=g) < 0.5 for _ in range(2))
    buffer.add(transitions(mask=mask, next_mask=next_mask))
    batch = buffer.gather(torch.arange(E).repeat(S, 1) + buffer._offset_S1)
    assert batch.mask is not None and torch.equal(batch.mask, mask)
    assert batch.next_mask is not None and torch.equal(batch.next_mask, next_mask)


def test_n_step_sums_stop_at_the_end_of_an_episode() -> None:
    buffer = replay(n_step=3, gamma=0.5)
    ended = torch.zeros(S, N, E, dtype=torch.bool)
    ended[..., 0] = True
    steps = [transitions(0), transitions(1, terminated=ended), transitions(2)]
    for one in steps:
        buffer.add(one)
    batch = buffer.gather(torch.arange(E).repeat(S, 1) + buffer._offset_S1)
    r = [one.reward for one in steps]
    torch.testing.assert_close(batch.reward[..., 0], r[0][..., 0] + 0.5 * r[1][..., 0])
    torch.testing.assert_close(batch.reward[..., 1], (r[0] + 0.5 * r[1] + 0.25 * r[2])[..., 1])
    assert float(batch.discount[0, 0, 0]) == 0.0 and float(batch.discount[0, 0, 1]) == 0.125
    assert torch.equal(batch.next_obs[..., 0, :], steps[1].next_obs[..., 0, :])
    assert torch.equal(batch.next_obs[..., 1, :], steps[2].next_obs[..., 1, :])


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"births": {"a_1": 1}}, 0.5 + 0.5 * 50.5),  # a_1 comes with the second step and is paid in it
        ({"deaths": {"a_0": 1}}, 50.5),  # a_0 ends with the first: nothing of what a_1 is paid later
        ({"deaths": {"a_1": 1}}, 50.5 + 0.5 * 0.5),
    ],
)
def test_a_team_is_paid_for_the_steps_that_an_agent_is_there(changes: Any, expected: float, memory: bool) -> None:
    """By hand: a_0 is paid 1 a step and a_1 100, a team; two steps at a gamma of .5, then nothing.

    Guard: seen failing with the team's mean of everybody's own sums, 75.5 for the second.
    """

    class Paid(Toy):
        def reward(self, name: str) -> float:
            return 1.0 if name == "a_0" else 100.0

    made = PettingZooEnv(make=Paid, length=6, teams=[["a_0", "a_1"]], **changes)
    env = History(made, 1, own_action=True) if memory else made
    env.reset(seed=0)
    config = MADDPGConfig(hidden=(8,), team_reward=True, n_step=2, gamma=0.5, recurrent=memory)
    learner = (RecurrentMADDPG if memory else MADDPG)(env.spec, config, 0, range(1))
    learner.target_critic.mlp.flat.detach().zero_()
    stream, running = Stream(0, "replay", range(1)), None
    if isinstance(learner, RecurrentMADDPG):
        running = learner.memory(1)
        shape = learner.memory_shape
        buffer: Replay = WindowReplay(env.spec, 100, 1, stream, 0.5, 2, 0, shape, learner.stored_team_NN)
    else:
        buffer = Replay(env.spec, 100, 1, stream, 0.5, 2, team=learner.stored_team_NN)
    collector = Collector(env, learner.act if running is None else running.act, 1, running)
    for _ in range(3):
        buffer.add(collector.collect()[0])
    whole = isinstance(buffer, WindowReplay)
    batch = (
        buffer._windows(torch.arange(2)[None, :, None]) if whole else buffer.at(torch.zeros(1, 1, dtype=torch.int64))
    )
    assert learner.targets(batch)[0, 0, 0].item() == pytest.approx(expected)


def test_who_would_act_next_is_told_at_the_end_of_n_steps() -> None:
    """Agent 0 comes with the second step (environment 0) or the third (1), or is terminated in the first (2).

    Guard: seen failing with who would act after the first of the two steps.
    """
    spec = replace(SPEC, fixed_agents=False)
    buffer = Replay(spec, 100, E, Stream(0, "replay", range(S)), 0.5, 2)
    there = torch.ones(4, S, N, E, dtype=torch.bool)  # at the observation of a step
    there[:1, :, 0, 0], there[:2, :, 0, 1], there[1:, :, 0, 2] = False, False, False
    for k in range(3):
        buffer.add(replace(transitions(k), active=there[k], terminated=~there[k + 1], next_active=there[k + 1]))
    batch = buffer.gather(torch.arange(2 * E).repeat(S, 1) + buffer._offset_S1)
    assert batch.next_active is not None
    assert batch.next_active[0, 0].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    assert (batch.next_active[:, 1:] == 1.0).all()


def test_n_step_sums_of_all_stop_where_one_agent_is_truncated() -> None:
    """By hand: agent 0 of environment 0 is truncated in the second of four steps, that of environment 1 terminated.

    Guard: seen failing with the value of the third step in place of what follows the second.
    """
    buffer = replay(n_step=3, gamma=0.5)
    first = torch.zeros(S, N, E, dtype=torch.bool)
    first[:, 0, 0] = True
    second = first.roll(1, 2)
    there = torch.ones(S, N, E, dtype=torch.bool)
    there[:, 0, :2] = False
    left = {"active": there, "terminated": ~there}
    steps = [
        transitions(0), transitions(1, truncated=first, terminated=second), transitions(2, **left),
        transitions(3, **left),
    ]  # fmt: skip
    for one in steps:
        buffer.add(one)
    rows = torch.stack([torch.arange(E), E + torch.arange(E)])
    earlier, later = (buffer.gather(row.repeat(S, 1) + buffer._offset_S1) for row in rows)
    r0, r1, r2 = (one.reward for one in steps[:3])
    torch.testing.assert_close(earlier.reward[..., 0], (r0 + 0.5 * r1)[..., 0])
    assert (earlier.discount[..., 0] == 0.25).all()
    assert torch.equal(earlier.next_obs[:, :, 0], steps[1].next_obs[:, :, 0])
    assert torch.equal(later.reward[..., 0], r1[..., 0]) and (later.discount[..., 0] == 0.5).all()
    assert torch.equal(later.next_obs[:, :, 0], steps[1].next_obs[:, :, 0])
    torch.testing.assert_close(earlier.reward[:, 0, 1], (r0 + 0.5 * r1)[:, 0, 1])
    torch.testing.assert_close(earlier.reward[:, 1:, 1], (r0 + 0.5 * r1 + 0.25 * r2)[:, 1:, 1])
    assert (earlier.discount[:, 0, 1] == 0).all() and (earlier.discount[:, 1:, 1] == 0.125).all()
    assert torch.equal(earlier.next_obs[:, :, 1], steps[2].next_obs[:, :, 1])
