"""How an environment is found, made and described, and what a user may declare about it."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_envs import Talkers, Toy, Vectors, same_step

import envs
from envs import Route, UserError
from envs.pettingzoo.construct import parallel_env
from envs.pettingzoo.env import PettingZooEnv

HEADS = {"a_0": [["move", 2], ["message", 3]]}
ROUTE = {"sender": "a_0", "receiver": "a_1", "start": 2, "meaning": [0, 3]}


# -------------------------------------------------------------------- finding it
def test_module_and_function():
    env = PettingZooEnv("toy_envs:Toy", num_envs=2, length=3)
    assert env.spec.id == "toy_envs:Toy" and env.reset(0).shape == (2, 2, 3)


def test_a_module_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_env.py").write_text("from toy_envs import Toy\ndef build(**k):\n    return Toy(**k)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    assert PettingZooEnv("my_own_env:build", length=2).spec.num_agents == 2


@pytest.mark.parametrize("marked", [False, True], ids=["namespace", "package"])
def test_a_folder_that_is_named_as_our_package(tmp_path, monkeypatch, marked):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "my_corridor.py").write_text(
        "from toy_envs import Toy\ndef build(**k):\n    return Toy(**k)\n"
    )
    if marked:
        (tmp_path / "envs" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(envs, "__path__", list(envs.__path__))
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    with pytest.raises(UserError, match=r"no module 'envs.my_corridoor'"):
        PettingZooEnv("envs.my_corridoor:build")
    try:
        assert PettingZooEnv("envs.my_corridor:build", length=2).spec.num_agents == 2
        assert parallel_env("envs.probes:matching_game").possible_agents  # ours is still found
        workers = PettingZooEnv("envs.my_corridor:build", num_envs=2, workers=1, length=2)
        assert workers.reset(0).shape == (2, 2, 3)
        workers.close()
    finally:
        sys.modules.pop("envs.my_corridor", None)


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("toy_envs:Toi", r"no function 'Toi'.*Did you mean 'Toy'"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("toy_envs.deeper:f", "no module 'toy_envs.deeper'"),
        ("toy_envs:number", "'number' is a int, expected a function"),
        ("toy_envs:not_an_env", "expected a pettingzoo.ParallelEnv, got int"),
        ("toy_envs:raising", "constructing it raised FileNotFoundError: no level file"),
        (":f", "expected package.module:function"),
        ("toy_envs:", "expected package.module:function"),
        ("simple_spred", "Did you mean 'simple_spread"),
        ("", "expected an environment id"),
    ],
)
def test_what_cannot_be_found_or_made(env_id, words):
    with pytest.raises(UserError, match=words):
        PettingZooEnv(env_id)


def test_faults_inside_the_module_are_told(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_at_all\n")
    (tmp_path / "breaks_down.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs 'not_installed_at_all', which is not installed"):
        PettingZooEnv("needs_more:f")
    with pytest.raises(UserError, match="importing its module raised ZeroDivisionError"):
        PettingZooEnv("breaks_down:f")


def test_wrong_arguments_are_told():
    with pytest.raises(UserError, match=r"with \{'lenght': 3\} raised TypeError.*lenght"):
        PettingZooEnv("toy_envs:Toy", lenght=3)
    with pytest.raises(UserError, match="must be a function"):
        PettingZooEnv(make=3)


def test_a_game_of_turns_is_pointed_to_its_conversion():
    """Guard: seen failing with pettingzoo's own AssertionError."""
    from pettingzoo.utils.conversions import parallel_to_aec_wrapper

    def turns(**metadata):
        env = parallel_to_aec_wrapper(Toy())
        env.metadata = {"name": "turns", **metadata}
        return env

    output = r"is an AECEnv.*does not say is_parallelizable.*turn_based_aec_to_parallel"
    for metadata in ({}, {"is_parallelizable": False}):
        with pytest.raises(UserError, match=output):
            PettingZooEnv(make=functools.partial(turns, **metadata))


def test_an_aec_environment_without_turns_is_converted():
    """It plays as the ParallelEnv that it was made of. Guard: seen failing with a refusal."""
    from pettingzoo.utils.conversions import parallel_to_aec

    converted, own = PettingZooEnv(make=lambda: parallel_to_aec(Toy())), PettingZooEnv(make=Toy)
    assert converted.converted and not own.converted
    assert torch.equal(converted.reset(3), own.reset(3))
    for t in range(15):
        actions = torch.full((2, 1, 1), t % 4)
        same_step(converted.step(actions), own.step(actions))


