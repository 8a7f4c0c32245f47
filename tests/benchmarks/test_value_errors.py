"""Errors of values against a model that is exact, and one whose errors are counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import envs
from benchmarks.world_model.simulator_model import SimulatorModel
from benchmarks.world_model.value_errors import AHEAD, steps_within, table, value_errors
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.learner import relaxation
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows
from marl.world_model.assess import collect
from marl.world_model.imagination.choice import CopyLast, ObsState
from marl.world_model.layout import Layout
from marl.world_model.sequences import Normaliser


def source_of(model: Any, layout: Layout) -> Any:
    return SimpleNamespace(training=SimpleNamespace(model=model), rollouts=SimpleNamespace(layout=layout))


def spec() -> EnvSpec:
    return envs.make("simple_speaker_listener").spec


def test_an_exact_model_is_wrong_about_no_value() -> None:
    layout, learner = Layout(spec()), MADDPG(spec(), MADDPGConfig(hidden=(8,)), 0)
    seq = collect("simple_speaker_listener", None, 1, 6, 25, 1)
    errors = value_errors(learner, source_of(SimulatorModel(layout, 0.9, 1), layout), seq, Stream(0, "n", [0]))
    assert len(errors) == AHEAD and max(errors) < 1e-3


def test_one_that_copies_is_wrong_by_what_has_changed() -> None:
    """After one step: values of what was seen before, with the messages of now, beside those of what is seen now."""
    layout, learner = Layout(spec()), MADDPG(spec(), MADDPGConfig(hidden=(8,)), 0)
    seq = collect("simple_speaker_listener", None, 1, 6, 25, 1)
    scales = (Normaliser(1, layout.obs_size, "cpu"), Normaliser(1, 2, "cpu"))
    copying = CopyLast(*scales)
    copying.observe = lambda seq, _: ObsState(seq.obs[..., layout.dynamic_J].flatten(1, 2))  # type: ignore[attr-defined]
    (first, *_) = value_errors(learner, source_of(copying, layout), seq, Stream(0, "n", [0]))
    before, now, action = (x.flatten(1, 2) for x in (seq.obs[:, :-1], seq.obs[:, 1:], seq.action[:, 1:]))
    copied = layout.assemble(before[..., layout.dynamic_J], action)
    values = []
    for obs in (layout.split(now), copied):
        greedy = relaxation.greedy_onehot(learner.actor(obs), learner.head_mask).flatten(-2)
        values.append(learner.critic(joint_rows(obs, greedy))[0, 0])
    true, off = values
    expected = ((off - true).square().mean(1) / true.var(1)).mean().sqrt()
    assert first == pytest.approx(float(expected.detach()), rel=1e-4)


def test_steps_and_rows() -> None:
    assert steps_within([0.05, 0.1, 0.11, 0.02]) == 2 and steps_within([float("nan")]) == 0
    row = {"step": 1008, "observation": [0.04] * 3 + [0.2] * 5, "value": [0.3] * 8}
    swapped = {**row, "observation": row["value"], "value": row["observation"]}
    text = table({"t": [row] * 4, "u": [swapped] * 2 + [{**row, "value": row["observation"]}]})
    assert "| t | 1,008 | 0.04 / 0.04 / 0.20 | 0.30 / 0.30 / 0.30 | 3, 0 |" in text and "| u |" not in text
    assert "Of all 7 evaluations" in text and "longer rollout in 2, as long a one in 1, a shorter one in 4." in text
