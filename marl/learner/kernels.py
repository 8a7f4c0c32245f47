"""The elementwise kernels of the explicit update (explicit_update.py), in two forms of one signature.

The torch form below runs everywhere; the numba form (kernels_numba.py) fuses each into one loop on a CPU. Products
of matrices are torch's in both. `select` chooses. Arguments named out, and the first argument of `hidden`,
`hidden_back`, `adam` and `follow`, are written in place.

Shape suffixes: S replicas, G groups of parameters, n perceptrons of a replica, X = S * n, Y = X, or S where all of a
replica see one input, B rows, I inputs and O outputs of a layer (I counts the bias), Z = O or n * O, W width of a
hidden layer, V = W + 1, H heads, K choices of a head, A = H * K, P parameters of one perceptron, R numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs import streams
from marl.learner.grouped_mlp import EPS

ESTIMATORS = ("gumbel_soft", "gumbel_st", "straight_through", "exact")
"""Those whose gradient `logit_gradient` knows; their codes are their positions."""

NAMES = (
    "uniform", "prepare", "collect", "norms", "adam", "follow", "hidden", "hidden_back", "choose", "soften",
    "logit_gradient", "signal",
)  # fmt: skip


class Kernels:
    """One form: its name, its functions, and how it wants its tensors.

    Args:
        form: "numba" or "torch".
        functions: by name.
        bind: makes of a tensor what the functions take; the memory is shared.
        number: makes of a number what they take.
    """

    def __init__(
        self, form: str, functions: Any, bind: Callable[[Tensor], Any], number: Callable[[float], Any]
    ) -> None:
        self.form, self.bind, self.number = form, bind, number
        for name in NAMES:
            setattr(self, name, functions[name])

    def __getattr__(self, name: str) -> Callable[..., None]:
        raise AttributeError(name)


def select(form: str | None = None) -> Kernels:
    """The kernels of `form`; None: numba's where it can be imported, else torch's."""
    if form != "torch":
        try:
            from marl.learner import kernels_numba
        except ImportError:
            if form == "numba":
                raise
        else:
            return Kernels("numba", vars(kernels_numba), _array, np.float32)
    return Kernels("torch", globals(), lambda x: x.detach(), float)


def _array(x: Tensor) -> Any:
    return x.detach().numpy()


# ------------------------------------------------------------------- numbers
def uniform(key_S: Tensor, counter: int, words_R: Tensor, out_SR: Tensor) -> None:
    """Numbers in (0, 1) of a stream at `counter`: those of `envs.streams.Stream.uniform`, in the order of `words_R`."""
    start_S = streams.mix(key_S + key_S.new_tensor(counter) * streams._GOLDEN)
    out_SR.copy_(streams.uniform_from(streams.mix(start_S[:, None] + words_R)))


# ---------------------------------------------------------------- parameters
def prepare(
    flat_SGP: Tensor,
    groups_n: Tensor,
    seen_GI: Tensor,
    start: int,
    centre: bool,
    out_YIZ: Tensor,
    first: int,
    shared: bool,
) -> None:
    """One layer's parameters in the layout of the products, from row `first` on.

    Args:
        flat_SGP: parameters; the layer's [I, O], the bias last, begin at `start`.
        groups_n: the group of every perceptron.
        seen_GI: 0 where a group does not see an input, else 1.
        centre: remove each input's mean over the outputs (grouped_mlp.py).
        shared: perceptrons of a replica lie side by side, [S, I, n * O], else [S * n, I, O].
    """
    block = _block(flat_SGP, groups_n, start, out_YIZ, shared) * seen_GI[groups_n, :, None]
    if centre:
        block = block - block.mean(-1, keepdim=True)
    block = block.transpose(1, 2).flatten(2) if shared else block.flatten(0, 1)
    out_YIZ[first : first + len(block)] = block


def collect(
    grad_YIZ: Tensor,
    groups_n: Tensor,
    seen_GI: Tensor,
    start: int,
    centre: bool,
    flat_SGP: Tensor,
    first: int,
    shared: bool,
) -> None:
    """The transpose of `prepare`: add a layer's gradient to the flat one."""
    count, replicas = len(groups_n), len(flat_SGP)
    grad = grad_YIZ[first : first + (replicas if shared else replicas * count)]
    grad = grad.unflatten(2, (count, -1)).transpose(1, 2) if shared else grad.unflatten(0, (replicas, count))
    if centre:
        grad = grad - grad.mean(-1, keepdim=True)
    grad = (grad * seen_GI[groups_n, :, None]).flatten(2)
    flat_SGP[:, :, start : start + grad.shape[2]].index_add_(1, groups_n, grad)


