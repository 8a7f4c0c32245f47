"""envs.check finds each planted breach, alone and in words that mend it, and finds nothing in good environments."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import Masked, MaskedInfo, Talkers, Toy, Unclosable, Vectors

import envs
from envs import UserError
from envs.check.command import main
from envs.check.verdict import check
from envs.mpe import catalogue

# --------------------------------------------------------------------- good ones


@pytest.mark.parametrize("env_id", catalogue.MPE_IDS)
def test_every_mpe_task_keeps_the_contract(env_id):
    assert check(env_id, episodes=1) == []


@pytest.mark.parametrize(
    "make",
    [
        Toy,
        Vectors,
        Masked,
        MaskedInfo,
        Talkers,
        lambda: Toy(deaths={"a_1": 3}),
        lambda: Toy(births={"a_1": 2}),
        lambda: Toy(ragged=True),
    ],
)
def test_good_environments_have_no_breach(make):
    assert check(make) == []
    assert check(make(), raise_error=True) == []


# -------------------------------------------------------------------- broken ones
class Renamed(Toy):
    def reset(self, seed=None, options=None):
        self.possible_agents = self.possible_agents[::-1] if seed == 1 else self.possible_agents
        return super().reset(seed)


class NewSpaces(Toy):
    def observation_space(self, agent):
        return self.make_observation_space(agent)


class Continuous(Toy):
    def make_action_space(self, name):
        return spaces.Box(-np.inf, np.inf, (2,))


class OutOfBounds(Toy):
    def make_observation_space(self, name):
        return spaces.Box(-10.0, 0.2, (3,), np.float32)

    def observe(self, name):
        return np.array([0, self.t / 10, 0], np.float32)


class Float64(Toy):
    def observe(self, name):
        return super().observe(name).astype(np.float64)


class WrongShape(Toy):
    def observe(self, name):
        return super().observe(name)[None]


class ArrayReward(Toy):
    def reward(self, name):
        return np.array([1.0])


class NoSeed(Toy):
    def reset(self):
        return super().reset(0)


class LateRandomness(Toy):
    """Seeded but for one draw in the fourth step: PettingZoo's own seed test does not see it."""

    def step(self, actions):
        if self.t == 3:
            self.x["a_1"] += float(np.random.default_rng().normal())
        return super().step(actions)


class Leftover(Toy):
    """The reward counts episodes, whatever the seed."""

    episodes = 0

    def reset(self, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed)

    def reward(self, name):
        return float(self.episodes)


class PerInstance(Toy):
    """Another world in every copy, the same one in all its episodes."""

    made = 0

    def __init__(self):
        super().__init__()
        PerInstance.made += 1
        self.offset = PerInstance.made / 10

    def observe(self, name):
        return super().observe(name) + np.float32(self.offset)


class NeverEmptied(Toy):
    def step(self, actions):
        result = super().step(actions)
        self.agents = self.possible_agents[:]
        return result


class Ghosts(Toy):
    """Agents that died keep getting rewards."""

    def __init__(self):
        super().__init__(deaths={"a_1": 2})

    def step(self, actions):
        result = super().step(actions)
        return (result[0], {"a_1": 0.0} | result[1], *result[2:])


class Vanishing(Toy):
    def step(self, actions):
        result = super().step(actions)
        self.agents = [name for name in self.agents if name == "a_0" or self.t < 3]
        return result


class Revived(Toy):
    def __init__(self):
        super().__init__(deaths={"a_1": 2})

    def step(self, actions):
        result = super().step(actions)
        if self.t == 4:
            self.agents = ["a_0", "a_1"]
        return result


class Generating(Toy):
    def step(self, actions):
        result = super().step(actions)
        if self.t == 2:
            self.agents = [*self.agents, "a_9"]
        return result


class NoMask(Masked):
    def mask(self, name):
        return np.zeros(4, np.int8) if self.t == 3 and name == "a_1" else super().mask(name)


class LongMask(Masked):
    def make_observation_space(self, name):
        short = super().make_observation_space(name)
        return spaces.Dict({"observation": short["observation"], "action_mask": spaces.MultiBinary(5)})

    def mask(self, name):
        return np.ones(5, np.int8)


class MutatedActions(Vectors):
    def step(self, actions):
        result = super().step(actions)
        actions["a_0"] //= 2
        return result


class NotANumber(Toy):
    def observe(self, name):
        return super().observe(name) + np.float32(np.nan if self.t == 5 else 0.0)


class InfiniteReward(Toy):
    def reward(self, name):
        return -np.inf if self.t == 4 else 0.0


class Endless(Toy):
    def __init__(self):
        super().__init__(length=10**9)


class OneEpisode(Toy):
    played = False

    def reset(self, seed=None, options=None):
        if self.played:
            raise RuntimeError("the level file is closed")
        self.played = True
        return super().reset(seed)


class IntegerEnd(Toy):
    def step(self, actions):
        result = super().step(actions)
        return (*result[:2], {name: int(value) for name, value in result[2].items()}, *result[3:])


class NumpyTextEnd(Toy):
    def step(self, actions):
        result = super().step(actions)
        return (*result[:3], dict.fromkeys(result[3], "False"), result[4])


class MissingReward(Toy):
    def step(self, actions):
        result = super().step(actions)
        del result[1]["a_1"]
        return result


class SparseObservations(Toy):
    """No last observation for an agent that ends."""

    def step(self, actions):
        result = super().step(actions)
        return ({name: value for name, value in result[0].items() if name in self.agents}, *result[1:])


