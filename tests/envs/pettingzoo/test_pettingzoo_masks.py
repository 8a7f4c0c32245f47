"""Action masks, from the observation or the info, as an environment of one's own gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_envs import Masked, MaskedInfo, Toy, Vectors

from envs import UserError
from envs.pettingzoo.env import PettingZooEnv


def zeros(env: PettingZooEnv) -> torch.Tensor:
    return torch.zeros(env.spec.num_agents, env.num_envs, env.spec.num_heads, dtype=torch.int64)


@pytest.mark.parametrize("make", [Masked, MaskedInfo])
def test_masks_come_from_the_observation_or_the_info(make):
    env = PettingZooEnv(make=make, num_envs=2, length=3)
    assert env.spec.has_masks and env.spec.agents[0].obs_size == 3
    env.reset(0)
    assert env.mask[:, :, 0].sum(-1).tolist() == [[1, 1]] * 2
    allowed = []
    for _ in range(3):
        step = env.step(zeros(env))
        allowed.append((step.final_mask[0, 0, 0].tolist(), step.mask[0, 0, 0].tolist()))
        assert torch.equal(env.mask, step.mask)
    two, three, four = ([k <= t for k in range(4)] for t in (1, 2, 3))
    assert allowed == [(two, two), (three, three), (four, [True, False, False, False])]


def test_a_forbidden_action_is_refused():
    env = PettingZooEnv(make=Masked)
    env.reset(0)
    with pytest.raises(UserError, match=r"action 2 of agent 'a_1', head 'move', in copy 0.*expected one of \[0\]"):
        env.step(torch.tensor([[[0]], [[2]]]))


def test_masks_of_absent_agents_allow_choice_0():
    env = PettingZooEnv(make=Masked, deaths={"a_1": 2}, length=5)
    env.reset(0)
    env.step(zeros(env))
    second = env.step(zeros(env))
    third = env.step(zeros(env))
    zero = [True, False, False, False]
    assert second.mask[1, 0, 0].tolist() == zero == third.mask[1, 0, 0].tolist() == third.final_mask[1, 0, 0].tolist()
    assert second.final_mask[1, 0, 0].tolist() == [True, True, True, False]


class Turns(Masked):
    """It is one agent's turn; the other's mask is all zeros."""

    def mask(self, name):
        mine = self.t % 2 == self.possible_agents.index(name)
        return np.full(4, int(mine), np.int8)


def test_a_mask_of_zeros_leaves_choice_0():
    env = PettingZooEnv(make=Turns)
    env.reset(0)
    assert env.mask[:, 0, 0].sum(-1).tolist() == [4, 1] and env.mask[1, 0, 0, 0]


class VectorMasks(Vectors):
    def infos(self, names):
        masks = {"a_0": np.array([1, 0, 0, 1, 1], np.int8), "a_1": np.array([1, 1, 1, 0], np.int8)}
        return {name: {"action_mask": masks[name]} for name in names}


def test_masks_of_multi_discrete_heads_stand_side_by_side():
    env = PettingZooEnv(make=VectorMasks)
    env.reset(0)
    assert env.mask[0, 0].tolist() == [[True, False, False, False], [False, True, True, False]]
    assert env.mask[1, 0].tolist() == [[True, True, True, False], [False] * 4]
    with pytest.raises(UserError, match=r"action 1 of agent 'a_0', head 'choice_0'"):
        env.step(torch.tensor([[[1, 1]], [[0, 0]]]))


class SomeMasks(Toy):
    """A mask for one agent only."""

    def infos(self, names):
        return {"a_0": {"action_mask": np.array([1, 0, 0, 1], np.int8)}}


def test_an_agent_without_a_mask_may_do_anything():
    env = PettingZooEnv(make=SomeMasks)
    env.reset(0)
    assert env.mask[:, 0, 0].tolist() == [[True, False, False, True], [True] * 4]
