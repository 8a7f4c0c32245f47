"""The elementwise kernels of the explicit update (explicit_update.py), in two forms of one signature.

The torch form below runs everywhere; the numba form (kernels_numba.py) fuses each into one loop on a CPU. Products
of matrices are torch's in both. `select` chooses. Arguments named out, and the first argument of `hidden`,
`hidden_back`, `step` and `follow`, are written in place.

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
from marl.learner.networks.grouped_mlp import EPS

ESTIMATORS = ("gumbel_soft", "gumbel_st", "straight_through", "exact")
"""Those whose gradient `logit_gradient` knows; their codes are their positions."""

NAMES = (
    "uniform", "gather", "plan", "prepare", "step", "follow", "hidden", "hidden_back", "outer_back", "error", "choose",
    "relabel", "differ", "soften", "logit_gradient", "signal",
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
            from marl.learner.explicit import kernels_numba
        except ImportError:
            if form == "numba":
                raise
        else:
            return Kernels("numba", vars(kernels_numba), _array, np.float32)
    return Kernels("torch", globals(), lambda x: x.detach(), float)


def _array(x: Tensor) -> Any:
    return x.detach().numpy()


# ------------------------------------------------------------------- numbers
def uniform(key_S: Tensor, counter: int, words_R: Tensor, out_L: Tensor, start: int, step: int, count: int) -> None:
    """Numbers in (0, 1) of a stream's next `count` draws after `counter`: those of `envs.streams.Stream.uniform`.

    Args:
        words_R: what tells the numbers of a draw apart, in the order in which they are wanted.
        out_L: draw u begins at start + u * step.
    """
    counter_U = counter + torch.arange(1, count + 1)
    origin_US = streams.mix(key_S + streams._GOLDEN * counter_U[:, None])
    size = len(key_S) * len(words_R)
    for u, origin_S in enumerate(origin_US):
        numbers = streams.uniform_from(streams.mix(origin_S[:, None] + words_R))
        out_L[start + u * step : start + u * step + size] = numbers.flatten()


gather = None  # only numba's: torch gathers by `Replay.gather`


# ---------------------------------------------------------------- parameters
Plan = tuple[Tensor, Tensor, Tensor, list[tuple[int, int, int]]]


def plan(jobs: list[Any], memory: Tensor) -> Plan:
    """The parameters that move together, as the other functions take them.

    Args:
        jobs: of each layer and set of perceptrons: shape of the flat parameters; group of every perceptron, [n]; 0
            where a group does not see an input, else 1, [G, I]; where the layer's [I, O] begins in the parameters, the
            bias last; whether each input's mean over the outputs is removed (grouped_mlp.py); its place in the layout
            of the products, [Y, I, Z]; the first row there; whether perceptrons of a replica lie side by side.
        memory: where all those places are.

    Returns:
        Of every number that moves its place in the parameters, int64 [L], in the memory, int64 [L], and 0 or 1 by
        which it is multiplied, [L]; and the layers that are centred: where they begin, inputs and outputs.
    """
    place_L = torch.arange(memory.numel())
    of, at, keep, centred = [], [], [], set()
    for (replicas, groups, size), groups_n, seen_GI, start, centre, out_YIZ, first, shared in jobs:
        count, inputs = len(groups_n), out_YIZ.shape[1]
        width = out_YIZ.shape[2] // (count if shared else 1)
        if centre:
            centred.add((start, inputs, width))
        number = torch.arange(replicas * groups * size).view(replicas, groups, size)
        of.append(_block(number, groups_n, start, inputs, width))
        into = place_L.as_strided(out_YIZ.shape, out_YIZ.stride(), out_YIZ.storage_offset() - memory.storage_offset())
        into = into[first : first + (replicas if shared else replicas * count)]
        into = into.unflatten(2, (count, -1)).transpose(1, 2) if shared else into.unflatten(0, (replicas, count))
        at.append(into)
        keep.append(seen_GI[groups_n, :, None].expand(into.shape))
    from_L, at_L, keep_L = (torch.cat([x.flatten() for x in xs]) for xs in (of, at, keep))
    return from_L, at_L, keep_L, sorted(centred)


def _block(flat_SGP: Tensor, groups_n: Tensor, start: int, inputs: int, width: int) -> Tensor:
    """A layer of some perceptrons, [S, n, I, O]."""
    layer_SnP = flat_SGP[:, :, start : start + inputs * width].index_select(1, groups_n)
    return layer_SnP.view(*layer_SnP.shape[:2], inputs, width)


def _centre(flat_SGP: Tensor, layers: list[tuple[int, int, int]]) -> None:
    """Every input's mean over the outputs off, in place."""
    for start, inputs, width in layers:
        block = flat_SGP[:, :, start : start + inputs * width].unflatten(2, (inputs, width))
        block.sub_(block.mean(-1, keepdim=True))


