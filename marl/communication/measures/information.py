"""Information in discrete samples: estimators, their bias, their intervals and their chance level, all in bits.

Every function takes integer samples in which **one entry is one episode**: goals and protocols are constant within an
episode, so its time steps are not independent and must be reduced to one entry before they come here.

Legend: `N` episodes, `X`, `Y`, `Z` sizes of alphabets, `P` permutations, `R` bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from envs.streams import Stream
from marl.results import Record

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


_MOST_DRAWS = 20_000_000  # permuted or resampled entries that are held at a time
_MOST_VALUES = 256  # of a larger alphabet, as joint choices of several heads, only what occurs is counted


@dataclass(frozen=True)
class Value(Record):
    """A single number."""

    value: float
    """Its range and unit stand with the function that measures it."""


@dataclass(frozen=True)
class Undefined(Record):
    """In place of what cannot be measured."""

    reason: str
    """Why not, in words."""


@dataclass(frozen=True)
class Information(Record):
    """An estimate of I(X;Y) or I(X;Y|Z). Bits, except `p`, `share` and `episodes`."""

    plug_in: float
    """Information of the observed table: biased upwards where X and Y are nearly independent; at least 0."""
    corrected: float
    """Plug-in with the Miller-Madow correction; may be slightly negative."""
    low: float
    """Lower end of the 95 % bootstrap interval over episodes, centred at the corrected estimate."""
    high: float
    """Its upper end."""
    p: float
    """Probability that independent X and Y give at least this plug-in value, in (0, 1]: permutation over episodes."""
    entropy: float
    """H(X), Miller-Madow."""
    share: float
    """corrected / H(X), in [0, 1]; 0 where H(X) = 0."""
    episodes: int
    """Sample size."""


class Resampler:
    """The random numbers of all permutation tests and bootstraps over the same N episodes.

    Args:
        episodes: N.
        seed: root of the counter-based streams; the same seed repeats every p-value and interval.
        permutations: P; the smallest possible p is 1 / (P + 1).
        resamples: R of the bootstrap.

    Beyond 20,000 episodes both become fewer (200 at 100,000), so that memory stays bounded.
    """

    def __init__(self, episodes: int, seed: int = 0, permutations: int = 999, resamples: int = 1000) -> None:
        most = max(99, _MOST_DRAWS // episodes)
        permutations, resamples = min(permutations, most), min(resamples, most)
        shuffle = Stream(seed, "communication/permutations", range(permutations))
        pick = Stream(seed, "communication/bootstrap", range(resamples))
        self.episodes, self._seed = episodes, seed
        self.noise_PN: NDArray[np.float32] = shuffle.uniform(episodes).numpy()
        self.picks_RN: Ints = pick.integers(episodes, episodes).numpy()
        self._free_PN: Ints | None = None

    def permute(self, values: Ints, strata: Ints | None = None) -> Ints:
        """Int64 [P, N]: `values` [N] permuted over episodes; with `strata` [N] only among episodes of one stratum."""
        if strata is None:
            if self._free_PN is None:
                self._free_PN = np.argsort(self.noise_PN, axis=1)
            return values[self._free_PN]
        places = np.argsort(strata, kind="stable")
        sources_PN = np.argsort(strata + self.noise_PN, axis=1)
        permuted = np.empty(sources_PN.shape, dtype=np.int64)
        permuted[:, places] = values[sources_PN]
        return permuted

    def orders(self, count: int) -> Ints:
        """Int64 [P, count]: random orders of `count` things other than episodes."""
        noise = Stream(self._seed, "communication/orders", range(len(self.noise_PN))).uniform(count)
        orders: Ints = np.argsort(noise.numpy(), axis=1)
        return orders

    def mean_interval(self, values: Floats, level: float = 0.95) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean of `values` [N]."""
        means_R = np.asarray(values, dtype=np.float64)[self.picks_RN].mean(axis=1)
        low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


# ------------------------------------------------------------------------------------------------ tables of counts
def contingency(x: Ints, y: Ints, sizes: tuple[int, int], z: Ints | None = None, num_z: int = 1) -> Ints:
    """Counts [..., Z, X, Y] of integer samples [..., N]; leading dimensions of x, y and z broadcast."""
    code = (0 if z is None else z) * (sizes[0] * sizes[1]) + x * sizes[1] + y
    cells = num_z * sizes[0] * sizes[1]
    rows = code.reshape(-1, code.shape[-1])
    flat = rows + cells * np.arange(len(rows))[:, None]
    counts = np.bincount(flat.ravel(), minlength=cells * len(rows))
    return counts.reshape(*code.shape[:-1], num_z, *sizes)


def _n_log_n(total: int) -> Floats:
    """Table of n * log2(n) for n = 0..total."""
    n = np.arange(total + 1, dtype=np.float64)
    n[0] = 1.0
    values = n * np.log2(n)
    return values