def _block(flat_SGP: Tensor, groups_n: Tensor, start: int, like_YIZ: Tensor, shared: bool) -> Tensor:
    """[S, n, I, O]"""
    inputs, width = like_YIZ.shape[1], like_YIZ.shape[2] // (len(groups_n) if shared else 1)
    return flat_SGP[:, :, start : start + inputs * width].index_select(1, groups_n).unflatten(2, (inputs, width))


def norms(gradient_SGP: Tensor, norm_SG: Tensor) -> None:
    """Euclidean norm of every group's gradient."""
    torch.linalg.vector_norm(gradient_SGP, dim=2, out=norm_SG)


def adam(
    flat_SGP: Tensor,
    gradient_SGP: Tensor,
    mean_SGP: Tensor,
    square_SGP: Tensor,
    norm_SG: Tensor,
    limit: float,
    size: float,
    root: float,
    share_G: Tensor,
) -> None:
    """Clip to the norm `limit` and take Adam's step: betas .9 and .999, epsilon 1e-8.

    Args:
        size: lr / (1 - .9^t).
        root: (1 - .999^t)^(-1/2).
        share_G: part of each group's step that is taken.

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, with the corrections as torch.optim.Adam applies them.
    """
    gradient_SGP.mul_((limit / (norm_SG + 1e-6)).clamp(max=1.0)[..., None])
    mean_SGP.mul_(0.9).add_(gradient_SGP, alpha=1 - 0.9)
    square_SGP.mul_(0.999).addcmul_(gradient_SGP, gradient_SGP, value=1 - 0.999)
    denominator = square_SGP.sqrt().mul_(root).add_(1e-8)
    flat_SGP.sub_((mean_SGP / denominator).mul_(size * share_G[:, None]))


def follow(target_SGP: Tensor, flat_SGP: Tensor, tau: float) -> None:
    """Targets move by the share `tau`."""
    target_SGP.lerp_(flat_SGP, tau)


# ------------------------------------------------------------- hidden layers
def hidden(pre_XWB: Tensor, scale_XB: Tensor, out_XVB: Tensor, norm: bool) -> None:
    """ReLU of the (normalised, in place) pre-activation; the last row of `out_XVB` is 1 and stays so."""
    if norm:
        torch.mul(pre_XWB, pre_XWB, out=out_XVB[:, :-1])
        torch.mean(out_XVB[:, :-1], 1, out=scale_XB)
        scale_XB.add_(EPS).rsqrt_()
        pre_XWB.mul_(scale_XB[:, None])
    torch.clamp(pre_XWB, min=0.0, out=out_XVB[:, :-1])


def hidden_back(grad_XWB: Tensor, pre_XWB: Tensor, scale_XB: Tensor, out_XVB: Tensor, norm: bool) -> None:
    """The gradient before `hidden` from that behind it, in place; derived in grouped_mlp.py."""
    out_XWB = out_XVB[:, :-1]
    along_X1B = (grad_XWB * out_XWB).sum(1, keepdim=True) if norm else None
    torch.ops.aten.threshold_backward(grad_XWB, out_XWB, 0.0, grad_input=grad_XWB)
    if along_X1B is not None:
        grad_XWB.addcmul_(pre_XWB, along_X1B, value=-1.0 / grad_XWB.shape[1]).mul_(scale_XB[:, None])


