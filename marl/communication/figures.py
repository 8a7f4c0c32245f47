"""Pictures of a protocol: what is said, what it does, how it came about. Each function returns a Figure.

Legend: `G` meanings, `V` symbols, `J` heard steps, `K` choices of a head.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from envs.spec import Head
from marl.communication.formation import FormationRow, Formed
from marl.communication.measures.information import Undefined, wilson_interval
from marl.communication.measures.signalling import ChannelReport
from marl.figures.plots import COLOURS, FAINT, FONT, INK, MAP, WIDTH, canvas, cell_text, label
from marl.stats import MeanInterval

MOVES = ("stay", "left", "right", "down", "up")
_DIRECTIONS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=float)


def choice_names(head: Head) -> tuple[str, ...]:
    """Names of a head's choices: MPE's moves of its head of five moves, else numbers."""
    if head.name == "move" and head.size == len(MOVES):
        return MOVES
    return tuple(str(k) for k in range(head.size))


def p_text(p: float) -> str:
    return f"p {'<' if p <= 0.001 else '='} {max(p, 0.001):.3f}"


def protocol_figure(report: ChannelReport) -> Figure:
    """Heatmap of how often each symbol is said for each meaning, with 95 % intervals.

    Without a declared meaning: bars of how often each symbol is said.
    """
    result = report.signalling.information
    if isinstance(result, Undefined):
        return _usage_figure(report)
    table = np.array(report.signalling.table)
    seen = np.flatnonzero(table.sum(axis=1) > 0)
    names, table = [report.signalling.meanings[g] for g in seen], table[seen]
    trials = table.sum(axis=1, keepdims=True)
    share = table / trials
    low, high = wilson_interval(table, np.broadcast_to(trials, table.shape))
    width = max(WIDTH, 0.62 * table.shape[1] + 1.2)
    figure, ax = canvas(0.62 * len(table) + 1.35, width)
    ax.imshow(share, cmap=MAP, vmin=0, vmax=1, aspect="auto")
    for g, m in np.ndindex(*share.shape):
        shade = float(share[g, m])
        cell_text(ax, m, g - 0.13, f"{shade:.2f}", shade, FONT)
        cell_text(ax, m, g + 0.22, f"{low[g, m]:.2f}–{high[g, m]:.2f}", shade, FONT - 3)
    ax.set_xticks(range(table.shape[1]))
    ax.set_yticks(range(len(names)), names)
    ax.spines[:].set_visible(False)
    bits = f"{max(result.corrected, 0):.2f} of {result.entropy:.2f} bits, {p_text(result.p)}"
    label(ax, f"{report.channel}: {bits}\n{report.episodes} episodes, one message each", "symbol")
    return figure


def _usage_figure(report: ChannelReport) -> Figure:
    share = np.array(report.usage.symbol_share)
    figure, ax = canvas(2.4)
    bars = ax.bar(range(len(share)), share, color=COLOURS[0])
    ax.bar_label(bars, [f"{value:.2f}" for value in share], fontsize=FONT - 1, color=INK)
    ax.set_xticks(range(len(share)))
    ax.set_ylim(0, 1.1)
    title = f"{report.channel}: {report.usage.entropy_bits:.2f} of {report.capacity_bits:.2f} bits used"
    label(ax, f"{title}\nwhat there is to tell is not declared", "symbol", "share of messages")
    return figure


# ---------------------------------------------------------------------------------------------------- one episode
def timeline_figure(
    *,
    title: str,
    goals: Sequence[int] | None,
    heard: Sequence[int],
    actions: Sequence[int],
    would_do: np.ndarray,
    choices: Sequence[str],
    used: Sequence[int],
    below: Sequence[float],
    below_name: str,
) -> Figure:
    """One episode: goal, message and action over time, what every other symbol would have made the listener do, and
    how it went (distance or reward).

    Args:
        title: of the figure.
        goals: label of what there was to tell, at each heard step; None where unknown.
        heard: symbol in the slot at each heard step; V for nothing.
        actions: what the receiver chose, at each heard step.
        would_do: int [J, V] its greedy choice under each symbol.
        choices: name of each of its choices, as `choice_names` gives them.
        used: symbols whose counterfactual row is shown.
        below, below_name: a number for each heard step and what it is.
    """
    steps = np.arange(1, len(heard) + 1)
    rows: list[tuple[str, np.ndarray, Sequence[str] | None]] = []
    if goals is not None:
        rows.append(("goal", np.asarray(goals), None))
    rows.append(("symbol heard", np.asarray(heard), None))
    rows.append(("action", np.asarray(actions), choices))
    rows.extend((f"if {symbol} were heard", would_do[:, symbol], choices) for symbol in used)
    height = 0.3 * len(rows)
    figure, (top, bottom) = canvas(height + 2.1, rows=2, sharex=True, height_ratios=[height, 1.0])
    _strips(top, rows, steps, np.asarray(heard))
    bottom.plot(steps, below, color=COLOURS[0], linewidth=2)
    label(top, title)
    label(bottom, "", "step", below_name)
    bottom.set_xlim(0.5, len(steps) + 0.5)
    return figure


_GLYPHS = {"stay": "·", "left": "←", "right": "→", "down": "↓", "up": "↑"}


def _strips(
    ax: Any, rows: Sequence[tuple[str, np.ndarray, Sequence[str] | None]], steps: np.ndarray, heard: np.ndarray
) -> None:
    """One row of cells a strip. Choices that another symbol would change are drawn dark, the rest pale."""
    palette = ListedColormap(["#f0f0f0", "#cfe3f1", "#0072B2"])
    action = next(values for name, values, _ in rows if name == "action")
    shades = np.zeros((len(rows), len(steps)))
    for r, (name, values, _) in enumerate(rows):
        if name in ("goal", "symbol heard"):
            shades[r] = 1
        elif name != "action":
            shades[r] = np.where(values != action, 2, 0)
    edges = (0.5, len(steps) + 0.5, len(rows) - 0.5, -0.5)
    ax.imshow(shades, cmap=palette, vmin=0, vmax=2, aspect="auto", extent=edges)
    for r, (_, values, names) in enumerate(rows):
        for x, value in zip(steps, values, strict=True):
            text = _GLYPHS.get(names[value], names[value]) if names else str(value)
            ink = "white" if shades[r, x - 1] == 2 else INK
            ax.text(x, r, text, ha="center", va="center", fontsize=FONT - 2, color=ink)
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=2)
    ax.tick_params(which="minor", length=0)
    ax.tick_params(axis="x", labelbottom=False)
    ax.spines[:].set_visible(False)


# ---------------------------------------------------------------------------------------------------- action field
def field_layout(num_landmarks: int) -> np.ndarray:
    """Landmark positions [n, 2] of the action field: evenly on a circle of radius 0.65, the first one up."""
    angle = np.pi / 2 + 2 * np.pi * np.arange(num_landmarks) / num_landmarks
    return 0.65 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def field_positions(points: int = 11) -> np.ndarray:
    """Listener positions [points * points, 2] of the action field."""
    line = np.linspace(-1, 1, points)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def action_field_figure(positions: np.ndarray, moves: np.ndarray, landmarks: np.ndarray, used: Sequence[int]) -> Figure:
    """Where the listener goes from rest, one panel a symbol.

    Args:
        positions: [n, 2] of the listener.
        moves: float [n, V, 5] its distribution of MPE moves under every symbol.
        landmarks: [L, 2].
        used: symbols to show, at most six.
    """
    shown = list(used)[:6]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = canvas(1.9 * rows + 0.3, max(WIDTH, 1.75 * columns), rows, columns, squeeze=False)
    for ax, symbol in zip(np.ravel(axes), shown, strict=False):
        arrows = moves[:, symbol] @ _DIRECTIONS
        strength = np.linalg.norm(arrows, axis=1)
        ax.quiver(
            positions[:, 0], positions[:, 1], arrows[:, 0], arrows[:, 1], strength, cmap="cividis_r", clim=(0, 1.2),
            scale=14, width=0.009, headwidth=4, headlength=4, headaxislength=3.5, pivot="mid",
        )  # fmt: skip
        for k, (x, y) in enumerate(landmarks):
            ax.add_patch(Circle((x, y), 0.13, facecolor="white", edgecolor=COLOURS[1], linewidth=1.5, zorder=3))
            ax.text(x, y, str(k), ha="center", va="center", fontsize=FONT - 1, color=INK, zorder=4)
        ax.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        label(ax, f"symbol {symbol}")
    for ax in np.ravel(axes)[len(shown) :]:
        ax.set_axis_off()
    return figure


# ------------------------------------------------------------------------------------------------------- formation
def formation_figure(rows: Sequence[FormationRow], formed: Formed | Undefined | None = None) -> Figure:
    """How a protocol forms: one row a checkpoint, one block of columns a meaning, one column a symbol; beside it bits
    told and said, drift, symbols for a meaning and the worth of the channel, and where the protocol was formed.

    Args:
        rows: the oldest first, all with the same meanings.
        formed: when; drawn as a line between two checkpoints, its interval as a band.
    """
    shares = np.array([row.shares for row in rows], dtype=float)  # [checkpoints, G, V]
    count, meanings, symbols = shares.shape
    height = max(2.4, 0.26 * count + 1.4)
    figure, axes = canvas(height, 1.9 * WIDTH, columns=5, sharey=True, width_ratios=[3.4, 1, 1, 1, 1])
    left, told, drifted, spread, worth = axes
    left.imshow(shares.reshape(count, -1), cmap=MAP, vmin=0, vmax=1, aspect="auto")
    for g in range(1, meanings):
        left.axvline(g * symbols - 0.5, color="white", linewidth=3)
    left.set_xticks([g * symbols + (symbols - 1) / 2 for g in range(meanings)], list(rows[0].meanings))
    ticks = np.unique(np.linspace(0, count - 1, min(count, 12)).astype(int))
    left.set_yticks(ticks, [f"{rows[k].step / 1000:.3g}k" for k in ticks])
    label(left, f"share of each of {symbols} symbols, for each meaning", "", "environment steps")
    _over_checkpoints(told, [row.entropy_bits for row in rows], FAINT)
    _over_checkpoints(told, [row.information for row in rows], COLOURS[1])
    label(told, "bits told\n(grey: said)", "bits")
    _over_checkpoints(drifted, [row.drift for row in rows], COLOURS[0])
    drifted.set_xlim(0, 1.05)
    label(drifted, "drift since\nthe one before", "bits")
    _over_checkpoints(spread, [row.synonyms for row in rows], COLOURS[2])
    spread.set_xlim(left=0.9)
    label(spread, "symbols for\none meaning")
    _over_checkpoints(worth, [row.value for row in rows], COLOURS[3])
    worth.axvline(0, color=FAINT, linewidth=0.8)
    label(worth, "worth of\nthe channel", "return")
    if isinstance(formed, Formed):
        place = {row.step: k for k, row in enumerate(rows)}
        for ax in axes:
            ax.axhspan(place[formed.low] - 1, place[formed.high], color=COLOURS[1], alpha=0.12, linewidth=0)
            ax.axhline(place[formed.step] - 0.5, color=COLOURS[1], linewidth=1.2, linestyle="--")
    left.set_ylim(count - 0.5, -0.5)
    return figure


def _over_checkpoints(ax: Any, values: Sequence[float | MeanInterval | None], colour: str) -> None:
    """A line from the oldest checkpoint at the top down, with intervals where there are any; None is a gap."""
    means = [one.mean if isinstance(one, MeanInterval) else one for one in values]
    heights = range(len(values))
    ax.plot([np.nan if mean is None else mean for mean in means], heights, color=colour, marker="o", markersize=3)
    for k, one in enumerate(values):
        if isinstance(one, MeanInterval):
            ax.plot([one.low, one.high], [k, k], color=colour, linewidth=1)
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))


def write_formation_csv(rows: Sequence[FormationRow], path: Path) -> Path:
    """One line a checkpoint: step, bits, p, gain, p(symbol | meaning) of every pair, then what changes over time."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        meanings, symbols = rows[0].meanings, len(rows[0].shares[0])
        pairs = [f"p(symbol {m} | {meaning})" for meaning in meanings for m in range(symbols)]
        known = ["step", "replica", "information_bits", "p", "team_return", "gain"]
        spans = [f"{name}{end}" for name in ("value", "drift") for end in ("", "_low", "_high")]
        writer.writerow([*known, *pairs, "entropy_bits", "synonyms", *spans, "formed"])
        for row in rows:
            numbers = [
                row.information,
                row.p,
                row.team_return,
                row.gain,
                *(one for given in row.shares for one in given),
            ]
            numbers += [row.entropy_bits, row.synonyms, *_span(row.value), *_span(row.drift), row.formed]
            writer.writerow([row.step, row.replica, *("" if one is None else f"{one:.6g}" for one in numbers)])
    return path


def _span(value: MeanInterval | None) -> tuple[float | None, ...]:
    return (None, None, None) if value is None else (value.mean, value.low, value.high)
