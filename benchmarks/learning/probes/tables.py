"""The page of an environment: a row for each probe, what it asks, and where the returns come from."""

from __future__ import annotations

from typing import Any

HEADS = (
    "probe", "learn", "measured (others)", "replicas x steps", "learned [95 %]", "best script", "random",
    "share [95 %]", "learned, plain task", "share, plain task", "processor seconds",
)  # fmt: skip


def page(env: str, records: dict[str, dict[str, Any]], others: dict[str, str]) -> str:
    """Markdown.

    Args:
        env: the task.
        records: {probe: its record}.
        others: {measured group: the scripts of all other agents, "" where there are none}.
    """
    episodes = " or ".join(str(count) for count in sorted({record["episodes"] for record in records.values()}))
    machines = "; ".join(dict.fromkeys(record["machine"] for record in records.values()))
    lines = [
        f"# Probes of {env}",
        "",
        f"`python -m benchmarks.learning.probes --env {env}`: returns per agent of the measured agents, summed over an "
        f"episode, of the final greedy policies in {episodes} episodes of the batched port, the same for everybody. "
        "*Best script* and *random* play the measured agents under the same change; a share of 0 is random play, 1 the "
        "best script. *Plain task*: the same policies without the change, compared with what scripts return there. "
        "Intervals are over replicas and episodes, with few replicas narrower than they should be; those of "
        f"shares take script and random play as they are. Seconds of training all replicas. {machines}.",
        "",
        f"| {' | '.join(HEADS)} |",
        f"|{'---|' * len(HEADS)}",
    ]
    for name, record in records.items():
        for measured, row in record["rows"].items():
            lines.append(_row(name, record, measured, others[measured], row))
    lines += ["", "What each asks:", ""]
    lines += [f"- **{name}**: {record['asks']}{_told(record)}" for name, record in records.items()]
    lines += ["", *_terms(records)]
    return "\n".join(lines) + "\n"


def _row(name: str, record: dict[str, Any], measured: str, others: str, row: dict[str, Any]) -> str:
    learned, best, plain = row["learned"], row["best"], row["in_plain"]
    cells = [
        name,
        record["learners"],
        f"{measured} ({others})" if others else measured,
        f"{record['replicas']} x {record['steps']:,}",
        f"{learned['mean']:.1f} {_interval(learned['interval'], 1)}",
        f"{best} {_plus_minus(row['scripts'][best])}",
        _plus_minus(row["scripts"]["random"]),
        _share(row["share"], row["share_interval"]),
        "" if plain is None else f"{plain['learned']['mean']:.1f}",
        "" if plain is None else _share(plain["share"], plain["share_interval"]),
        f"{record['processor']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _told(record: dict[str, Any]) -> str:
    """Flags that all probes of a call had."""
    return f" (with `{' '.join(record['flags'])}`)" if record["flags"] else ""


def _terms(records: dict[str, dict[str, Any]]) -> list[str]:
    """What each term of the reward paid, one table for the whole task."""
    names = list(
        dict.fromkeys(t for r in records.values() for row in r["rows"].values() for t in row["terms"]["random"])
    )
    lines = [
        "What each term of the reward pays in an episode, per agent, before any weights:",
        "",
        f"| probe | measured | who | {' | '.join(names)} |",
        f"|{'---|' * (len(names) + 3)}",
    ]
    for probe, record in records.items():
        for measured, row in record["rows"].items():
            for who, paid in row["terms"].items():
                cells = [probe, measured, who, *(f"{paid[name]:.1f}" if name in paid else "" for name in names)]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plus_minus(value: list[float]) -> str:
    return f"{value[0]:.1f} ± {value[1]:.1f}"


def _interval(ends: list[float], digits: int) -> str:
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _share(share: float | None, ends: list[float]) -> str:
    return "" if share is None else f"{share:.2f} {_interval(ends, 2)}"
