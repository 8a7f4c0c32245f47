"""Bias, deviation and cost of every gradient estimator on small random tanh networks with K = 5 choices.

Network number i has logits t ~ N(0, 1) and f(x) = v . tanh(W x + b) with 16 hidden units, W ~ N(0, 1/4), b and v ~
N(0, 1); its numbers are row i of one random stream, so any network can be built alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gumbel.facts import uniform
from envs.streams import Stream
from marl.learner import relaxation
from marl.learner.diagnostics import gradient_error as estimator_diagnostics

K, HIDDEN, WEIGHT_SCALE = 5, 16, 0.5

CASES: tuple[tuple[str, float, int], ...] = (
    ("gumbel_soft", 1.0, 0),
    ("gumbel_soft", 0.5, 0),
    ("gumbel_st", 1.0, 0),
    ("gumbel_st", 0.5, 0),
    ("gumbel_st", 0.1, 0),
    ("straight_through", 1.0, 0),
    ("rao_blackwell", 0.5, 1),
    ("rao_blackwell", 0.5, 10),
    ("gapped", 0.7, 0),
    ("gapped", 1.0, 0),
    ("reinmax", 1.0, 0),
    ("reinforce", 1.0, 0),
)
"""Estimator, temperature, inner draws of the conditional noise."""

REFERENCE: dict[str, tuple[str, str]] = {
    "gumbel_soft T 1": ("0.39", "0.97"),
    "gumbel_soft T 0.5": ("0.18", "1.79"),
    "gumbel_st T 1": ("0.20", "0.87"),
    "gumbel_st T 0.5": ("0.02", "1.64"),
    "gumbel_st T 0.1": ("0.09", "4.46"),
    "straight_through T 1": ("0.054", "0.36"),
    "rao_blackwell T 0.5, 1 draw": ("0.025", "1.64"),
    "rao_blackwell T 0.5, 10 draws": ("0.025", "0.86"),
    "gapped T 0.7": ("0.17", "0.82"),
    "gapped T 1": ("0.08", "0.60"),
    "reinmax T 1": ("0.089", ""),
    "reinforce, mean baseline": ("0", "2.63"),
}
"""Bias and deviation as an earlier measurement on an unrecorded random tanh network printed them."""

# Entries that need no noise but the draw itself: expectations are sums over the K choices
_ENUMERABLE = ("straight_through", "gapped", "reinmax", "reinforce")
CLOSEST = 6_529_475
"""The network among the first 9 million whose enumerable entries are nearest to REFERENCE (`closest_network`)."""


class Network(NamedTuple):
    """One or many random networks; leading dimensions free, float64."""

    logits: Tensor  # [..., K]
    weight: Tensor  # [..., HIDDEN, K]
    bias: Tensor  # [..., HIDDEN]
    out: Tensor  # [..., HIDDEN]

    def __call__(self, x: Tensor) -> Tensor:
        """f of choices [..., n, K]: values [..., n]."""
        hidden = torch.tanh(x @ self.weight.transpose(-1, -2) + self.bias[..., None, :])
        return (hidden @ self.out[..., None]).squeeze(-1)


def networks(numbers: Sequence[int]) -> Network:
    """The networks of these numbers, one leading dimension."""
    sizes = (K, HIDDEN * K, HIDDEN, HIDDEN)
    stream = Stream(0, "random tanh network", numbers)
    logits, weight, bias, out = torch.special.ndtri(stream.uniform(sum(sizes), dtype=torch.float64)).split(sizes, -1)
    return Network(logits, WEIGHT_SCALE * weight.reshape(-1, HIDDEN, K), bias, out)


def label(estimator: str, temperature: float, inner: int) -> str:
    """The row's name in every table."""
    if estimator == "reinforce":
        return "reinforce, mean baseline"
    draws = f", {inner} draw{'s' if inner > 1 else ''}" if inner else ""
    return f"{estimator} T {temperature:g}{draws}"


