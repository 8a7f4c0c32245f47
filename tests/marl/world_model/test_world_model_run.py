"""A whole run with a world model: what it records, what looks at it afterwards, what is refused and what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marl.config.schema import CheckpointConfig, Config, EvaluationConfig, LoggingConfig, MADDPGConfig
from marl.config.world_model import WorldModelConfig
from marl.errors import RunFailed, UserError
from marl.training.experiment import train
from marl.world_model import evaluate as command
from marl.world_model import prediction
from marl.world_model.attach import load
from marl.world_model.dreamer import model as dreamer
from marl.world_model.imagination import gate

TINY = WorldModelConfig(
    kind="rssm",
    classes=4, latents=4, deter=8, hidden=8, sequences=4, warmup_steps=60, updates_per_step=0.05, starts=16, rollout=3,
    gate=1e9, reward_gate=1e9, refresh_every=50, ensemble=2, validation_share=0.25,
)  # fmt: skip


def config(tmp_path: Path, **changes: Any) -> Config:
    base = Config(
        env="simple_speaker_listener", num_replicas=2, num_envs=10, total_steps=400, world_model=True, device="cpu",
        run_dir=str(tmp_path / "run"), maddpg=MADDPGConfig(hidden=(8,), batch_size=16, warmup_steps=0), wm=TINY,
        evaluation=EvaluationConfig(every=0, final_episodes=2), checkpoint=CheckpointConfig(every=200),
        logging=LoggingConfig(every=100, progress=False, report=False),
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.parametrize("kind", ["rssm", "mlp"])
def test_a_run_records_its_model_and_can_be_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(prediction, "FILMED", 1)
    result = train(config(tmp_path, wm=replace(TINY, kind=kind)))
    records = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    last = next(r for r in reversed(records) if "world_model/loss" in r)
    names = {"rollout", "imagined", "rmse_1", "rmse_3", "reward_rmse_1", "loss", "grad_norm"}
    names |= {"kl", "observation_r2", "log_reward"} if kind == "rssm" else {"linear_rmse", "reward_r2"}
    assert {f"world_model/{name}" for name in names} <= set(last)
    assert last["world_model/rollout"] == 3 and last["world_model/imagined/replica_1"] > 0
    assert any("tfevents" in path.name for path in result.run_dir.iterdir())
    capsys.readouterr()
    assert command.main([str(result.run_dir), "--episodes", "4"]) == 0
    assert f"World model ({kind}) of simple_speaker_listener_v4 after 400 steps" in capsys.readouterr().out
    assert (result.run_dir / "world_model.json").exists()


def test_a_run_of_actors_with_a_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its policy plays the episodes that the model is measured on, and remembers."""
    learner = MADDPGConfig(recurrent=True, hidden=(8,), window=4, burn_in=2, batch_size=16, warmup_steps=100)
    result = train(config(tmp_path, maddpg=learner))
    capsys.readouterr()
    assert command.main([str(result.run_dir), "--episodes", "4", "--own-policy"]) == 0
    out = capsys.readouterr().out
    assert "after 400 steps, own policy" in out and "message entries that are exact: 100.0 %" in out


def test_episodes_to_predict_are_played_under_the_runs_channel(tmp_path: Path) -> None:
    """Nothing is heard in training, nor in them. Guard: seen failing, with messages that the model had never met."""
    result = train(config(tmp_path, channel="none", num_replicas=1, wm=replace(TINY, kind="mlp")))
    saved = load(result.run_dir)
    measured, seq = prediction.evaluate(saved, 4, 0, own_policy=False)
    (route,) = saved.spec.routes
    heard = seq.obs[..., saved.spec.agents[0].obs_size :][..., route.slot]
    assert heard.shape[3] == 3 and not bool(heard.any())
    assert measured.measured.slots is None  # no message is a copy of an action


def test_environments_that_are_made_anew_are_so_in_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard: seen failing, with an instance that was asked for a second episode."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "helpers"))
    own = {"env": "toy_envs:Once", "env_args": {"length": 9}, "backend": "pettingzoo", "rebuild": True}
    result = train(config(tmp_path, total_steps=120, num_replicas=1, **own))
    measured, _ = prediction.evaluate(load(result.run_dir), 4, 0, own_policy=False)
    assert measured.measured.episodes == 4


def test_a_run_with_masks_and_agents_that_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that reads imagined rows: the learner's losses, the loss through the model, the evaluation."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "helpers"))
    monkeypatch.setattr(prediction, "DEFAULT_STEPS", 9)
    monkeypatch.setattr(gate, "WRONG", 1.0)
    wm = replace(TINY, kind="auto", through_horizon=2, window=9)
    own = {"env": "toy_envs:Masked", "env_args": {"deaths": {"a_0": 3}, "length": 9}, "backend": "pettingzoo"}
    result = train(config(tmp_path, total_steps=120, num_replicas=1, wm=wm, **own))
    records = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    last = next(r for r in reversed(records) if "world_model/log_flags" in r)
    assert last["world_model/imagined"] > 0 and 0.0 <= last["world_model/flags_wrong_1"] <= 1.0
    measured, _ = prediction.evaluate(load(result.run_dir), 4, 0, own_policy=True)
    assert "what is allowed, balanced error rate" in prediction.table(measured)
    wrong = measured.to_json()["flags_wrong"]
    assert len(wrong) == 1 and len(wrong[0]) == 9 - 5


def test_a_collapsed_posterior_is_told_while_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dreamer, "LATE", 3)
    train(config(tmp_path, num_replicas=1))
    output = capsys.readouterr().err
    assert "warning: The world model reconstructs its observations with R^2" in output
    assert "raise --wm.nx, or lower --wm.beta" in output


def test_a_loss_that_is_not_finite_ends_the_run_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreamer.losses, "gaussian_log_prob", lambda x, m: (x - m).sum(-1) * float("nan"))
    with pytest.raises(
        RunFailed, match=r"world model's gradient is not finite in replicas \[0, 1\].*was left out.*--wm.lr"
    ):
        train(config(tmp_path))


def test_small_models_end_a_run_in_words_where_agents_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "helpers"))
    refused = config(
        tmp_path, env="toy_envs:Toy", env_args={"deaths": {"a_0": 3}}, backend="pettingzoo", num_envs=2, num_replicas=1,
        wm=replace(TINY, kind="mlp"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"--wm.kind mlp: \['a_0'\] of .*during the warm-up.*kind rssm.*'fixed_agents'"):
        train(refused)
