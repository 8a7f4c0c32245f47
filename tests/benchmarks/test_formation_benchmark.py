"""When protocols formed: the record of a tiny run, the median replica, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import formation, seeds
from marl.cli.parse import parse
from marl.communication.formation import Formed
from marl.communication.measures.information import Undefined
from marl.stats import MeanInterval

ROOT = Path(__file__).resolve().parents[2]


def formed(step: int, low: float = 0.5) -> Formed:
    return Formed(step - 10, step, step, step, 0.0, 1.0, MeanInterval(1.0, low, 1.5), None)


def test_the_median_replica_is_among_those_that_formed() -> None:
    courses: list[Any] = [((), formed(30)), ((), formed(5, low=-0.1)), ((), Undefined("no")), ((), formed(20))]
    assert [formation.has_formed(one) for _, one in courses] == [True, False, False, True]
    assert formation.median_replica(courses) == 3, "of two the earlier"
    assert formation.median_replica([*courses, ((), formed(40))]) == 0
    assert formation.median_replica(courses[1:3]) == 0, "none formed"


def test_the_published_seed_is_taken_for_the_published_settings_alone() -> None:
    task = "simple_speaker_listener"
    published, other = parse(["--env", task]).config, parse(["--env", task, "--maddpg.tau", "0.5"]).config
    assert formation.run_seed(published) == (seeds.find(published).run_seed, True)
    assert formation.run_seed(other) == (formation.STUDY_SEED, False)


def test_a_tiny_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.json"
    words = ["--replicas", "2", "--looks", "2", "--until", "200", "--episodes", "10", "--out", str(out)]
    few = ["--total-steps", "100000", "--num-envs", "4", "--maddpg.hidden", "8", "--maddpg.updates-per-step", "0.01"]
    assert formation.main([*words, "--", *few]) == 0
    record = json.loads(out.read_text())
    assert out.with_suffix(".png").exists() and str(tmp_path) not in record["command"] and not record["published"]
    for one in record["replicas"]:
        assert [row["step"] for row in one["rows"]] == [0, 100, 200]
        assert one["formed"]["step"] in (100, 200) and all(row["replica"] == one["replica"] for row in one["rows"])
    assert formation.table(record) in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(formation.RESULTS.glob("formation_*.json")), ids=lambda path: path.stem)
def test_the_page_repeats_the_record(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "communication.md").read_text(encoding="utf-8")
    assert formation.table(record) in page and record["command"] in " ".join(page.split())