class OldApi(Toy):
    def step(self, actions):
        observations, rewards, terminations, _, infos = super().step(actions)
        return observations, rewards, terminations, infos


class BadInfos(Toy):
    def infos(self, names):
        return dict.fromkeys(names, "fine")


class Raising(Toy):
    def step(self, actions):
        if self.t == 4:
            raise IndexError("list index out of range")
        return super().step(actions)


BROKEN = {
    Renamed: r"possible_agents changed from \['a_0', 'a_1'\] to \['a_1', 'a_0'\]",
    NewSpaces: r"observation_space\('a_0'\) returns another object at every call.*make the spaces once",
    Continuous: r"agent 'a_0' must have a finite low below a finite high.*give it bounds",
    OutOfBounds: r"at step 3: observation of agent 'a_0': entry 1 is 0.3, outside.*expected at most 0.2.*Widen",
    Float64: r"at the reset: observation of agent 'a_0': expected dtype float32, got float64.*astype",
    WrongShape: r"at the reset: observation of agent 'a_0': expected shape \(3,\), got shape \(1, 3\)",
    ArrayReward: r"at step 1: reward of agent 'a_0': expected a number, got ndarray.*return float\(reward\)",
    NoSeed: r"reset raised TypeError.*seed=0.*takes the keywords seed",
    LateRandomness: r"seed \(0\).*another observation of 'a_1' after step 4.*new environment.*generator that reset",
    Leftover: r"another reward of 'a_0' after step 1 \(1.0, then 5.0\), in the same environment, after other episodes",
    PerInstance: r"another observation of 'a_[01]' after the reset, in another new environment",
    NeverEmptied: r"at step 6: agent 'a_0': was terminated or truncated but is still in env.agents; remove",
    Ghosts: r"at step 3: reward of agent 'a_1': was not expected; expected the keys \['a_0'\]",
    Vanishing: r"at step 3: agent 'a_1': left env.agents without being terminated or truncated",
    Revived: r"at step 4: agent 'a_1': came back",
    Generating: r"at step 2: agent 'a_9': is not in possible_agents.*name every agent",
    NoMask: r"at step 3: action_mask of agent 'a_1': allows no action, expected at least one",
    LongMask: r"reset: action_mask of agent 'a_0': expected an action mask of shape \(4,\), got shape \(5,\)",
    MutatedActions: r"step changed the actions it was given.*untouched: copy",
    NotANumber: r"at step 5: observation of agent 'a_0': entry 0 is nan, in float32, expected finite",
    InfiniteReward: r"at step 4: reward of agent 'a_0': is -inf, in float32, expected a finite",
    Endless: r"did not end within 50 steps.*time limit",
    OneEpisode: r"reset raised RuntimeError: the level file is closed, with seed=1.*also after an episode's end",
    IntegerEnd: r"at step 1: terminated of agent 'a_0': expected a bool, got int 0: return bool",
    NumpyTextEnd: r"at step 1: truncated of agent 'a_0': expected a bool, got str 'False'",
    MissingReward: r"at step 1: reward of agent 'a_1': is missing.*every agent that acted",
    SparseObservations: r"at step 6: observation of agent 'a_0': is missing.*in the step in which it ends too",
    OldApi: r"step must return \(observations.*got 4 values",
    BadInfos: r"at the reset: info of agent 'a_0': expected a dict.*got a str",
    Unclosable: r"close raised RuntimeError: no window, expected it to work after any step",
    Raising: r"at step 5: step raised IndexError: list index out of range, after the actions \{'a_0'",
}


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_each_planted_breach_is_found_alone(make):
    breaches = check(make, max_steps=50)
    assert len(breaches) == 1, breaches
    assert re.search(BROKEN[make], breaches[0]), breaches[0]
    with pytest.raises(UserError, match=BROKEN[make]):
        check(make, max_steps=50, raise_error=True)


def test_several_breaches_are_told_together():
    class Both(NotANumber, MutatedActions):
        pass

    breaches = check(Both)
    assert len(breaches) == 2
    assert ["expected finite" in text for text in breaches] in ([True, False], [False, True])


def test_one_environment_is_enough_to_find_leftovers_and_unseeded_draws():
    assert "in the same environment" in check(Leftover())[0]
    assert "in the same environment" in check(LateRandomness())[0]
    assert check(PerInstance()) == []  # which takes two


def test_what_is_no_environment_is_an_error():
    with pytest.raises(UserError, match="got int"):
        check(lambda: 3)
    with pytest.raises(UserError, match="no module 'nowhere'"):
        check("nowhere:f")


# ------------------------------------------------------------------- command line
def test_the_command_line(capsys):
    assert main(["toy_envs:Toy", "length=3", "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "toy_envs:Toy: 2 agents" in out and "keeps the contract: 5 episodes of 3 to 3 steps" in out
    assert main(["simple_crypto", "--episodes", "1"]) == 0
    assert "chooses message 4" in capsys.readouterr().out
    assert main(["test_check:NoMask"]) == 2
    out = capsys.readouterr().out
    assert "1 breach(es) of the contract:\n- at step 3: action_mask of agent 'a_1': allows no action" in out
    assert main(["test_check:Continuous"]) == 2
    assert "must have a finite low" in capsys.readouterr().out
    assert main(["toy_envs:Nope"]) == 2
    assert "no function 'Nope'" in capsys.readouterr().err
    assert main(["toy_envs:Toy", "length"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_module_and_function_share_a_name():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "envs.check", "envs.probes:matching_game", "--episodes", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "speaker_0" in done.stdout and "chooses" in done.stdout
    assert envs.check(Toy) == envs.check.check(Toy) == []
