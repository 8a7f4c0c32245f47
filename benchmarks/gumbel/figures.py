"""The figures of docs/gumbel.md, drawn from the numbers of `python -m benchmarks.gumbel`; each returns its Figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.gumbel import estimators, facts
from benchmarks.gumbel import vae as models
from marl.learner import relaxation

# Okabe and Ito's palette: told apart by the colour-blind and in grey
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = dict(zip(relaxation.PATHWISE, (ORANGE, RED, GREEN, BLUE, SKY, PINK), strict=True))
NAMES = {
    "gumbel_soft": "Gumbel-softmax (soft)",
    "gumbel_st": "straight-through Gumbel",
    "straight_through": "straight-through",
    "rao_blackwell": "Rao-Blackwell, 10 draws",
    "gapped": "gapped",
    "reinmax": "ReinMax",
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 140,
}


def maxima(numbers: dict[str, Any]) -> Figure:
    """Daily maxima of normal, Pareto and Beta draws: where the Gumbel law fits and where it does not."""
    result = numbers["maxima"]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    titles = {"normal": "normal N(5, 1)", "pareto": "Pareto, index 3", "beta": "Beta(2, 2)"}
    laws = {"pareto": ("Fréchet fit", stats.invweibull), "beta": ("Weibull fit", stats.weibull_max)}
    for axis, (parent, title) in zip(axes, titles.items(), strict=True):
        sample, row = facts.daily_maxima(parent, result["days"], result["per_day"]), result[parent]
        low, high = sample.min(), np.quantile(sample, 0.995 if parent == "pareto" else 1.0)
        axis.hist(sample, np.linspace(low, high, 50), density=True, color="#CFCFCF", label=f"{result['days']:,} maxima")
        x = np.linspace(low - 0.05 * (high - low), high, 400)
        gumbel = stats.gumbel_r(row["gumbel"]["location"], row["gumbel"]["scale"])
        axis.plot(x, gumbel.pdf(x), color=RED, lw=1.6, label=f"Gumbel fit (KS {row['gumbel_ks']:.3f})")
        if parent == "normal":
            theory = result["theory"]
            law = stats.gumbel_r(theory["location"], theory["scale_quantile"])
            axis.plot(x, law.pdf(x), color=BLACK, lw=1.2, ls="--", label="Gumbel limit, theory")
        else:
            name, law = laws[parent]
            limit = law(*row["limit"]["parameters"])
            axis.plot(x, limit.pdf(x), color=BLUE, lw=1.6, label=f"{name} (KS {row['limit_ks']:.3f})")
        axis.set(title=f"largest of {result['per_day']} draws: {title}", xlabel="daily maximum", yticks=[])
        axis.set_ylim(0, axis.get_ylim()[1] * 1.15)
        axis.legend(loc="upper left" if parent == "beta" else "upper right")
    axes[0].set_ylabel("density")
    return figure


def seven_classes(numbers: dict[str, Any]) -> Figure:
    """Frequencies of the argmax of log-probability plus noise, with the exact probabilities as dots."""
    result = numbers["seven_classes"]
    target, classes = np.array(result["probabilities"]), np.arange(7)
    panels = {
        "noise as it comes": ("gumbel", "normal", "uniform"),
        "noise of equal variance": ("gumbel", "normal, matched", "uniform, matched"),
    }
    labels = {"gumbel": "Gumbel", "normal": "normal N(0, 1)", "uniform": "uniform U(0, 1)"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
    for axis, (title, noises) in zip(axes, panels.items(), strict=True):
        drawn = numbers["direct"]["ways"]["inverse distribution function"]["sampled"]
        axis.bar(classes - 0.3, drawn, 0.18, color=BLUE, label="no noise: drawn directly")
        for i, (noise, colour) in enumerate(zip(noises, (GREEN, ORANGE, SKY), strict=True)):
            row = result["noises"][noise]
            name = labels.get(noise, noise.replace(", matched", ", scaled"))
            x = classes + 0.2 * i - 0.1
            label = f"{name}: total variation {abs(row['total_variation']):.3f}"
            axis.bar(x, row["sampled"], 0.18, color=colour, label=label)
            axis.plot(x, row["exact"], "o", ms=2.6, color=BLACK, label="exact, by quadrature" if i == 2 else None)
        for k in classes:
            axis.plot([k - 0.4, k + 0.4], [target[k]] * 2, color=BLACK, lw=1.4, label="wanted" if k == 0 else None)
        axis.set(title=title, xlabel="class", xticks=classes, xticklabels=[str(k + 1) for k in classes])
        axis.grid(axis="x", visible=False)
        axis.legend(loc="upper left")
    axes[0].set_ylabel("probability of winning")
    return figure


def gumbel_max(numbers: dict[str, Any]) -> Figure:
    """Perturbed logits, the law of their maximum, and the winners' shares."""
    logits = np.array([-1.0, 0.3, 2.0, -0.4, 1.1])
    colours, x = (ORANGE, SKY, GREEN, BLUE, PINK), np.linspace(-4, 9, 500)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=(1.6, 1))
    for k, (t, colour) in enumerate(zip(logits, colours, strict=True)):
        left.plot(x, stats.gumbel_r.pdf(x - t), color=colour, lw=1.4, label=f"$t_{k + 1} + G_{k + 1}$, $t = {t:g}$")
    top = math.log(np.exp(logits).sum())
    left.plot(x, stats.gumbel_r.pdf(x - top), color=BLACK, lw=2, label=rf"maximum: $\log\sum e^{{t}} = {top:.2f}$")
    left.set(title="every perturbed logit is a shifted Gumbel, and so is their maximum", xlabel="value", yticks=[])
    left.set_ylabel("density")
    left.legend(loc="upper right")
    draws = numbers["proof"]["draws"]
    noise = relaxation.gumbel(facts.uniform("proof", draws, 5))
    shares = relaxation.sample_onehot(torch.tensor(logits).expand(draws, 5), noise).mean(0)
    right.bar(range(5), shares.tolist(), color=colours, width=0.7, label="share of wins")
    softmax = np.exp(logits - top)
    right.hlines(softmax, np.arange(5) - 0.42, np.arange(5) + 0.42, color=BLACK, lw=1.8, label="softmax(t)")
    right.set(title=f"who wins, {draws:,} draws", xlabel="choice", xticks=range(5))
    right.set_xticklabels([str(k + 1) for k in range(5)])
    right.grid(axis="x", visible=False)
    right.legend(loc="upper left")
    return figure


