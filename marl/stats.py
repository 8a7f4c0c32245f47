"""Statistics of a few runs: means, interquartile means, and intervals that say how little a few runs tell.

Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021
(interquartile mean, stratified bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from envs.streams import Stream
from marl.errors import UserError
from marl.results import Record

Statistic = Callable[[np.ndarray], np.ndarray]  # float64 [..., runs, tasks] to [...]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate(Record):
    """A mean and how sure it is."""

    mean: float
    se: float | None
    """Standard error of the mean, at least 0; None of a single value."""


@dataclass(frozen=True)
class MeanInterval(Record):
    """A mean with its 95 % interval, all in the unit of what is averaged."""

    mean: float
    low: float
    """Lower end."""
    high: float
    """Upper end."""


# ------------------------------------------------------------------ of one sample
def mean_and_se(values: Any, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error along `axis`: the sample's standard deviation (n - 1) over the root of n.

    The error of a single value is nan: one value does not tell.
    """
    array = np.asarray(values, dtype=np.float64)
    count = array.shape[axis]
    _require(count > 0, "the mean of no values")
    mean = array.mean(axis)
    if count == 1:
        return mean, np.full_like(mean, np.nan)
    return mean, array.std(axis, ddof=1) / np.sqrt(count)


def summary(values: Any) -> Estimate:
    """Mean of one sample [n] and its standard error."""
    mean, error = mean_and_se(values)
    return Estimate(float(mean), float(error) if np.isfinite(error) else None)


def crossed_summary(values: Any) -> Estimate:
    """Mean of a sample [a, b, ..., n] whose axes are crossed, as players with players and with the episodes that all
    of them play, and its standard error: those of the means along each axis, added as the root of their squares.

    An axis of length 1 adds nothing, so that nothing is said of other values on it: the error of a single replica is
    over episodes alone. Errs to the wide side: what two axes have in common only together is counted with both.
    """
    array = np.asarray(values, dtype=np.float64)
    _require(array.size > 0, "the mean of no values")
    axes = range(array.ndim)
    sides = [array.mean(tuple(other for other in axes if other != axis)) for axis in axes if array.shape[axis] > 1]
    errors = [float(mean_and_se(side)[1]) for side in reversed(sides)]
    return Estimate(float(array.reshape(-1).mean()), float(reduce(np.hypot, errors)) if errors else None)


