"""marl/runs/compatibility.py: a checkpoint of another environment is refused with a table."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from envs.spec import AgentSpec, EnvSpec, Head, Route
from marl.errors import UserError
from marl.runs.compatibility import check_spec

SPEC = EnvSpec(
    "simple_reference_v3",
    (
        AgentSpec("agent_0", 21, (Head("move", 5), Head("message", 10))),
        AgentSpec("agent_1", 21, (Head("move", 5), Head("message", 10))),
    ),
    horizon=25,
    routes=(Route(0, 1, 1, 11, 10, meaning=(8, 3)),),
)


def changed(agent: int, **fields: object) -> EnvSpec:
    agents = list(SPEC.agents)
    agents[agent] = dataclasses.replace(agents[agent], **fields)
    return dataclasses.replace(SPEC, agents=tuple(agents))


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (dataclasses.replace(SPEC, id="my.module:make"), "environment  simple_reference_v3  my.module:make"),
        (changed(1, obs_size=24), "agent_1: observation size  21  24"),
        (changed(0, heads=(Head("move", 5),)), "agent_0: action heads  move(5) x message(10)  move(5)"),
        (dataclasses.replace(SPEC, agents=SPEC.agents[::-1]), "agents, in order  agent_0, agent_1  agent_1, agent_0"),
        (dataclasses.replace(SPEC, horizon=50), "horizon  25  50"),
        (dataclasses.replace(SPEC, routes=()), "channels  0->1 head 1 at 11+10 of [8, 3]  none"),
        (dataclasses.replace(SPEC, teams=((0,), (1,))), "teams  [[0, 1]]  [[0], [1]]"),
        (SPEC.stacked(2), "observations at a time  1  2"),
        (changed(1, start=3), "agent_1: first action id  0  3"),
    ],
)
def test_every_difference_is_a_row(now: EnvSpec, words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_spec(SPEC.to_dict(), now, Path("run/checkpoints/step_000000001"))
    assert words in re.sub("  +", "  ", str(caught.value))
    assert "belongs to another environment" in str(caught.value)


def test_the_same_environment_passes() -> None:
    check_spec(SPEC.to_dict(), SPEC, Path("x"))


@pytest.mark.parametrize("saved", [None, {}, {"agents": 3}, {"agents": [{"name": 1}]}, []])
def test_a_specification_that_is_none_is_refused(saved: object) -> None:
    with pytest.raises(UserError, match="holds no environment specification"):
        check_spec(saved, SPEC, Path("x"))
