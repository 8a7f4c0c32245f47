"""How a protocol forms over a training: one row a checkpoint.

Legend: `G` meanings, `V` symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marl.communication.analysis import PlayerAnalysis
from marl.communication.measures.information import Undefined
from marl.results import Record


@dataclass(frozen=True)
class FormationRow(Record):
    """The first channel's protocol at one checkpoint."""

    step: int
    """Environment steps of a replica until then."""
    replica: int
    """Whose policy it is."""
    channel: str
    """As "speaker_0 -> listener_0"."""
    meanings: tuple[str, ...]
    """[G] labels of those that came up."""
    shares: tuple[tuple[float, ...], ...]
    """As `[G][V]`, the share of each symbol for each meaning; rows sum to 1."""
    information: float
    """Bits that the messages tell of the meaning, at least 0."""
    p: float
    """Its p-value, in (0, 1]."""
    team_return: float
    """Mean return of the speakers' team."""
    gain: float | None
    """Communication gain; None where the task has none."""


def formation_row(result: PlayerAnalysis, step: int, replica: int) -> FormationRow | None:
    """The state of the first channel's protocol; None where no meaning is known."""
    report = result.channels[0]
    signalled, outcome = report.signalling.information, result.outcome
    if isinstance(signalled, Undefined):
        return None
    table = np.array(report.signalling.table, dtype=float)
    seen = np.flatnonzero(table.sum(axis=1) > 0)
    return FormationRow(
        step=step,
        replica=replica,
        channel=report.channel,
        meanings=tuple(report.signalling.meanings[g] for g in seen),
        shares=tuple(map(tuple, (table[seen] / table[seen].sum(axis=1, keepdims=True)).tolist())),
        information=max(signalled.corrected, 0.0),
        p=signalled.p,
        team_return=outcome.team_return.mean,
        gain=None if outcome.gain is None else outcome.gain.mean,
    )
