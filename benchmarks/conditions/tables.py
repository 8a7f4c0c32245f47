"""The arms of one task as the table of docs/conditions.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest

from marl.stats import median_interval

HEAD = (
    "arm",
    "return per agent, IQM [95 %]",
    "gain",
    "replicas with a protocol [95 %]",
    "median steps to it [95 %]",
    "I(M;G), share of H(G)",
    "shuffled costs",
    "seconds",
)


def table(record: dict[str, Any]) -> str:
    """Markdown: a line that says what was measured, then one row an arm in the order in which they were asked for."""
    setting = record["setting"]
    lines = [
        f"`{setting['env']}`, {setting['replicas']} replicas of {setting['steps']} steps from seed {setting['seed']}, "
        f"{setting['episodes']} greedy episodes each. `{record['command']}`, {record['machine']}",
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + "---|" * len(HEAD),
    ]
    for name, arm in record["arms"].items():
        cells = [arm["refused"], *[""] * (len(HEAD) - 2)] if "refused" in arm else _cells(arm, setting["replicas"])
        lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    return "\n".join(lines)


def _cells(arm: dict[str, Any], replicas: int) -> list[str]:
    greedy, protocols = arm["judged"], arm["protocols"]
    low, high = greedy["interval"]
    shares = [one["share"] for one in protocols if one["share"] is not None]
    formed = _share([one["formed"] for one in protocols])
    return [
        f"{greedy['iqm']:.2f} [{low:.2f}, {high:.2f}]",
        "" if greedy["gain"] is None else f"{greedy['gain']:.3f}",
        formed,
        _steps(arm["formed_at"], replicas) if formed else "",
        f"{np.median(shares):.2f}" if shares else "",
        f"{np.mean([one['lost'] for one in protocols]):.2f}",
        f"{arm['seconds']:.0f}",
    ]


def _share(formed: list[bool | None]) -> str:
    """How many have one, with Wilson's interval of the share; "" where the criterion is not applied."""
    if None in formed:
        return ""
    count, of = sum(map(bool, formed)), len(formed)
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return f"{count} of {of} [{interval.low:.2f}, {interval.high:.2f}]"


def _steps(steps: list[float | None] | None, replicas: int) -> str:
    """The median with the interval of its order statistics; null in the record stands for never."""
    if steps is None:
        return ""
    values = [float("inf") if one is None else one for one in steps]
    middle = float(np.quantile(values, 0.5, method="higher"))
    if replicas < 6:  # which give the median no interval
        return _thousands(middle)
    return f"{_thousands(middle)} [{', '.join(map(_thousands, median_interval(values)))}]"


def _thousands(steps: float) -> str:
    return f"{steps / 1000:g}k" if np.isfinite(steps) else "never"
