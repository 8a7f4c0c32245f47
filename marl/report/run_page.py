"""report.html: one self-contained page about a run, and a page that compares several.

Pictures and numbers are those that lie in the run directory.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl.communication.analysis import PlayerAnalysis
from marl.communication.measures.interventions import Outcome
from marl.communication.verdict import constant_replicas, what_is_heard, what_is_said, what_it_is_worth
from marl.errors import UserError
from marl.evaluate.anchors import lines_of
from marl.figures import page
from marl.figures.plots import FORMED, comparison_figure, learning_figure, png
from marl.listen.page import LISTEN
from marl.runs.durable import replace_text
from marl.runs.logs.exchange import marl_eval
from marl.runs.logs.records import RunRecords, differing_settings, read_run
from marl.runs.run_dir import starter
from marl.stats import mean_interval

REPORT, COMPARISON = "report.html", "comparison.html"
_LARGEST = 12_000_000  # bytes of one embedded GIF
_DPI = 200  # of a figure that has the page's whole width

_CAPTIONS = {
    "protocol": "How often each symbol is said for each goal, with 95 % intervals",
    "timeline": "One episode: goal, symbol, action, and what every other symbol would have made the listener do",
    "field": "Where the listener goes from rest, for each symbol; circles are the landmarks",
    "interventions": "Return when the messages are changed on their way",
    "cross_play": "Speakers with the listeners of other replicas or runs",
    "world_model_strip": "What the world model imagined after five observed frames (below) and what was there (above)",
    "formation": "How the protocol formed: one row a checkpoint",
}


def write_report(run_dir: Path | str) -> Path:
    """Write `report.html` into a run directory from what lies there, and return its path.

    Raises:
        UserError: no run directory, or one that cannot be written.
    """
    run = read_run(run_dir)
    return _write(run.path / REPORT, report_html(run))


def _write(out: Path, text: str, flag: str = "--out") -> Path:
    try:
        replace_text(out, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}. Choose another with {flag}.") from error
    return out


def report_html(run: RunRecords) -> str:
    """The page of one run; sections without anything to show are left out."""
    return page.page(
        run.config.env,
        page.paragraph(_headline(run), "verdict"),
        page.paragraph(str(run.path), "where"),
        page.cards(_cards(run)),
        _to_play(run),
        page.section("Learning", _learning(run)),
        page.section("Scores", _scores(run)),
        page.section("Language" if run.communication else "Pictures", _language(run), _pictures(run)),
        page.section("Episodes", page.gallery(_animations(run))),
        page.section("Do it again", page.verbatim(_commands(run))),
        page.section(
            "Details",
            page.folded("Configuration", page.verbatim(run.config_text)),
            page.folded("Versions", _versions(run)) if run.versions else "",
        ),
    )


# ------------------------------------------------------------------------------------------------------ parts of it
def _headline(run: RunRecords) -> str:
    replicas = run.config.num_replicas
    trained = f"{replicas} replica{'s' if replicas > 1 else ''}, {run.config.total_steps:,} steps each"
    if run.config.channel != "gumbel":
        trained += f", channel {run.config.channel_name}"
    summaries = [one.get("summary") for one in run.communication.get("replicas", [])]
    said = [text for text in summaries if text]
    if not said:
        return f"{trained}."
    if len(set(said)) == 1:
        return f"{trained}: {said[0]}."
    best = max(set(said), key=said.count)
    return f"{trained}: {best} ({said.count(best)} of {len(said)} replicas)."


def _cards(run: RunRecords) -> dict[str, str]:
    result = run.evaluation
    numbers: dict[str, Any] = {"return per agent": result.get("mean_return")}
    if result.get("competitive"):  # a mean over opponents says nothing
        numbers = {f"return of {side}": value.get("mean") for side, value in result.get("sides", {}).items()}
    numbers |= {"score (0 random, 1 oracle)": result.get("score"), "gain (0 silence, 1 oracle)": result.get("gain")}
    shown = {name: f"{value:.2f}" for name, value in numbers.items() if isinstance(value, int | float)}
    seconds = run.last("time/seconds")
    if seconds is not None:
        shown["training time"] = _duration(seconds)
    return shown


def _to_play(run: RunRecords) -> str:
    """The way to the page beside this one, where there is one."""
    there = (run.path / LISTEN).exists()
    return page.link(LISTEN, "Listen yourself: take the place of one of the agents") if there else ""


def _learning(run: RunRecords) -> str:
    steps, returns = run.series("evaluation/return")
    if not len(steps):
        return page.paragraph("No evaluation was recorded during training.")
    gain_steps, gains = run.series("evaluation/gain")
    known = gains if len(gain_steps) == len(steps) else None
    figure = learning_figure(steps, returns, _lines(run), known)
    text = "Greedy evaluation during training. Thin: replicas; thick: their mean with a 95 % interval."
    return page.image(png(figure, _DPI), ".png", text if returns.shape[1] > 1 else "Greedy evaluation during training.")


def _lines(run: RunRecords) -> dict[str, float | None]:
    return dict(lines_of(run.config.env, run.config.env_args))


def _scores(run: RunRecords) -> str:
    """Returns of every agent and replica in the final evaluation."""
    replicas = run.evaluation.get("replicas")
    if not replicas:
        return ""
    agents = list(replicas[0].get("return", {}))
    rows = []
    for r, one in enumerate(replicas):
        cells = [_with_error(one["return"].get(agent, {})) for agent in agents]
        rows.append([f"replica {one.get('replica', r)}", *cells, f"{one['mean_return']:.2f}"])
    lines = {name: value for name, value in _lines(run).items() if value is not None}
    rows += [[name, *[""] * len(agents), f"{value:.2f}"] for name, value in lines.items()]
    result = run.evaluation
    text = f"{result.get('episodes', '?')} episodes from seed {result.get('seed', '?')}, {result.get('mode', '')}."
    return page.paragraph(f"Return per agent ± standard error; {text}") + page.table(["", *agents, "mean"], rows)


def _with_error(value: dict[str, Any]) -> str:
    if value.get("mean") is None:
        return ""
    return f"{value['mean']:.2f}" + (f" ± {value['se']:.2f}" if value.get("se") is not None else "")


def _language(run: RunRecords) -> str:
    """What is said, heard and worth, of the replica that the pictures show; the whole text folded."""
    result = run.communication
    try:
        replicas = [PlayerAnalysis.from_json(one) for one in result["replicas"]]
        shown = next(one for one in replicas if one.replica == result["shown"])
        said = [line for one in shown.channels for line in (*what_is_said(one), *what_is_heard(one))]
        table = [[name, *_cells(outcome)] for name, outcome in shown.outcomes]
        return "".join([
            page.paragraph(f"Replica {result['shown']} (of the median return), {result['episodes']} episodes:"),
            page.bullets([*dict.fromkeys(said), *what_it_is_worth(shown)]),
            page.table(["messages", "return", "95 % interval", "lost", "gain"], table),
            page.bullets(constant_replicas(replicas)),
            page.folded("Everything in words", page.verbatim(result["text"])),
        ])  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, StopIteration):
        return page.verbatim(str(result["text"])) if "text" in result else ""


def _cells(row: Outcome) -> list[str]:
    value = row.team_return
    small = ["" if one is None else f"{one.mean:.2f}" for one in (row.team_lost, row.gain)]
    return [f"{value.mean:.2f}", f"[{value.low:.2f}, {value.high:.2f}]", *small]


def _pictures(run: RunRecords) -> str:
    """The PNG files of figures/, in the order in which one wants to read them."""
    files = sorted((run.path / "figures").glob("*.png"))
    order = list(_CAPTIONS)

    def rank(path: Path) -> tuple[int, str]:
        kind = next((kind for kind in order if path.stem.startswith(kind)), "")
        return (order.index(kind) if kind else len(order)), path.name

    shown = []
    for path in sorted(files, key=rank):
        kind = next((kind for kind in order if path.stem.startswith(kind)), "")
        rest = path.stem.removeprefix(kind).strip("_")
        caption = _CAPTIONS.get(kind, path.stem) + (f" ({rest})" if kind and rest else "")
        shown.append(page.picture(path, caption))
    return page.gallery(shown) if shown else ""


def _animations(run: RunRecords) -> list[str]:
    files = [*sorted(run.path.glob("*.gif")), *sorted((run.path / "figures").glob("*.gif"))]
    caption = "whole episodes, with what is said (A is symbol 0, B symbol 1, ...)"
    return [
        page.picture(path, f"{path.name}: {caption}", small=True) for path in files if path.stat().st_size <= _LARGEST
    ]


def _commands(run: RunRecords) -> str:
    here = shlex.quote(str(run.path))
    return "\n".join([
        f"{starter()} --config {shlex.quote(str(run.path / 'config.yaml'))} --run-dir NEW_DIRECTORY",
        f"python -m marl.evaluate {here}",
        f"python -m marl.communication {here}",
        f"python -m marl.report {here}",
    ])  # fmt: skip


def _versions(run: RunRecords) -> str:
    return page.table(["", "version"], [[name, value] for name, value in run.versions.items()])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------------- comparison
def comparison_rows(runs: Sequence[RunRecords]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: final return, score and gain over replicas with intervals, steps, time."""
    head = ["run", "return", "gain", f"gain > {FORMED:g}", "steps", "replicas", "time", "env"]
    rows = []
    for number, run in enumerate(runs, start=1):
        seconds = run.last("time/seconds")
        _, gains = run.series("evaluation/gain")
        formed = f"{np.mean(gains[-1] > FORMED):.0%}" if len(gains) else ""
        rows.append([
            f"{number} {run.name}", _final(run, "evaluation/return"), _final(run, "evaluation/gain"), formed,
            f"{run.config.total_steps:,}", str(run.config.num_replicas),
            "" if seconds is None else _duration(seconds), run.config.env,
        ])  # fmt: skip
    return head, rows


