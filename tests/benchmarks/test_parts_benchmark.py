"""The table of goals with parts: its cells by hand, and arms that the command line takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import parts
from marl.cli.parse import parse


def structure(value: float, p: float) -> dict:
    return {name: {"value": value, "p": p} for name in parts.MEASURES}


def test_a_row_by_hand() -> None:
    shares = {"training": [0.9, 1.0], "held_out": [0.4, 0.8]}
    accuracy = {
        goals: {"together": {"mean": sum(each) / 2, "low": 0.25, "high": 1.0}, "replicas": each}
        for goals, each in shares.items()
    }
    record = {
        "zero_shot": {"chance": 1 / 3, **accuracy},
        "bits_told": [2.0, 2.5],
        "compositionality": [structure(0.5, 0.01), structure(1.0, 0.3)],
    }
    whole = record | {"compositionality": [None, None]}
    first, _, row, control = parts.table({"parts": record, "whole": whole}).splitlines()
    cells = "| parts | 0.333 | 0.950 [0.250, 1.000] | 0.600 [0.250, 1.000] | 0.40, 0.80 | 2.25 |"
    assert row == f"{cells} 0.75 | 0.75 | 0.75 | 1 of 2 |"
    assert control == f"{cells.replace('parts', 'whole')}  |  |  |  |"
    assert first.count("|") == row.count("|") == control.count("|")


@pytest.mark.parametrize("arm", list(parts.ARMS))
def test_an_arm_holds_goals_out(arm: str) -> None:
    env, flags = parts.ARMS[arm]
    config = parse(["--env", env, *flags]).config
    assert config.env_args["attributes"] == [3, 3] and config.env_args["held_out"] == 3


def test_the_page_repeats_the_record() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "communication.md").read_text(encoding="utf-8")
    assert parts.table(json.loads(parts.RESULT.read_text(encoding="utf-8"))) in page
