"""A small variational autoencoder trained with the reparameterised gradient and with the score function's.

Data: a mixture of eight normal distributions on a ring, so that the expected log-likelihood of the truth is known: no
model exceeds it by more than the noise of the held-out points. The latent has two dimensions, so that the model's own
log-likelihood is an integral over a grid, exact to many digits: the ELBO never exceeds it.

The arms differ in one term: how the encoder's parameters phi get the gradient of E_q[log p(x | z)], where z = m + s e.
Decoder, the closed divergence of encoder and prior, data and noise e are the same, number by number.

- reparameterised: the derivative of log p(x | m + s e)
- score function: log p(x | z) times the derivative of log q(z | x) at a fixed z
- score function, baseline: the same with log p(x | z) - b, where b is the mean over the other rows of the batch

Sources: Kingma and Welling 2014 (arXiv 1312.6114), equations 2, 3 and 10; Williams 1992 (score function).

Shape suffixes: S seeds or draws, B rows of data, L = 2 latent dimensions, X = 2 dimensions of data, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gumbel.facts import uniform
from envs.streams import Stream

ARMS = ("reparameterised", "score function, baseline", "score function")
L, X, HIDDEN = 2, 2, 32
ROWS, LEARNING_RATE = 64, 3e-3
CENTRES, RADIUS, SPREAD = 8, 2.0, 0.35
SHAPES = {
    "encoder": ((X, HIDDEN), (HIDDEN,), (HIDDEN, 2 * L), (2 * L,)),
    "decoder": ((L, HIDDEN), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN, X), (X,), (1,)),
}
"""Weights and biases of the layers in turn; the decoder's last number is the logarithm of its standard deviation."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
Parameters = dict[str, list[Tensor]]


def normal(stream: Stream, *shape: int) -> Tensor:
    """Standard normal numbers [S, *shape]."""
    return torch.special.ndtri(stream.uniform(*shape, dtype=torch.float64)).float()


# ----------------------------------------------------------------------- data
def centres() -> Tensor:
    """[8, X]."""
    angle = torch.arange(CENTRES) * (2 * math.pi / CENTRES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], -1)


def points(stream: Stream, rows: int) -> Tensor:
    """Draws of the mixture, [S, rows, X]."""
    which = stream.integers(CENTRES, rows)
    return centres()[which] + SPREAD * normal(stream, rows, X)


def true_log_density(x: Tensor) -> Tensor:
    """Of points [..., X], [...]."""
    square = (x[..., None, :] - centres()).square().sum(-1) / SPREAD**2
    return torch.logsumexp(-0.5 * square, -1) - math.log(CENTRES) - X * (math.log(SPREAD) + _HALF_LOG_2PI)


# ---------------------------------------------------------------------- model
def initial(seeds: range) -> Parameters:
    """Parameters [S, ...] of each seed: normal weights with variance 1 / inputs, biases zero."""
    result: Parameters = {}
    for name, shapes in SHAPES.items():
        stream = Stream(0, f"vae {name}", seeds)
        result[name] = [
            normal(stream, *shape) / shape[0] ** 0.5 if len(shape) == 2 else torch.zeros(len(seeds), *shape)
            for shape in shapes
        ]
    return result


def _layers(x: Tensor, parameters: list[Tensor]) -> Tensor:
    """tanh layers, the last one linear: [S, B, in] to [S, B, out]."""
    pairs = list(zip(parameters[0::2], parameters[1::2], strict=False))
    for weight, bias in pairs[:-1]:
        x = torch.tanh(torch.baddbmm(bias[:, None], x, weight))
    return torch.baddbmm(pairs[-1][1][:, None], x, pairs[-1][0])


