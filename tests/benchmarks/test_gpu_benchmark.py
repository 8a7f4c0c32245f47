"""The benchmark of a GPU, on a CPU with tiny sizes: it runs, writes its table and refuses without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def test_every_part_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run to a gain is a process of its own, and has a test of its own."""
    parts = [part for part in gpu.PARTS if part != "learning"]
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", *parts]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {*parts, "meta", "device"} == set(result)
    assert result["transitions"]["32"]["graphs"] > 0 and set(result["replicas"]) == {"1", "2"}
    assert len(result["estimators"]) == 8 and result["world_model"]["gpu"]["launched"] > 0
    output = capsys.readouterr().out
    assert output.strip() == (tmp_path / "gpu.md").read_text().strip()
    for words in ("training transitions/s, 32 environments", "2 replicas", "gapped", "RSSM", "GPU busy", "aten::"):
        assert words in output


def test_the_run_to_a_gain_is_read_while_it_goes() -> None:
    result = gpu.learning(torch.device("cpu"), gpu.TINY)
    assert result["seconds"] is None and result["gain"] < gpu.GOAL_GAIN and result["step"] in (80, 160)


def test_the_median_is_over_replicas_of_the_newest_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert gpu._median_gain(path) == (None, 0)
    gains = {f"evaluation/gain/replica_{s}": gain for s, gain in enumerate((0.95, 0.2, 0.9))}
    records = [
        {"step": 5, "evaluation/gain": 0.1},
        {"step": 9, "evaluation/gain": 0.6, **gains},
        {"step": 10, "critic/loss": 1.0},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in records) + '{"step": 11, "evaluation/gain')
    assert gpu._median_gain(path) == (0.9, 9)


def test_goals_are_judged() -> None:
    result = {
        "transitions": {"4096": {"graphs": 6e6, "launched": 2e6}},
        "replicas": {"1": 0.4, "16": 0.7},
        "learning": {"seconds": 40.0, "step": 30000, "gain": 0.91},
        "world_model": {"gpu": {"launched": 30.0, "graph": None, "why": "no"}},
    }
    output = {what: (reached, goal) for what, reached, goal in gpu.rows(result)}
    assert output["training transitions/s, 4096 environments"] == ("6,000,000", "at least 5,000,000: reached")
    assert output["sampling and update of 16 replicas, ms"][1].endswith("missed")
    assert [goal for what, (_, goal) in output.items() if "gain" in what] == ["at most 60: reached"]
    assert [goal for what, (_, goal) in output.items() if "RSSM" in what] == ["at most 10: missed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert "there is no such device here" in capsys.readouterr().err and not (tmp_path / "out").exists()
