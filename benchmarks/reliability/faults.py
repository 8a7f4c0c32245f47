"""Injects every fault and writes what was seen: the tables of docs/reliability.md.

    python -m benchmarks.reliability.faults                     runs the fault tests (some minutes), then writes
    python -m benchmarks.reliability.faults --records FILE ...  writes from records of runs with FAULT_RECORDS=FILE

Every number of the table comes from a test that has passed: tests/faults/conftest.py writes a record after the last
assertion. Exit code 1 where a test failed; the table is then left as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from marl.runs.durable import replace_text
from marl.runs.versions import versions

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RESULT = ROOT / "benchmarks" / "results" / "faults.json"
SOAKS = ("soak.json", "soak_world_model.json")  # by benchmarks/reliability/soak.py
WORDS = 230  # letters of a message that are shown


def run_tests(records: Path) -> None:
    """All tests of tests/faults, the quick ones too, in one process: the table shows the first message of a fault."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "fault or not fault", "tests/faults"]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"FAULT_RECORDS": str(records)}, check=True)


def summed(lines: list[str]) -> list[dict[str, Any]]:
    """One row a fault: what was injected, how often, the exit codes and the first message."""
    rows: dict[str, dict[str, Any]] = {}
    for record in map(json.loads, lines):
        new = {"fault": record["fault"], "injected": [], "times": 0, "codes": [], "told": ""}
        row = rows.setdefault(record["fault"], new)
        row["times"] += record["times"]
        if record["injected"] not in row["injected"]:
            row["injected"].append(record["injected"])
        if record["code"] is not None and record["code"] not in row["codes"]:
            row["codes"].append(record["code"])
        row["told"] = row["told"] or without_paths(record["told"])
    return sorted(rows.values(), key=lambda row: row["fault"].strip("`").lower())


def without_paths(text: str) -> str:
    """The message without the directories of tests and of this machine."""
    text = re.sub(r"\S*/pytest-of-[^/\s]+/[^/\s]+/[^/\s'\"]+/", "", text)
    return re.sub(r"/\S*?(tests/faults/)", r"\1", text)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = ("fault", "injected how", "times", "exit code", "what the user saw", "data lost")
    lines = ["| " + " | ".join(head) + " |", "|---|---|--:|--:|---|---|"]
    for row in rows:
        injected = "; ".join(row["injected"][:3]) + (" ..." if len(row["injected"]) > 3 else "")
        told = row["told"] if len(row["told"]) <= WORDS else row["told"][:WORDS].rsplit(" ", 1)[0] + " ..."
        cells = (row["fault"], injected, str(row["times"]), ", ".join(map(str, row["codes"])), told, "none")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def soak_table() -> str:
    """What benchmarks/reliability/soak.py has measured, in Markdown."""
    lines = ["| run | resident memory in the middle | at the end | peak | grows |", "|---|--:|--:|--:|---|"]
    for name in SOAKS:
        result = json.loads((RESULT.parent / name).read_text())
        steps = re.findall(r"--total-steps (\d+)", result["command"])[0]
        run = f"{int(steps):,} steps{', with the world model' if '--world-model' in result['command'] else ''}"
        sizes = " | ".join(f"{result[key]:.1f} MB" for key in ("middle_mb", "end_mb", "peak_mb"))
        lines.append(f"| {run} | {sizes} | {'yes' if result['grows'] else 'no'} |")
    return "\n".join(lines)


def put(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of `name`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    return page.partition(begin)[0] + f"{begin}\n{text}\n{end}" + page.partition(end)[2]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, nargs="+", help="of earlier runs, in place of running the tests")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        files = options.records or [Path(scratch) / "records.jsonl"]
        if not options.records:
            try:
                run_tests(files[0])
            except subprocess.CalledProcessError as error:
                return error.returncode
        rows = summed([line for file in files for line in file.read_text().splitlines()])
    replace_text(RESULT, json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")
    replace_text(PAGE, put(put(PAGE.read_text(), "faults", table(rows)), "soak", soak_table()))
    print(f"{len(rows)} faults, {sum(row['times'] for row in rows)} injections: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
