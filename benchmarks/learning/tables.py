"""The records of `benchmarks.learning` as tables: all columns, and those of README.md and docs/results/learning.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.training_runs import first_reached, median
from marl.evaluate.anchors import lines_of

ROOT = Path(__file__).resolve().parents[2]
ALONE = ROOT / "benchmarks" / "results" / "first_command"
PAGES = {
    "README.md": (
        "task",
        "steps",
        "replicas",
        "return per agent, IQM [95 %]",
        "random / no messages / best known",
        "score",
        "gain",
        "seconds of one run alone",
    ),
    "docs/results/learning.md": (
        "task",
        "steps",
        "replicas",
        "return per agent, IQM [95 %]",
        "worst",
        "as played [95 %]",
        "random / no messages / best known",
        "score",
        "gain [95 %]",
        "steps to median gain .90",
        "seconds to it, a replica",
        "seconds a replica, side by side",
        "seconds of one run alone",
    ),
}
PRINTED = re.compile(r"(\| task \| steps \|[^\n]*\n(?:\|[^\n]*\n)+)")
ORDER = ("speaker_listener", "reference", "spread", "formation", "line", "simple", "treasure")


def table(records: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Markdown: a line for each record; None: every column that there is."""
    names = list(columns or CELLS)
    lines = [names, ["---"] * len(names), *([CELLS[name](record) for name in names] for record in records)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def printed(records: Sequence[dict[str, Any]], page: str) -> str:
    """The table of a page of `PAGES`, tasks in the order in which they are introduced."""
    ordered = sorted(records, key=lambda r: next(k for k, name in enumerate(ORDER) if name in r["env"]))
    return table(ordered, PAGES[page])


def write_pages(records: Sequence[dict[str, Any]]) -> None:
    """Replace the table of each page of `PAGES` by that of the records."""
    for page in PAGES:
        before, _, after = re.split(PRINTED, (ROOT / page).read_text(encoding="utf-8"), maxsplit=1)
        (ROOT / page).write_text(f"{before}{printed(records, page)}\n{after}", encoding="utf-8")


def gain_interval(record: dict[str, Any]) -> list[float]:
    """The interval of the return on the scale of the gain, whose two ends are taken as exact."""
    lines = lines_of(record["env"])
    bottom, top = lines["no communication"], lines["oracle"]
    assert bottom is not None and top is not None
    return [(end - bottom) / (top - bottom) for end in _greedy(record)["interval"]]


def _greedy(record: dict[str, Any]) -> dict[str, Any]:
    return record["judged"]["greedy"]  # type: ignore[no-any-return]


def _interval(ends: Sequence[float], digits: int = 2) -> str:
    return f"[{', '.join(_short(end, digits) for end in ends)}]"


def _short(value: float | None, digits: int) -> str:
    """A number as the pages write it: .95 for 0.95."""
    return "" if value is None else re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def _gain(record: dict[str, Any], with_interval: bool) -> str:
    gain = _greedy(record)["gain"]
    if gain is None:
        return ""
    return _short(gain, 3) + (f" {_interval(gain_interval(record), 3)}" if with_interval else "")


def _good(record: dict[str, Any]) -> str:
    gains = _greedy(record)["gains"]
    return "" if None in gains else f"{sum(gain >= 0.95 for gain in gains)} of {len(gains)}"


def _arrival(record: dict[str, Any], what: str) -> float:
    if "gain" not in record["curve"]:
        return float("nan")
    return median(first_reached(record["curve"], "gain", 0.9, what))


def _steps_to(record: dict[str, Any]) -> str:
    steps = _arrival(record, "step")
    return "" if np.isnan(steps) else f"{steps / 1000:g}k" if np.isfinite(steps) else "never"


def _seconds_to(record: dict[str, Any]) -> str:
    """Wall seconds of the training until then, scaled to the processor's, and divided by the replicas."""
    seconds = _arrival(record, "seconds")
    if not np.isfinite(seconds):
        return ""
    return f"{seconds * _processor(record) / record['seconds'] / record['replicas']:.0f}"


def _processor(record: dict[str, Any]) -> float:
    """Processor seconds of the training; of a record that has none, those on the wall."""
    return record.get("processor", record["seconds"])


def _alone(record: dict[str, Any]) -> str:
    """Wall seconds of the training of one run by itself, where it was measured."""
    files = sorted(ALONE.glob(f"{record['env']}_[0-9]_cores.json"))
    runs = [run for file in files for run in json.loads(file.read_text())["runs"]]
    return f"{np.median([run['training'] for run in runs]):,.0f}" if runs else ""


def _lines(record: dict[str, Any]) -> str:
    lines = lines_of(record["env"])
    values = (lines["random"], lines["no communication"], lines["oracle"])
    return " / ".join("" if line is None else f"{line:.2f}" for line in values).replace("/  /", "/ /")


CELLS: dict[str, Callable[[dict[str, Any]], str]] = {
    "task": lambda r: f"`{r['env']}`" + (" †" if r["purpose"] == "retired" else ""),
    "steps": lambda r: f"{r['steps'] / 1000:,.0f}k",
    "replicas": lambda r: str(r["replicas"]),
    "return per agent, IQM [95 %]": lambda r: f"{_greedy(r)['iqm']:.2f} {_interval(_greedy(r)['interval'])}",
    "worst": lambda r: f"{min(_greedy(r)['returns']):.2f}",
    "as played [95 %]": lambda r: f"{np.mean(_greedy(r)['played']):.2f} {_interval(_greedy(r)['played_interval'])}",
    "sampled": lambda r: f"{r['judged']['sampled']['iqm']:.2f}",
    "random / no messages / best known": _lines,
    "score": lambda r: _short(_greedy(r)["score"], 3),
    "gain": lambda r: _gain(r, with_interval=False),
    "gain [95 %]": lambda r: _gain(r, with_interval=True),
    "gain >= .95": _good,
    "steps to median gain .90": _steps_to,
    "seconds to it, a replica": _seconds_to,
    "seconds a replica, side by side": lambda r: f"{_processor(r) / r['replicas']:.0f}",
    "seconds of one run alone": _alone,
}
