"""The table of docs/results/third_party.md, from the record of `third_party.py`."""

from __future__ import annotations

import re
from typing import Any

_START, _END = "<!-- table -->\n", "<!-- /table -->"


def with_table(page: str, record: dict[str, Any]) -> str:
    """The page with the record's table, and the words behind what is no "yes", between its two marks."""
    lines = [
        f"Written by `{record['command']}` ({record['machine']}; a cell has {record['timeout']:.0f} s).",
        "",
        "| environment | versions | check | train | resume | evaluate | play | steps/s alone | in training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for row in record["rows"].values():
        packages = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        flags = "".join(f" `{flag}`" for flag in row["flags"])
        cells = [_cell(row, name, notes) for name in ("check", "train", "resume", "evaluate", "play")]
        alone = _rate(row["alone"].get("steps_per_second"))
        rates = [alone, _rate(row["training_steps_per_second"])]
        lines.append(f"| {row['name']}{flags} | {packages} | " + " | ".join([*cells, *rates]) + " |")
    lines += ["", *(f"{n}. {text}" for n, text in enumerate(notes, 1))] if notes else []
    before, rest = page.split(_START)
    return before + _START + "\n".join(lines) + "\n" + _END + rest.split(_END)[1]


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _cell(row: dict[str, Any], name: str, notes: list[str]) -> str:
    """ "yes", or what happened with a number that leads to its words."""
    done = row.get(name)
    if done is None:
        return ""
    if done["code"] is None:
        return f"ended after {done['seconds']:.0f} s"
    if done["code"] == 0 and name == "play":
        mine, theirs = done["returns"], done["evaluated"]
        wrong = [name for name, value in mine.items() if not _same(value, theirs.get(name))]
        if wrong:
            notes.append(
                f"{row['name']}, play: {wrong[0]} earns {mine[wrong[0]]:.6g} by hand, {theirs.get(wrong[0])} in "
                f"`marl.evaluate`."
            )
            return f"differs ({len(notes)})"
    if done["code"] == 0:
        return "yes"
    notes.append(f"{row['name']}, {name}: {_words(name, done)}")
    return f"{'refused' if done['code'] == 2 else 'fails'} ({len(notes)})"


def _same(one: float, other: float | None) -> bool:
    """Equal but for the rounding of sums."""
    return other is not None and abs(one - other) <= 1e-4 * max(1.0, abs(one))


def _words(name: str, done: dict[str, Any]) -> str:
    """What the command said, on one line."""
    text = done["out"].partition("\n- ")[2] if name == "check" and done["out"] else done["told"]
    text = re.sub(r"\s+", " ", text or done["told"]).strip()
    text = text if len(text) <= 420 else f"{text[:420]} ..."
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