def temperature(numbers: dict[str, Any]) -> Figure:
    """Soft samples of three classes at four temperatures; what the temperature does to samples and gradients."""
    result = numbers["temperature"]["rows"]
    figure = plt.figure(figsize=(10, 5.6))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().expand(600, 3)
    noise = relaxation.gumbel(facts.uniform("simplex", 600, 3))
    corners = np.array([[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]])
    winner = relaxation.sample_onehot(logits, noise).argmax(-1).numpy()
    for axis, t in zip(top.subplots(1, 4), (0.1, 0.5, 1.0, 5.0), strict=True):
        points = relaxation.relax("gumbel_soft", logits, noise, t).numpy() @ corners
        axis.plot(*corners[[0, 1, 2, 0]].T, color=BLACK, lw=0.8)
        axis.scatter(*points.T, s=3, c=np.array([ORANGE, SKY, GREEN])[winner], alpha=0.6, lw=0)
        for corner, name in zip(corners * 1.1 - 0.05, ("0.5", "0.3", "0.2"), strict=True):
            axis.text(*corner, name, ha="center", va="center", fontsize=8)
        axis.set(title=f"T = {t:g}", aspect="equal")
        axis.axis("off")
    t = [row["temperature"] for row in result]
    samples, gradients = bottom.subplots(1, 2)
    samples.plot(t, [row["largest"] for row in result], color=BLUE, label="mean largest entry")
    samples.plot(t, [row["near_onehot"] for row in result], color=GREEN, label="share near a one-hot")
    entropy = [row["entropy"] / math.log(7) for row in result]
    samples.plot(t, entropy, color=ORANGE, label="mean entropy / ln 7")
    samples.set(title="soft samples of the seven classes", xscale="log", xlabel="temperature")
    samples.legend(loc="center right")
    gradients.plot(t, [row["zero_rows"] for row in result], color=RED, label="share of exactly zero rows, float32")
    gradients.set(title="straight-through Gumbel gradients", xscale="log", xlabel="temperature", ylim=(-0.03, 1.03))
    norm = gradients.twinx()
    norm.plot(t, [row["norm"] for row in result], color=BLACK, ls="--", label="mean length (right)")
    norm.set(yscale="log")
    norm.grid(visible=False)
    norm.spines["right"].set_visible(True)
    handles = [*gradients.get_lines(), *norm.get_lines()]
    labels = [str(line.get_label()) for line in handles]
    gradients.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.27, 0.08))
    return figure


