"""How a protocol forms over a training: one row a checkpoint, and when it was formed.

All checkpoints play the same episodes, so that bootstraps resample episodes of all of them together.

Legend: `G` meanings, `V` symbols, `T` checkpoints, `N` episodes, `R` resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marl.communication.analysis import Material, PlayerAnalysis
from marl.communication.measures.change_point import change_point, means_around
from marl.communication.measures.information import (
    Floats,
    Ints,
    Resampler,
    Undefined,
    contingency,
    information_bits,
    information_correction,
)
from marl.results import Record
from marl.stats import MeanInterval

LEAST = 3  # checkpoints between which a change can be told from a difference


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
    """[G] labels of those that came up at any checkpoint."""
    shares: tuple[tuple[float, ...], ...]
    """As `[G][V]`, the share of each symbol for each meaning; rows sum to 1, or to 0 of one that did not come up."""
    information: float
    """Bits that the messages tell of the meaning, at least 0."""
    p: float
    """Its p-value, in (0, 1]."""
    team_return: float
    """Mean return of the speakers' team."""
    gain: float | None
    """Communication gain; None where the task has none."""
    entropy_bits: float
    """H(M) of the messages, Miller-Madow, in [0, log2 V]."""
    synonyms: float
    """Symbols for one meaning, the effective number 2^H(M | G), in [1, V]."""
    value: MeanInterval | None
    """Return of the speakers' team untouched less with messages shuffled between episodes; None: not measured."""
    drift: MeanInterval | None
    """Jensen-Shannon divergence, in [0, 1] bits, of the symbols for a meaning from those of the checkpoint before, mean
    over meanings: 0 for the same protocol, 1 where no symbol kept its meaning. None of the first checkpoint."""
    formed: float | None
    """Share of the resamples in which the change is at this checkpoint or before it; None where `Formed` is not."""


