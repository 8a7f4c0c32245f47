"""The throughput benchmark: its worker, its table and the sweep on a device, on small numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import throughput, throughput_device


def test_workers_play_in_turns_and_tell_their_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log").open("w") as log:
        contenders = [throughput.Contender(name, sys.executable, 0, log) for name in ("project", "mpe2", "jaxmarl")]
        rows = throughput.compare(contenders, ["simple_speaker_listener"], [2], repeats=2, seconds=0.0)
        for contender in contenders:
            contender.close()
    ours, theirs, absent = rows
    assert [row["contender"] for row in rows] == ["project", "mpe2", "jaxmarl"]
    for row in (ours, theirs):
        assert row["rate"] > 0 and len(row["rates"]) == len(row["wall_rates"]) == 2
    assert absent["rate"] is None and "ModuleNotFoundError" in absent["error"]
    assert "mpe2" in capsys.readouterr().out
    throughput.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_table() -> None:
    rows = [
        {"task": "simple_spread", "envs": 1000, "contender": name, "rate": rate}
        for name, rate in (
            ("project", 3e6),
            ("jaxmarl", 1e6),
            ("vmas", 1.5e6),
            ("vmas_continuous", 2e6),
            ("mpe2", 5000.0),
        )
    ]
    head, _, line = throughput.table(rows).splitlines()
    contenders = "this package | mpe2 | JaxMARL | VMAS | VMAS, continuous actions"
    assert head == f"| task | environments | {contenders} | x JaxMARL | x VMAS | x VMAS, continuous |"
    assert line == "| `simple_spread` | 1,000 | 3 M | 5,000 | 1 M | 1.5 M | 2 M | 3.0 | 2.0 | 1.5 |"


def test_summary_is_the_median_of_processor_time() -> None:
    answers = [{"steps": 100, "cpu": cpu, "wall": 10.0} for cpu in (1.0, 2.0, 4.0)]
    row = throughput.summary("t", 1, "project", answers)
    assert row["rate"] == 50.0 and row["wall_rates"] == [10.0] * 3
    assert throughput.summary("t", 1, "vmas", [*answers, {"error": "broke"}])["error"] == "broke"


def test_knee() -> None:
    assert throughput_device.knee([(1, 10.0), (2, 19.0), (4, 20.0), (8, 15.0)]) == (2, 19.0)


def test_sweep_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput_device, "rate", lambda play, count, device: float(play().obs.shape[1]))
    output = throughput_device.sweep_and_save("cpu", ["simple_spread"], tmp_path, counts=[2, 4], modes=["eager"])
    assert "simple_spread, eager: 4 steps/s at the knee of 4 environments" in output
    rows = json.loads((tmp_path / "throughput_cpu.json").read_text())["rows"]
    assert [(row["envs"], row["rate"]) for row in rows] == [(2, 2.0), (4, 4.0)]
    assert (tmp_path / "throughput_cpu.png").exists()


def test_rate_counts_steps() -> None:
    result = throughput_device.rate(lambda: None, 10, "cpu", repeats=1, seconds=0.01)
    assert result > 25 * 10 / 0.01


def test_a_device_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(["--device", "cuda:99", "--out", str(tmp_path)]) == 2
    assert "device 'cuda:99' is not usable here" in capsys.readouterr().err


def test_page_shows_every_row_that_was_measured() -> None:
    root = Path(__file__).resolve().parents[2]
    rows = json.loads((root / "benchmarks/results/throughput/throughput.json").read_text())["rows"]
    assert throughput.table(rows) in (root / "docs/speed.md").read_text(encoding="utf-8")
