"""The tables of learning results are those that `python -m benchmarks.learning` prints of the records.

Guard: seen failing with one digit of a row changed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.learning import __main__ as learning

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/results/learning.md")
SAME = ("steps", "replicas", "return per agent", "worst", "score", "gain")  # columns of both, by how they begin


def cells(line: str) -> list[str]:
    return [cell.strip(" `") for cell in line.strip().strip("|").split("|")]


def numbers(cell: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d*\.?\d+", cell)]


def table(page: str) -> tuple[list[str], dict[str, list[str]]]:
    """The header, and task -> row, of the page's table of final policies."""
    lines = page.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("| task | steps | replicas |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return cells(lines[start]), {row[0]: row for row in rows}


def wrong(header: list[str], row: list[str], printed: str) -> list[str]:
    """Columns whose numbers are not those of the printed row."""
    theirs = dict(zip(cells(learning.HEAD.splitlines()[0]), cells(printed), strict=True))
    found = []
    for name, cell in zip(header, row, strict=True):
        start = next((same for same in SAME if re.match(rf"{same}\b(?! to)", name)), None)
        if start is None:
            continue
        match = next(value for key, value in theirs.items() if re.match(rf"{start}\b(?! to| >=)", key))
        mine = numbers(cell)
        if mine != numbers(match)[: len(mine)] or (not mine and match):
            found.append(name)
    return found


def judged() -> dict[str, str]:
    """Task -> the row that the command prints, of the records that were judged by its present rules."""
    return {record["env"]: learning.row(record) for record in learning.records() if "judged" in record}


@pytest.mark.parametrize("page", PAGES)
def test_a_published_row_is_that_of_its_record(page: str) -> None:
    header, rows = table((ROOT / page).read_text(encoding="utf-8"))
    known = {path.stem for path in learning.RESULTS.rglob("*.json")}
    assert len(rows) >= 6 and rows.keys() <= known
    bad = {env: wrong(header, rows[env], printed) for env, printed in judged().items() if env in rows}
    assert {env: columns for env, columns in bad.items() if columns} == {}


def test_one_digit_is_noticed() -> None:
    columns = cells(learning.HEAD.splitlines()[0])
    printed = dict.fromkeys(columns, "1")
    printed |= {"steps": "30k", "replicas": "10", "return per agent, IQM [95 %]": "-7.69 [-7.93, -7.46]"}
    line = f"| {' | '.join(printed.values())} |"
    header = ["task", "steps", "replicas", "return per agent, IQM [95 %]"]
    assert wrong(header, ["simple", "30k", "10", "-7.69 [-7.93, -7.46]"], line) == []
    assert wrong(header, ["simple", "30k", "10", "-7.69 [-7.93, -7.45]"], line) == header[3:]
    assert wrong(header, ["simple", "31k", "10", "-7.69 [-7.93, -7.46]"], line) == ["steps"]
    assert wrong(header, ["simple", "30k", "10", ""], line) == header[3:]
