"""The stopwatch around the first command: phases add up, and the table says which run found its caches filled."""

import os
from pathlib import Path

import pytest

from benchmarks.speed.first_command import run, table


def test_phases_of_a_short_command(tmp_path: Path) -> None:
    flags = ["--total-steps", "64", "--evaluation.final-episodes", "2", "--logging.no-report"]
    one = run("simple", 3, os.sched_getaffinity(0), tmp_path / "caches", tmp_path, flags)
    assert one["seed"] == 3 and one["start"] + one["training"] + one["end"] == pytest.approx(one["seconds"])
    assert 0.5 < one["end"] < one["seconds"] and one["processor"] > 0.5
    assert (tmp_path / "caches" / "python").is_dir(), "Python's cache is not the user's own"


def test_the_first_run_is_cold_and_the_median_is_of_the_others() -> None:
    one = {
        "seed": 0,
        "seconds": 9.0,
        "start": 1.0,
        "training": 5.0,
        "end": 3.0,
        "processor": 8.0,
        "gain": 0.9,
        "score": 1,
    }
    lines = table([one | {"seconds": 30.0}, one, one | {"seconds": 11.0, "gain": None, "score": 0.8}]).splitlines()
    assert lines[2] == "| 0 | cold | 30.0 | 1.0 | 5.0 | 3.0 | 8.0 | 0.900 |"
    assert lines[4].endswith("| 0.800 |") and lines[5] == "| median | warm | 10.0 | 1.0 | 5.0 | 3.0 | 8.0 | |"
