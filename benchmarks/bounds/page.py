"""What is written from the record: the table of docs/results/bounds.md and the module of the package."""

from __future__ import annotations

import math
from typing import Any

_KINDS = {"oracle": "", "no_communication": ", without messages"}
_START, _END = "<!-- table -->\n", "<!-- /table -->"


def upward(bound: float) -> float:
    """A bound of the record, which is rounded to four decimals, with three: never below the one that was computed."""
    return math.ceil(round((bound + 5e-5) * 1e3, 6)) / 1e3


def with_table(page: str, record: dict[str, Any]) -> str:
    """The page with the record's table between its two marks."""
    lines = [
        f"Written by `{record['command']}` ({record['machine']}; episodes from seed {record['seed']}).",
        "",
        "| task | bound | margin for drawn resets | method | best script, return ± standard error | gap |",
        "|---|---|---|---|---|---|",
    ]
    for env, kinds in record["bounds"].items():
        for kind, one in kinds.items():
            lines.append(
                f"| `{env}`{_KINDS[kind]} | {upward(one['bound']):.3f} | {one['margin']:.3f} | {one['method']} "
                f"| `{one['script']}` {one['return']:.2f} ± {one['se']:.2f} | {one['gap']:.3f} ± {one['gap_se']:.3f} |"
            )
    before, rest = page.split(_START)
    after = rest.split(_END)[1]
    return before + _START + "\n".join(lines) + "\n" + _END + after


def as_module(record: dict[str, Any]) -> str:
    """The module `marl/evaluate/bounds.py`."""
    lines = [
        '"""Upper bounds that are proved and computed by `python -m benchmarks.bounds`, which writes this module."""',
        "",
        "from __future__ import annotations",
        "",
        "# environment -> kind of anchor -> bound of the expected return per agent, mean over all agents",
        "BOUNDS: dict[str, dict[str, float]] = {",
    ]
    for env, kinds in record["bounds"].items():
        inside = ", ".join(f'"{kind}": {upward(one["bound"])}' for kind, one in kinds.items())
        lines.append(f'    "{env}": {{{inside}}},')
    return "\n".join([*lines, "}", ""])
