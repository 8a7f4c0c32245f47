"""What breaks the rules of ParallelEnv is refused by the check and by a run, both naming the agent and the field."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from gymnasium import spaces
from strange_envs import Strange

from envs import UserError
from envs.check.verdict import check
from envs.errors import EnvFailure
from envs.pettingzoo.env import PettingZooEnv


class Boxed(Strange):
    """Sees numbers of float32."""

    def see_space(self, name):
        return spaces.Box(-1, 1, (3,), np.float32)

    def see(self, name):
        return np.eye(3, dtype=np.float32)[self.door]


class WholeNumbers(Boxed):
    def see(self, name):
        return super().see(name).astype(np.int64)


class Doubles(Boxed):
    def see(self, name):
        return super().see(name).astype(np.float64)


class PlainLists(Boxed):
    def see(self, name):
        return super().see(name).tolist()


class Beyond(Boxed):
    def see(self, name):
        return super().see(name) * 3


class TooNarrow(Strange):
    """Cells beyond the end of a MultiDiscrete space."""

    def see_space(self, name):
        return spaces.MultiDiscrete([3, 2])

    def see(self, name):
        return self.door, 2


class SpeaksTuples(Strange):
    def act_space(self, name):
        return spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2)))


class SpeaksDicts(Strange):
    def act_space(self, name):
        return spaces.Dict({"move": spaces.Discrete(3), "say": spaces.Discrete(2)})


class Unlisted(Strange):
    """Without possible_agents."""

    def __init__(self):
        super().__init__()
        del self.possible_agents


class NoTruncations(Strange):
    def step(self, actions):
        seen, paid, ended, _, infos = super().step(actions)
        return seen, paid, ended, {}, infos


class ArrayEnds(Strange):
    def step(self, actions):
        seen, paid, ended, cut, infos = super().step(actions)
        return seen, paid, ended, {name: np.array(value) for name, value in cut.items()}, infos


class StillSeen(Strange):
    """`left` ends in the second step and is observed after it."""

    def step(self, actions):
        seen, paid, ended, cut, infos = super().step({"left": 0, **actions})
        if self.t == 2:
            ended["left"] = True
        if self.t >= 2 and self.agents:
            self.agents = ["right"]
        if self.t > 2:
            seen["left"] = self.see("left")
        return seen, paid, ended, cut, infos


REFUSED = {
    Beyond: r"observation of agent 'left': entry \d is 3, outside of its space: expected at most 1.*Widen",
    WholeNumbers: r"'left'.*float32.*int64",
    Doubles: r"'left'.*float32.*float64",
    PlainLists: r"'left'.*float32 and shape \(3,\).*list",
    TooNarrow: r"'left'.*MultiDiscrete\(\[3 2\]\).*\d, 2\)",
    SpeaksTuples: r"'left' has an action space of another kind: Tuple\(Discrete\(3\), Discrete\(2\)\)",
    SpeaksDicts: r"'left' has an action space of another kind: Dict\('move': Discrete\(3\)",
    Unlisted: "has no list `possible_agents`",
    NoTruncations: r"truncated of agent 'left': is missing; got the keys \[\]",
    ArrayEnds: r"truncated of agent 'left': expected a bool, got ndarray array\(False\)",
    StillSeen: r"observation of agent 'left': was not expected; expected the keys \['right'\]",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_check_and_run_refuse_the_same(make):
    words = REFUSED[make]
    breaches = check(make)
    assert len(breaches) == 1 and re.search(words, breaches[0]), breaches
    with pytest.raises((UserError, EnvFailure), match=words):
        play(make)


def play(make) -> None:
    env = PettingZooEnv(make=make)
    env.reset(seed=0)
    for _ in range(6):
        env.step(torch.zeros(env.spec.num_agents, 1, env.spec.num_heads, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: None, "expected a pettingzoo.ParallelEnv, got NoneType"), (lambda: Strange, "ParallelEnv, got type")],
)
def test_what_a_function_returns_must_be_an_environment(make, words):
    with pytest.raises(UserError, match=words):
        check(make)
    with pytest.raises(UserError, match=words):
        PettingZooEnv(make=make)
