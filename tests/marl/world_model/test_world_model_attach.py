"""A world model in a run: composed from the configuration, saved, found again, looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_world_model_imagination import CONFIG, source
from world_model_data import play

import envs
from envs.streams import Stream
from marl.config.resolve import to_dict
from marl.config.schema import Config, MADDPGConfig
from marl.config.world_model import WorldModelConfig
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner import relaxation
from marl.learner.maddpg import MADDPG
from marl.runs import checkpoint
from marl.world_model import attach as compose
from marl.world_model import evaluate as command
from marl.world_model import prediction
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.imagination.through import ThroughModel

SMALL = WorldModelConfig(
    kind="rssm",
    classes=4, latents=4, deter=8, hidden=8, sequences=4, warmup_steps=50, updates_per_step=0.05, starts=16, rollout=3,
    gate=1e9, reward_gate=1e9, refresh_every=50, ensemble=2, validation_share=0.25,
)  # fmt: skip
LEARNER = MADDPGConfig(hidden=(8,), batch_size=16, warmup_steps=0)


def config_of(wm: WorldModelConfig, **changes: Any) -> Config:
    base = Config(env="simple_speaker_listener", num_replicas=2, num_envs=10, maddpg=LEARNER, world_model=True)
    return replace(base, wm=wm, **changes)  # type: ignore[arg-type]


def trained(config: Config, steps: int = 30, first_update: int = 6) -> tuple[ImaginationSource, MADDPG]:
    """A few rounds of what the trainer does."""
    replicas = range(config.num_replicas)
    env = envs.make(config.env, config.num_replicas * config.num_envs)
    env.reset(seed=config.seed)
    learner = MADDPG(env.spec, config.maddpg, config.seed, replicas)
    replay = Replay(env.spec, 1000, config.num_envs, Stream(config.seed, "replay", replicas), config.maddpg.gamma)
    source, collector = compose.imagining(replay, learner, config), Collector(env, learner.act, config.num_replicas)
    for k in range(steps):
        source.add(collector.collect()[0])
        if k >= first_update:
            learner.update(source.sample(config.maddpg.batch_size))
    return source, learner


@pytest.mark.parametrize("kind", ["rssm", "mlp", "linear"])
def test_maddpg_learns_from_every_kind(kind: Any) -> None:
    source, learner = trained(config_of(replace(SMALL, kind=kind)))
    assert bool((source.imagined.usable_S > 20).all())
    assert bool(learner.actor.mlp.flat.isfinite().all())
    assert learner.actor_loss is not None, "unset, a loss goes through every kind"
    assert learner.path.startswith("explicit")


def test_the_loss_through_the_model_moves_the_actors_by_its_weight() -> None:
    """Of one update, from Adam's first moment, a tenth of the gradient: weight 5 adds five times what weight 1 adds."""
    unclipped = replace(LEARNER, max_grad_norm=1e9)

    def gradient(**changes: Any) -> torch.Tensor:
        wm = replace(SMALL, kind="linear", **changes)
        learner = trained(config_of(wm, maddpg=unclipped), 30, first_update=29)[1]
        return 10 * learner.moments["actor"].mean_SGP

    plain = gradient(through_horizon=0)
    once, five = (gradient(through_horizon=2, through_weight=weight) - plain for weight in (1.0, 5.0))
    assert once.norm() > 0.01 * plain.norm()
    torch.testing.assert_close(five, 5 * once, rtol=1e-3, atol=1e-5 * float(five.abs().max()))


def test_groups_follow_the_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []
    monkeypatch.setattr(compose, "ThroughModel", lambda r, s, a, t, g, e: groups.append((g, e)) or SimpleNamespace())
    wm = replace(SMALL, through_horizon=3)
    for learner in (
        LEARNER, replace(LEARNER, team_reward=True), replace(LEARNER, estimator="exact"),
        replace(LEARNER, estimator="rao_blackwell"), replace(LEARNER, estimator="reinmax"),
    ):  # fmt: skip
        trained(config_of(wm, maddpg=learner), steps=1)
    assert [g for g, _ in groups] == [((0,), (1,)), ((0, 1),), *[((0,), (1,))] * 3]
    names = ["gumbel_st", "gumbel_st", "straight_through", "straight_through", "reinmax"]
    assert [e for _, e in groups] == [[name] for name in names]