def enumerated(network: Network, estimator: str, temperature: float) -> tuple[Tensor, Tensor]:
    """Relative bias and deviation as sums over the K draws, exact; for the estimators of _ENUMERABLE.

    Noise of 1e3 at one choice draws it for certain, and these estimators see the noise through the draw alone.
    """
    unit = torch.eye(K, dtype=torch.float64)
    logits = network.logits[..., None, :].expand(*network.logits.shape[:-1], K, K)  # [..., draw, K]
    pi, values = network.logits.softmax(-1), network(unit)
    baseline = (pi * values).sum(-1, keepdim=True)
    rows = estimator_diagnostics.gradient_draws(
        estimator, logits, network, 1e3 * unit.expand(1, *logits.shape), temperature, baseline=baseline
    )[0]
    exact = pi * (values - baseline)
    mean = (pi[..., None] * rows).sum(-2)
    variance = (pi * (rows - mean[..., None, :]).square().sum(-1)).sum(-1)
    length = exact.norm(dim=-1)
    return (mean - exact).norm(dim=-1) / length, variance.sqrt() / length


def draws_of(network: Network, estimator: str, temperature: float, inner: int, draws: int) -> tuple[Tensor, Tensor]:
    """Gradient estimates [draws, K] of one network and the exact gradient [K]; every case sees the same noise."""
    rows = []
    pi, values = network.logits.softmax(-1), network(torch.eye(K, dtype=torch.float64))
    baseline = (pi * values).sum(-1)
    for chunk in range(0, draws, 50_000):
        n = min(50_000, draws - chunk)
        noise = relaxation.gumbel(uniform(f"estimators {chunk}", 1, n, K))
        conditional = uniform(f"conditional {chunk}", 1, inner, n, K) if inner else None
        rows.append(
            estimator_diagnostics.gradient_draws(
                estimator, network.logits.expand(n, K), network, noise, temperature, None, conditional, baseline
            )[0]
        )
    return torch.cat(rows), pi * (values - baseline)


def sampled(network: Network, estimator: str, temperature: float, inner: int, draws: int) -> dict[str, float]:
    """`compare_gradients` of one network from many draws."""
    got = estimator_diagnostics.compare_gradients(*draws_of(network, estimator, temperature, inner, draws))
    return {name: value.item() for name, value in got.items()}


def along_exact(network: Network, estimator: str, temperature: float, inner: int, draws: int) -> Tensor:
    """Each estimate's component along the exact gradient, in units of its length, [draws]."""
    rows, exact = draws_of(network, estimator, temperature, inner, draws)
    return rows @ exact / exact.square().sum()


def table(draws: int = 200_000, number: int = CLOSEST) -> dict[str, Any]:
    """Bias and deviation of every case on one network, sampled, and exact where they can be enumerated."""
    network = Network(*(x[0] for x in networks([number])))
    rows = {}
    for case in CASES:
        row: dict[str, Any] = sampled(network, *case, draws)
        if case[0] in _ENUMERABLE:
            bias, sd = enumerated(network, *case[:2])
            row |= {"exact_bias": bias.item(), "exact_sd": sd.item()}
        rows[label(*case)] = row
    return {"draws": draws, "network": number, "probabilities": network.logits.softmax(-1).tolist(), "rows": rows}


def spread(count: int = 200, draws: int = 20_000) -> dict[str, Any]:
    """Quartiles of bias and deviation over the first `count` networks, and how often reinmax has less bias than ST."""
    every, rows = networks(range(count)), {}
    biases = {}
    for case in CASES:
        if case[0] in _ENUMERABLE:
            bias, sd = enumerated(every, *case[:2])
        else:
            got = [sampled(Network(*(x[i] for x in every)), *case, draws) for i in range(count)]
            bias = torch.tensor([r["relative_bias"] for r in got], dtype=torch.float64)
            sd = torch.tensor([r["relative_sd"] for r in got], dtype=torch.float64)
        biases[label(*case)] = bias
        quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        rows[label(*case)] = {"bias": bias.quantile(quartiles).tolist(), "sd": sd.quantile(quartiles).tolist()}
    wins = (biases["reinmax T 1"] < biases["straight_through T 1"]).double().mean().item()
    return {"networks": count, "draws": draws, "rows": rows, "reinmax_less_bias_than_straight_through": wins}


