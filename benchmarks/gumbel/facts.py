"""The numbers behind docs/gumbel.md as pure functions: exact by quadrature where possible, else from fixed seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor

from envs.streams import Stream
from marl.learner import relaxation

EULER = 0.5772156649015329
SEVEN = np.array([7, 3, 8, 14, 8, 17, 9]) / 66
"""The probabilities of the seven-class example."""

# The three noises of the seven-class example: as they come, and scaled to the Gumbel distribution's variance
_MATCH_NORMAL = math.pi / math.sqrt(6)
_MATCH_UNIFORM = math.pi * math.sqrt(2)
NOISES: dict[str, Any] = {
    "gumbel": stats.gumbel_r(),
    "normal": stats.norm(),
    "uniform": stats.uniform(),
    "normal, matched": stats.norm(scale=_MATCH_NORMAL),
    "uniform, matched": stats.uniform(scale=_MATCH_UNIFORM),
}


def uniform(name: str, *shape: int) -> Tensor:
    """Numbers in (0, 1), float64 [*shape]: a function of the name alone."""
    return Stream(0, name, [0]).uniform(*shape, dtype=torch.float64)[0]


def normal(name: str, *shape: int) -> Tensor:
    """Standard normal numbers, float64 [*shape]: a function of the name alone."""
    return torch.special.ndtri(uniform(name, *shape))


def winning_probabilities(logits: Sequence[float] | np.ndarray, noise: Any) -> np.ndarray:
    """P(argmax(logits + noise) = k) for independent noise, [K]: one quadrature for each k.

    The winner's score x has density f(x - t_k) and every other stays below it: integral of f(x - t_k) prod F(x - t_j).
    """
    t = np.asarray(logits, dtype=float)
    low, high = noise.support()
    edges = (t + low, t + high) if math.isfinite(low) else (t + noise.ppf(1e-16), t + noise.isf(1e-16))
    kinks = np.unique(np.concatenate(edges))

    def wins(k: int) -> float:
        others = np.delete(t, k)

        def density(x: float) -> float:
            return noise.pdf(x - t[k]) * math.prod(noise.cdf(x - others))

        # piece by piece between the supports' ends, where a bounded density jumps
        return sum(
            integrate.quad(density, a, b, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
            for a, b in itertools.pairwise(kinks)
        )

    return np.array([wins(k) for k in range(len(t))])


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Half the summed absolute difference of two distributions."""
    return float(np.abs(p - q).sum() / 2)


def seven_classes(draws: int = 200_000) -> dict[str, Any]:
    """Argmax of log-probability plus noise, five noises: exact probabilities, sampled frequencies, total variation."""
    logits, out = np.log(SEVEN), {}
    for name, noise in NOISES.items():
        exact = winning_probabilities(logits, noise)
        scores = logits + noise.ppf(uniform(f"seven classes {name}", draws, 7).numpy())
        frequency = np.bincount(scores.argmax(-1), minlength=7) / draws
        out[name] = {
            "variance": float(noise.var()),
            "exact": exact.tolist(),
            "sampled": frequency.tolist(),
            "total_variation": total_variation(exact, SEVEN),
        }
    p = float(stats.chisquare(np.array(out["gumbel"]["sampled"]) * draws, SEVEN * draws).pvalue)
    return {"draws": draws, "probabilities": SEVEN.tolist(), "noises": out, "chi_square_p": p}