@pytest.mark.parametrize(
    "message, expected", [(None, "gumbel_st"), ("reinmax", "reinmax"), ("exact", "straight_through")]
)
def test_messages_have_their_own_estimator_in_the_loss_through_the_model(message: Any, expected: str) -> None:
    """Heads of simple_reference: move, message; each draw has the gradient of its own head's estimator."""
    maddpg = replace(LEARNER, estimator="gumbel_st", message_estimator=message)
    config = config_of(replace(SMALL, kind="linear", through_horizon=2), env="simple_reference", maddpg=maddpg)
    through = trained(config, steps=1)[1].actor_loss
    assert isinstance(through, ThroughModel)
    logits, noise = (Stream(k, "rows", [0, 1]).gumbel(2, 3, 2, 10) for k in range(2))
    allowed = torch.ones(2, 1, 2, 10, dtype=torch.bool)
    logits.requires_grad_()
    result = through._relaxed(logits, noise, 1.0, allowed)
    weights = torch.arange(10.0)
    for h, name in enumerate(("gumbel_st", expected)):
        (own,) = torch.autograd.grad((result[..., h, :] * weights).sum(), logits, retain_graph=True)
        alone = relaxation.relax(name, logits, noise, 1.0, allowed)[..., h, :]
        (reference,) = torch.autograd.grad((alone * weights).sum(), logits)
        assert torch.equal(own, reference) and bool(own[..., h, :].any())


# ------------------------------------------------------------------------ a saved run
def saved_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config) -> Path:
    """What the trainer leaves of a run with a world model."""
    source, learner = trained(config)
    parts = {"source": source.state_dict(), "policy": {"actor": learner.actor.mlp.flat.detach()}}
    manifest = {"spec": learner.spec.to_dict(), "config": to_dict(config)}
    checkpoint.save(tmp_path / checkpoint.DIRECTORY, 300, parts, manifest)
    monkeypatch.setattr(compose, "from_dict", lambda *_: config)
    return tmp_path


@pytest.mark.parametrize("kind", ["rssm", "linear"])
def test_command_writes_numbers_figures_and_a_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    monkeypatch.setattr(prediction, "FILMED", 1)
    run = saved_run(tmp_path, monkeypatch, config_of(replace(SMALL, kind=kind)))
    assert command.main([str(run), "--episodes", "6", "--own-policy"]) == 0
    text = capsys.readouterr().out
    assert "copy last" in text and "100.0 %" in text and f"World model ({kind})" in text and "own policy" in text
    result = json.loads((run / "world_model.json").read_text())
    assert result["step"] == 300 and len(result["rmse"]["model"]["all"]) == 2
    assert result["rmse"]["linear"]["all"][0] < result["rmse"]["mean"]["all"][0]
    names = {path.name for path in run.iterdir() if path.is_file()}
    assert {"world_model.gif", "world_model_errors.png", "world_model.json"} <= names
    assert ("world_model_latents.png" in names) == (kind == "rssm")
    if kind == "linear":
        assert result["rmse"]["model"]["all"][0] < 1e-3


def test_the_saved_model_predicts_as_the_one_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(SMALL)
    source, _ = trained(config)
    loaded = compose.load(saved_run(tmp_path, monkeypatch, config))
    seq = source.training.episodes.training.windows(8, 4, Stream(0, "w", [0, 1]))
    states = [model.observe(seq, Stream(0, "n", [0, 1])) for model in (source.training.model, loaded.model)]
    assert torch.equal(states[0].features, states[1].features)


def test_bad_input_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    config = config_of(replace(SMALL, kind="linear"))
    run = saved_run(tmp_path, monkeypatch, config)
    assert command.main([str(run), "--episodes", "1"]) == 2
    assert "--episodes: expected at least 2, got 1" in capsys.readouterr().err
    monkeypatch.setattr(compose, "from_dict", lambda *_: replace(config, world_model=False))
    assert command.main([str(run)]) == 2
    assert "trained without a world model" in capsys.readouterr().err


def test_imagination_is_renewed_at_its_step_and_before_that_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten environments a step and every 51 of them: the sixth step, not the fifth."""
    env = envs.make("simple_speaker_listener", num_envs=20)
    built = source(env.spec, replace(CONFIG, refresh_every=51))
    due: list[int] = []
    monkeypatch.setattr(built.training.model, "check", lambda: due.append(step))
    expected, since = [], 0
    for step, transitions in enumerate(play(env, 40, replicas=2)):
        built.add(transitions)
        if not due:
            before = built.imagined._stream.state_dict()
            built.sample(40)
            assert built.imagined._stream.state_dict() == before and not built.imagined.filled
        if built.training.begun:
            since += 10
            if since > 50:
                expected.append(step)
                since = 0
    assert due == expected and len(due) > 2
