"""When did a series change? One change of its mean, by least squares.

Legend: `T` times, `R` bootstrap resamples.

Source: Bai, "Least squares estimation of a shift in linear processes", Journal of Time Series Analysis 15, 1994; for
independent normal errors it is the maximum likelihood estimate of Hinkley, "Inference about the change-point in a
sequence of random variables", Biometrika 57, 1970.
"""

from __future__ import annotations

import numpy as np

from marl.communication.measures.information import Floats, Ints


def change_point(values: Floats) -> Ints:
    """First index of the second part when series [..., T] are cut in two parts of constant mean: int64 [...] in 1..T-1.

    The cut with the least sum of squares around the two means, which is the one with the largest
    k (T - k) / T * (mean of the last T - k - mean of the first k)^2; of equals the earliest.

    Args:
        values: finite, T >= 2.
    """
    count = values.shape[-1]
    assert count >= 2, "one value has no parts"
    first_k = np.arange(1, count)
    sums = np.cumsum(values, axis=-1)
    means_before = sums[..., :-1] / first_k
    means_after = (sums[..., -1:] - sums[..., :-1]) / (count - first_k)
    between = first_k * (count - first_k) / count * (means_after - means_before) ** 2
    best = between.max(axis=-1, keepdims=True)
    return (between >= best - 1e-12 * np.abs(best)).argmax(axis=-1).astype(np.int64) + 1  # equal but for rounding


def means_around(values: Floats, cut: Ints) -> tuple[Floats, Floats]:
    """Means [...] of series [..., T] before and from index `cut` [...] on."""
    late = np.arange(values.shape[-1]) >= cut[..., None]
    return (values * ~late).sum(-1) / cut, (values * late).sum(-1) / (values.shape[-1] - cut)
