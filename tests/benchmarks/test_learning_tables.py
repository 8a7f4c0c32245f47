"""The tables of results: their cells by hand, and the pages against the records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.learning import tables
from benchmarks.learning.__main__ import records
from benchmarks.learning.training_runs import placeless, steps_of
from marl.config.schema import Config

RECORD = {
    "env": "simple_reference",
    "purpose": "reporting",
    "steps": 200_000,
    "replicas": 3,
    "seconds": 60.0,
    "processor": 30.0,
    "curve": {
        "step": [10_000, 20_000, 30_000],
        "seconds": [10.0, 20.0, 30.0],
        "gain": [[0.5, 0.95, 0.1], [0.92, 0.95, 0.2], [0.91, 0.9, 0.3]],
    },
    "judged": {
        "greedy": {
            "iqm": -8.0, "interval": (-8.5, -7.75), "returns": (-8.2, -8.0, -7.8), "played": (-8.1, -7.9, -7.7),
            "played_interval": (-8.6, -7.2), "score": 0.98, "gain": 0.9485, "gains": (0.96, 0.95, 0.94),
        },
        "sampled": {"iqm": -8.4},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("task", "`simple_reference`"),
        ("steps", "200k"),
        ("return per agent, IQM [95 %]", "-8.00 [-8.50, -7.75]"),
        ("worst", "-8.20"),
        ("as played [95 %]", "-7.90 [-8.60, -7.20]"),
        ("sampled", "-8.40"),
        ("score", ".980"),
        ("gain", ".949"),
        # (-8.5 + 16.65) / 9.12 and (-7.75 + 16.65) / 9.12, the anchors of the task
        ("gain [95 %]", ".949 [.894, .976]"),
        ("gain >= .95", "2 of 3"),
        ("steps to median gain .90", "20k"),  # the replicas reach it at 20k, 10k and never
        ("seconds to it, a replica", "3"),  # 20 s on the wall, of which the processor had half, for three replicas
        ("seconds a replica, side by side", "10"),
    ],
)
def test_cells(column: str, cell: str) -> None:
    assert tables.CELLS[column](RECORD) == cell


def test_retired_rows_are_marked_and_give_the_seconds_that_they_have() -> None:
    retired = {key: value for key, value in RECORD.items() if key != "processor"} | {"purpose": "retired"}
    assert tables.CELLS["task"](retired) == "`simple_reference` †"
    assert tables.CELLS["seconds a replica, side by side"](retired) == "20"


def test_a_task_without_messages_has_no_gain() -> None:
    greedy = RECORD["judged"]["greedy"] | {"gain": None, "gains": (None, None, None)}
    record = RECORD | {"env": "simple_spread", "judged": {"greedy": greedy}, "curve": {"step": [], "seconds": []}}
    empty = ("gain", "gain [95 %]", "gain >= .95", "steps to median gain .90", "seconds to it, a replica")
    assert [tables.CELLS[column](record) for column in empty] == [""] * 5


def test_seconds_alone_are_of_the_task_itself() -> None:
    """`simple` is the beginning of other tasks' names."""
    assert tables.CELLS["seconds of one run alone"](RECORD | {"env": "simple"}) == "30"


@pytest.mark.parametrize("page", tables.PAGES)
def test_pages_show_the_records(page: str) -> None:
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    assert tables.printed(records(), page) + "\n" in text


def test_each_record_was_reported_on_the_slot_that_it_had() -> None:
    from benchmarks import seeds
    from marl.cli.parse import parse

    slots = {(one.task, one.configuration): one for one in seeds.read()}
    for record in (one for one in records() if one["purpose"] != "retired"):
        slot = slots[record["env"], record["configuration"]]
        assert (record["seed"], record["judged"]["greedy"]["seed"]) == (slot.run_seed, slot.episodes_seed)
        assert slot.finished and record["purpose"] == "reporting"
        shipped = parse(["--env", record["env"], *record["flags"]]).config
        assert seeds.fingerprint(shipped) == record["configuration"], "the row is of settings that no longer ship"


@pytest.mark.parametrize(("total", "envs", "steps"), [(2_000_000, 256, 2_000_128), (1024, 256, 1024), (1, 16, 16)])
def test_a_run_makes_whole_rounds(total: int, envs: int, steps: int) -> None:
    assert steps_of(Config(total_steps=total, num_envs=envs)) == steps


def test_commands_of_records_name_no_place_of_a_machine() -> None:
    words = ["--env", "simple", "--keep", "/a/b", "--run", "/c", "--out", "/d", "--replicas", "3"]
    assert placeless(words) == ["--env", "simple", "--run", "RUN", "--replicas", "3"]
    for path in (tables.ROOT / "benchmarks" / "results").rglob("*.json"):
        assert "--keep" not in path.read_text(), path


def test_no_record_names_a_place_of_a_machine() -> None:
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    kinds = (".json", ".jsonl", ".md")
    texts = {path: path.read_text(encoding="utf-8") for path in results.rglob("*") if path.suffix in kinds}
    assert len(texts) > 50
    place = re.compile(r"(?<![\w.])/(tmp|home|root|work|Users)/")
    assert [path.name for path, text in texts.items() if place.search(text)] == []
