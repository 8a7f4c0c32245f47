"""The study of channels: when a protocol has formed, since when, and the cells of the table, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

from benchmarks.conditions.__main__ import ARMS, RESULTS, refused
from benchmarks.conditions.protocols import formed_at
from benchmarks.conditions.tables import HEAD, table
from marl.config.fields import settings
from marl.config.resolve import tuned
from marl.config.schema import Config

CURVE = {
    "step": [1000, 2000, 3000, 4000],
    "gain": [[0.2, 0.0, 0.2, 0.0], [0.05, 0.2, 0.3, 0.0], [0.4, 0.5, 0.4, 0.0], [0.5, 0.6, 0.5, 0.05]],
}


def test_steps_count_from_when_the_gain_stays() -> None:
    """The first replica falls back once, the third has no protocol in the end, the fourth never pays."""
    assert formed_at(CURVE, [True, True, False, True]) == [3000.0, 2000.0, math.inf, math.inf]
    assert formed_at(CURVE, [None] * 4) == [math.inf] * 4
    assert formed_at({"step": [1000]}, [True]) is None


def test_table_by_hand() -> None:
    protocols = [{"share": 0.5, "lost": 2.0, "formed": True}, {"share": 1.0, "lost": 1.0, "formed": False}]
    arm = {
        "judged": {"iqm": -8.0, "interval": [-8.5, -7.5], "gain": 0.95},
        "protocols": protocols,
        "formed_at": [2000.0, None],
        "seconds": 61.4,
    }
    setting = {"env": "simple_reference", "replicas": 2, "steps": 10, "seed": 3000, "episodes": 7}
    record = {"setting": setting, "command": "C", "machine": "M", "arms": {"dial": arm, "oracle": {"refused": "No."}}}
    lines = table(record).splitlines()
    assert lines[-2] == ("| `dial` | -8.00 [-8.50, -7.50] | 0.950 | 1 of 2 [0.09, 0.91] | never | 0.75 | 1.50 | 61 |")
    assert lines[-1].startswith("| `oracle` | No. |")
    told = {**arm, "protocols": [{**one, "formed": None} for one in protocols]}  # the criterion is not asked of it
    assert "| 0.950 |  |  | 0.75 |" in table({**record, "arms": {"oracle": told}})
    assert {line.count("|") for line in lines[2:]} == {len(HEAD) + 1}


def test_every_channel_is_an_arm_and_impossible_ones_have_a_reason() -> None:
    assert set(settings(Config)["channel"].kind.__args__) <= set(ARMS)
    reasons = {name: refused(tuned("simple_world_comm", channel=name)) for name in ("oracle", "intent", "dial", "none")}
    assert reasons["dial"] is None and reasons["none"] is None
    assert "does not declare" in str(reasons["oracle"]) and "5 moves to tell with 4 symbols" in str(reasons["intent"])


def test_the_page_repeats_the_records() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "conditions.md").read_text(encoding="utf-8")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    assert records and all(table(record) in page for record in records)