def entropy_bits(counts: Ints) -> Floats:
    """Plug-in entropy of counts [..., K]: log2 N - (1/N) sum n log2 n."""
    total = counts.sum(axis=-1)
    terms = _n_log_n(int(total.max()))[counts].sum(axis=-1)
    return np.log2(total) - terms / total


def entropy_corrected(counts: Ints) -> Floats:
    """Miller-Madow entropy of counts [..., K]: plug-in + (occupied cells - 1) / (2 N ln 2).

    Source: Miller, "Note on the bias of information estimates", 1955.
    """
    occupied = (counts > 0).sum(axis=-1)
    return entropy_bits(counts) + (occupied - 1) / (2 * counts.sum(axis=-1) * math.log(2))


def information_bits(table: Ints) -> Floats:
    """Plug-in I(X;Y|Z) of counts [..., Z, X, Y]; with Z = 1 it is I(X;Y).

    I = (1/N) (sum_zxy f - sum_zx f - sum_zy f + sum_z f) with f(n) = n log2 n of the marginal counts.
    """
    total = table.sum(axis=(-3, -2, -1))
    f = _n_log_n(int(total.max()))
    joint = f[table].sum(axis=(-3, -2, -1))
    x_side = f[table.sum(axis=-1)].sum(axis=(-2, -1))
    y_side = f[table.sum(axis=-2)].sum(axis=(-2, -1))
    context = f[table.sum(axis=(-2, -1))].sum(axis=-1)
    return (joint - x_side - y_side + context) / total


def information_correction(table: Ints) -> Floats:
    """What to add to the plug-in I(X;Y|Z) of counts [..., Z, X, Y]: -(K_zxy - K_zx - K_zy + K_z) / (2 N ln 2).

    K counts occupied cells of the table and of its margins. Source: Miller 1955; Roulston, "Estimating the errors on
    measured entropy and mutual information", Physica D 125, 1999.
    """
    joint = (table > 0).sum(axis=(-3, -2, -1))
    x_side = (table.sum(axis=-1) > 0).sum(axis=(-2, -1))
    y_side = (table.sum(axis=-2) > 0).sum(axis=(-2, -1))
    context = (table.sum(axis=(-2, -1)) > 0).sum(axis=-1)
    total = table.sum(axis=(-3, -2, -1))
    return -(joint - x_side - y_side + context) / (2 * total * math.log(2))


def mutual_information(
    x: Ints, y: Ints, sizes: tuple[int, int], resampler: Resampler, z: Ints | None = None, num_z: int = 1
) -> Information:
    """I(X;Y), or I(X;Y|Z) where `z` is given, with bias correction, interval and permutation p.

    Args:
        x, y, z: int64 [N], one entry an episode, values below `sizes[0]`, `sizes[1]` and `num_z`.
        resampler: made for the same N.

    p = (1 + #{permutations with at least the observed plug-in value}) / (P + 1), permuting x over episodes (within
    the episodes of equal z). The test is exact: at most a share alpha of independent samples has p <= alpha.
    The interval is the percentile bootstrap of plug-in + 2 * correction: a resample carries the bias of the sample
    once more, so the correction is due twice. It is clipped to [0, log2 min(sizes)].
    """
    most = math.log2(min(sizes))
    if sizes[1] > _MOST_VALUES:  # cells that stay empty add nothing, and the tables of all resamples are held at once
        occurring, y = np.unique(y, return_inverse=True)
        sizes = (sizes[0], len(occurring))
    table = contingency(x, y, sizes, z, num_z)
    plug_in = float(information_bits(table))
    corrected = plug_in + float(information_correction(table))
    null_P = information_bits(contingency(resampler.permute(x, z), y, sizes, z, num_z))
    p = (1 + int((null_P >= plug_in - 1e-12).sum())) / (len(null_P) + 1)
    picks = resampler.picks_RN
    again = contingency(x[picks], y[picks], sizes, None if z is None else z[picks], num_z)
    spread_R = information_bits(again) + 2 * information_correction(again)
    low, high = np.clip(np.quantile(spread_R, [0.025, 0.975]), 0.0, most)
    entropy = float(entropy_corrected(table.sum(axis=(-3, -1))))
    share = min(max(corrected / entropy, 0.0), 1.0) if entropy > 0 else 0.0
    return Information(plug_in, corrected, float(low), float(high), p, entropy, share, len(x))