@dataclass(frozen=True)
class Formed(Record):
    """When the messages began to tell: the change between two constant means that fits `information` best."""

    before: int
    """Step of the last checkpoint before the change."""
    step: int
    """Step of the first checkpoint behind it."""
    low: int
    """Lower end of the 95 % bootstrap interval of `step` over episodes: a step of a checkpoint, as is the upper end."""
    high: int
    """Its upper end."""
    bits_before: float
    """Mean information of the checkpoints before the change."""
    bits_after: float
    """The same from the change on."""
    rise: MeanInterval
    """Their difference, in bits."""
    drift_after: float | None
    """Largest drift between two neighbours from the change on; None where one checkpoint is left."""


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, analysed."""

    step: int
    """Environment steps of a replica until then."""
    analysis: PlayerAnalysis
    """Its numbers; of a "shuffled" intervention the worth of the channel is taken."""
    labels: tuple[str, ...]
    """[G] of the meanings."""
    meanings: Ints
    """[N] what there was to tell at the drawn step of every episode; G where nothing could be heard."""
    symbols: Ints
    """[N] what was said; 0 where nothing could be heard."""


def snapshot(step: int, analysis: PlayerAnalysis, material: Material) -> Snapshot | None:
    """What was said on the first channel at one checkpoint; None where no meaning is known."""
    heard = material.heard[0]
    if heard.meanings.values is None:
        return None
    labels = heard.meanings.labels
    meanings = np.full(analysis.episodes, len(labels))
    symbols = np.zeros(analysis.episodes, dtype=np.int64)
    meanings[heard.kept], symbols[heard.kept] = heard.drawn(heard.meanings.values), heard.drawn(heard.sent)
    return Snapshot(step, analysis, labels, meanings, symbols)


def formation(
    snapshots: Sequence[Snapshot], replica: int, resampler: Resampler
) -> tuple[tuple[FormationRow, ...], Formed | Undefined]:
    """Rows of the checkpoints, the oldest first, and when the protocol was formed.

    Args:
        snapshots: in the order of their steps, all of the same N episodes.
        replica: whose policies they are.
        resampler: made for N.
    """
    labels = tuple(dict.fromkeys(label for one in snapshots for label in one.labels))
    size = snapshots[0].analysis.channels[0].symbols
    tables = [_counts(one, labels, size, np.arange(resampler.episodes)) for one in snapshots]
    again = [_counts(one, labels, size, resampler.picks_RN) for one in snapshots]
    drifts: list[MeanInterval | None] = [None]
    for k in range(1, len(snapshots)):
        drifts.append(_drift(tables[k - 1], tables[k], again[k - 1], again[k]))
    steps = [one.step for one in snapshots]
    told: Floats = np.array([_information(table, 1) for table in tables])
    told_RT: Floats = np.stack([_information(table, 2) for table in again], axis=-1)
    formed = _formed(steps, told, told_RT, drifts)
    shares: list[float | None] = [None] * len(steps)
    if isinstance(formed, Formed):
        cut_R = change_point(told_RT)
        shares = [float((cut_R <= k).mean()) for k in range(len(steps))]
    seen = np.flatnonzero(sum(table.sum(axis=1) for table in tables))
    named = tuple(labels[g] for g in seen)
    rows = [
        _row(one, replica, named, table[seen], drift, share)
        for one, table, drift, share in zip(snapshots, tables, drifts, shares, strict=True)
    ]
    return tuple(rows), formed


def _row(
    one: Snapshot,
    replica: int,
    meanings: tuple[str, ...],
    table: Ints,
    drift: MeanInterval | None,
    formed: float | None,
) -> FormationRow:
    report, outcome = one.analysis.channels[0], one.analysis.outcome
    signalled, given = report.signalling.information, report.signalling.entropy_given_meaning_bits
    assert not isinstance(signalled, Undefined) and given is not None, "a meaning is known"
    shuffled = [met.outcome.team_lost for met in one.analysis.interventions if met.name == "shuffled"]
    return FormationRow(
        step=one.step,
        replica=replica,
        channel=report.channel,
        meanings=meanings,
        shares=tuple(map(tuple, (table / np.maximum(table.sum(axis=1, keepdims=True), 1)).tolist())),
        information=max(signalled.corrected, 0.0),
        p=signalled.p,
        team_return=outcome.team_return.mean,
        gain=None if outcome.gain is None else outcome.gain.mean,
        entropy_bits=report.usage.entropy_bits,
        synonyms=float(2.0**given),
        value=shuffled[0] if shuffled else None,
        drift=drift,
        formed=formed,
    )


def _counts(one: Snapshot, labels: Sequence[str], size: int, picks: Ints) -> Ints:
    """Counts [..., G, V] of the episodes `picks` [..., N] of one checkpoint, meanings in the order of `labels`."""
    place = np.array([*(labels.index(label) for label in one.labels), len(labels)])  # the last: nothing was heard
    meanings = place[one.meanings]
    return contingency(meanings[picks], one.symbols[picks], (len(labels) + 1, size))[..., 0, :-1, :]


def _information(table: Ints, corrections: int) -> Floats:
    """I(M; G) of counts [..., G, V] in bits with the bias taken off so many times: twice of a resample."""
    counts = table[..., None, :, :]
    return np.asarray(information_bits(counts) + corrections * information_correction(counts))


def drift_bits(before: Ints, after: Ints, corrections: int = 1) -> Floats:
    """Jensen-Shannon divergence of the symbols for a meaning at two checkpoints, mean over meanings, in [0, 1] bits.

    It is I(symbol; checkpoint | meaning) of both tables together, with the Miller-Madow correction (`corrections`
    times), cut to [0, 1]. Equal protocols have 0; 1 says that no symbol is used for the same meaning in both. Meanings
    count by their frequency. A divergence near 0 of random messages is biased upwards where meanings are rare.

    Args:
        before, after: counts [..., G, V] of the same episodes.

    Source: Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37, 1991.
    """
    both = np.stack([before, after], axis=-2)  # [..., G, 2, V]: given the meaning, checkpoint and symbol
    bits = information_bits(both) + corrections * information_correction(both)
    return np.clip(bits, 0.0, 1.0)


def _drift(before: Ints, after: Ints, before_R: Ints, after_R: Ints) -> MeanInterval:
    low, high = np.quantile(drift_bits(before_R, after_R, 2), [0.025, 0.975])
    return MeanInterval(float(drift_bits(before, after)), float(low), float(high))


def _formed(
    steps: Sequence[int], told: Floats, told_RT: Floats, drifts: Sequence[MeanInterval | None]
) -> Formed | Undefined:
    """The change of the information `told` [T], with intervals from its resamples [R, T]."""
    if len(steps) < LEAST:
        return Undefined(
            f"{len(steps)} checkpoint{'s' * (len(steps) != 1)} were kept, and a change needs {LEAST}: train with a "
            "larger --checkpoint.keep and a smaller --checkpoint.every"
        )
    cut, cut_R = change_point(told), change_point(told_RT)
    before, after = means_around(told, cut)
    earlier, later = means_around(told_RT, np.broadcast_to(cut, cut_R.shape))
    low, high = np.quantile(cut_R, [0.025, 0.975], method="inverted_cdf")
    rise_low, rise_high = np.quantile(later - earlier, [0.025, 0.975])
    since = [one.mean for one in drifts[int(cut) + 1 :] if one is not None]
    return Formed(
        before=steps[int(cut) - 1],
        step=steps[int(cut)],
        low=steps[int(low)],
        high=steps[int(high)],
        bits_before=float(before),
        bits_after=float(after),
        rise=MeanInterval(float(after - before), float(rise_low), float(rise_high)),
        drift_after=max(since) if since else None,
    )