def prepare(flat_SGP: Tensor, jobs: Plan, memory_L: Tensor) -> None:
    """Parameters into the layout of the products."""
    from_L, at_L, keep_L, layers = jobs
    centred_SGP = flat_SGP.clone()
    _centre(centred_SGP, layers)
    memory_L.index_copy_(0, at_L, centred_SGP.view(-1).index_select(0, from_L).mul_(keep_L))


def _collect(flat_SGP: Tensor, jobs: Plan, memory_L: Tensor) -> None:
    """The transpose of `prepare`: the flat gradient."""
    from_L, at_L, keep_L, layers = jobs
    flat_SGP.zero_().view(-1).index_add_(0, from_L, memory_L.index_select(0, at_L).mul_(keep_L))
    _centre(flat_SGP, layers)


def step(
    flat_SGP: Tensor,
    gradient_SGP: Tensor,
    mean_SGP: Tensor,
    square_SGP: Tensor,
    norm_SG: Tensor,
    limit: float,
    size: float,
    root: float,
    share_G: Tensor,
    jobs: Plan,
    from_L: Tensor,
    again: Plan,
    memory_L: Tensor,
) -> bool:
    """Collect the gradient, clip every group's to the norm `limit` and take Adam's step: betas .9, .999, epsilon 1e-8.

    Args:
        size: lr / (1 - .9^t).
        root: (1 - .999^t)^(-1/2).
        share_G: part of each group's step that is taken.
        jobs, from_L: of the gradient in the layout of the products.
        again, memory_L: of the weights that are made from these parameters.

    Returns:
        Whether all norms are finite, which are left in `norm_SG`; where not, nothing is applied.

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, with the corrections as torch.optim.Adam applies them.
    """
    _collect(gradient_SGP, jobs, from_L)
    torch.linalg.vector_norm(gradient_SGP, dim=2, out=norm_SG)
    if not math.isfinite(norm_SG.sum().item()):
        return False
    gradient_SGP.mul_((limit / (norm_SG + 1e-6)).clamp(max=1.0)[..., None])
    mean_SGP.mul_(0.9).add_(gradient_SGP, alpha=1 - 0.9)
    square_SGP.mul_(0.999).addcmul_(gradient_SGP, gradient_SGP, value=1 - 0.999)
    denominator = torch.sqrt(square_SGP, out=gradient_SGP).mul_(root).add_(1e-8)
    flat_SGP.sub_(torch.div(mean_SGP, denominator, out=denominator).mul_(size * share_G[:, None]))
    prepare(flat_SGP, again, memory_L)
    return True


def follow(target_SGP: Tensor, flat_SGP: Tensor, tau: float, again: Plan, memory_L: Tensor) -> None:
    """Targets move by the share `tau`; the weights made from them as in `step`."""
    target_SGP.lerp_(flat_SGP, tau)
    prepare(target_SGP, again, memory_L)


# ------------------------------------------------------------- hidden layers
def hidden(pre_XWB: Tensor, scale_XB: Tensor, out_XVB: Tensor, norm: bool) -> None:
    """ReLU of the (normalised, in place) pre-activation; the last row of `out_XVB` is 1 and stays so."""
    if norm:
        torch.sum(pre_XWB * pre_XWB, 1, out=scale_XB)
        scale_XB.div_(pre_XWB.shape[1]).add_(EPS).rsqrt_()
        pre_XWB.mul_(scale_XB[:, None])
    torch.clamp(pre_XWB, min=0.0, out=out_XVB[:, :-1])


def hidden_back(grad_XWB: Tensor, pre_XWB: Tensor, scale_XB: Tensor, out_XVB: Tensor, norm: bool) -> None:
    """The gradient before `hidden` from that behind it, in place; derived in grouped_mlp.py."""
    out_XWB = out_XVB[:, :-1]
    along_X1B = (grad_XWB * out_XWB).sum(1, keepdim=True) if norm else None
    torch.ops.aten.threshold_backward(grad_XWB, out_XWB, 0.0, grad_input=grad_XWB)
    if along_X1B is not None:
        grad_XWB.addcmul_(pre_XWB, along_X1B, value=-1.0 / grad_XWB.shape[1]).mul_(scale_XB[:, None])


def outer_back(
    weight_XV1: Tensor,
    slope_X1B: Tensor,
    grad_XWB: Tensor,
    pre_XWB: Tensor,
    scale_XB: Tensor,
    out_XVB: Tensor,
    norm: bool,
) -> None:
    """`hidden_back` below a layer of one output, whose gradient is `slope_X1B`."""
    torch.mul(weight_XV1[:, :-1], slope_X1B, out=grad_XWB)
    hidden_back(grad_XWB, pre_XWB, scale_XB, out_XVB, norm)