def against_temperature(draws: int = 50_000, number: int = CLOSEST) -> dict[str, Any]:
    """Bias and deviation over temperatures from 0.1 to 10, for the pathwise estimators."""
    network = Network(*(x[0] for x in networks([number])))
    temperatures = [10 ** (p / 8) for p in range(-8, 9)]
    out = {}
    for estimator in relaxation.PATHWISE:
        inner = 10 if estimator == "rao_blackwell" else 0
        rows = [sampled(network, estimator, t, inner, draws // 5 if inner else draws) for t in temperatures]
        out[estimator] = {name: [row[name] for row in rows] for name in ("relative_bias", "relative_sd")}
    return {"draws": draws, "network": number, "temperatures": temperatures, "rows": out}


def closest_network(count: int) -> tuple[int, float]:
    """The network below `count` nearest to REFERENCE on the enumerable entries, and its largest relative difference.

    A difference counts from the end of the interval that rounds to the printed number.
    """
    cases = [(case, REFERENCE[label(*case)]) for case in CASES if case[0] in _ENUMERABLE]
    best = (0, math.inf)
    for start in range(0, count, 10_000):
        chunk, worst = networks(range(start, min(start + 10_000, count))), torch.zeros(())
        for case, printed in cases:
            for got, text in zip(enumerated(chunk, *case[:2]), printed, strict=True):
                if text not in ("", "0"):
                    wanted, rounding = float(text), 0.5 * 10.0 ** -len(text.partition(".")[2])
                    worst = torch.maximum(worst, ((got - wanted).abs() - rounding) / wanted)
        i = int(worst.argmin())
        if worst[i] < best[1]:
            best = (start + i, worst[i].item())
    return best


def timing(device: str = "cpu", repeats: int = 300) -> dict[str, Any]:
    """Microseconds a call, 2 agents x 1024 rows x K choices, float32; one thread on the CPU.

    The first quartile over calls: other work on the machine makes calls longer, never shorter.
    """
    out: dict[str, Any] = {"device": device, "shape": "2 x 1024 x K", "rows": {}}
    for k in (5, 10):
        for name, call in _calls(k, device).items():
            out["rows"].setdefault(name, {})[str(k)] = _microseconds(call, repeats, device)
    return out


def _calls(k: int, device: str) -> dict[str, Callable[[], Any]]:
    """What is timed: noise, sampling, and value plus gradient of every estimator."""
    stream = Stream(0, "timing", range(2), device)
    noise, conditional = stream.gumbel(1024, k), stream.uniform(10 * 1024 * k).view(10, 2, 1024, k)
    logits, arriving = stream.gumbel(1024, k).requires_grad_(), stream.gumbel(1024, k)
    value, onehot = arriving[..., 0], relaxation.sample_onehot(logits, noise)

    def gradient(f: Callable[[], Tensor], arriving: Tensor = arriving) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(f(), logits, arriving)

    def relaxed(estimator: str, inner: int = 0) -> Callable[[], Any]:
        return gradient(lambda: relaxation.relax(estimator, logits, noise, 0.5, None, conditional[:inner]))

    calls: dict[str, Callable[[], Any]] = {
        "Gumbel noise": lambda: stream.gumbel(1024, k),
        "sample_onehot": lambda: relaxation.sample_onehot(logits, noise),
        "greedy_onehot": lambda: relaxation.greedy_onehot(logits),
    }
    for estimator in relaxation.PATHWISE:
        if estimator == "rao_blackwell":
            calls["rao_blackwell, 1 draw"] = relaxed(estimator, 1)
            calls["rao_blackwell, 10 draws"] = relaxed(estimator, 10)
        else:
            calls[estimator] = relaxed(estimator)
    calls["reinforce"] = gradient(lambda: relaxation.reinforce_surrogate(logits, onehot, value), value)
    calls["exact (values given)"] = gradient(lambda: relaxation.exact_surrogate(logits, arriving), value)
    calls["torch's gumbel_softmax, noise in it"] = gradient(
        lambda: torch.nn.functional.gumbel_softmax(logits, 0.5, hard=True)
    )
    return calls


def _microseconds(call: Callable[[], Any], repeats: int, device: str) -> float:
    """First quartile of a call's time; on CUDA of batches of ten, closed by a synchronisation."""
    batch, times = (10, []) if device.startswith("cuda") else (1, [])
    for _ in range(repeats + 20):
        start = time.perf_counter()
        for _ in range(batch):
            call()
        if batch > 1:
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) / batch)
    return round(1e6 * statistics.quantiles(times[20:], n=4)[0], 1)
