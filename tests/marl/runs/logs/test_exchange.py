"""A run's records for other tools: the frame is the file, and marl-eval reads what it is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from whole_runs import records, whole

from marl import metrics_frame
from marl.config.fields import with_values
from marl.errors import UserError
from marl.report.command import main
from marl.runs.logs.exchange import marl_eval
from marl.runs.logs.records import read_run

FEW = {"total_steps": 80, "evaluation.every": 20, "evaluation.episodes": 2, "num_replicas": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The last one has another setting."""
    folder = tmp_path_factory.mktemp("runs")
    changed = [{"seed": 3}, {"seed": 4}, {"seed": 3, "maddpg.gamma": 0.5}]
    return [whole(folder / str(k), {**FEW, **one}) for k, one in enumerate(changed)]


def test_the_frame_is_the_file(runs: list[Path]) -> None:
    pytest.importorskip("pandas")
    frame, lines = metrics_frame(runs[0]), records(runs[0])
    assert list(frame.index) == [line["step"] for line in lines]
    assert set(frame.columns) >= set().union(*lines) - {"step"}
    for name in ("evaluation/return", "evaluation/gain", "rollout/return", "updates"):
        expected = [line.get(name) for line in lines]
        assert np.array_equal(frame[name], np.array(expected, dtype=float), equal_nan=True)


def test_without_pandas_the_command_is_named(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'marl-discrete-communication\[pandas\]'"):
        metrics_frame(runs[0])


def test_raw_data_for_marl_eval(runs: list[Path]) -> None:
    data = marl_eval(runs)
    (task,) = data["mpe2"]
    assert task == "simple_speaker_listener"
    algorithms = data["mpe2"][task]
    assert list(algorithms) == ["maddpg maddpg.gamma=0.95", "maddpg maddpg.gamma=0.5"]
    assert list(algorithms["maddpg maddpg.gamma=0.95"]) == [f"seed_{s}_replica_{r}" for s in (3, 4) for r in (0, 1)]
    steps = algorithms["maddpg maddpg.gamma=0.5"]["seed_3_replica_1"]
    assert list(steps) == ["step_0", "step_1", "step_2", "step_3", "absolute_metrics"]
    assert [steps[f"step_{k}"]["step_count"] for k in range(4)] == [0, 20, 40, 60]
    evaluated = [line for line in records(runs[2]) if "evaluation/return" in line]
    assert steps["step_2"]["gain"] == [evaluated[2]["evaluation/gain/replica_1"]]
    final = evaluated[-1]["evaluation/return/replica_1"]  # as float32
    assert steps["absolute_metrics"]["return"] == [pytest.approx(final, rel=1e-6)]
    assert list(marl_eval(runs[:2])["mpe2"][task]) == ["maddpg"]


def test_marl_eval_reads_it(runs: list[Path]) -> None:
    processing = pytest.importorskip("marl_eval.utils.data_processing_utils")
    diagnose = pytest.importorskip("marl_eval.utils.diagnose_data_errors")
    data = json.loads(json.dumps(marl_eval(runs[:2])))
    assert all(diagnose.DiagnoseData(data).check_data().values())
    processed = processing.data_process_pipeline(raw_data=data, metrics_to_normalize=["return"])
    run = processed["mpe2"]["simple_speaker_listener"]["maddpg"]["seed_4_replica_0"]
    assert 0.0 <= run["step_0"]["mean_norm_return"] <= 1.0


def test_the_command_writes_it(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, raw = tmp_path / "page.html", tmp_path / "raw.json"
    assert main([str(runs[0]), str(runs[1]), "--out", str(out), "--marl-eval", str(raw)]) == 0
    assert f"Raw data for marl-eval: {raw}" in capsys.readouterr().out
    assert json.loads(raw.read_text()) == marl_eval(runs[:2])
    assert main([str(runs[0]), "--out", str(out), "--marl-eval", str(tmp_path / "none" / "raw.json")]) == 2
    assert "--marl-eval" in capsys.readouterr().err


def test_a_run_without_a_learning_curve_is_told_why(runs: list[Path]) -> None:
    """Guard: seen failing with "expected a run that has ended", which this one has."""
    blind = read_run(runs[0])
    blind.config = with_values(blind.config, {"evaluation.every": 0})
    blind.metrics = blind.metrics[-1:]
    with pytest.raises(UserError, match=r"no learning curve, since evaluation.every was 0"):
        marl_eval([blind])


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path, runs: list[Path]) -> None:
    unfinished = read_run(runs[0])
    unfinished.evaluation = {}
    with pytest.raises(UserError, match="expected a run that has ended"):
        marl_eval([unfinished])
