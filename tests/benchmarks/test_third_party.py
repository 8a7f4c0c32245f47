"""The table of other packages' environments: every cell ends, and says what a command said; tried on our own."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability.third_party import ENTRIES, MAKERS, Cells, Entry, tried
from benchmarks.reliability.third_party_page import with_table

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
PAGE = "above\n<!-- table -->\nold\n<!-- /table -->\nbelow\n"


def test_a_cell_that_hangs_is_ended() -> None:
    """Its children too. Guard: seen waiting for a child that held the pipe."""
    began = time.monotonic()
    words = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    done = Cells(Path(sys.executable), "", 1.0).run("-c", words)
    assert done["code"] is None and time.monotonic() - began < 20


def test_a_row_from_the_check_to_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]))
    row = tried(Entry("ours", ("numpy",), 200), "toy_envs:Masked", Path(sys.executable), 120.0)
    codes = {name: row[name]["code"] for name in ("check", "alone", "train", "resume", "evaluate", "play")}
    assert set(codes.values()) == {0}, row
    assert row["play"]["returns"] == pytest.approx(row["play"]["evaluated"])
    assert row["alone"]["steps_per_second"] > row["training_steps_per_second"] > 0
    page = with_table(PAGE, {"rows": {"ours": row}, "command": "c", "machine": "m", "timeout": 9.0})
    assert "old" not in page and page.startswith("above\n") and page.endswith("<!-- /table -->\nbelow\n")
    assert f"| ours | numpy {row['versions']['numpy']} | yes | yes | yes | yes | yes |" in page


def record(**cells: Any) -> dict[str, Any]:
    row = {"name": "x", "versions": {}, "flags": [], "alone": {}, "training_steps_per_second": None, **cells}
    return {"rows": {"x": row}, "command": "c", "machine": "m", "timeout": 9.0}


def test_what_is_no_yes_has_its_words() -> None:
    page = with_table(
        PAGE,
        record(
            check={"code": 2, "out": "x: 2 agents\n1 breach(es):\n- it | breaks", "told": "", "seconds": 1},
            train={"code": 1, "out": "", "told": "the run\nfailed", "seconds": 1},
            resume={"code": None, "out": "", "told": "", "seconds": 9.2},
            play={"code": 0, "out": "", "told": "", "returns": {"a": 1.0}, "evaluated": {"a": 2.0}},
        ),
    )
    assert "| refused (1) | fails (2) | ended after 9 s |  | differs (3) |" in page
    assert "1. x, check: it \\| breaks" in page and "2. x, train: the run failed" in page
    assert "3. x, play: a earns 1 by hand, 2.0 in `marl.evaluate`." in page


def test_every_environment_has_its_maker() -> None:
    import benchmarks.reliability.third_party_envs as makers

    assert makers.__name__ == MAKERS and len(ENTRIES) >= 12
    assert all(callable(getattr(makers, name)) and entry.packages for name, entry in ENTRIES.items())
