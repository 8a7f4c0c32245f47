"""What `marl.evaluate` prints: tables of its results, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(name: str, result: dict[str, Any]) -> str:
    """The result of `evaluate` for a reader; `name` is whom it is about."""
    lines = [_heading(result, name), ""]
    replicas = result["replicas"]
    lines += _replica_rows(result) if len(replicas) > 1 else _agent_rows(result)
    lines.append("")
    if len(result["sides"]) > 1:
        lines += [f"{side}: {_plus_minus(value)}" for side, value in result["sides"].items()]
    if len(replicas) > 1:
        low, high = result["iqm_interval"]
        lines.append(
            f"interquartile mean of the replicas' returns {result['iqm']:.2f}, 95 % interval [{low:.2f}, {high:.2f}] "
            f"(bootstrap)"
        )
    return "\n".join(lines + _scales(result))


def match_table(result: dict[str, Any]) -> str:
    """The matches of `--against`: who played which team, and what each team earned per agent."""
    lines = [_heading(result, f"against {result['against']}"), ""]
    teams = list(result["matches"][0]["parties"])
    rows = []
    for match in result["matches"]:
        rows.append([cell for team in teams for cell in (match["parties"][team], _plus_minus(match["teams"][team]))])
    lines += _aligned([header for team in teams for header in (team, "return")], rows)
    for match in result["matches"]:
        for team, pairs in match["pairs"].items():
            if len(pairs) * len(pairs[0]) > 1:
                who = ", ".join(f"{name} {side}" for side, name in match["parties"].items())
                lines += ["", f"{who}: return of {team} for every pair of replicas"]
                lines += _aligned(
                    ["", *map(str, range(len(pairs[0])))],
                    [[str(r), *(f"{value:.2f}" for value in row)] for r, row in enumerate(pairs)],
                )
    return "\n".join(lines)


# ------------------------------------------------------------------ parts
def _heading(result: dict[str, Any], name: str) -> str:
    where = "real environment" if result["backend"] == "pettingzoo" else "torch port"
    arguments = "".join(f", {key}={value}" for key, value in result["env_args"].items())
    return (
        f"{result['env']}{arguments}: {name}, {result['mode']}, {result['episodes']} episodes from seed "
        f"{result['seed']}, {where}; return per agent ± standard error"
    )


def _agent_rows(result: dict[str, Any]) -> list[str]:
    one = result["replicas"][0]
    rows = [[agent, _plus_minus(value), _interval(value)] for agent, value in one["return"].items()]
    if len(rows) > 1 and not result["competitive"]:  # the mean over opponents says nothing
        whole = {"mean": one["mean_return"], "se": one["mean_return_se"]}
        rows.append(["mean", _plus_minus(whole), _interval(whole)])
    return _aligned(["agent", "return", "95 % interval"], rows)


def _replica_rows(result: dict[str, Any]) -> list[str]:
    scales = [name for name in ("score", "gain") if result[name] is not None]
    agents = list(result["return"])
    rows = []
    for one in result["replicas"]:
        cells = [_plus_minus(one["return"][agent]) for agent in agents]
        rows.append([str(one["replica"]), *cells, f"{one['mean_return']:.2f}", *(f"{one[s]:.3f}" for s in scales)])
    cells = [_plus_minus(result["return"][agent]) for agent in agents]
    rows.append(["all", *cells, f"{result['mean_return']:.2f}", *(f"{result[s]:.3f}" for s in scales)])
    return _aligned(["replica", *agents, "mean", *scales], rows)


def _scales(result: dict[str, Any]) -> list[str]:
    reference = result["anchors"]
    lines = []
    if result["score"] is not None:
        bottom, top = reference["random"], reference["oracle"]
        lines.append(f"score {result['score']:.3f}   (0: random, {bottom:.2f}; 1: best known, {top:.2f})")
    if result["gain"] is not None:
        bottom, top = reference["no_communication"], reference["oracle"]
        lines.append(f"gain  {result['gain']:.3f}   (0: best without messages, {bottom:.2f}; 1: best known, {top:.2f})")
    if reference["reason"]:
        lines.append(f"no score: {reference['reason']}")
    return lines


def _plus_minus(value: dict[str, Any]) -> str:
    return f"{value['mean']:.2f}" + ("" if value["se"] is None else f" ± {value['se']:.2f}")


def _interval(value: dict[str, Any]) -> str:
    if value["se"] is None:
        return ""
    return f"[{value['mean'] - 1.96 * value['se']:.2f}, {value['mean'] + 1.96 * value['se']:.2f}]"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    return [
        "  ".join(cell.ljust(widths[k]) if k == 0 else cell.rjust(widths[k]) for k, cell in enumerate(row)).rstrip()
        for row in cells
    ]
