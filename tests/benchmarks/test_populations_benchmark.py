"""Pairs, groups and the record of the benchmark of populations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import populations


@pytest.mark.parametrize("size", [1, 2, 4])
def test_who_plays_with_whom(size: int) -> None:
    replicas = 4 * size
    found = populations.pairs(replicas, size)
    assert found["self"] == [(i, i) for i in range(replicas)]
    assert len(found["within"]) == replicas * (size - 1)
    assert all(i != j and i // size == j // size for i, j in found["within"])
    assert all(i // size != j // size for i, j in found["between"])
    assert len(set(found["between"])) == len(found["between"]) == replicas * 3
    for i in range(replicas):
        met = {j // size for speaker, j in found["between"] if speaker == i}
        assert len(met) == 3, "every replica meets every other population"


def test_returns_are_grouped_by_population() -> None:
    values = {(i, j): np.full(3, 10.0 * i + j) for i in range(4) for j in range(4)}
    groups = populations.grouped(values, populations.pairs(4, 2)["within"], 2)
    assert [group.tolist() for group in groups] == [[[1.0] * 3, [10.0] * 3], [[23.0] * 3, [32.0] * 3]]
    one = populations.measured("simple_speaker_listener", groups)
    assert one["return"] == pytest.approx((5.5 + 27.5) / 2) and one["pairs"] == 4
    assert one["populations"] == [5.5, 27.5] and one["gain"] == pytest.approx((16.5 + 15.37) / (15.37 - 7.46), rel=0.01)


def test_a_tiny_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.json"
    words = ["--sizes", "1", "2", "--populations", "2", "--total-steps", "1100", "--episodes", "4", "--out", str(out)]
    assert populations.main([*words, "--", "--maddpg.hidden", "8", "--maddpg.updates-per-step", "0.01"]) == 0
    record = json.loads(out.read_text())
    assert [one["size"] for one in record["sizes"]] == [1, 2] and out.with_suffix(".png").exists()
    assert [one["batch_size"] for one in record["sizes"]] == [32, 64]
    assert [list(one["pairs"]) for one in record["sizes"]] == [["self", "between"], ["self", "within", "between"]]
    assert str(tmp_path) not in record["command"] and "with other members" in capsys.readouterr().out


def test_the_page_repeats_the_record() -> None:
    root = Path(__file__).resolve().parents[2]
    path = root / "benchmarks" / "results" / "communication" / "populations_simple_speaker_listener.json"
    page = (root / "docs" / "communication.md").read_text(encoding="utf-8")
    for one in json.loads(path.read_text(encoding="utf-8"))["sizes"]:
        told = [str(one["size"])]
        for name in ("self", "within", "between"):
            cell = one["pairs"].get(name)
            told.append("" if cell is None else "{:.2f} [{:.2f}, {:.2f}]".format(cell["return"], *cell["interval"]))
        assert re.sub(" +", " ", f"| {' | '.join(told)} |") in page