# ------------------------------------------------------------------------------------------ structure of a protocol
def context_independence(table: Ints) -> float:
    """(1/G) sum_g p(m^g | g) p(g | m^g), m^g = argmax_m p(g | m), of counts [G, M]; in [0, 1], 1 for a bijection.

    Meanings that never occurred are left out of G. Source: Bogin, Geva and Berant, "Emergence of communication in an
    interactive world with consistent speakers", 2018, section 4.
    """
    seen = table[table.sum(axis=1) > 0]
    meaning_given_symbol = seen / np.maximum(seen.sum(axis=0, keepdims=True), 1)
    symbol_given_meaning = seen / seen.sum(axis=1, keepdims=True)
    rows = np.arange(len(seen))
    best = meaning_given_symbol.argmax(axis=1)
    return float((symbol_given_meaning[rows, best] * meaning_given_symbol[rows, best]).mean())


def topographic_similarity(meanings: Ints, messages: Ints, most: int = 400) -> Value | Undefined:
    """Spearman correlation of Hamming distances between meanings [N, attributes] and messages [N, symbols].

    The first `most` episodes are compared pairwise. Source: Brighton and Kirby, "Understanding linguistic evolution
    by visualizing the emergence of topographic mappings", 2006; Lazaridou et al., 2018.
    """
    undefined = _no_structure(meanings, messages)
    if undefined:
        return undefined
    first, second = np.triu_indices(min(len(meanings), most), k=1)
    far_meaning = (meanings[first] != meanings[second]).sum(axis=1)
    far_message = (messages[first] != messages[second]).sum(axis=1)
    if far_meaning.std() == 0 or far_message.std() == 0:
        return Undefined("all meanings or all messages are equally far apart: the correlation is not defined")
    return Value(float(np.corrcoef(rankdata(far_meaning), rankdata(far_message))[0, 1]))


def positional_disentanglement(meanings: Ints, messages: Ints) -> Value | Undefined:
    """Mean over positions j of (I(s_j; a1) - I(s_j; a2)) / H(s_j), a1 and a2 the two attributes s_j tells most of.

    Positions that always hold one symbol are left out. Plug-in information: read it only at N far above the number of
    cells. Source: Chaabouni et al., "Compositionality and generalization in emergent languages", ACL 2020, eq. 1.
    """
    undefined = _no_structure(meanings, messages)
    if undefined:
        return undefined
    gaps = []
    for symbols in messages.T:
        entropy = float(entropy_bits(np.bincount(symbols)))
        if entropy == 0:
            continue
        shares = sorted(
            float(information_bits(contingency(values, symbols, (int(values.max()) + 1, int(symbols.max()) + 1))))
            for values in meanings.T
        )
        gaps.append((shares[-1] - shares[-2]) / entropy)
    if not gaps:
        return Undefined("every position always holds the same symbol: nothing to disentangle")
    return Value(float(np.mean(gaps)))


def _no_structure(meanings: Ints, messages: Ints) -> Undefined | None:
    if messages.shape[1] < 2:
        return Undefined("undefined: a message is a single symbol, so two messages are either equal or not")
    if meanings.shape[1] < 2:
        return Undefined("undefined: the meaning has a single attribute, so two meanings are either equal or not")
    return None


# ---------------------------------------------------------------------------------------------------- the channel
def channel_capacity(confusion: Floats, tolerance: float = 1e-6, iterations: int = 10_000) -> float:
    """Capacity in bits of the channel p(heard | sent) [sent, heard], rows summing to 1, by Blahut and Arimoto.

    Iterates until the upper and lower bound on the capacity are `tolerance` bits apart.
    Source: Blahut, "Computation of channel capacity and rate-distortion functions", 1972, theorem 1.
    """
    channel = np.asarray(confusion, dtype=np.float64)
    inputs = np.full(len(channel), 1 / len(channel))
    lower = 0.0
    for _ in range(iterations):
        outputs = inputs @ channel
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(channel > 0, np.log2(channel / outputs), 0.0)
        divergence = (channel * ratio).sum(axis=1)
        lower, upper = float(np.log2(inputs @ np.exp2(divergence))), float(divergence.max())
        if upper - lower < tolerance:
            break
        inputs = inputs * np.exp2(divergence)
        inputs /= inputs.sum()
    return lower


def bayes_accuracy(table: Ints) -> float:
    """Share of X that the best guess from Y hits in counts [X, Y]: (1/N) sum_y max_x n(x, y); optimistic at small N."""
    return float(table.max(axis=0).sum() / table.sum())


def wilson_interval(hits: Ints, trials: Ints) -> tuple[Floats, Floats]:
    """95 % interval of proportions hits / trials, elementwise; (0, 1) where there were no trials.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = 1.959964
    n = np.maximum(trials, 1)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)
    return np.where(trials > 0, low, 0.0), np.where(trials > 0, high, 1.0)


def joint_symbol(parts: Sequence[Ints], sizes: Sequence[int]) -> Ints:
    """One integer for a message of several symbols; the first part runs slowest."""
    code = np.zeros_like(parts[0])
    for part, size in zip(parts, sizes, strict=True):
        code = code * size + part
    return code
