"""Action masks, from the observation or the info, as an environment of one's own gives them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import strange_envs
import torch
from gymnasium import spaces
from toy_envs import Masked, MaskedInfo, Toy, Vectors

from envs import UserError
from envs.check.verdict import check
from envs.errors import EnvFailure
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


def test_a_forbidden_action_is_refused_beside_continuous_ones():
    """Guard: seen failing where rows of one-hots and numbers were played without a look at the masks."""
    env = PettingZooEnv(make=strange_envs.MaskBesideBox)
    rows = torch.zeros(2, 1, 3, dtype=torch.float64)
    for choice in range(3):
        rows[0, 0] = torch.eye(3)[choice]
        env.reset(0)
        if env.mask[0, 0, 0, choice]:
            env.step(rows)
            continue
        with pytest.raises(UserError, match=rf"action {choice} of agent 'left', head 'move', in copy 0 is forbidden"):
            env.step(rows)


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


class MasksInTuples(Vectors):
    """Of 2 x 3 and of 4 choices, as `MultiDiscrete.sample(mask=...)` takes them; a_1 has all of its choices."""

    def infos(self, names):
        own = {"a_0": (np.array([0, 1], np.int8), [True, True, False]), "a_1": (np.ones(4, np.int8),)}
        return {name: {"action_mask": own[name]} for name in names}


class MasksInSeenTuples(MasksInTuples):
    """The same in the observation."""

    def make_observation_space(self, name):
        one_each = spaces.Tuple([spaces.MultiBinary(int(n)) for n in self.make_action_space(name).nvec])
        return spaces.Dict({"observation": super().make_observation_space(name), "action_mask": one_each})

    def infos(self, names):
        return {}

    def observe(self, name):
        return {"observation": super().observe(name), **super().infos([name])[name]}


@pytest.mark.parametrize("make", [MasksInTuples, MasksInSeenTuples])
def test_masks_of_multi_discrete_heads_may_stand_in_a_tuple(make):
    """Gymnasium's own convention. Guard: seen failing with numpy's error about an inhomogeneous shape."""
    env = PettingZooEnv(make=make)
    env.reset(0)
    played = torch.tensor([[[1, 0]], [[0, 0]]])
    expected = [[[False, True, False, False], [True, True, False, False]], [[True] * 4, [False] * 4]]
    assert env.mask[:, 0].tolist() == expected == env.step(played).mask[:, 0].tolist()
    toy = make()
    assert env.reader.rows(*toy.reset(seed=0))[1].tolist() == expected
    assert check(make, episodes=2) == []


class SwappedMasks(MasksInTuples):
    def infos(self, names):
        return {"a_0": {"action_mask": (np.ones(3, np.int8), np.ones(2, np.int8))}}


def test_masks_of_other_heads_are_refused_by_name():
    words = r"action_mask of agent 'a_0': expected one action mask for each of the heads of sizes \[2, 3\]"
    with pytest.raises(EnvFailure, match=words):
        PettingZooEnv(make=SwappedMasks).reset(0)
    assert any(re.search(words, breach) for breach in check(SwappedMasks, episodes=1))


class SomeMasks(Toy):
    """A mask for one agent only."""

    def infos(self, names):
        return {"a_0": {"action_mask": np.array([1, 0, 0, 1], np.int8)}}


def test_an_agent_without_a_mask_may_do_anything():
    env = PettingZooEnv(make=SomeMasks)
    env.reset(0)
    assert env.mask[:, 0, 0].tolist() == [[True, False, False, True], [True] * 4]
