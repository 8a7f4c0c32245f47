"""Closed-form regression over all transitions seen, and the inputs that make rewards of distances easy.

Shape suffixes: S replicas, E environments, n rows, J observation entries and outputs, P inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.world_model.layout import Layout
from marl.world_model.sequences import Normaliser


class Features:
    """Observations with squares and lengths of neighbouring entries of the same agent, standardised.

    Args:
        layout: which entry belongs to which agent.
        replicas: S.
    """

    LIMIT = 10.0  # deviations: features of an imagined observation far outside of what was seen are cut off
    MOST_PRODUCTS = 1000  # more of them are left out: solving for their weights would cost more than it is worth

    def __init__(self, layout: Layout, replicas: int) -> None:
        device = layout.dynamic_J.device
        owner = [n for n, agent in enumerate(layout.spec.agents) for _ in range(agent.obs_size)]
        kept = layout.dynamic_J.tolist()
        pairs = [j for j in range(len(kept) - 1) if owner[kept[j]] == owner[kept[j + 1]] and kept[j + 1] == kept[j] + 1]
        self.pairs_L = torch.tensor(pairs, dtype=torch.int64, device=device)
        self.size = 2 * len(kept) + len(pairs)
        self.scale = Normaliser(replicas, self.size, device)
        self._entries = len(kept)
        alike = _alike(layout, [owner[kept[j]] for j in pairs])
        self._alike = [torch.tensor(group, dtype=torch.int64, device=device) for group in alike]
        products = len(kept) * (self.size - len(kept))
        self.multiply = products <= self.MOST_PRODUCTS
        self.reward_size = 1 + self.size + (products if self.multiply else sum(len(group[0]) for group in alike))

    def raw(self, obs_SnJ: Tensor) -> Tensor:
        squares = obs_SnJ.square()
        lengths = squares.index_select(2, self.pairs_L) + squares.index_select(2, self.pairs_L + 1)
        return torch.cat([obs_SnJ, squares, (lengths + 1e-8).sqrt()], dim=2)

    def rewards(self, obs_SnJ: Tensor, raw_SnF: Tensor | None = None) -> Tensor:
        """What rewards are made of, [S, n, reward_size]: one, the features, and every entry times every square and
        length; where these would be too many, the least length among agents of a kind instead.

        Which landmark's distance pays, where this depends on who is told to go where, is a product. How near the
        nearest agent is to a landmark is a least length. (That two bodies touch comes from their pushes.)

        Args:
            obs_SnJ: observations.
            raw_SnF: their features, where `raw` has been called already.
        """
        raw = self.raw(obs_SnJ) if raw_SnF is None else raw_SnF
        parts = [torch.ones_like(raw[..., :1]), raw]
        if self.multiply:
            return torch.cat([*parts, (obs_SnJ[..., :, None] * raw[..., None, self._entries :]).flatten(2)], dim=2)
        length = raw[..., raw.shape[2] - len(self.pairs_L) :]
        return torch.cat([*parts, *(length[..., group].amin(2) for group in self._alike)], dim=2)

    def __call__(self, obs_SnJ: Tensor) -> Tensor:
        """[S, n, J] to [S, n, size]."""
        return self.standard(self.raw(obs_SnJ))

    def standard(self, raw_SnF: Tensor) -> Tensor:
        """Features in deviations from their mean."""
        return self.scale.apply(raw_SnF).clamp(-self.LIMIT, self.LIMIT)


def _alike(layout: Layout, owner_of_pair: list[int]) -> list[list[list[int]]]:
    """For every kind of several agents the pairs [members][pairs of one], in the order of their places."""
    members: dict[int, list[list[int]]] = {}
    for n, kind in enumerate(layout.spec.kinds):
        members.setdefault(kind, []).append([p for p, owner in enumerate(owner_of_pair) if owner == n])
    # message slots, which are no entries here, may leave agents of a kind with different pairs
    return [group for group in members.values() if len(group) > 1 and len({len(pairs) for pairs in group}) == 1]


def eigen_inverse(gram_SPP: Tensor, cut: float) -> Tensor:
    """Pseudo-inverse of symmetric matrices [..., P, P]: nought in directions that were never seen, whose eigenvalues
    are below `cut` times the largest."""
    values, vectors = torch.linalg.eigh(gram_SPP)
    usable = values > cut * values[..., -1:]
    inverse = torch.where(usable, 1.0 / values.where(usable, 1.0), 0.0)
    return (vectors * inverse[..., None, :]) @ vectors.mT


class LeastSquares:
    """x' = [x, a, 1] W by the normal equations of all transitions seen, in float64.

    Args:
        inputs: P, the constant among them.
        outputs: J.
        replicas: S.
        device: where the sums are kept.
    """

    CUT = 1e-11  # eigenvalues below this share of the largest belong to directions never seen: no weight there

    def __init__(self, inputs: int, outputs: int, replicas: int, device: torch.device | str) -> None:
        self.gram_SPP = torch.zeros(replicas, inputs, inputs, dtype=torch.float64, device=device)
        self.cross_SPJ = torch.zeros(replicas, inputs, outputs, dtype=torch.float64, device=device)
        self.squares_SJ = torch.zeros(replicas, outputs, dtype=torch.float64, device=device)
        self.count_S = torch.zeros(replicas, dtype=torch.float64, device=device)
        self.weight_SPJ = torch.zeros(replicas, inputs, outputs, device=device)
        self.residual_S1J = torch.ones(replicas, 1, outputs, device=device)

    def add(self, inputs_SEP: Tensor, outputs_SEJ: Tensor, weight_SE: Tensor) -> None:
        x, y = inputs_SEP.double(), outputs_SEJ.double()
        weighted = (x * weight_SE.double()[..., None]).transpose(1, 2)
        self.gram_SPP = self.gram_SPP + weighted @ x
        self.cross_SPJ = self.cross_SPJ + weighted @ y
        self.squares_SJ = self.squares_SJ + (y.square() * weight_SE.double()[..., None]).sum(1)
        self.count_S = self.count_S + weight_SE.double().sum(1)

    def solve(self) -> None:
        """Weights of least norm among the least-squares solutions, and the residual's root mean square."""
        weight = eigen_inverse(self.gram_SPP, self.CUT) @ self.cross_SPJ
        explained = (weight * self.cross_SPJ).sum(1)
        rest = (self.squares_SJ - explained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        # rows first in memory, as a saved solution has them: products of other strides may have other bits
        self.weight_SPJ, self.residual_S1J = weight.float().contiguous(), rest.sqrt().float()[:, None]

    def __call__(self, inputs_SnP: Tensor) -> Tensor:
        return torch.bmm(inputs_SnP, self.weight_SPJ)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            setattr(self, name, state[name].to(value.device))


class Ridge(LeastSquares):
    """Least squares of many inputs: with a small penalty on every weight, in units of its input's mean square."""

    PENALTY = 1e-6
    FLOOR = 1e-4  # of the largest input's root mean square: below it, inputs are penalised as if they were so large

    def solve(self) -> None:
        """The penalised problem's weights, and the residual's root mean square on the data."""
        scale_SP = self.gram_SPP.diagonal(dim1=1, dim2=2).sqrt()
        # inputs that have hardly ever been seen would be given weights without bound
        scale_SP = torch.maximum(scale_SP, self.FLOOR * scale_SP.amax(1, keepdim=True))
        scale_SP = scale_SP.where(scale_SP > 0, 1.0)
        gram = self.gram_SPP / (scale_SP[:, :, None] * scale_SP[:, None])
        gram.diagonal(dim1=1, dim2=2).add_(self.PENALTY)
        factor = torch.linalg.cholesky(gram)
        weight = torch.cholesky_solve(self.cross_SPJ / scale_SP[..., None], factor) / scale_SP[..., None]
        gained = 2.0 * (weight * self.cross_SPJ).sum(1) - (weight * (self.gram_SPP @ weight)).sum(1)
        rest = (self.squares_SJ - gained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        # rows first in memory, as a saved solution has them: products of other strides may have other bits
        self.weight_SPJ, self.residual_S1J = weight.float().contiguous(), rest.sqrt().float()[:, None]
