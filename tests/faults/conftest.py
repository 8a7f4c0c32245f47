"""What the fault tests share: whole runs through the real command line, and a record of every injected fault.

A test that has seen all that it demands calls `seen`; with FAULT_RECORDS=FILE set, a line is written there, from which
`python -m benchmarks.reliability.faults` makes the table of docs/reliability.md. No line comes from a test that failed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))  # whole_runs, toy_envs

Outcome = tuple[int, str, str]  # exit code, standard output, standard error


@pytest.fixture
def seen() -> Callable[..., None]:
    """seen(fault, injected, told, times=1, code=None): what was injected, how often, and what the user saw."""

    def write(fault: str, injected: str, told: str, times: int = 1, code: int | None = None) -> None:
        if "FAULT_RECORDS" not in os.environ:
            return
        row = {"fault": fault, "injected": injected, "told": " ".join(told.split()), "times": times, "code": code}
        with open(os.environ["FAULT_RECORDS"], "a") as file:
            file.write(json.dumps(row) + "\n")

    return write


def flags_of(settings: dict[str, Any]) -> list[str]:
    """Dotted settings as flags."""
    flags: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            flags += [f"--{flag}", *(f"{key}={inner}" for key, inner in value.items())]
        elif isinstance(value, tuple):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


@pytest.fixture
def run_py(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """run_py(settings or None, *flags): the real command line on a tiny run, in this process."""
    from whole_runs import BASE

    from marl.cli import launch as cli

    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(sys, "argv", ["run.py"])

    def go(settings: dict[str, Any] | None, *flags: str) -> Outcome:
        capfd.readouterr()
        own = [] if settings is None else flags_of({**BASE, **settings})
        code = cli.main([*own, *flags])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err, err
        return code, out, err

    return go
