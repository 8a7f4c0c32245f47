"""What the learner and the world model make of a channel that is not exact."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from envs.mpe import make, make_scenario
from marl.config.schema import MADDPGConfig
from marl.evaluate.anchors import anchors
from marl.evaluate.returns import evaluate
from marl.learner.maddpg import MADDPG
from marl.scripted.by_name import scripted
from marl.world_model.layout import Layout

ID = "speaker_listener_variant"
DISTURBED: list[dict[str, Any]] = [{"noise": 0.1}, {"erasure": 0.1}, {"delay": 1}]


def relabelled(**kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations before and after relabelling, and which of their entries are messages."""
    spec = make_scenario(ID, **kwargs).spec()
    learner = MADDPG(spec, MADDPGConfig(hidden=(8, 8)), seed=0)
    obs = torch.full((1, spec.num_agents, 64, spec.obs_size), 7.0)
    before = torch.rand(1, len(spec.senders), 64, spec.obs_size)
    batch: Any = SimpleNamespace(obs=obs.clone(), prev_obs=before, first=torch.zeros(1, 64, dtype=torch.bool))
    learner.relabel(batch)
    return obs, batch.obs


@pytest.mark.parametrize("kwargs", DISTURBED)
def test_messages_that_nobody_heard_are_not_written_into_the_replay(kwargs: dict[str, Any]) -> None:
    before, after = relabelled(**kwargs)
    assert torch.equal(before, after)


def test_every_exact_slot_is_relabelled() -> None:
    """Two speakers with messages of two symbols, two listeners: each slot holds a one-hot, nothing else changes."""
    kwargs = {"num_speakers": 2, "num_listeners": 2, "message_length": 2, "num_symbols": 4}
    before, after = relabelled(**kwargs)
    routes = make_scenario(ID, **kwargs).spec().routes
    assert len(routes) == 8
    changed = torch.zeros_like(before, dtype=torch.bool)
    for route in routes:
        changed[:, route.receiver, :, route.slot] = True
        assert torch.equal(after[:, route.receiver, :, route.slot].sort(-1).values[..., -1], torch.ones(1, 64))
        assert torch.equal(after[:, route.receiver, :, route.slot].sum(-1), torch.ones(1, 64))
    assert torch.equal(after[~changed], before[~changed])


@pytest.mark.parametrize("kwargs", [{}, *DISTURBED])
def test_the_world_model_predicts_what_is_disturbed(kwargs: dict[str, Any]) -> None:
    spec = make_scenario(ID, **kwargs).spec()
    layout = Layout(spec)
    assert layout.full_size - layout.obs_size == (0 if kwargs else spec.routes[0].size)


def test_anchors_hold_for_the_default_task_alone() -> None:
    assert anchors(ID).mean("oracle") == anchors("simple_speaker_listener").mean("oracle")
    assert anchors(ID, {"num_symbols": 3}).mean("oracle") is not None
    changed = anchors(ID, {"noise": 0.1})
    assert changed.mean("oracle") is None and "noise=0.1 (default 0.0)" in str(changed.reason)


@pytest.mark.parametrize("env_id", [ID, "envs.mpe.variants:parallel_env"])
def test_evaluation_plays_the_parallel_env(env_id: str) -> None:
    args = {"num_listeners": 2, "noise": 0.2, "max_cycles": 5}
    spec = make(ID, 1, **args).spec
    player = scripted(env_id, "noop", spec=spec)
    result = [evaluate(player, env_id, episodes=4, seed=seed, env_args=args, spec=spec) for seed in (0, 0, 1)]
    assert result[0].setting.backend == "pettingzoo" and result[0].score is None
    assert result[0].mean_return == result[1].mean_return != result[2].mean_return