def encode(parameters: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of q(z | x), [S, B, L] each."""
    mean, log_sd = _layers(x, parameters["encoder"]).chunk(2, -1)
    return mean, log_sd


def log_likelihood(parameters: Parameters, z: Tensor, x: Tensor) -> Tensor:
    """log p(x | z), [S, B]."""
    log_sd = parameters["decoder"][-1]
    error = (x - _layers(z, parameters["decoder"][:-1])) / log_sd.exp()[:, None]
    return -(0.5 * error.square() + log_sd[:, None] + _HALF_LOG_2PI).sum(-1)


def divergence(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL(q(z | x) || N(0, 1)), [S, B]."""
    return (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum(-1)


def elbo(parameters: Parameters, x: Tensor, noise: Tensor) -> Tensor:
    """Estimates with one latent a row, [S, B]."""
    mean, log_sd = encode(parameters, x)
    return log_likelihood(parameters, mean + log_sd.exp() * noise, x) - divergence(mean, log_sd)


def surrogate(arm: str, parameters: Parameters, x: Tensor, noise: Tensor) -> Tensor:
    """[S], whose gradient is the arm's estimate of the gradient of the mean ELBO."""
    mean, log_sd = encode(parameters, x)
    z = mean + log_sd.exp() * noise
    if arm == "reparameterised":
        return (log_likelihood(parameters, z, x) - divergence(mean, log_sd)).mean(-1)
    z = z.detach()
    value = log_likelihood(parameters, z, x)
    weight = value.detach()
    if arm == "score function, baseline":
        rows = weight.shape[-1]
        weight = (weight - weight.mean(-1, keepdim=True)) * rows / (rows - 1)
    score = -(0.5 * ((z - mean) / log_sd.exp()).square() + log_sd).sum(-1)
    return (value + weight * score - divergence(mean, log_sd)).mean(-1)


@torch.no_grad()
def log_evidence(parameters: Parameters, x: Tensor, side: int = 81, end: float = 6.0) -> Tensor:
    """log p(x) of the model, [S, B]: the trapezoidal rule on a grid of side x side latents over +-end."""
    axis = torch.linspace(-end, end, side)
    z = torch.cartesian_prod(axis, axis)
    log_weight = -0.5 * z.square().sum(-1) - L * _HALF_LOG_2PI + 2 * math.log(2 * end / (side - 1))
    log_sd = parameters["decoder"][-1]
    mean_SZX = _layers(z.expand(len(log_sd), -1, -1), parameters["decoder"][:-1])
    square_SBZ = torch.cdist(x, mean_SZX, compute_mode="donot_use_mm_for_euclid_dist").square()
    exponent_SBZ = -0.5 * square_SBZ / (2 * log_sd).exp()[:, None]
    return torch.logsumexp(exponent_SBZ + log_weight, -1) - X * (log_sd + _HALF_LOG_2PI)


# ------------------------------------------------------------------- training
def leaves(parameters: Parameters) -> list[Tensor]:
    return [x.requires_grad_() for part in parameters.values() for x in part]


def trained(arm: str, seeds: range, updates: int, every: int = 0) -> tuple[Parameters, list[list[float]]]:
    """A model of each seed after Adam's updates, and its held-out ELBO [records][S] before every `every`-th one."""
    parameters = initial(seeds)
    flat = leaves(parameters)
    optimiser = torch.optim.Adam(flat, LEARNING_RATE)
    data, noise = Stream(0, "vae data", seeds), Stream(0, "vae noise", seeds)
    curve = []
    for update in range(updates + 1):
        if every and update % every == 0:
            curve.append(held_out_elbo(parameters).tolist())
        if update < updates:
            loss = -surrogate(arm, parameters, points(data, ROWS), normal(noise, ROWS, L)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {name: [x.detach() for x in part] for name, part in parameters.items()}, curve


def held_out(rows: int = 500) -> Tensor:
    """Points that no model has seen, the same for all, [rows, X]."""
    return points(Stream(0, "vae held-out data", [0]), rows)[0]


@torch.no_grad()
def held_out_elbo(parameters: Parameters, latents: int = 4) -> Tensor:
    """Mean over the held-out points and `latents` fixed draws of each, [S]."""
    x = held_out().repeat(latents, 1)
    seeds = len(parameters["encoder"][0])
    noise = torch.special.ndtri(uniform("vae held-out noise", len(x), L)).float()
    return elbo(parameters, x.expand(seeds, -1, -1), noise.expand(seeds, -1, -1)).mean(-1)


def gradient_draws(arm: str, parameters: Parameters, seed: int, draws: int, rows: int = ROWS) -> Tensor:
    """Estimates of the encoder's gradient at the model of one seed, [draws, P]: one minibatch, `draws` times noise."""
    model = {name: [x[seed].expand(draws, *x.shape[1:]).clone() for x in part] for name, part in parameters.items()}
    flat = leaves({"encoder": model["encoder"]})
    x = points(Stream(0, "vae gradient data", [seed]), rows).expand(draws, -1, -1)
    value = surrogate(arm, model, x, normal(Stream(0, "vae gradient noise", range(draws)), rows, L))
    return torch.cat([g.flatten(1) for g in torch.autograd.grad(value.sum(), flat)], 1)


def variance(rows: Tensor) -> float:
    """Summed over the parameters, of draws [draws, P]."""
    return rows.double().var(0).sum().item()


def measure(updates: int = 2000, every: int = 50, seeds: int = 5, draws: int = 500) -> dict[str, Any]:
    """Curves of every arm, what the models reach, and the variance of the gradient at the same parameters."""
    range_S, x = range(seeds), held_out()
    arms, models = {}, {}
    for arm in ARMS:
        models[arm], curve = trained(arm, range_S, updates, every)
        evidence = log_evidence(models[arm], x.expand(seeds, -1, -1)).mean(-1)
        arms[arm] = {"elbo": curve, "log_evidence": evidence.tolist()}
    at = {"first update": initial(range_S), "last update": models["reparameterised"]}
    variances = {
        when: {arm: [variance(gradient_draws(arm, model, s, draws)) for s in range_S] for arm in ARMS}
        for when, model in at.items()
    }
    return {
        "updates": updates,
        "every": every,
        "seeds": seeds,
        "rows": ROWS,
        "draws": draws,
        "held_out": len(x),
        "truth": true_log_density(x).mean().item(),
        "arms": arms,
        "gradient_variance": variances,
    }


# -------------------------------------------------------------------- reading
def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def updates_to(result: dict[str, Any], arm: str, level: float) -> int:
    """The first recorded update at which the mean ELBO over seeds of an arm is at least `level`.

    Raises:
        StopIteration: it never is.
    """
    curve = result["arms"][arm]["elbo"]
    return next(i * result["every"] for i, values in enumerate(curve) if mean(values) >= level)