def mean_interval(values: Any, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values [n], n >= 2."""
    array = _sample(values, least=2)
    mean, error = mean_and_se(array)
    from scipy import stats as scipy_stats  # half a second, which the start of a run does not need

    reach = scipy_stats.t.ppf(0.5 + _level(level) / 2, len(array) - 1) * error
    return float(mean - reach), float(mean + reach)


def median_interval(values: Any, level: float = 0.95) -> Interval:
    """Interval of the median between two order statistics [n]; infinite values (never reached) are allowed.

    It covers the median with at least `level` for any distribution; with fewer than 6 values not even the smallest
    and the largest reach 0.95, and the open side is infinite.

    Source: the sign test inverted; Thompson, "On confidence ranges for the median", Annals of Mathematical
    Statistics 1936.
    """
    array = np.sort(_sample(values, least=1, finite=False))
    tail = (1 - _level(level)) / 2
    from scipy import stats as scipy_stats

    # The k-th smallest value lies above the median with probability P(Binomial(n, 1/2) < k).
    below = scipy_stats.binom.cdf(np.arange(len(array)), len(array), 0.5)
    k = int(np.searchsorted(below, tail, side="right"))
    if k == 0:
        return float("-inf"), float("inf")
    return float(array[k - 1]), float(array[len(array) - k])


# ------------------------------------------------------------------ of runs on one or more tasks
def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean of [..., runs, tasks] over both: the mean of the middle half of all the scores.

    floor(n / 4) scores are dropped at each end, as scipy's `trim_mean(..., 0.25)` does.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    count = flat.shape[-1]
    cut = count // 4
    return np.sort(flat, axis=-1)[..., cut : count - cut].mean(-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean of [..., runs, tasks] over both."""
    return scores.mean((-2, -1))


def aggregate(scores: Any, statistic: Statistic = iqm) -> float:
    """`statistic` of scores [runs] or [runs, tasks]."""
    return float(statistic(_table(scores)))


def bootstrap_interval(
    scores: Any, statistic: Statistic = iqm, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval of `statistic` under resampling of the runs; each task is resampled by itself (stratified).

    Args:
        scores: [runs] or [runs, tasks].
        statistic: vectorised over leading dimensions: `iqm`, `mean` or one's own.
        level: share of resamples inside, in (0, 1).
        resamples: how many; 2000 leave about 1 % of the width to chance.
        seed: of the resampling; the same seed gives the same interval.
    """
    table = _table(scores)
    values = statistic(_resample(table, resamples, seed))
    tail = 50 * (1 - _level(level))
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def crossed_interval(
    values: Any,
    statistic: Statistic = iqm,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    offset_se: float = 0.0,
) -> Interval:
    """Percentile interval of `statistic` of the runs' means where all runs play the same episodes.

    Runs and episodes are resampled each by themselves and crossed: an episode that is drawn twice counts twice for
    every run. The luck of common episodes moves all runs together, so that resampling runs alone leaves it out.

    Args:
        values: [runs, episodes], what each run earned in each episode.
        statistic: as for `bootstrap_interval`, of [..., runs, 1].
        level: share of resamples inside, in (0, 1).
        resamples: how many.
        seed: of the resampling.
        offset_se: standard error, at least 0, of a constant that has been added to all values; drawn normally.

    Source: the two-way ("pigeonhole") bootstrap of crossed effects, Owen, "The pigeonhole bootstrap", Annals of
    Applied Statistics 2007. It errs to the wide side: the interaction of run and episode is counted twice.
    """
    table_RE = _table(values)
    _require(np.ndim(values) == 2 and resamples >= 1, f"values of shape {list(np.shape(values))}")
    runs, episodes = table_RE.shape
    stream = Stream(seed, "stats/crossed", [0])
    means = np.empty((resamples, runs))
    for b in range(resamples):
        own = stream.integers(runs, runs)[0].numpy()
        common = stream.integers(episodes, episodes)[0].numpy()
        counts_E = np.bincount(common, minlength=episodes)
        means[b] = (table_RE @ counts_E / episodes)[own]
    drawn = statistic(means[..., None])
    if offset_se > 0:
        drawn = drawn + offset_se * np.random.default_rng(seed).standard_normal(resamples)
    tail = 50 * (1 - _level(level))
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def nested_interval(groups: Sequence[Any], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile interval of the mean of the groups' means, where runs of a group belong together.

    Groups are resampled, then runs within each drawn group, and the episodes, which all runs share, for all together:
    what the members of a group have in common is counted once for each group, not once for each member.

    Args:
        groups: of each [runs, episodes], as many episodes in all; runs may differ in number.
        level: share of resamples inside, in (0, 1).
        resamples: how many.
        seed: of the resampling.

    With few groups the interval is too narrow: of three, resamples have a standard deviation of the means that is
    sqrt(2/3) of the right one.

    Source: Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8, for nested resampling;
    Owen 2007 (`crossed_interval`) for the episodes.
    """
    tables = [_table(group) for group in groups]
    episodes = {table.shape[1] for table in tables}
    _require(len(tables) >= 1 and len(episodes) == 1 and resamples >= 1, f"{len(tables)} groups of runs")
    stream, count = Stream(seed, "stats/nested", [0]), episodes.pop()
    common = stream.integers(count, resamples, count)[0].numpy() + count * np.arange(resamples)[:, None]
    counts_RE = np.bincount(common.ravel(), minlength=resamples * count).reshape(resamples, count)
    drawn_RG = stream.integers(len(tables), resamples, len(tables))[0].numpy()
    means_RG = np.zeros(drawn_RG.shape)
    for g, table in enumerate(tables):
        runs = counts_RE @ table.T / count  # [resamples, runs]
        own = stream.integers(len(table), *drawn_RG.shape, len(table))[0].numpy()  # once for every draw of a group
        mean_RG = np.take_along_axis(runs[:, None], own, axis=2).mean(2)
        means_RG = np.where(drawn_RG == g, mean_RG, means_RG)
    means = means_RG.mean(1)
    tail = 50 * (1 - _level(level))
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


# ------------------------------------------------------------------ parts
def _resample(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[resamples, runs, tasks], runs drawn with replacement within each task."""
    _require(resamples >= 1, f"{resamples} resamples")
    runs, tasks = table.shape
    drawn = Stream(seed, "stats/bootstrap", [0]).integers(runs, resamples, runs, tasks)[0].numpy()
    return np.take_along_axis(table[None], drawn, axis=1)


def _table(scores: Any) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    _require(array.ndim == 2 and array.size > 0, f"scores of shape {list(np.shape(scores))}")
    _require(bool(np.isfinite(array).all()), "scores that are not finite")
    return array


def _sample(values: Any, least: int, finite: bool = True) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    _require(array.ndim == 1 and len(array) >= least, f"values of shape {list(array.shape)}, fewer than {least}")
    bad = ~np.isfinite(array) if finite else np.isnan(array)
    _require(not bad.any(), "values that are not finite" if finite else "values that are not numbers")
    return array


def _level(level: float) -> float:
    _require(0 < level < 1, f"a level of {level}")
    return level


def _require(holds: bool, got: str) -> None:
    if not holds:
        raise UserError(
            f"statistics got {got}; expected finite scores [runs] or [runs, tasks], "
            f"at least one run (two for a mean's interval), one or more resamples and a level in (0, 1)."
        )