def direct(draws: int = 200_000) -> dict[str, Any]:
    """The seven classes drawn directly, two ways, beside Gumbel-max: frequencies, total variation, chi-square p.

    `by_chance` is the expected total variation of so many draws from the probabilities themselves: half the sum of the
    mean absolute deviations, sqrt(2 / pi) standard errors each, as the frequencies are all but normal.
    """
    p = torch.tensor(SEVEN)
    generator = torch.Generator().manual_seed(0)
    noise = relaxation.gumbel(uniform("direct gumbel", draws, 7))
    ways = {
        "Gumbel-max": relaxation.sample_onehot(p.log().expand(draws, 7), noise).argmax(-1),
        "inverse distribution function": torch.searchsorted(p.cumsum(0)[:-1], uniform("direct", draws)),
        "torch.multinomial": torch.multinomial(p, draws, replacement=True, generator=generator),
    }
    rows = {}
    for name, index in ways.items():
        count = index.bincount(minlength=7).numpy()
        rows[name] = {
            "sampled": (count / draws).tolist(),
            "total_variation": total_variation(count / draws, SEVEN),
            "chi_square_p": float(stats.chisquare(count, SEVEN * draws).pvalue),
        }
    by_chance = float(np.sqrt(SEVEN * (1 - SEVEN) / draws * 2 / math.pi).sum() / 2)
    return {"draws": draws, "by_chance": by_chance, "ways": rows}


def daily_maxima(parent: str, days: int = 10_000, per_day: int = 100) -> np.ndarray:
    """The largest of `per_day` draws of a parent distribution on each of many days, [days]."""
    parents = {"normal": stats.norm(5, 1), "pareto": stats.pareto(3), "beta": stats.beta(2, 2)}
    return parents[parent].ppf(uniform(f"maxima {parent}", days, per_day).numpy()).max(-1)


def maxima(days: int = 10_000, per_day: int = 100) -> dict[str, Any]:
    """Daily maxima of normal, Pareto and Beta draws, with a Gumbel fit and the fit of each one's own limit law."""
    out: dict[str, Any] = {"days": days, "per_day": per_day}
    own = {"normal": stats.gumbel_r, "pareto": stats.invweibull, "beta": stats.weibull_max}
    fixed = {"normal": {}, "pareto": {"floc": 0.0}, "beta": {"floc": 1.0}}  # their limits' ends are the parents'
    for parent, law in own.items():
        x = daily_maxima(parent, days, per_day)
        location, scale = stats.gumbel_r.fit(x)
        parameters = law.fit(x, **fixed[parent])
        out[parent] = {
            "mean": float(x.mean()),
            "sd": float(x.std(ddof=1)),
            "gumbel": {"location": float(location), "scale": float(scale)},
            "gumbel_ks": float(stats.kstest(x, stats.gumbel_r(location, scale).cdf).statistic),
            "limit": {"law": law.name, "parameters": [float(p) for p in parameters]},
            "limit_ks": float(stats.kstest(x, law(*parameters).cdf).statistic),
        }
    out["theory"] = normal_maximum_theory(per_day)
    return out


def normal_maximum_theory(n: int, mean: float = 5.0) -> dict[str, float]:
    """The maximum of n draws of N(mean, 1): exact moments by quadrature and the limit's location and scales.

    Location: the value exceeded once in n draws. Two scales are in use, the same in the limit: the reciprocal of the
    hazard n * pdf(location), and the step to the value exceeded once in n * e draws.
    """

    def moment(power: int) -> float:
        density = lambda x: x**power * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)  # noqa: E731
        return integrate.quad(density, -10, 12, epsabs=1e-12, limit=400)[0]

    first, location = moment(1), stats.norm.isf(1 / n)
    return {
        "mean": mean + first,
        "sd": math.sqrt(moment(2) - first**2),
        "location": float(mean + location),
        "scale_hazard": float(1 / (n * stats.norm.pdf(location))),
        "scale_quantile": float(stats.norm.isf(1 / (n * math.e)) - location),
    }


def gumbel_moments(location: float = 0.0, scale: float = 1.0) -> dict[str, float]:
    """Mass, mean and variance of a Gumbel density by quadrature."""

    def integral(g: Callable[[float], float]) -> float:
        density = lambda z: math.exp(-z - math.exp(-z))  # noqa: E731
        return integrate.quad(lambda z: g(location + scale * z) * density(z), -6, 60, epsabs=1e-13, limit=400)[0]

    mean = integral(lambda x: x)
    return {"mass": integral(lambda x: 1.0), "mean": mean, "variance": integral(lambda x: (x - mean) ** 2)}


