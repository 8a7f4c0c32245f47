"""Figures of runs: learning curves, bars of interventions, cross-play matrices. Each function returns a Figure.

No pyplot, so no global state and no window. Colours are Okabe and Ito's, told apart with any kind of colour vision, and
nothing is said by colour alone. Text is sized for a picture of a phone's width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from marl.stats import MeanInterval, mean_interval

Matrix = Sequence[Sequence[float]] | np.ndarray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
INK, FAINT = "#222222", "#8a8a8a"
WIDTH = 5.2  # inches
FONT = 10.0  # points
MAP = "cividis"
_LONG = 10  # characters of a name beyond which a matrix shows numbers and lists the names below
FORMED = 0.1  # gain above which a replica has a protocol: silence reaches 0


def canvas(height: float, width: float = WIDTH, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, Any]:
    """A figure with its axes (an array where there are several), in the style of this module."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, **layout)
    for ax in np.ravel(axes):
        ax.tick_params(labelsize=FONT - 1, colors=INK, length=3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title at the left, axis labels."""
    ax.set_title(title, fontsize=FONT, color=INK, loc="left")
    ax.set_xlabel(x, fontsize=FONT, color=INK)
    ax.set_ylabel(y, fontsize=FONT, color=INK)


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG file, free of dates and versions: the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path, dpi: int = 160) -> Path:
    """Write the figure as PNG."""
    path.write_bytes(png(figure, dpi))
    return path


def image(figure: Figure, dpi: int = 120) -> np.ndarray:
    """Uint8 [height, width, 3], for TensorBoard."""
    painter = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    painter.draw()
    return np.asarray(painter.buffer_rgba())[..., :3].copy()


def cell_text(ax: Axes, x: float, y: float, text: str, shade: float, size: float = FONT) -> None:
    """Text in the middle of a heatmap's cell; `shade` in [0, 1] of the colour map chooses black or white."""
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color="white" if shade < 0.55 else "black")


