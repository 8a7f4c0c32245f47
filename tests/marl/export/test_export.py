"""Exported files are the policy: they play the same actions, and say what goes in and what comes out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import strange_envs
import torch
from box_envs import Talkers

from envs.pettingzoo.env import PettingZooEnv
from envs.streams import Stream
from examples import own_environment
from marl import Policy
from marl.config.schema import Config, MADDPGConfig
from marl.errors import UserError
from marl.export import files
from marl.export.actors import actors
from marl.export.command import main
from marl.export.files import DESCRIPTION, Description, export
from marl.export.player import Exported
from marl.learner.networks.actor_critic import Actor
from marl.play.rollout import play

FORMATS = [
    "torch",
    pytest.param("onnx", marks=pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="extra export")),
]


def loud(make: Any, **changes: Any) -> Policy:
    """Untrained actors whose choices differ from observation to observation."""
    env = PettingZooEnv(make=make)
    learner = MADDPGConfig(**{"hidden": (16, 12), **changes})
    spec = env.spec.stacked(learner.frames)
    size = Actor(spec, learner.hidden, learner.layer_norm, Stream(0, "shape", (0,)), learner.share_actors)
    draws = 0.3 * torch.randn(size.mlp.flat.shape[1:], generator=torch.Generator().manual_seed(4))
    return Policy(spec, Config(env=spec.id, maddpg=learner), draws, reader=env.reader)


MADE = {
    "masks, leaving, memory": (own_environment.make, {"frames": 3}),
    "several choices at once": (strange_envs.Images, {"layer_norm": False}),
    "numbers and messages, memory": (Talkers, {"frames": 2}),
    "masks": (strange_envs.MaskTold, {"share_actors": True}),
}


def same(policy: Policy, directory: Path, episodes: int, make: Any = None) -> int:
    """The number of decisions, after they have been compared."""
    played = [
        play(policy.env_id, player, episodes, 11, spec=policy.spec, make=make, record=True, batch=16)
        for player in (policy, Exported(directory, policy.spec))
    ]
    first, second = (one.actions for one in played)
    assert first is not None and second is not None
    assert np.array_equal(first, second)
    if policy.spec.continuous:  # tanh is rounded differently
        assert played[0].rows is not None and played[1].rows is not None
        np.testing.assert_allclose(played[0].rows, played[1].rows, atol=1e-5)
        np.testing.assert_allclose(played[0].returns, played[1].returns, atol=1e-3)
    else:
        assert np.array_equal(played[0].returns, played[1].returns)
    assert len(np.unique(first)) > 1
    return first.size


@pytest.mark.parametrize("kind", FORMATS)
def test_files_play_mpe_as_the_policy_does(kind: str, tmp_path: Path) -> None:
    policy = Policy.pretrained("simple_reference", 1)
    export(policy, tmp_path, kind)
    assert same(policy, tmp_path, 32) == 25 * 32 * 2 * 2


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", MADE)
def test_every_kind_of_actor(name: str, kind: str, tmp_path: Path) -> None:
    make, changes = MADE[name]
    policy = loud(make, **changes)
    export(policy, tmp_path, kind)
    assert same(policy, tmp_path, 16, make) > 100


@pytest.mark.parametrize("kind", FORMATS)
def test_logits_are_the_policys(kind: str, tmp_path: Path) -> None:
    policy = Policy.pretrained("simple_reference")
    export(policy, tmp_path, kind)
    seen = {name: np.random.default_rng(3).normal(size=(9, 21)).astype(np.float32) for name in policy.spec.agent_names}
    expected = policy.probabilities(seen)["agent_1"]
    player = Exported(tmp_path, policy.spec)
    player.act(seen)
    logits = player.logits["agent_1"]
    for h, head in enumerate((logits[:, :5], logits[:, 5:])):
        odds = np.exp(head.astype(np.float64))
        assert np.allclose(odds / odds.sum(1, keepdims=True), expected[:, h, : head.shape[1]], atol=1e-5)


def test_another_actor_is_another_file(tmp_path: Path) -> None:
    """Guard: seen failing with the first agent's layers for all."""
    policy = loud(own_environment.make)
    layers = {actor.agent.name: actor.layers[0][0] for actor in actors(policy)}
    assert not np.array_equal(layers["walker_0"], layers["walker_1"])
    assert layers["caller"].shape == (3, 16) and layers["walker_0"].shape == (8, 16)


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="extra export")
def test_the_description_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    assert main(["simple_reference", "--pretrained", "--replica", "2", "--out", str(tmp_path / "x")]) == 0
    assert "agent_0.onnx: observation [B, 21] -> logits [B, 15], choices [B, 2], action [B]" in capsys.readouterr().out
    written = Description.from_json(json.loads((tmp_path / "x" / DESCRIPTION).read_text()))
    assert (written.env, written.source, written.replica) == ("simple_reference_v3", "pretrained simple_reference", 2)
    export(loud(own_environment.make, frames=2), tmp_path / "y")
    for one in Description.from_json(json.loads((tmp_path / "y" / DESCRIPTION).read_text())).agents:
        session = onnxruntime.InferenceSession(str(tmp_path / "y" / one.file), providers=["CPUExecutionProvider"])
        for told, true in ((one.inputs, session.get_inputs()), (one.outputs, session.get_outputs())):
            assert [(t.name, list(t.shape)) for t in told] == [(t.name, t.shape) for t in true]
        assert one.inputs[0].shape[1] == sum(part.size for part in one.observation)
    assert [part.name for part in one.observation] == ["observation 0", "observation 1", "action 1"]


# ------------------------------------------------------------------ refusals
def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.pretrained("simple_reference")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(policy, tmp_path / "file", "torch")
    with pytest.raises(UserError, match="holds no exported actors"):
        Exported(tmp_path, policy.spec)
    monkeypatch.setattr(files, "_installed", lambda name: False)
    with pytest.raises(UserError, match=r"pip install 'marl-discrete-communication\[export\]'"):
        export(policy, tmp_path / "x", "onnx")
    assert not (tmp_path / "x").exists()


def test_a_recurrent_memory_is_refused() -> None:
    remembers = SimpleNamespace(config=SimpleNamespace(maddpg=SimpleNamespace(recurrent=True)))
    with pytest.raises(UserError, match="recurrent memory cannot be exported"):
        actors(remembers)  # type: ignore[arg-type]


def test_other_environments_and_joint_masks_are_refused(tmp_path: Path) -> None:
    policy = loud(strange_envs.MaskTold)
    export(policy, tmp_path, "torch")
    with pytest.raises(UserError, match="expected simple_reference_v3"):
        Exported(tmp_path, Policy.pretrained("simple_reference").spec)
    player = Exported(tmp_path, policy.spec)
    seen = {agent.name: np.zeros((2, agent.obs_size), np.float32) for agent in policy.spec.agents}
    with pytest.raises(UserError, match=r"shape \[2, 9\], expected \[2, 3\]"):
        player.act(seen, {name: np.ones((2, 9)) for name in seen})


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert main(["simple_reference", "--pretrained", "--checkpoint", "3", "--out", str(tmp_path)]) == 2
    assert "does not exist" in capsys.readouterr().err
