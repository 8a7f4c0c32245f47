"""Trackers beside TensorBoard: the same numbers, the same run after a resume, and never the end of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from whole_runs import begun, config, records, resumed, whole

from marl import train
from marl.errors import UserError
from marl.runs.logs import trackers
from marl.runs.logs.logger import Logger

FEW = {"total_steps": 80, "evaluation.every": 40, "evaluation.episodes": 2, "logging.every": 20}


class Kept:
    """A tracker that keeps what it gets."""

    made: ClassVar[list[Kept]] = []
    fails: ClassVar[str] = ""  # the name of a method

    def __init__(self, run_dir: Path, known: str | None) -> None:
        self._may("init")
        self.id, self.place, self.given = known or f"id {len(self.made)}", "here", known
        self.rows: list[dict[str, float]] = []
        self.config: dict[str, Any] = {}
        self.closed = 0
        self.made.append(self)

    def _may(self, name: str) -> None:
        if self.fails == name:
            raise ConnectionError("nobody answers")

    def settings(self, values: Mapping[str, Any]) -> None:
        self._may("settings")
        self.config = dict(values)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._may("log")
        self.rows.append({"step": step, **values})

    def close(self) -> None:
        self._may("close")
        self.closed += 1


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    fresh = type("Kept", (Kept,), {"made": [], "fails": ""})
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": fresh, "mlflow": fresh})
    monkeypatch.setattr(trackers, "_installed", lambda name: True)
    return fresh


def test_a_tracker_gets_what_the_file_gets(
    tmp_path: Path, kept: type[Kept], capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole(tmp_path / "run", {**FEW, "num_replicas": 2, "logging.trackers": ("wandb", "mlflow")})
    one, two = kept.made
    assert "wandb: here\nmlflow: here\n" in capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    finite = [{name: value for name, value in line.items() if value is not None} for line in lines]
    assert one.rows == two.rows == finite and len(finite) > 5
    assert one.config["maddpg.batch_size"] == 16 and one.config["env"] == "simple_speaker_listener"
    assert (one.closed, two.closed) == (1, 1)
    assert json.loads((run / trackers.IDS).read_text()) == {"wandb": "id 0", "mlflow": "id 1"}


def test_a_resumed_run_goes_on_in_the_same_place(tmp_path: Path, kept: type[Kept]) -> None:
    """Guard: seen failing with trackers that are not told that they resume."""
    run = begun(tmp_path / "run", {**FEW, "logging.trackers": ("mlflow",)}, rounds=10)
    resumed(run)
    first, second = kept.made
    assert first.given is None and second.given == second.id == "id 0"
    assert first.config and not second.config
    steps = [row["step"] for row in first.rows + second.rows]
    assert steps == sorted(steps) == [line["step"] for line in records(run)]


@pytest.mark.parametrize("method", ["init", "settings", "log", "close"])
def test_a_tracker_that_fails_ends_no_run(
    method: str, tmp_path: Path, kept: type[Kept], capsys: pytest.CaptureFixture[str]
) -> None:
    kept.fails = method
    run = whole(tmp_path / "run", {**FEW, "logging.trackers": ("wandb",)})
    words = "warning: tracker wandb failed (nobody answers). Training goes on without it.\n"
    assert capsys.readouterr().err == words
    assert len(records(run)) > 5


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path, kept: type[Kept]) -> None:
    with Logger(tmp_path, tensorboard=False, trackers=["wandb"]) as logger:
        logger.log(3, {"good": torch.tensor([1.0, 3.0]), "bad": float("nan"), "worse": float("inf")})
    assert kept.made[0].rows == [{"step": 3, "good": 2.0, "good/replica_0": 1.0, "good/replica_1": 3.0}]


def test_none_is_the_default(tmp_path: Path, kept: type[Kept]) -> None:
    run = whole(tmp_path / "run", {"total_steps": 40})
    assert kept.made == [] and not (run / trackers.IDS).exists()


def test_a_missing_extra_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_installed", lambda name: False)
    with pytest.raises(UserError, match=r"pip install 'marl-discrete-communication\[wandb,mlflow\]'"):
        train(config(tmp_path / "run", {"logging.trackers": ("wandb", "mlflow")}))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ the real ones, offline
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = begun(tmp_path / "run", {**FEW, "logging.trackers": ("wandb",)}, rounds=10)
    resumed(run)
    known = json.loads((run / trackers.IDS).read_text())["wandb"]
    files = sorted((run / "wandb").glob(f"offline-run-*-{known}/run-{known}.wandb"))
    assert files, "W&B wrote no offline run of this id"
    assert len(list((run / "wandb").glob("offline-run-*.*"))) == 0
    rows = [row for file in files for row in wandb_rows(file)]
    last = records(run)[-1]
    assert {"step": last["step"], "evaluation/return": last["evaluation/return"]}.items() <= rows[-1].items()
    assert [row["step"] for row in rows] == [line["step"] for line in records(run)]


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The history that W&B keeps in a file until it is synchronised: LevelDB's log format behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, rows, whole_record = file.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header at the end of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole_record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole_record)
            whole_record = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    return rows


def test_mlflow_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracked.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "trial")
    run = begun(tmp_path / "run", {**FEW, "logging.trackers": ("mlflow",)}, rounds=10)
    resumed(run)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert found.info.run_id == json.loads((run / trackers.IDS).read_text())["mlflow"]
    assert found.info.status == "FINISHED" and found.data.params["maddpg.batch_size"] == "16"
    history = client.get_metric_history(found.info.run_id, "evaluation/return")
    lines = [line for line in records(run) if "evaluation/return" in line]
    assert [(one.step, one.value) for one in history] == [(one["step"], one["evaluation/return"]) for one in lines]