# ------------------------------------------------------------------- choices
def choose(logits_XAB: Tensor, noise_XAB: Tensor, allowed_XAB: Tensor, choices: int, out_XAB: Tensor) -> None:
    """One-hots of the largest logit plus noise of every head, 0 where a head has nothing allowed."""
    scores = torch.where(allowed_XAB, logits_XAB + noise_XAB, -math.inf).unflatten(1, (-1, choices))
    index = scores.max(2, keepdim=True).indices
    out_XAB.zero_().unflatten(1, (-1, choices)).scatter_(2, index, 1.0)
    out_XAB.mul_(allowed_XAB)


def soften(
    logits_XAB: Tensor,
    noise_XAB: Tensor,
    allowed_XAB: Tensor,
    temperature: float,
    code_H: Tensor,
    action_XAB: Tensor,
    soft_XAB: Tensor,
) -> None:
    """The probabilities in whose Jacobian every head's estimator has its gradient (marl/learner/relaxation.py).

    Where the estimator is gumbel_soft they are the action too.
    """
    size = logits_XAB.shape[1] // len(code_H)
    for h, code in enumerate(code_H.tolist()):
        part = slice(h * size, (h + 1) * size)
        scores = logits_XAB[:, part] + noise_XAB[:, part] if code < 2 else logits_XAB[:, part]
        scores = scores / temperature if code < 3 else scores
        allowed = allowed_XAB[:, part]
        soft_XAB[:, part] = torch.softmax(torch.where(allowed, scores, -1e30), 1) * allowed
        if code == 0:
            action_XAB[:, part] = soft_XAB[:, part]


def logit_gradient(
    grad_XAB: Tensor,
    values_XAB: Tensor,
    soft_XAB: Tensor,
    logits_XAB: Tensor,
    allowed_XAB: Tensor,
    weight_XB: Tensor,
    penalty: float,
    temperature: float,
    code_H: Tensor,
    out_XAB: Tensor,
) -> None:
    """Gradient of the actor loss at the logits, the bonus left out: J(soft) g / T, and the logit penalty's.

    Args:
        grad_XAB: gradient of the loss at the action.
        values_XAB: value of every choice, of heads whose estimator is exact: there g = -weight * value and T = 1.
        weight_XB: of every row in the mean over the batch.
    """
    size = logits_XAB.shape[1] // len(code_H)
    for h, code in enumerate(code_H.tolist()):
        part = slice(h * size, (h + 1) * size)
        g = -weight_XB[:, None] * values_XAB[:, part] if code == 3 else grad_XAB[:, part]
        soft = soft_XAB[:, part]
        heat = 1.0 if code == 3 else 1.0 / temperature
        out_XAB[:, part] = soft * (g - (soft * g).sum(1, keepdim=True)) * heat
    count_X1B = allowed_XAB.sum(1, keepdim=True).clamp(min=1)
    out_XAB.add_(logits_XAB * (2.0 * penalty * weight_XB[:, None] / count_X1B)).mul_(allowed_XAB)


def signal(
    logits_XAB: Tensor, agents: int, n: int, start: int, size: int, k: float, weight: float, out_XAB: Tensor
) -> None:
    """Add the gradient of minus the signalling bonus (`losses.signalling_bonus`) of agent n's head at `start`."""
    part = slice(start, start + size)
    log_p = torch.log_softmax(logits_XAB[n::agents, part], 1)
    p = log_p.exp()
    h = k * log_p - p.mean(2, keepdim=True).clamp(min=1e-12).log()
    gradient = p * (h - (p * h).sum(1, keepdim=True))
    out_XAB[n::agents, part] -= weight / logits_XAB.shape[2] * gradient