def reference_lines(ax: Axes, lines: Mapping[str, float | None], horizontal: bool = True) -> None:
    """Dashed lines with their names: oracle, no communication, random. None is left out."""
    styles = {"oracle": (0, (1, 1)), "no communication": (0, (5, 2)), "random": (0, (1, 3))}
    for name, value in lines.items():
        if value is None:
            continue
        draw = ax.axhline if horizontal else ax.axvline
        draw(value, color=INK, linewidth=1, linestyle=styles.get(name, "--"), zorder=1)
        if horizontal:
            ax.annotate(
                f"{name}\n{value:.2f}", (1, value), xycoords=("axes fraction", "data"), xytext=(3, 0),
                textcoords="offset points", ha="left", va="center", fontsize=FONT - 2, color=INK,
            )  # fmt: skip
        else:
            ax.annotate(
                f"{name}\n{value:.2f}", (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="center", va="bottom", fontsize=FONT - 2, color=INK,
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- learning
def learning_figure(
    steps: Sequence[float] | np.ndarray,
    returns: np.ndarray,
    lines: Mapping[str, float | None],
    gains: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Return over training: every replica thin, their mean thick with its interval, and what is possible.

    Args:
        steps: [n] environment steps of one replica.
        returns: float [n, replicas], nan where not measured.
        lines: name to return: oracle, no communication, random; None is left out.
        gains: float [n, replicas]; with it a second panel shows the share of replicas with a protocol.
        title: of the figure.
    """
    panels = 1 if gains is None else 2
    figure, axes = canvas(3.0 if panels == 1 else 4.0, rows=panels, sharex=True, height_ratios=[3, 1][:panels])
    top = np.ravel(axes)[0]
    x = np.asarray(steps, dtype=float)
    curve(top, x, returns, COLOURS[0], thin=True)
    reference_lines(top, lines)
    _keep_to_the_lines(top, lines)
    label(top, title, "" if panels == 2 else "environment steps of a replica", "return per agent")
    if gains is not None:
        below = np.ravel(axes)[1]
        share = np.nanmean(np.where(np.isnan(gains), np.nan, gains > FORMED), axis=1)
        below.step(x, share, where="post", color=COLOURS[2], linewidth=2)
        below.set_ylim(-0.05, 1.05)
        below.set_yticks([0, 0.5, 1])
        label(below, f"share of replicas with a protocol (gain > {FORMED:g})", "environment steps of a replica")
    _readable_steps(np.ravel(axes)[-1])
    return figure


def curve(ax: Axes, x: np.ndarray, values: np.ndarray, colour: str, name: str = "", thin: bool = False) -> None:
    """Mean over replicas [n, replicas] with Student's interval; `thin` draws the replicas too."""
    count = values.shape[1]
    if thin and count > 1:
        ax.plot(x, values, color=colour, linewidth=0.7, alpha=0.35, zorder=2)
    ax.plot(x, np.nanmean(values, axis=1), color=colour, linewidth=2, label=name or None, zorder=4)
    if count > 1:
        low, high = np.transpose([mean_interval(row) if np.isfinite(row).all() else (np.nan,) * 2 for row in values])
        ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, zorder=3)


def comparison_figure(
    runs: Mapping[str, tuple[Sequence[float] | np.ndarray, np.ndarray]], lines: Mapping[str, float | None]
) -> Figure:
    """Learning curves of several runs over each other: {name: (steps [n], returns [n, replicas])}.

    The first word of a name (its number in a table) stands at the end of its curve.
    """
    figure, ax = canvas(3.4 + 0.18 * len(runs))
    for k, (name, (steps, values)) in enumerate(runs.items()):
        curve(ax, np.asarray(steps, dtype=float), values, COLOURS[k % len(COLOURS)], name)
        finite = np.flatnonzero(np.isfinite(np.nanmean(values, axis=1)))
        if len(finite):
            end = finite[-1]
            ax.annotate(
                name.split()[0], (float(steps[end]), float(np.nanmean(values[end]))), xytext=(3, 0),
                textcoords="offset points", fontsize=FONT - 1, va="center", color=COLOURS[k % len(COLOURS)],
            )  # fmt: skip
    reference_lines(ax, lines)
    _keep_to_the_lines(ax, lines)
    label(ax, "mean over replicas with 95 % interval", "environment steps of a replica", "return per agent")
    _readable_steps(ax)
    figure.legend(loc="outside lower left", fontsize=FONT - 1, frameon=False, ncols=1)
    return figure


def _keep_to_the_lines(ax: Axes, lines: Mapping[str, float | None]) -> None:
    """Untrained agents can be far worse than random: do not let them squeeze everything else."""
    low, high = lines.get("random"), lines.get("oracle")
    if low is not None and high is not None:
        ax.set_ylim(bottom=max(ax.get_ylim()[0], low - 0.2 * (high - low)))


def _readable_steps(ax: Axes) -> None:
    ax.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}")


# -------------------------------------------------------------------------------------------------- interventions
def interventions_figure(
    rows: Sequence[tuple[str, MeanInterval]], lines: Mapping[str, float | None], team: Sequence[str] = ()
) -> Figure:
    """Bars of the return under each intervention with 95 % intervals, the untouched channel first.

    Args:
        rows: name and return of each.
        lines: oracle, no communication, random.
        team: the agents whose mean return it is, where it is not all of them.
    """
    figure, ax = canvas(1.1 + 0.33 * len(rows))
    y = np.arange(len(rows))[::-1]
    means, lows, highs = np.transpose([(value.mean, value.low, value.high) for _, value in rows])
    reach = np.stack([means - lows, highs - means], axis=1)
    shown = [means, *(np.array([v]) for v in lines.values() if v is not None)]
    low, high = min(float(v.min()) for v in shown), max(float(v.max()) for v in shown)
    margin = 0.06 * (high - low or 1.0)
    left = low - margin - float(reach.max(initial=0.0))
    colours = [COLOURS[0] if k == 0 else COLOURS[4] for k in range(len(rows))]
    ax.barh(y, means - left, left=left, height=0.62, color=colours, zorder=2)
    ax.errorbar(means, y, xerr=np.maximum(reach.T, 0), fmt="none", ecolor=INK, elinewidth=1.2, capsize=3, zorder=3)
    for row_y, mean, (_, above) in zip(y, means, reach, strict=True):
        ax.annotate(
            f"{mean:.2f}", (mean + above, row_y), xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=FONT - 1, color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=4,
        )  # fmt: skip
    reference_lines(ax, lines, horizontal=False)
    ax.set_yticks(y, [name for name, _ in rows])
    ax.set_xlim(left, high + 3.5 * margin)
    label(ax, "", f"return per agent{' of ' + ', '.join(team) if team else ''}, 95 % interval")
    return figure


def matrix_figure(
    names: Sequence[str], raw: Matrix, relabelled: Matrix, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Cross-play: return of every speaker with every listener, as they are and after the best relabelling.

    Args:
        names: of the P participants.
        raw, relabelled: [P][P] returns per agent.
        rows: the agents that come from the row's participant.
        columns: those that come from the column's.
    """
    count = len(names)
    listed = [] if max(map(len, names)) <= _LONG else [f"{k + 1}: {name[-50:]}" for k, name in enumerate(names)]
    ticks = [str(k + 1) for k in range(count)] if listed else names
    side = max(2.0, 0.62 * count + 0.5)
    stacked = 2 * side > WIDTH + 0.5
    height = side * (2 if stacked else 1) + 0.9 + 0.2 * len(listed)
    figure, axes = canvas(height, rows=2 if stacked else 1, columns=1 if stacked else 2)
    both = np.array([raw, relabelled])
    low, high = float(both.min()), float(both.max())
    for ax, matrix, title in zip(np.ravel(axes), both, ("as they are", "symbols relabelled"), strict=True):
        ax.imshow(matrix, cmap=MAP, vmin=low, vmax=high if high > low else low + 1)
        for i, j in np.ndindex(count, count):
            cell_text(ax, j, i, f"{matrix[i, j]:.1f}", (matrix[i, j] - low) / ((high - low) or 1.0), FONT - 1)
        ax.set_xticks(range(count), ticks, rotation=0 if max(map(len, ticks)) <= 4 else 35)
        ax.set_yticks(range(count), ticks)
        ax.spines[:].set_visible(False)
        label(ax, title, " and ".join(columns) + " of", " and ".join(rows) + " of")
    figure.suptitle("return per agent", fontsize=FONT, color=INK)
    if listed:
        figure.supxlabel("\n".join(listed), fontsize=FONT - 2, color=INK, x=0.01, ha="left")
    return figure
