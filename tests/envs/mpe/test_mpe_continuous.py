"""Continuous moves: the port against the real mpe2 with continuous_actions=True, step for step, in every scenario."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mpe_cases import Pair, real_observation, real_state, state_of

import envs
from envs.batched import decode_actions, encode_actions
from envs.errors import UserError
from envs.mpe import MPE_IDS, describe, make

EXACT = 1e-9


class ContinuousPair(Pair):
    """Its moves lead an agent to another entity, with any numbers beside them; messages are symbols."""

    def __init__(self, mpe_id: str, rows: int, **kwargs: Any) -> None:
        super().__init__(mpe_id, rows, continuous_actions=True, **kwargs)

    def choose(self) -> tuple[list[dict[str, np.ndarray]], torch.Tensor]:
        rows = []
        for real in self.real:
            world, actions = real.unwrapped.world, {}
            for n, agent in enumerate(world.agents):
                action = self.rng.random(real.action_space(agent.name).shape)
                if agent.movable and self.rng.random() < 0.7:
                    aim = world.entities[(n + 1) % len(world.entities)]
                    x, y = np.clip(5 * (aim.state.p_pos - agent.state.p_pos), -1, 1)
                    action[1:5] = max(-x, 0.0), max(x, 0.0), max(-y, 0.0), max(y, 0.0)
                if not agent.silent:
                    said = action[-world.dim_c :]
                    said[:] = np.arange(len(said)) == said.argmax()
                actions[agent.name] = action
            rows.append(actions)
        return rows, self.env.encode_actions({name: np.stack([row[name] for row in rows]) for name in self.names})


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_equals_mpe2(mpe_id: str) -> None:
    pair = ContinuousPair(mpe_id, 2)
    spec = pair.env.spec
    assert describe(mpe_id, pair.real[0]).differences(spec) == []
    pair.reset(seed=3)
    for _ in range(24):
        choices, actions = pair.choose()
        pair.follow_treasures()
        step = pair.env.step(actions)
        for row, real in enumerate(pair.real):
            _, rewards, *_ = real.step(choices[row])
            for n, (name, obs) in enumerate(pair.env.split_obs(step.final_obs).items()):
                assert np.abs(obs[row].numpy() - real_observation(real, name)).max() < EXACT, name
                assert abs(float(step.reward[n, row]) - rewards[name]) < EXACT, name
            for mine, theirs in zip(state_of(pair.env, row), real_state(real, pair.env.world.movers), strict=True):
                assert np.abs(mine - theirs).max(initial=0.0) < EXACT


def test_a_move_by_hand() -> None:
    """On mpe2's scale right 1, left .25 and up .5, down .5: a push of (.75, 0), so a velocity of .75 * 5 * .1."""
    env = make("simple", 1, dtype=torch.float64, continuous_actions=True)
    before = env.world.pos[0, :, 0].clone()
    action = env.encode_actions({"agent_0": [[0.3, 0.25, 1.0, 0.5, 0.5]]})
    torch.testing.assert_close(action, torch.tensor([[[-0.4, -0.5, 1.0, 0.0, 0.0]]], dtype=torch.float64))
    env.step(action)
    torch.testing.assert_close(env.world.vel[0, :, 0], torch.tensor([0.375, 0.0], dtype=torch.float64))
    torch.testing.assert_close(env.world.pos[0, :, 0], before)  # a push moves one step later


def test_messages_stay_choices() -> None:
    spec = make("simple_reference", continuous_actions=True).spec
    move, message = spec.agents[0].heads
    assert (move.continuous, move.size, move.low, move.high) == (True, 5, (0.0,) * 5, (1.0,) * 5)
    assert (message.continuous, message.size, message.is_message) == (False, 10, True)
    assert [route.head for route in spec.routes] == [1, 1]
    assert spec.head_mask.sum(-1).tolist() == [[0, 10]] * 2
    assert spec.number_mask.sum(-1).tolist() == [[5, 0]] * 2


