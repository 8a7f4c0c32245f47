"""Box actions of any environment: described, rescaled, checked, and replayed at a resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from box_envs import Talkers
from gymnasium import spaces

from envs.batched import decode_actions, encode_actions
from envs.check.verdict import check
from envs.errors import UserError
from envs.pettingzoo.env import PettingZooEnv
from envs.pettingzoo.flatten import RowReader
from envs.pettingzoo.reader import Reader
from envs.spec import AgentSpec, EnvSpec, Head


def rows(env: PettingZooEnv, go: list[float], symbols: list[int]) -> torch.Tensor:
    """[N, E, A] of one number and one symbol an agent, K = 3."""
    result = torch.zeros(2, env.num_envs, 6)
    for n in range(2):
        result[n, :, 0] = go[n]
        result[n, :, 3 + symbols[n]] = 1.0
    return result


def test_heads_divide_the_box() -> None:
    env = PettingZooEnv(make=Talkers)
    assert env.spec.agents[0].heads == (Head("go", 1, (-2.0,), (3.0,)), Head("message", 3))
    assert env.spec.agents[0].box and env.spec.continuous and env.spec.action_size == 6
    assert EnvSpec.from_dict(env.spec.to_dict()) == env.spec
    assert check(Talkers, episodes=2) == []


def test_numbers_are_rescaled_and_messages_stay_one_hots() -> None:
    """-1 and 1 stand for -2 and 3, so -.2 for 0 and .5 for 1.75."""
    env = PettingZooEnv(make=Talkers, num_envs=2)
    env.reset(0)
    arrays = env.decode_actions(rows(env, [-1.0, 0.5], [2, 0]))
    torch.testing.assert_close(arrays["a"], torch.tensor([[-2.0, 0.0, 0.0, 1.0]] * 2))
    torch.testing.assert_close(arrays["b"], torch.tensor([[1.75, 1.0, 0.0, 0.0]] * 2))
    place = env.reset(0)[:, :, 0]
    step = env.step(rows(env, [-0.2, 0.5], [2, 0]))
    torch.testing.assert_close(step.reward, -((torch.tensor([[0.0], [1.75]]) - 2 * place) ** 2))
    assert step.obs[1, :, 1:].argmax(-1).tolist() == [2, 2] and step.obs[0, :, 1:].argmax(-1).tolist() == [0, 0]


def test_a_state_is_continued() -> None:
    def play(env: PettingZooEnv, steps: range) -> list[torch.Tensor]:
        return [env.step(rows(env, [np.sin(t), np.cos(t)], [t % 3, t % 2])).obs for t in steps]

    env, again = PettingZooEnv(make=Talkers, num_envs=2), PettingZooEnv(make=Talkers, num_envs=2)
    env.reset(5)
    play(env, range(6))
    state = env.state_dict()
    assert state["actions"].dtype == torch.float64
    again.load_state_dict(state)
    for one, two in zip(play(env, range(6, 12)), play(again, range(6, 12)), strict=True):
        assert torch.equal(one, two)


def test_agents_of_different_kinds_share_rows() -> None:
    spec = EnvSpec(
        "toy",
        (
            AgentSpec("mover", 1, (Head("move", 2, (0.0, -4.0), (1.0, 4.0)),), box=True),
            AgentSpec("chooser", 1, (Head("move", 2), Head("message", 3)), start=1),
            AgentSpec("both", 1, (Head("choice_0", 2), Head("choice_1", 3)), multi_discrete=True),
        ),
    )
    given = {"mover": [[0.25, -2.0]], "chooser": [1 + 1 + 2 * 2], "both": [[1, 2]]}
    rows_NEA = encode_actions(spec, given)
    assert rows_NEA[:, 0].tolist() == [[-0.5, -0.5, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1]]
    assert {name: x.tolist() for name, x in decode_actions(spec, rows_NEA).items()} == given
    actions = Reader(spec, [RowReader(1)] * 3, [np.float32, np.int64, np.int32]).actions(rows_NEA.numpy())
    assert actions[0][0].tolist() == [0.25, -2.0] and actions[0][0].dtype == np.float32
    assert actions[1] == [6] and actions[2][0].tolist() == [1, 2] and actions[2][0].dtype == np.int32


class Other(Talkers):
    """With another space, and no heads."""

    metadata = {"name": "other_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.spaces = dict.fromkeys(self.possible_agents, space)


@pytest.mark.parametrize(
    ("space", "heads", "words"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), None, "must have a finite low below a finite high"),
        (spaces.Box(0, 5, (2,), np.int64), None, "must be a Box of floats with one axis"),
        (spaces.Box(-1, 1, (2, 2)), None, "must be a Box of floats with one axis"),
        (spaces.Box(-1, 1, (4,)), [["go", 1], ["message", 2]], "do not add up to 4"),
        (spaces.Box(-1, 0.5, (3,)), [["go", 1], ["message", 2]], "does not hold the one-hots of the head 'message'"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))]), None, "an action space of another kind"),
    ],
)
def test_boxes_that_cannot_be_played_are_refused(space: Any, heads: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        PettingZooEnv(make=lambda: Other(space), heads=heads and {"a": heads, "b": heads})