def test_partial_functions_have_a_name():
    assert PettingZooEnv(make=functools.partial(Toy, length=2)).spec.id == "toy_envs:Toy"
    assert PettingZooEnv("mine", make=Toy).spec.id == "mine"


def test_envs_make_reaches_it():
    env = envs.make("toy_envs:Toy", num_envs=3, backend="pettingzoo", length=2, teams=[["a_0"], ["a_1"]])
    assert env.spec.teams == ((0,), (1,)) and env.num_envs == 3
    assert parallel_env("toy_envs:Toy").possible_agents == ["a_0", "a_1"]


# -------------------------------------------------------------------- description
def with_spaces(observation=None, action=None):
    class Other(Toy):
        def make_observation_space(self, name):
            return super().make_observation_space(name) if observation is None else observation

        def make_action_space(self, name):
            return super().make_action_space(name) if action is None else action

    return Other


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (spaces.Box(-1, 1, (2, 2)), r"Box\(-1.0, 1.0, \(2, 2\).*'a_0' must be a Box of floats with one axis"),
        (spaces.Box(-np.inf, 1, (2,)), "must have a finite low below a finite high for every number"),
        (spaces.MultiBinary(3), r"another kind: MultiBinary\(3\)"),
        (spaces.Tuple([spaces.Discrete(2)]), "another kind: Tuple"),
        (spaces.MultiDiscrete([[2, 3]]), "another kind"),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), r"starts at \[1, 0\]"),
    ],
)
def test_action_spaces_that_are_refused(action, words):
    with pytest.raises(UserError, match=words):
        PettingZooEnv(make=with_spaces(action=action))


def test_observation_spaces_that_are_refused():
    with pytest.raises(UserError, match=r"'a_0' cannot be flattened.*Graph"):
        PettingZooEnv(make=with_spaces(observation=spaces.Graph(spaces.Box(-1, 1, (2,)), None)))
    with pytest.raises(UserError, match="an action mask and nothing else"):
        PettingZooEnv(make=with_spaces(observation=spaces.Dict({"action_mask": spaces.MultiBinary(4)})))


@pytest.mark.parametrize("names", [[], None, ["a", "a"], [0, 1]])
def test_possible_agents_must_be_names(names):
    class Other(Toy):
        def __init__(self):
            super().__init__()
            self.possible_agents = names

    with pytest.raises(UserError, match="possible_agents"):
        PettingZooEnv(make=Other)


def test_horizon_from_max_cycles_or_metadata():
    class Limited(Toy):
        max_cycles = np.int64(6)

    class Announced(Toy):
        metadata = {"max_cycles": 9}  # noqa: RUF012

    assert [PettingZooEnv(make=make).spec.horizon for make in (Toy, Limited, Announced)] == [None, 6, 9]


def test_a_given_spec_is_used_if_it_fits():
    plain = PettingZooEnv(make=Talkers).spec
    declared = PettingZooEnv(make=Talkers, heads=HEADS, routes=[ROUTE]).spec
    assert PettingZooEnv(make=Talkers, spec=declared).spec == declared
    with pytest.raises(UserError, match=r"does not fit.*\('a_1', 5, 3, False\).*got.*\('a_1', 3, 4, False\)"):
        PettingZooEnv(make=Talkers, spec=PettingZooEnv(make=Toy).spec)
    with pytest.raises(UserError, match=r"\['heads'\] cannot be declared: spec= is given"):
        PettingZooEnv(make=Talkers, spec=plain, heads=HEADS)
    with pytest.raises(UserError, match=r"\['routes'\] cannot be declared: simple_spread_v3 is known"):
        PettingZooEnv("simple_spread", routes=[ROUTE])


# ------------------------------------------------------------- heads, routes, teams
def test_declared_heads_and_routes():
    spec = PettingZooEnv(make=Talkers, heads=HEADS, routes=[ROUTE]).spec
    assert [(head.name, head.size) for head in spec.agents[0].heads] == [("move", 2), ("message", 3)]
    assert spec.agents[0].start == 1 and [(head.name, head.size) for head in spec.agents[1].heads] == [("move", 3)]
    assert spec.routes == (Route(sender=0, head=1, receiver=1, start=2, size=3, exact=True, meaning=(0, 3)),)
    bare = {**ROUTE, "exact": False, "size": 3, "head": "message", "meaning": None}
    assert PettingZooEnv(make=Talkers, heads=HEADS, routes=[bare]).spec.routes == (Route(0, 1, 1, 2, 3, exact=False),)


