"""PettingZooEnv: agents that leave or come late, action masks, and every breach of the contract by name."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_envs import Exploding, Masked, Toy

from envs import EnvFailure
from envs.pettingzoo.env import PettingZooEnv


def zeros(env: PettingZooEnv) -> torch.Tensor:
    return torch.zeros(env.spec.num_agents, env.num_envs, env.spec.num_heads, dtype=torch.int64)


# -------------------------------------------------------------- agents come and go
def test_an_agent_that_dies_is_absent_until_the_episode_ends():
    env = PettingZooEnv(make=Toy, deaths={"a_1": 2}, length=4)
    assert not env.spec.fixed_agents
    env.reset(0)
    steps = [env.step(zeros(env) + 3) for _ in range(4)]
    assert [step.active[:, 0].tolist() for step in steps] == [[True, True], [True, True], [True, False], [True, False]]
    assert [step.terminated[1, 0].item() for step in steps] == [False, True, True, True]
    assert [step.terminated[0, 0].item() for step in steps] == [False] * 4
    assert [step.truncated[:, 0].tolist() for step in steps] == [[False, False]] * 3 + [[True, False]]
    assert [step.done.item() for step in steps] == [False, False, False, True]
    assert steps[1].final_obs[1].any() and steps[1].reward[1, 0] != 0  # its last observation and reward arrive
    assert not steps[1].obs[1].any()  # but there is nothing to act on
    assert not steps[2].final_obs[1].any() and steps[2].reward[1, 0] == 0
    assert steps[3].obs[1].any()  # alive again in the next episode
    received = env._copies._envs[0].received
    assert [sorted(actions) for actions in received] == [["a_0", "a_1"]] * 2 + [["a_0"]] * 2
    assert env.step(zeros(env)).active.all()


def test_actions_of_absent_agents_are_ignored():
    env = PettingZooEnv(make=Toy, deaths={"a_1": 1})
    env.reset(0)
    env.step(zeros(env))
    actions = zeros(env)
    actions[1] = -5
    env.step(actions)


def test_the_episode_ends_when_the_last_agent_is_gone():
    env = PettingZooEnv(make=Toy, deaths={"a_0": 3, "a_1": 2}, length=100)
    env.reset(0)
    steps = [env.step(zeros(env)) for _ in range(6)]
    assert [step.done.item() for step in steps] == [False, False, True] * 2
    assert steps[2].terminated.all() and not steps[2].truncated.any()


def test_an_agent_of_possible_agents_may_appear_late():
    env = PettingZooEnv(make=Toy, births={"a_1": 2}, length=4)
    obs = env.reset(0)
    assert not obs[1].any()
    steps = [env.step(zeros(env)) for _ in range(4)]
    assert [step.active[1].item() for step in steps] == [False, False, True, True]
    assert [bool(step.final_obs[1].any()) for step in steps] == [False, True, True, True]
    assert [step.done.item() for step in steps] == [False, False, False, True]
    assert [step.final_active[:, 0].tolist() for step in steps] == [
        [True, False],
        [True, True],
        [True, True],
        [True, True],
    ]


def test_who_is_met_next_is_who_comes_or_stays():
    """In the last step, where `a_0` dies and the environment is reset, `a_1` is absent and is there again.

    Guard: seen failing with the agents of the next episode.
    """
    env = PettingZooEnv(make=Toy, deaths={"a_0": 3, "a_1": 2}, length=9)
    env.reset(0)
    steps = [env.step(zeros(env)) for _ in range(3)]
    assert [step.final_active[:, 0].tolist() for step in steps] == [[True, True], [True, False], [False, False]]
    assert steps[-1].done.item()
    fixed = PettingZooEnv(make=Toy, fixed_agents=True)
    fixed.reset(0)
    assert fixed.step(zeros(fixed)).final_active is None


def test_fixed_agents_is_a_promise_that_is_kept_an_eye_on():
    env = PettingZooEnv(make=Toy, fixed_agents=True)
    env.reset(0)
    assert env.spec.fixed_agents and env.step(zeros(env)).active is None
    env = PettingZooEnv(make=Toy, fixed_agents=True, deaths={"a_1": 1})
    env.reset(0)
    with pytest.raises(EnvFailure, match=r"\['a_1'\] left before the others.*fixed_agents"):
        env.step(zeros(env))
    with pytest.raises(EnvFailure, match=r"expected \['a_0', 'a_1'\].*after the reset, got \['a_0'\]"):
        PettingZooEnv(make=Toy, fixed_agents=True, births={"a_1": 1}).reset(0)


def test_agents_that_linger_after_the_end_are_refused():
    """PettingZoo's loop, `while env.agents`, would never end; the check says the same."""

    class Full(Toy):
        def step(self, actions):
            result = super().step(actions)
            self.agents = self.possible_agents[:]
            return result

    env = PettingZooEnv(make=Full, length=2)
    env.reset(0)
    env.step(zeros(env))
    with pytest.raises(EnvFailure, match=r"agent 'a_0': was terminated or truncated but is still in env.agents"):
        env.step(zeros(env))


