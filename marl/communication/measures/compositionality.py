"""Do the parts of a message stand for the parts of what is meant? Each measure beside codes without that property.

The null distribution of every measure is that of *holistic codes that use the same messages*: which meaning has which
message is shuffled among the meanings that occurred, and nothing else. All episodes of a meaning stay together, so what
messages tell of meanings is untouched; a permutation of the episodes would also destroy that, and every code that tells
anything would look structured. Where all meanings are equally frequent, the test is exact for codes drawn at random.

Legend: `N` episodes, `A` attributes, `L` symbols of a message, `G` meanings that occurred, `P` permutations, `V` values
of an attribute, `C` concepts (attribute and value), `W` words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from marl.communication.measures import information as info
from marl.communication.measures.information import Floats, Ints, Resampler, Undefined
from marl.results import Record

_SAME = 1e-12
MOST_PAIRED = 400  # episodes that topographic similarity compares pairwise


@dataclass(frozen=True)
class Compared(Record):
    """A measure of structure beside its distribution over holistic codes that use the same messages."""

    value: float
    """Its range stands with the measure."""
    null_mean: float
    """Mean over the holistic codes."""
    null_high: float
    """95 % of the holistic codes are at or below this."""
    p: float
    """Share of the holistic codes, this one counted, that reach the value, in (0, 1]; the meanings' symmetries bound it
    from below (two attributes of two values: 1/3)."""


@dataclass(frozen=True)
class Word(Record):
    """A symbol and the concept that the best matching gives it."""

    place: int
    """In the message, from 0."""
    symbol: int
    """From 0."""
    attribute: int
    """Of the meaning, from 0."""
    value: int
    """Of the attribute, from 0."""
    together: int
    """Episodes in which the word was said and the concept was meant."""
    said: int
    """Episodes in which the word was said."""


@dataclass(frozen=True)
class Compositionality(Record):
    """How the parts of messages go with the parts of meanings."""

    topographic_similarity: Compared | Undefined
    """In [-1, 1]."""
    positional_disentanglement: Compared | Undefined
    """In [0, 1], 1 where every place of the message tells of one attribute only."""
    bag_of_symbols_disentanglement: Compared | Undefined
    """In [0, 1], 1 where the number of times that each symbol is said tells of one attribute only."""
    concept_best_matching: Compared
    """In [0, 1]; a word is a symbol wherever it stands."""
    positional_best_matching: Compared
    """The same, a word is a symbol in its place."""
    dictionary: tuple[Word, ...]
    """The pairs that the positional matching found, by place and symbol."""


@dataclass(frozen=True)
class _Meanings:
    """The sample by the kind of meaning, and what holistic codes would make of it."""

    label_N: Ints  # meaning of each episode
    rows_GA: Ints  # its attributes
    orders_PG: Ints  # the first one is the identity, the code itself; the others are holistic codes

    def one_hots(self, attribute: int) -> NDArray[np.float64]:
        """[P, G, V] of an attribute, under every code."""
        values = self.rows_GA[:, attribute]
        return np.eye(int(values.max()) + 1)[values[self.orders_PG]]

    def count(self, values: Ints, size: int) -> Ints:
        """[G, size] episodes of each meaning and value of `values` [N]."""
        return info.contingency(self.label_N, values, (len(self.rows_GA), size))[0]


def compositionality(
    attributes: Ints, symbols: Ints, sizes: Sequence[int], resampler: Resampler
) -> Compositionality | None:
    """Every measure of structure; None where meanings or messages have a single part.

    Args:
        attributes: int [N, A] values from 0.
        symbols: int [N, L] from 0.
        sizes: [L] vocabulary of each place.
        resampler: its seed and number of permutations.
    """
    if attributes.shape[1] < 2 or symbols.shape[1] < 2:
        return None
    rows_GA, label_N = np.unique(attributes, axis=0, return_inverse=True)
    orders = resampler.orders(len(rows_GA))
    kinds = _Meanings(label_N.reshape(-1), rows_GA, np.concatenate([np.arange(len(rows_GA))[None], orders]))
    places = [kinds.count(column, size) for column, size in zip(symbols.T, sizes, strict=True)]
    often = [(symbols == symbol).sum(axis=1) for symbol in range(max(sizes))]
    length = symbols.shape[1]
    positional, dictionary = _best_matching(kinds, places, length)
    anywhere = [kinds.count((count > 0).astype(np.int64), 2)[:, 1:] for count in often]
    return Compositionality(
        topographic_similarity=_topographic_similarity(kinds, symbols),
        positional_disentanglement=_disentanglement(kinds, places),
        bag_of_symbols_disentanglement=_disentanglement(kinds, [kinds.count(one, length + 1) for one in often]),
        concept_best_matching=_best_matching(kinds, anywhere, length)[0],
        positional_best_matching=positional,
        dictionary=dictionary,
    )


def _compared(values_P: Floats) -> Compared:
    """The first value among those of the holistic codes behind it."""
    value, null = float(values_P[0]), values_P[1:]
    reached = int((null >= value - _SAME).sum())
    return Compared(value, float(null.mean()), float(np.quantile(null, 0.95)), (1 + reached) / len(values_P))


# ------------------------------------------------------------------------------------------ the three measures
def _topographic_similarity(kinds: _Meanings, symbols: Ints) -> Compared | Undefined:
    """As `information.topographic_similarity`; the ranks of the messages' distances are summed up by pairs of meanings,
    so that a holistic code costs G^2 and not N^2."""
    label, symbols = kinds.label_N[:MOST_PAIRED], symbols[:MOST_PAIRED]
    first, second = np.triu_indices(len(label), k=1)
    distance = (symbols[first] != symbols[second]).sum(axis=1)
    rank = rankdata(distance)
    count = len(kinds.rows_GA)
    pair = label[first] * count + label[second]
    pairs = np.bincount(pair, minlength=count * count).astype(np.float64)
    ranks = np.bincount(pair, weights=rank, minlength=count * count)
    apart = (kinds.rows_GA[:, None] != kinds.rows_GA[None]).sum(axis=2)
    moved = apart[kinds.orders_PG[:, :, None], kinds.orders_PG[:, None, :]].reshape(len(kinds.orders_PG), -1)
    levels = range(kinds.rows_GA.shape[1] + 1)
    n_PD = np.stack([(moved == level) @ pairs for level in levels], axis=1)
    sum_PD = np.stack([(moved == level) @ ranks for level in levels], axis=1)
    middle_PD = n_PD.cumsum(axis=1) - n_PD / 2 + 0.5  # the mean rank of all pairs at one distance
    mean = (len(pair) + 1) / 2
    spread_P = (n_PD * (middle_PD - mean) ** 2).sum(axis=1) * ((rank - mean) ** 2).sum()
    if spread_P[0] <= 0:
        return Undefined("all meanings or all messages are equally far apart: the correlation is not defined")
    product_P = ((middle_PD - mean) * (sum_PD - mean * n_PD)).sum(axis=1)
    return _compared(product_P / np.sqrt(np.where(spread_P > 0, spread_P, np.inf)))


def _disentanglement(kinds: _Meanings, units: list[Ints]) -> Compared | Undefined:
    """Mean over units u of (I(u; a1) - I(u; a2)) / H(u), a1 and a2 the two attributes that u tells most of.

    A unit is a place of the message, or the number of times that a symbol is said in it; units that never vary are left
    out. `units`: counts [G, values of the unit]. Source: Chaabouni, Kharitonov, Bouchacourt, Dupoux and Baroni,
    "Compositionality and generalization in emergent languages", ACL 2020, section 2.3 (posdis and bosdis).
    """
    gaps: list[Floats] = []
    for table in units:
        entropy = float(info.entropy_bits(table.sum(axis=0)))
        if entropy <= 0:
            continue
        told = []
        for attribute in range(kinds.rows_GA.shape[1]):
            joint = np.einsum("pgv,gk->pvk", kinds.one_hots(attribute), table)
            told.append(info.information_bits(joint.round().astype(np.int64)[:, None]))
        best = np.sort(np.stack(told), axis=0)
        gaps.append((best[-1] - best[-2]) / entropy)
    if not gaps:
        return Undefined("every message is the same: nothing to disentangle")
    return _compared(np.mean(gaps, axis=0))


def _best_matching(kinds: _Meanings, words: list[Ints], length: int) -> tuple[Compared, tuple[Word, ...]]:
    """Share of what is said and meant that a one-to-one translation of words into concepts covers.

    sum over matched (w, c) of n(w, c) / sum over episodes of max(symbols, attributes), the matching being the one of
    the largest sum (Hungarian algorithm); n counts the episodes in which w was said and c was meant. `words`: counts
    [G, symbols], a table for each group of words. Source: Carmeli, Belinkov and Meir, "Concept-Best-Matching:
    evaluating compositionality in emergent communication", Findings of ACL 2024; a word that is said twice in one
    message counts once here.
    """
    attributes = range(kinds.rows_GA.shape[1])
    concepts = [kinds.one_hots(attribute) for attribute in attributes]
    together_PCW = np.einsum("pgc,gw->pcw", np.concatenate(concepts, axis=2), np.concatenate(words, axis=1))
    whole = len(kinds.label_N) * max(length, len(attributes))
    found = [linear_sum_assignment(table, maximize=True) for table in together_PCW]
    covered = [table[pairs].sum() for table, pairs in zip(together_PCW, found, strict=True)]
    names = [(attribute, value) for attribute in attributes for value in range(concepts[attribute].shape[2])]
    spoken = [(place, symbol) for place, table in enumerate(words) for symbol in range(table.shape[1])]
    said = np.concatenate(words, axis=1).sum(axis=0)
    pairs = [
        Word(spoken[w][0], spoken[w][1], names[c][0], names[c][1], int(together_PCW[0, c, w]), int(said[w]))
        for c, w in zip(*found[0], strict=True)
        if together_PCW[0, c, w] > 0
    ]
    return _compared(np.array(covered) / whole), tuple(sorted(pairs, key=lambda word: (word.place, word.symbol)))