# -------------------------------------------------------------------- losses
def error(value_2CSNB: Tensor, reward_SNB: Tensor, discount_SNB: Tensor, weight_SNB: Tensor, out_CSNB: Tensor) -> None:
    """Gradient of the critic loss, sum of weight (q - y)^2, at the values: 2 weight (q - r - discount min_c Q'_c)."""
    q_CSNB, next_CSNB = value_2CSNB
    y_SNB = torch.amin(next_CSNB, 0).mul_(discount_SNB).add_(reward_SNB)
    torch.sub(q_CSNB, y_SNB, out=out_CSNB).mul_(weight_SNB).mul_(2.0)


# ------------------------------------------------------------------- choices
def choose(logits_XAB: Tensor, noise_XAB: Tensor, allowed_XAB: Tensor, choices: int, out_XAB: Tensor) -> None:
    """One-hots of the largest logit plus noise of every head, 0 where a head has nothing allowed."""
    scores = torch.where(allowed_XAB, logits_XAB + noise_XAB, -math.inf).unflatten(1, (-1, choices))
    index = scores.max(2, keepdim=True).indices
    out_XAB.zero_().unflatten(1, (-1, choices)).scatter_(2, index, 1.0)
    out_XAB.mul_(allowed_XAB)


def relabel(
    choice_XAB: Tensor,
    later_SNB: Tensor,
    first_SB: Tensor,
    absent: bool,
    routes_R5: Tensor,
    joint_2SDB: Tensor,
    obs_XOB: Tensor,
) -> None:
    """Next actions into the next joint rows; senders' symbols into this step's observations, 0 at first steps.

    Args:
        choice_XAB: of every target actor, then of every sender of every replica.
        later_SNB: 0 or 1, whether the agent acts at the next step; read where agents can be `absent`.
        routes_R5: of each route the sender's place among the senders, where its symbol begins, its size, the receiver
            and where it is in the receiver's observation.
    """
    replicas, agents, rows = later_SNB.shape
    width = choice_XAB.shape[1]
    begin = joint_2SDB.shape[2] - 1 - agents * width
    next_SNAB = choice_XAB[: replicas * agents].unflatten(0, (replicas, agents))
    into = joint_2SDB[1, :, begin:-1].unflatten(1, (agents, width))
    if absent:
        torch.mul(next_SNAB, later_SNB[:, :, None], out=into)
    else:
        into.copy_(next_SNAB)
    if not len(routes_R5):
        return
    said_SnAB = choice_XAB[replicas * agents :].view(replicas, -1, width, rows)
    said_SnAB.mul_((first_SB <= 0.5)[:, None, None])
    obs_SNOB = obs_XOB.view(replicas, agents, -1, rows)
    for sender, start, size, receiver, slot in routes_R5.tolist():
        symbol_SMB = said_SnAB[:, sender, start : start + size]
        obs_SNOB[:, receiver, slot : slot + size] = symbol_SMB
        at = receiver * (obs_XOB.shape[1] - 1) + slot
        joint_2SDB[0, :, at : at + size] = symbol_SMB


def differ(choice_XAB: Tensor, joint_2SDB: Tensor, out_XAB: Tensor) -> None:
    """Own choices minus executed actions."""
    replicas, (groups, width, rows) = joint_2SDB.shape[1], choice_XAB.shape
    begin = joint_2SDB.shape[2] - 1 - groups // replicas * width
    old = joint_2SDB[0, :, begin:-1]
    torch.sub(choice_XAB.view(replicas, -1, rows), old, out=out_XAB.view(replicas, -1, rows))


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
    logits_XAB: Tensor,
    there_XB: Tensor,
    agents: int,
    n: int,
    start: int,
    size: int,
    k: float,
    weight: float,
    out_XAB: Tensor,
) -> None:
    """Add the gradient of minus the signalling bonus (`losses.signalling_bonus`) of agent n's head at `start`.

    Args:
        logits_XAB: of all agents.
        there_XB: 1 where the agent was there, else 0.
        agents: how many a replica has.
        n: whose bonus it is.
        start: the head's first choice.
        size: its choices.
        k: of the bonus.
        weight: of the bonus in the loss.
        out_XAB: added to.
    """
    part = slice(start, start + size)
    log_p = torch.log_softmax(logits_XAB[n::agents, part], 1)
    p = log_p.exp()
    there_X1B = there_XB[n::agents, None]
    count_X11 = there_X1B.sum(2, keepdim=True).clamp(min=1.0)
    mean_XK1 = (p * there_X1B).sum(2, keepdim=True) / count_X11
    h = k * log_p - mean_XK1.clamp(min=1e-12).log()
    gradient = p * (h - (p * h).sum(1, keepdim=True)) * there_X1B
    out_XAB[n::agents, part] -= weight / count_X11 * gradient