def bias_and_deviation(numbers: dict[str, Any]) -> Figure:
    """Relative bias against relative deviation: curves over temperature, and the spread over many networks."""
    curves, rows = numbers["against_temperature"], numbers["estimators"]["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
    temperatures = np.array(curves["temperatures"])
    for estimator, row in curves["rows"].items():
        sd, bias = np.array(row["relative_sd"]), np.array(row["relative_bias"])
        left.plot(sd, bias, color=COLOURS[estimator], lw=1.3, marker=".", ms=3, label=NAMES[estimator])
        for mark, shape in ((0.1, "v"), (1.0, "o"), (10.0, "^")):
            i = int(np.abs(temperatures - mark).argmin())
            left.plot(sd[i], bias[i], shape, color=COLOURS[estimator], ms=6)
    reinforce = rows["reinforce, mean baseline"]
    left.plot(reinforce["relative_sd"], 0, "*", color=BLACK, ms=10, label="REINFORCE, mean baseline")
    left.plot([], [], "v", color="grey", label="T = 0.1")
    left.plot([], [], "o", color="grey", label="T = 1")
    left.plot([], [], "^", color="grey", label="T = 10")
    left.set(title="one network, T from 0.1 to 10", xscale="log", xlim=(0.004, 6), ylim=(-0.03, 1.03))
    left.set(xlabel="standard deviation / |exact gradient|", ylabel="bias / |exact gradient|")
    left.legend(loc="lower left")
    _spread(right, numbers["spread"])
    return figure


def _spread(axis: Axes, result: dict[str, Any]) -> None:
    """Median and quartiles over networks of bias and deviation, one row a case."""
    names = list(result["rows"])[::-1]
    for y, name in enumerate(names):
        for key, colour, shift in (("bias", RED, 0.13), ("sd", BLUE, -0.13)):
            low, middle, high = result["rows"][name][key]
            axis.plot([max(low, 1e-2), max(high, 1e-2)], [y + shift] * 2, color=colour, lw=2.4, alpha=0.5)
            if middle > 1e-2:
                axis.plot(middle, y + shift, "o", color=colour, ms=4)
    axis.text(1.05e-2, 0.13, "bias 0", color=RED, va="center", fontsize=8)
    axis.plot([], [], "o-", color=RED, label="bias")
    axis.plot([], [], "o-", color=BLUE, label="standard deviation")
    axis.set(title=f"{result['networks']} networks: median and quartiles", xscale="log", xlim=(1e-2, 10))
    axis.set(xlabel="relative to |exact gradient|", yticks=range(len(names)), yticklabels=names)
    axis.legend(loc="upper left")


def reparameterisation(numbers: dict[str, Any]) -> Figure:
    """Single-draw gradient estimates: through the noise against the score function, Gaussian and categorical."""
    result = numbers["gaussian"]
    mu, sigma, draws = result["mu"], result["sigma"], result["draws"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    e = facts.normal("gaussian", draws)
    z = mu + sigma * e
    panels = {"path_mu": (2 * z, "reparameterised", GREEN), "score_mu": (z**2 * e / sigma, "score function", ORANGE)}
    for key, (sample, name, colour) in panels.items():
        label = f"{name}: sd {result[key + '_sd']:.2f}"
        left.hist(sample.numpy(), np.linspace(-16, 24, 161), density=True, color=colour, alpha=0.6, label=label)
    left.axvline(2 * mu, color=BLACK, lw=1.2, label=rf"exact, $2\mu = {2 * mu:g}$")
    left.set(title=r"Gaussian: single-draw estimates of $\partial\,E[z^2]/\partial\mu$", xlabel="estimate")
    left.set(ylabel="density", yscale="log", ylim=(1e-4, 3))
    left.legend(loc="upper right")

    network = estimators.Network(*(x[0] for x in estimators.networks([numbers["estimators"]["network"]])))
    cases: tuple[tuple[str, float, str], ...] = (
        ("gumbel_st", 0.5, RED),
        ("rao_blackwell", 0.5, BLUE),
        ("straight_through", 1.0, GREEN),
        ("reinforce", 1.0, BLACK),
    )
    for estimator, t, colour in cases:
        along = estimators.along_exact(network, estimator, t, 10 if estimator == "rao_blackwell" else 0, 20_000)
        label = f"{NAMES[estimator]}, T = {t:g}" if estimator in NAMES else "REINFORCE, mean baseline"
        right.ecdf(along.numpy(), color=colour, lw=1.4, label=label)
    right.axvline(1, color="grey", lw=1.2, ls="--", label="exact")
    right.set(title="categorical: single-draw estimates along the exact gradient", xlim=(-1.5, 8))
    right.set(xlabel="component / |exact gradient|", ylabel="share of estimates below")
    right.legend(loc="lower right")
    return figure


def vae(numbers: dict[str, Any]) -> Figure:
    """Held-out ELBO against updates, and the variance of the encoder's gradient at the same parameters."""
    result = numbers["vae"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1.6, 1))
    colours = dict(zip(models.ARMS, (GREEN, BLUE, ORANGE), strict=True))
    for arm, colour in colours.items():
        curve = np.array(result["arms"][arm]["elbo"])
        updates = result["every"] * np.arange(len(curve))
        left.plot(updates, curve, color=colour, lw=0.6, alpha=0.35)
        left.plot(updates, curve.mean(1), color=colour, lw=1.8, label=arm)
    best = models.mean(result["arms"]["reparameterised"]["log_evidence"])
    left.axhline(result["truth"], color=BLACK, lw=1.2, label="log-density of the truth")
    left.axhline(best, color=BLACK, lw=1.2, ls="--", label="log-likelihood, reparameterised")
    left.set(title=f"held-out ELBO, {result['seeds']} seeds and their mean", xlabel="updates", ylabel="nats a point")
    left.set(ylim=(-4.1, -2.6), xlim=(0, result["updates"]))
    left.legend(loc="lower right", ncols=2)
    for i, by_arm in enumerate(result["gradient_variance"].values()):
        for j, (arm, colour) in enumerate(colours.items()):
            x, values = i + 0.27 * (j - 1), by_arm[arm]
            right.bar(x, models.mean(values), 0.25, color=colour)
            right.plot([x] * len(values), values, "o", ms=2.5, color=BLACK)
    right.set(title="variance of one minibatch's gradient, encoder", yscale="log", xticks=range(2))
    right.set_xticklabels([f"at the {name}" for name in result["gradient_variance"]])
    right.grid(axis="x", visible=False)
    return figure


FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "gumbel_max": gumbel_max,
    "maxima": maxima,
    "seven_classes": seven_classes,
    "temperature": temperature,
    "bias_and_deviation": bias_and_deviation,
    "reparameterisation": reparameterisation,
    "vae": vae,
}