def test_where_nobody_moves_all_is_choices() -> None:
    """simple_crypto's Box(4) are messages alone: integers are played, arrays of one-hots come out."""
    env = make("simple_crypto", 2, continuous_actions=True)
    assert not env.spec.continuous
    arrays = env.decode_actions(torch.tensor([[[0], [3]]] * 3))
    assert arrays["bob_0"].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert torch.equal(env.encode_actions(arrays), torch.tensor([[[0], [3]]] * 3))


def test_the_step_is_one_graph() -> None:
    """torch.compile traces it without a break, as with discrete moves."""
    torch._dynamo.reset()
    env, plain = (make("simple_reference", 3, continuous_actions=True) for _ in range(2))
    rows = torch.zeros(2, 3, 20)
    rows[:, :, 1], rows[:, :, 11] = 0.5, 1.0
    traced = torch.compile(env._advance, backend="eager", fullgraph=True, dynamic=False)
    for one, other in zip(traced(rows)[:2], plain._advance(rows)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", envs.BACKENDS)
def test_both_backends_play_the_same_rows(backend: str) -> None:
    arguments = {"continuous_actions": True}
    spec = envs.make("simple_reference", backend="torch", env_args=arguments).spec
    env = envs.make("simple_reference", 2, backend=backend, env_args=arguments)
    assert env.spec.to_dict() == spec.to_dict()
    env.reset(0)
    rows = torch.zeros(2, 2, 20)
    rows[:, :, 2], rows[:, :, 4], rows[:, :, 13] = 1.0, -1.0, 1.0
    obs = env.step(rows).obs
    torch.testing.assert_close(obs[:, :, 0], torch.full((2, 2), 0.25))  # (1 - .5) * 5 * .1
    torch.testing.assert_close(obs[:, :, 1], torch.full((2, 2), -0.25))
    assert obs[:, :, 11:].argmax(-1).tolist() == [[3, 3], [3, 3]]


def test_arrays_and_rows_are_inverse() -> None:
    spec = make("simple_world_comm", continuous_actions=True).spec
    rng = np.random.default_rng(0)
    given = {agent.name: rng.random((3, agent.choices)) for agent in spec.agents}
    given["leadadversary_0"][:, 5:] = np.eye(4)[:3]
    again = decode_actions(spec, encode_actions(spec, given))
    for name, array in given.items():
        np.testing.assert_allclose(again[name].numpy(), array, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.long(), "floating tensor"),
        (lambda rows: rows[:, :, :5], r"must have shape \[2, 1, 20\]"),
        (lambda rows: rows + 1.5, r"hold numbers in \[-1, 1\]"),
        (lambda rows: rows * float("nan"), r"hold numbers in \[-1, 1\]"),
        (lambda rows: rows.clone().index_fill_(2, torch.tensor([14]), 1.0), "be a one-hot"),
    ],
)
@pytest.mark.parametrize("backend", envs.BACKENDS)
def test_rows_are_checked(backend: str, change: Any, words: str) -> None:
    env = envs.make("simple_reference", backend=backend, env_args={"continuous_actions": True})
    env.reset(0)
    rows = torch.zeros(2, 1, 20)
    rows[:, :, 10] = 1.0
    with pytest.raises(UserError, match=words):
        env.step(change(rows))


def test_arrays_are_checked() -> None:
    env = make("simple", continuous_actions=True)
    with pytest.raises(UserError, match="must lie in"):
        env.encode_actions({"agent_0": [[0.0, 0.0, 1.5, 0.0, 0.0]]})
    with pytest.raises(UserError, match=r"shape \[environments, 5\]"):
        env.encode_actions({"agent_0": [[0.0, 0.0]]})


def test_arguments_are_checked() -> None:
    with pytest.raises(UserError, match="true or false"):
        make("simple", continuous_actions="yes")
    with pytest.raises(UserError, match="discrete actions only"):
        make("speaker_listener_variant", continuous_actions=True)