def test_the_environment_may_declare_itself():
    class Declared(Talkers):
        metadata = {"heads": HEADS, "routes": [ROUTE], "teams": [["a_1", "a_0"]], "fixed_agents": True}  # noqa: RUF012

    spec = PettingZooEnv(make=Declared).spec
    assert spec.routes[0].start == 2 and spec.teams == ((1, 0),) and spec.fixed_agents
    assert PettingZooEnv(make=Declared, routes=[], fixed_agents=False).spec.routes == ()


def test_heads_may_name_the_entries_of_a_multi_discrete():
    spec = PettingZooEnv(make=Vectors, heads={"a_0": [["move", 2], ["message_a", 3]]}).spec
    assert [head.is_message for head in spec.agents[0].heads] == [False, True] and spec.agents[0].multi_discrete


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"heads": {"a_2": [["move", 6]]}}, r"heads names the unknown agent 'a_2'.*Did you mean"),
        ({"heads": {"a_0": [["move", 2], ["message", 4]]}}, r"make 8 joint choices.*Discrete\(6\)"),
        ({"heads": {"a_0": [["move", 2], ["move", 3]]}}, "different names"),
        ({"heads": {"a_0": [["move", "2"], ["message", 3]]}}, "must be pairs"),
        ({"heads": {"a_0": ["move", "message"]}}, "must be pairs"),
        ({"teams": [["a_0"]]}, "every agent once"),
        ({"teams": [["a_0", "a_1"], ["a_1"]]}, "every agent once"),
        ({"teams": [["a_0", "b_1"]]}, "unknown agent 'b_1'"),
        ({"routes": [ROUTE]}, r"names head 'message' of 'a_0', which has \['move'\].*Declare it with heads="),
        ({"heads": HEADS, "routes": [{**ROUTE, "head": "move"}]}, "must have a name that begins with 'message'"),
        ({"heads": HEADS, "routes": ["a_0 to a_1"]}, r"routes\[0\] must be a dict"),
        ({"heads": HEADS, "routes": [{**ROUTE, "strat": 1}]}, r"unknown key 'strat'. Did you mean 'start'"),
        ({"heads": HEADS, "routes": [ROUTE, {"sender": "a_0"}]}, r"routes\[1\] lacks \['receiver', 'start'\]"),
        ({"heads": HEADS, "routes": [{**ROUTE, "sender": "a_9"}]}, r"routes\[0\] names the unknown agent 'a_9'"),
        ({"heads": HEADS, "routes": [{**ROUTE, "size": 4}]}, "has size 4, but head 'message' has 3 symbols"),
        ({"heads": HEADS, "routes": [{**ROUTE, "start": 3}]}, "ends at entry 6, but the observation of 'a_1' has 5"),
        ({"heads": HEADS, "routes": [{**ROUTE, "start": -1}]}, "-1, expected an integer of at least 0"),
        ({"heads": HEADS, "routes": [{**ROUTE, "start": "2"}]}, "'2', expected an integer"),
        ({"heads": HEADS, "routes": [{**ROUTE, "meaning": [1, 3]}]}, "ends at entry 4.*'a_0' has 3"),
        ({"heads": HEADS, "routes": [{**ROUTE, "meaning": 3}]}, r"expected \[start, size\]"),
        ({"heads": HEADS, "routes": [{**ROUTE, "exact": "yes"}]}, "expected true or false"),
        ({"heads": HEADS, "routes": [{**ROUTE, "start": 1}]}, "declared at entries 1 to 3, but after .a_0. played"),
    ],
)
def test_declarations_that_do_not_fit(declared, words):
    with pytest.raises(UserError, match=words):
        PettingZooEnv(make=Talkers, **declared)


def test_an_inexact_route_is_believed():
    PettingZooEnv(make=Talkers, heads=HEADS, routes=[{**ROUTE, "start": 1, "exact": False}])


def test_masks_are_found_before_the_first_step():
    assert not PettingZooEnv(make=Toy).spec.has_masks
    with pytest.raises(
        UserError,
        match=r"reset raised TypeError.*unexpected keyword argument 'seed'.*reset takes the keywords seed and options",
    ):
        PettingZooEnv(make=type("NoSeed", (Toy,), {"reset": lambda self: ({}, {})}))
