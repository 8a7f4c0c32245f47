"""The last words of a run name the seconds of every phase."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import whole

from marl.training.journal import Journal
from marl.training.phases import Phases


def test_phases_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([3.0, 5.5, 6.0, 6.25])
    monkeypatch.setattr("marl.training.phases.time.perf_counter", lambda: next(now))
    phases = Phases(began=1.0)
    for name in ("start", "training", "report", "report"):
        phases.end(name)
    assert phases.words() == "start 2.0 s, training 2.5 s, report 0.8 s"


def test_a_run_names_its_phases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = Journal.aside

    @contextmanager
    def slow(journal: Journal) -> Iterator[None]:
        with aside(journal):
            time.sleep(0.06)  # else nothing is left of it where a second has one decimal
            yield

    monkeypatch.setattr(Journal, "aside", slow)
    whole(tmp_path / "run", {"total_steps": 40, "evaluation.every": 20, "evaluation.episodes": 2})
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Time: "))
    number = r"\d+\.\d s"
    assert re.fullmatch(
        f"Time: start {number}, training {number}, evaluation in the real environment {number}; "
        f"{number} of the training for its evaluations.",
        line,
    )
    assert not line.endswith(" 0.0 s of the training for its evaluations.")
