"""Ids, the real environments with checked arguments, specs."""

from __future__ import annotations

from typing import Any

import pytest
from mpe_cases import VARIATIONS, label

from envs import UserError
from envs.mpe import MPE_IDS, canonical_id, describe, make_scenario, parallel_env
from envs.mpe.catalogue import allowed_arguments
from envs.spec import Route


def test_ids() -> None:
    assert len(MPE_IDS) == len(set(MPE_IDS)) == 12
    assert canonical_id("simple_spread") == canonical_id("simple_spread_v3") == "simple_spread_v3"
    assert canonical_id("collect_treasure") == "collect_treasure_v1"
    assert canonical_id("simple_spread_v2") is None
    assert canonical_id("") is None


@pytest.mark.parametrize("case", VARIATIONS, ids=label)
def test_spec_is_that_of_the_real_environment(case: tuple[str, dict[str, Any]]) -> None:
    mpe_id, kwargs = case
    real = parallel_env(mpe_id, **kwargs)
    result = describe(mpe_id, real)
    assert result == make_scenario(mpe_id, **kwargs).spec()
    assert result.horizon == kwargs.get("max_cycles", 25)
    assert list(result.agent_names) == real.possible_agents
    for agent in result.agents:
        assert agent.num_actions == real.action_space(agent.name).n
        assert agent.obs_size == real.observation_space(agent.name).shape[0]
    members = sorted(member for team in result.teams for member in team)
    assert members == list(range(result.num_agents))


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_every_argument_of_mpe2_is_known(mpe_id: str) -> None:
    """A new mpe2 with a new argument, default or id shows here."""
    for key, default in allowed_arguments(mpe_id).items():
        make_scenario(mpe_id, **{key: default})


def test_routes() -> None:
    def routes(mpe_id: str) -> tuple[Route, ...]:
        return describe(mpe_id, parallel_env(mpe_id)).routes

    assert routes("simple_speaker_listener") == (Route(0, 0, 1, 8, 3, meaning=(0, 3)),)
    both = (Route(0, 1, 1, 11, 10, meaning=(8, 3)), Route(1, 1, 0, 11, 10, meaning=(8, 3)))
    assert routes("simple_reference") == both
    # alice (2) is heard by eve (0) and bob (1)
    assert routes("simple_crypto") == (Route(2, 0, 0, 0, 4, meaning=(0, 4)), Route(2, 0, 1, 4, 4, meaning=(0, 4)))
    # the leader is heard by all predators, itself included
    assert routes("simple_world_comm") == tuple(Route(0, 1, receiver, 30, 4) for receiver in range(4))
    assert routes("simple_spread") == ()


def test_teams() -> None:
    def teams(mpe_id: str) -> tuple[tuple[int, ...], ...]:
        return make_scenario(mpe_id).spec().teams

    assert teams("simple_crypto") == ((0,), (1, 2))
    assert teams("simple_push") == ((0,), (1,))
    assert teams("simple_adversary") == ((0,), (1, 2))
    assert teams("simple_tag") == ((0, 1, 2), (3,))
    assert teams("simple_world_comm") == ((0, 1, 2, 3), (4, 5))
    assert teams("collect_treasure") == (tuple(range(8)),)
    assert teams("simple_spread") == ((0, 1, 2),)


def test_heads() -> None:
    leader, follower = make_scenario("simple_world_comm").spec().agents[:2]
    assert [(head.name, head.size) for head in leader.heads] == [("move", 5), ("message", 4)]
    assert [(head.name, head.size) for head in follower.heads] == [("move", 5)]


@pytest.mark.parametrize("build", [parallel_env, make_scenario])
def test_unknown_names(build: Any) -> None:
    with pytest.raises(UserError, match=r"'simple_spraed'.*Did you mean 'simple_spread'"):
        build("simple_spraed")
    with pytest.raises(UserError, match=r"no argument 'max_cycle'.*Did you mean 'max_cycles'.*Its arguments are N, "):
        build("simple_spread", max_cycle=3)


def test_values_that_mpe2_refuses() -> None:
    with pytest.raises(UserError, match=r"local_ratio=3.*between 0 and 1"):
        parallel_env("simple_spread", local_ratio=3)
    with pytest.raises(UserError, match="num_deposits=9"):
        parallel_env("collect_treasure", num_deposits=9)


def test_what_has_no_spec() -> None:
    with pytest.raises(UserError, match=r"expected an mpe2 environment simple_spread_v3, got mpe2.simple_tag"):
        describe("simple_spread", parallel_env("simple_tag"))
    with pytest.raises(UserError, match=r"expected an mpe2 environment simple_v3, got builtins.int"):
        describe("simple", 3)