def test_spaces_bind_in_the_first_episode():
    """A value that leaves its Box later does not end a long run."""

    class Overshoots(Toy):
        episodes = 0

        def reset(self, seed=None, options=None):
            type(self).episodes += 1
            return super().reset(seed, options)

        def observe(self, agent):
            return super().observe(agent) + (1e9 if type(self).episodes == self.late else 0)

    for late in (1, 3):
        Overshoots.episodes, Overshoots.late = 0, late
        env = PettingZooEnv(make=Overshoots, length=2)
        Overshoots.episodes = 0
        if late == 1:
            with pytest.raises(EnvFailure, match="outside of its space"):
                env.reset(0)
        else:
            env.reset(0)
            assert max(env.step(zeros(env)).obs.max().item() for _ in range(6)) > 1e8


# ----------------------------------------------------------------------- breaches
class Broken(Toy):
    """Changes one of the five returned values in the second step of the first episode."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def step(self, actions):
        result = list(super().step(actions))
        return self.change(self, result) or tuple(result) if self.t == 2 else tuple(result)


def put(k, name, value):
    def change(env, result):
        result[k][name] = value

    return change


def drop(k, name):
    def change(env, result):
        del result[k][name]

    return change


def defaulting(env, result):
    """mpe2's rewards are a defaultdict: indexing would invent the missing reward."""
    result[1] = defaultdict(int, {"a_0": 1.0})


def linger(env, result):
    result[2]["a_1"] = True


def vanish(env, result):
    env.agents = ["a_0"]


def generate(env, result):
    env.agents = [*env.agents, "a_7"]


NAN = np.array([0, np.nan, 0], np.float32)
BREACHES = {
    "no observation": (drop(0, "a_1"), "observation of agent 'a_1': is missing", "a_1", "observation"),
    "extra observation": (put(0, "b", NAN), "observation of agent 'b': was not expected", "b", "observation"),
    "no reward": (drop(1, "a_0"), "reward of agent 'a_0': is missing", "a_0", "reward"),
    "defaultdict reward": (defaulting, "reward of agent 'a_1': is missing", "a_1", "reward"),
    "extra reward": (put(1, "b", 1.0), "reward of agent 'b': was not expected", "b", "reward"),
    "no termination": (drop(2, "a_0"), "terminated of agent 'a_0': is missing", "a_0", "terminated"),
    "extra truncation": (put(3, "b", False), "truncated of agent 'b': was not expected", "b", "truncated"),
    "nan": (put(0, "a_1", NAN), "observation of agent 'a_1': entry 1 is nan", "a_1", "observation"),
    "nan reward": (put(1, "a_1", float("nan")), "reward of agent 'a_1': is nan", "a_1", "reward"),
    "inf reward": (put(1, "a_1", -np.inf), "reward of agent 'a_1': is -inf", "a_1", "reward"),
    "reward beyond float32": (put(1, "a_1", 1e300), "is inf, in float32", "a_1", "reward"),
    "wrong shape": (put(0, "a_0", np.zeros(4, np.float32)), r"shape \(3,\), got shape \(4,\)", "a_0", "observation"),
    "wrong dtype": (put(0, "a_0", np.zeros(3)), r"expected dtype float32, got float64", "a_0", "observation"),
    "a list": (put(0, "a_0", [0.0, 0.0, 0.0]), "expected an array of float32.*got list", "a_0", "observation"),
    "reward array": (put(1, "a_0", np.zeros(1)), r"a number, got ndarray of shape \(1,\)", "a_0", "reward"),
    "reward None": (put(1, "a_0", None), "expected a number, got NoneType None", "a_0", "reward"),
    "termination int": (put(2, "a_0", 0), "expected a bool, got int 0", "a_0", "terminated"),
    "truncation None": (put(3, "a_0", None), "expected a bool, got NoneType None", "a_0", "truncated"),
    "four values": (lambda env, result: tuple(result[:4]), "step must return", None, None),
    "not dicts": (lambda env, result: ([], *result[1:]), "expected a dict over agents, got list", None, "observation"),
    "left unsaid": (vanish, "agent 'a_1': left env.agents without being terminated", "a_1", None),
    "still there": (linger, "agent 'a_1': was terminated or truncated but is still in env.agents", "a_1", None),
    "generated": (generate, "agent 'a_7': is not in possible_agents; environments that generate", "a_7", None),
    "late mask": (
        put(4, "a_0", {"action_mask": np.ones(4, np.int8)}),
        "info of agent 'a_0': an action mask, but none after the first reset",
        "a_0",
        "info",
    ),
}


@pytest.mark.parametrize("kind", BREACHES)
def test_a_breach_names_environment_agent_field_step_and_actions(kind):
    change, words, agent, field = BREACHES[kind]
    env = PettingZooEnv("broken", make=lambda: Broken(change), num_envs=2, rows=[3, 8])
    env.reset(0)
    env.step(zeros(env))
    with pytest.raises(EnvFailure, match=words) as caught:
        env.step(zeros(env) + 2)
    failure = caught.value
    assert (failure.env_id, failure.row, failure.episode, failure.step) == ("broken", 3, 0, 1)
    assert failure.actions == {"a_0": 2, "a_1": 2}
    assert (failure.agent, failure.field) == (agent, field)
    seed = env._copies._envs[0].seed
    assert "environment 'broken' failed" in str(failure)
    assert f"Copy 3, episode 0, reset with seed={seed}, step 1; last actions: {{'a_0': 2, 'a_1': 2}}" in str(failure)


