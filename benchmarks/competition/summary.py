"""All competitive tasks in one table: how many pairings each side wins, and what a fresh opponent takes from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.competition.exploited import SUFFIX
from marl.exploit.measure import Exploited, told

SAME = ("seed", "replicas", "steps", "mode", "episodes", "episodes_seed")  # of a record and its exploitability
VERDICTS = ("beaten", "level", "not beaten")


def overview(written: Iterable[Path]) -> str:
    """The records of tasks (<env>.json) and their exploitability (<env>_exploitability.json) as Markdown.

    A row for each side of a task. Its pairings are those against each script of the other side, counted by how the
    trained side does beside the best of its own scripts that see no more than it; exploitability is of these very teams
    in these episodes, empty where it has not been measured.
    """
    records = {path.stem: json.loads(path.read_text()) for path in sorted(written)}
    head = ["task", "steps", "replicas", "side", *VERDICTS, "exploitability [95 %]"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, record in records.items():
        if name.endswith(SUFFIX):
            continue
        measured = records.get(f"{name}{SUFFIX}", {})
        teams = measured["teams"] if all(measured.get(key) == record[key] for key in SAME) else []
        lost = {one.team: one.exploitability for one in map(Exploited.from_json, teams)}
        for side in record["sides"]:
            cells = [f"`{name}`", f"{record['steps'] / 1000:,.0f}k", str(record["replicas"]), side]
            cells += [str(_count(record, side, verdict)) for verdict in VERDICTS]
            cells.append(told(lost[side]).partition(" (")[0] if side in lost else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _count(record: dict[str, Any], side: str, verdict: str) -> int:
    rows = [row for row in record["against"] if row["side"] == side]
    return sum(row["scripts"][row["best"]]["verdict"] == verdict for row in rows)