def proof(draws: int = 200_000) -> dict[str, float]:
    """The proof's integral against softmax, and the maximum's law and its independence of the argmax."""
    logits = np.array([-1.0, 0.3, 2.0, -0.4, 1.1])
    softmax = np.exp(logits) / np.exp(logits).sum()
    error = np.abs(winning_probabilities(logits, stats.gumbel_r()) - softmax).max()
    noise = relaxation.gumbel(uniform("proof", draws, 5)).numpy()
    scores = logits + noise
    top, winner = scores.max(-1), scores.argmax(-1)
    bins = np.searchsorted(np.quantile(top, np.linspace(0, 1, 11)[1:-1]), top)
    table = np.histogram2d(bins, winner, bins=(np.arange(11) - 0.5, np.arange(6) - 0.5))[0]
    return {
        "draws": draws,
        "quadrature_error": float(error),
        "maximum_ks_p": float(stats.kstest(top, stats.gumbel_r(np.log(np.exp(logits).sum())).cdf).pvalue),
        "independence_p": float(stats.chi2_contingency(table).pvalue),
    }


def gaussian(draws: int = 200_000, mu: float = 0.7, sigma: float = 1.3) -> dict[str, float]:
    """d/dmu and d/dsigma of E[z^2], z ~ N(mu, sigma): by reparameterisation and by the score function.

    Exact: 2 mu and 2 sigma. Per draw, reparameterisation gives 2 z and 2 z e; the score function z^2 e / sigma and
    z^2 (e^2 - 1) / sigma.
    """
    e = normal("gaussian", draws)
    z = mu + sigma * e
    columns = {
        "path_mu": 2 * z,
        "path_sigma": 2 * z * e,
        "score_mu": z**2 * e / sigma,
        "score_sigma": z**2 * (e**2 - 1) / sigma,
    }
    out: dict[str, float] = {"draws": draws, "mu": mu, "sigma": sigma}
    for name, column in columns.items():
        out[name], out[f"{name}_sd"] = column.mean().item(), column.std().item()
    out["score_mu_sd_exact"] = math.sqrt(mu**4 + 18 * mu**2 * sigma**2 + 15 * sigma**4 - 4 * mu**2 * sigma**2) / sigma
    return out


def temperature(draws: int = 100_000) -> dict[str, Any]:
    """What the temperature does to soft samples of the seven classes and to their float32 gradients.

    For each temperature: the mean largest entry, the mean entropy, the share of samples within 0.01 of a one-hot, and
    the share of gradient rows of straight-through Gumbel that are exactly 0.
    """
    logits = torch.tensor(SEVEN).log().float().expand(draws, 7)
    noise = Stream(0, "temperature", [0]).gumbel(draws, 7)[0]
    arriving = normal("arriving gradient", draws, 7).float()
    temperatures = [10.0**p for p in np.linspace(-3, 3, 25)]
    rows = []
    for t in temperatures:
        soft = relaxation.relax("gumbel_soft", logits, noise, t)
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((relaxation.relax("gumbel_st", leaf, noise, t) * arriving).sum(), leaf)
        rows.append(
            {
                "temperature": t,
                "largest": soft.max(-1).values.mean().item(),
                "entropy": torch.special.entr(soft).sum(-1).mean().item(),
                "near_onehot": (soft.max(-1).values > 0.99).float().mean().item(),
                "zero_rows": (gradient == 0).all(-1).float().mean().item(),
                "norm": gradient.norm(dim=-1).mean().item(),
            }
        )
    return {"draws": draws, "rows": rows}


def dead_rows(temperature: float = 1e-3, draws: int = 100_000) -> float:
    """Share of float32 gradient rows that are exactly 0 with five standard normal logits."""
    logits = normal("dead rows", draws, 5).float().requires_grad_()
    noise = Stream(0, "dead rows noise", [0]).gumbel(draws, 5)[0]
    arriving = normal("dead rows gradient", draws, 5).float()
    value = relaxation.relax("gumbel_st", logits, noise, temperature)
    (gradient,) = torch.autograd.grad((value * arriving).sum(), logits)
    return (gradient == 0).all(-1).float().mean().item()
