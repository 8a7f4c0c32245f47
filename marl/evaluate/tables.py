"""What `marl.evaluate` prints: tables of its results, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marl.evaluate.results import Evaluation, Matches, ReplicaReturns, Setting
from marl.stats import Estimate

_LISTED = 20  # agents of one team that are listed one by one


def table(name: str, result: Evaluation) -> str:
    """The result of `evaluate` for a reader; `name` is whom it is about."""
    lines = [_heading(result.setting, name), ""]
    lines += _replica_rows(result) if len(result.replicas) > 1 else _agent_rows(result)
    lines.append("")
    if len(result.sides) > 1:
        lines += [f"{side}: {_plus_minus(value)}" for side, value in result.sides.items()]
    if result.iqm is not None and result.iqm_interval is not None:
        low, high = result.iqm_interval
        lines.append(
            f"interquartile mean of the replicas' returns {result.iqm:.2f}, 95 % interval [{low:.2f}, {high:.2f}] "
            f"(over replicas and episodes)"
        )
    lines += _scales(result) + [f"warning: {text}" for text in unfinished(result)]
    shortened = fewer(result, "--seconds (in training --evaluation.final-seconds)")
    return "\n".join([*lines, shortened] if shortened else lines)


def match_table(result: Matches) -> str:
    """The matches of `--against`: who played which team, and what each team earned per agent."""
    lines = [_heading(result.setting, f"against {result.against}"), ""]
    teams = list(result.matches[0].parties)
    rows = []
    for match in result.matches:
        rows.append([cell for team in teams for cell in (match.parties[team], _plus_minus(match.teams[team]))])
    lines += _aligned([header for team in teams for header in (team, "return")], rows)
    for match in result.matches:
        for team, pairs in match.pairs.items():
            if len(pairs) * len(pairs[0]) > 1:
                who = ", ".join(f"{name} {side}" for side, name in match.parties.items())
                lines += ["", f"{who}: return of {team} for every pair of replicas"]
                lines += _aligned(
                    ["", *map(str, range(len(pairs[0])))],
                    [[str(r), *(f"{value:.2f}" for value in row)] for r, row in enumerate(pairs)],
                )
    return "\n".join(lines)


def unfinished(result: Evaluation) -> list[str]:
    """A warning where episodes were stopped before their end; nothing where all ended."""
    count = sum(one.unfinished or 0 for one in result.replicas)
    if not count:
        return []
    return [
        f"{count} of {result.setting.episodes * len(result.replicas)} episodes had not ended after "
        f"{result.setting.max_steps} steps and were stopped there: their returns are of these steps. Give the "
        f"environment a time limit, or let it play longer: --max-steps (in training --evaluation.max-steps)."
    ]


def fewer(result: Evaluation, flag: str) -> str:
    """A sentence where the budget that `flag` sets ended before the episodes that were asked for; else ""."""
    asked, played = result.setting.asked, [one.episodes for one in result.replicas if one.episodes is not None]
    if asked is None or any(one.unfinished == one.episodes for one in result.replicas):
        return ""
    counts = str(min(played)) if min(played) == max(played) else f"{min(played)} to {max(played)}"
    return f"{counts} of {asked} episodes were played, as many as {flag} has room for; 0 plays all."


# ------------------------------------------------------------------ parts
def _heading(played: Setting, name: str) -> str:
    where = "real environment" if played.backend == "pettingzoo" else "torch port"
    arguments = "".join(f", {key}={value}" for key, value in played.env_args.items())
    arguments += f", channel {played.channel}" if played.channel else ""
    return (
        f"{played.env}{arguments}: {name}, {played.mode}, {played.episodes} episodes from seed {played.seed}, {where}; "
        f"return per agent ± standard error"
    )


def _agent_rows(result: Evaluation) -> list[str]:
    one = result.replicas[0]
    rows = [[agent, _plus_minus(value), _interval(value)] for agent, value in one.returns.items()]
    if len(rows) > 1 and not result.competitive:  # the mean over opponents says nothing
        whole = Estimate(one.mean_return, one.mean_return_se)
        rows = rows if len(rows) <= _LISTED else _extremes(one.returns, rows)
        rows.append(["mean", _plus_minus(whole), _interval(whole)])
    return _aligned(["agent", "return", "95 % interval"], rows)


def _extremes(returns: Mapping[str, Estimate], rows: list[list[str]]) -> list[list[str]]:
    """Of many agents those that earn least and most, as the file has them all."""
    order = sorted(range(len(rows)), key=lambda n: list(returns.values())[n].mean)
    return [
        *(rows[n] for n in order[:3]),
        [f"... {len(order) - 6} agents between", "", ""],
        *(rows[n] for n in order[-3:]),
    ]


def _replica_rows(result: Evaluation) -> list[str]:
    agents = list(result.returns)
    rows = []
    each: list[tuple[str, ReplicaReturns | Evaluation]] = [(str(one.replica), one) for one in result.replicas]
    for name, one in [*each, ("all", result)]:
        returns = [_plus_minus(one.returns[agent]) for agent in agents]
        scales = [f"{value:.3f}" for value in (one.score, one.gain) if value is not None]
        rows.append([name, *returns, f"{one.mean_return:.2f}", *scales])
    named = (("score", result.score), ("gain", result.gain))
    return _aligned(["replica", *agents, "mean", *(name for name, value in named if value is not None)], rows)


def _scales(result: Evaluation) -> list[str]:
    reference = result.anchors
    lines = []
    if result.score is not None:
        lines.append(
            f"score {result.score:.3f}   (0: random, {reference.random:.2f}; 1: best known, {reference.oracle:.2f})"
        )
    if result.gain is not None:
        bottom, top = reference.no_communication, reference.oracle
        lines.append(f"gain  {result.gain:.3f}   (0: best without messages, {bottom:.2f}; 1: best known, {top:.2f})")
    if reference.bound is not None:
        lines.append(f"bound {reference.bound:.2f}   (proved: no policy's expected return exceeds it)")
    if reference.reason:
        lines.append(f"no score: {reference.reason}")
    return lines


def _plus_minus(value: Estimate) -> str:
    return f"{value.mean:.2f}" + ("" if value.se is None else f" ± {value.se:.2f}")


def _interval(value: Estimate) -> str:
    if value.se is None:
        return ""
    return f"[{value.mean - 1.96 * value.se:.2f}, {value.mean + 1.96 * value.se:.2f}]"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    return [
        "  ".join(cell.ljust(widths[k]) if k == 0 else cell.rjust(widths[k]) for k, cell in enumerate(row)).rstrip()
        for row in cells
    ]