def test_a_fault_in_a_later_copy_and_episode_is_placed_there():
    def change(env, result):
        if env.seed == env.bad:
            result[1]["a_0"] = float("nan")

    env = PettingZooEnv(make=lambda: Broken(change), num_envs=3, rows=[3, 8, 9])
    from envs.pettingzoo.copies import episode_seed

    for toy in env._copies._envs:
        toy.bad = episode_seed(0, 8, 1)
    env.reset(0)
    with pytest.raises(EnvFailure) as caught:
        for _ in range(20):
            env.step(zeros(env))
    assert (caught.value.row, caught.value.episode, caught.value.step) == (8, 1, 1)
    assert caught.value.seed == episode_seed(0, 8, 1)


def test_a_fault_at_an_automatic_reset_is_of_the_new_episode():
    def change(env, result):
        env.x["a_1"] = float("nan")
        return {name: env.observe(name) for name in env.agents}, result[1]

    env = PettingZooEnv(make=Toy, length=2)
    env.reset(0)
    env.step(zeros(env))
    broken = reset_with(change)(length=2)
    vars(broken).update({key: value for key, value in vars(env._copies._envs[0]).items() if key != "reset"})
    env._copies._envs[0] = broken
    with pytest.raises(EnvFailure, match="observation of agent 'a_1': entry 0 is nan") as caught:
        env.step(zeros(env))
    assert (caught.value.episode, caught.value.step, caught.value.actions) == (1, 0, None)


def test_a_revived_agent_is_refused():
    class Revived(Toy):
        def step(self, actions):
            result = super().step(actions)
            if self.t == 3:
                self.agents = ["a_0", "a_1"]
            return result

    env = PettingZooEnv(make=Revived, deaths={"a_1": 1})
    env.reset(0)
    env.step(zeros(env))
    env.step(zeros(env))
    with pytest.raises(EnvFailure, match="agent 'a_1': came back"):
        env.step(zeros(env))


def test_an_exception_keeps_its_words_place_and_traceback():
    env = PettingZooEnv(make=Exploding)
    env.reset(0)
    env.step(zeros(env))
    env.step(zeros(env) + 1)
    with pytest.raises(EnvFailure, match="step raised ZeroDivisionError: the sky fell") as caught:
        env.step(zeros(env) + 3)
    assert "toy_envs.py, line" in str(caught.value) and "Traceback" in caught.value.trace
    assert caught.value.actions == {"a_0": 3, "a_1": 3} and caught.value.step == 2
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def reset_with(change):
    class BrokenReset(Toy):
        def reset(self, seed=None, options=None):
            return change(self, list(super().reset(seed)))

    return BrokenReset


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda env, r: r[0], "reset must return"),
        (lambda env, r: ({"a_0": r[0]["a_0"]}, {}), "'a_1': is missing"),
        (lambda env, r: (r[0] | {"a_1": NAN}, {}), "'a_1': entry 1 is nan"),
        (lambda env, r: 1 / 0, "reset raised ZeroDivisionError"),
        (lambda env, r: (env.agents.clear(), tuple(r))[1], "at least one agent"),
        (lambda env, r: (delattr(env, "agents"), tuple(r))[1], "env.agents must be a list after the reset, got None"),
        (lambda env, r: (env.agents.append("a_9"), tuple(r))[1], "'a_9': is not in possible_agents"),
    ],
)
def test_a_breach_at_the_reset(change, words):
    env = PettingZooEnv(make=Toy)
    env._copies._envs[0] = reset_with(change)()  # in place of the one that was described without fault
    with pytest.raises(EnvFailure, match=words) as caught:
        env.reset(0)
    assert caught.value.actions is None and "at the reset" in str(caught.value)


class BadMask(Masked):
    given = None

    def mask(self, name):
        return super().mask(name) if self.t < 1 else self.given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.ones(3, np.int8), r"shape \(4,\), got shape \(3,\)"),
        (np.array([0, 1, 2, 0], np.int8), "zeros and ones"),
        (np.ones(4), "zeros and ones"),
    ],
)
def test_a_bad_mask(given, words):
    env = PettingZooEnv(make=BadMask)
    env._copies._envs[0].given = given
    env.reset(0)
    with pytest.raises(EnvFailure, match=f"action_mask of agent 'a_0': .*{words}"):
        env.step(zeros(env))


def test_an_observation_outside_a_discrete_space_is_not_read_from_the_wrong_end():
    class Corner(Toy):
        def make_observation_space(self, name):
            return spaces.Discrete(3, start=1)

        def observe(self, name):
            return 1 if self.t == 0 else 0

    env = PettingZooEnv(make=Corner)
    assert env.reset(0)[0, 0].tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(EnvFailure, match=r"expected an element of Discrete\(3, start=1\), got int 0"):
        env.step(zeros(env))