def _final(run: RunRecords, name: str) -> str:
    """The last evaluation's mean over replicas, with Student's interval where there are several."""
    _, values = run.series(name)
    if not len(values):
        return ""
    last = values[-1]
    mean = f"{np.nanmean(last):.2f}"
    if len(last) < 2 or not np.isfinite(last).all():
        return mean
    low, high = mean_interval(last)
    return f"{mean} [{low:.2f}, {high:.2f}]"


def compare_html(runs: Sequence[RunRecords]) -> str:
    """The page that compares runs: table, curves over each other, the settings that differ."""
    head, rows = comparison_rows(runs)
    different = differing_settings(list(runs))
    settings = [[name, *(str(value) for value in values)] for name, values in different.items()]
    numbers = [str(k) for k in range(1, len(runs) + 1)]
    return page.page(
        f"Comparison of {len(runs)} runs",
        page.section("Results", page.paragraph(
            "The last evaluation during training: mean over replicas, 95 % interval of Student's t. A run with one "
            "replica has no interval: it says nothing about the next seed."), page.table(head, rows)),
        page.section("Curves", *_curves(runs)),
        page.section("Settings that differ", page.table(["setting", *numbers], settings) if settings else ""),
    )  # fmt: skip


def _curves(runs: Sequence[RunRecords]) -> list[str]:
    """One figure a task."""
    drawn = []
    for env in dict.fromkeys((run.config.env, str(run.config.env_args)) for run in runs):
        group = [run for run in runs if (run.config.env, str(run.config.env_args)) == env]
        curves = {}
        for run in group:
            steps, values = run.series("evaluation/return")
            if len(steps):
                curves[f"{runs.index(run) + 1}  {run.name}"] = (steps, values)
        if curves:
            figure = comparison_figure(curves, _lines(group[0]))
            drawn.append(page.image(png(figure, _DPI), ".png", f"{env[0]}: greedy evaluation during training"))
    return drawn


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: first column to the left, the others to the right."""
    widths = [max(len(str(row[c])) for row in [head, *rows]) for c in range(len(head))]
    lines = []
    for row in [head, *rows]:
        right = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *right]).rstrip())
    return "\n".join(lines)


def written(paths: Sequence[Path], out: Path | None, raw_data: Path | None = None) -> str:
    """What `python -m marl.report` prints: where the page is, below the table of several runs.

    Args:
        paths: run directories.
        out: the page; None: in the run directory, or of several runs here.
        raw_data: file for marl-eval, or none.

    Raises:
        UserError: no run directory, or a page that cannot be written.
    """
    if not paths:
        raise UserError("expected at least one run directory, as training printed it, got none.")
    runs = [read_run(path) for path in paths]
    several = len(runs) > 1
    out = out or (Path(COMPARISON) if several else runs[0].path / REPORT)
    if raw_data is not None:
        _write(raw_data, json.dumps(marl_eval(runs), indent=1) + "\n", "--marl-eval")
    _write(out, compare_html(runs) if several else report_html(runs[0]))
    for_marl_eval = "" if raw_data is None else f"\nRaw data for marl-eval: {raw_data}"
    return (text_table(*comparison_rows(runs)) + "\n\n" if several else "") + f"Report: {out}{for_marl_eval}"
