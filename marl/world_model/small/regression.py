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

    RADII = tuple(0.05 * k for k in range(1, 11))  # at which bodies may touch
    LIMIT = 10.0  # deviations: features of an imagined observation far outside of what was seen are cut off
    MOST_PRODUCTS = 1000  # more of them are left out: solving for their weights would cost more than it is worth

    def __init__(self, layout: Layout, replicas: int) -> None:
        device = layout.dynamic_J.device
        owner = [n for n, agent in enumerate(layout.spec.agents) for _ in range(agent.obs_size)]
        kept = layout.dynamic_J.tolist()
        pairs = [j for j in range(len(kept) - 1) if owner[kept[j]] == owner[kept[j + 1]] and kept[j + 1] == kept[j] + 1]
        self._pairs = torch.tensor(pairs, dtype=torch.int64, device=device)
        self.size = 2 * len(kept) + len(pairs)
        self.scale = Normaliser(replicas, self.size, device)
        self._entries = len(kept)
        self._radii = torch.tensor(self.RADII, device=device)
        self.contacts_size = 2 * len(pairs) * len(self.RADII)
        alike = _alike(layout, [owner[kept[j]] for j in pairs])
        self._alike = [torch.tensor(group, dtype=torch.int64, device=device) for group in alike]
        products = len(kept) * (self.size - len(kept))
        self._multiply = products <= self.MOST_PRODUCTS
        bodies = sum(len(group[0]) for group in alike) + len(pairs) * len(self.RADII)
        self.reward_size = 1 + self.size + (products if self._multiply else bodies)

    def raw(self, obs_SnJ: Tensor) -> Tensor:
        squares = obs_SnJ.square()
        lengths = squares.index_select(2, self._pairs) + squares.index_select(2, self._pairs + 1)
        return torch.cat([obs_SnJ, squares, (lengths + 1e-8).sqrt()], dim=2)

    def rewards(self, obs_SnJ: Tensor) -> Tensor:
        """What rewards are made of, [S, n, reward_size]: one, the features, and every entry times every square and
        length; where these would be too many, the least length among agents of a kind and whether a length is below
        each radius instead.

        Which landmark's distance pays, where this depends on who is told to go where, is a product. How near the
        nearest agent is to a landmark is a least length; that two bodies touch is a length below the sum of their
        sizes.
        """
        raw = self.raw(obs_SnJ)
        parts = [torch.ones_like(raw[..., :1]), raw]
        if self._multiply:
            return torch.cat([*parts, (obs_SnJ[..., :, None] * raw[..., None, self._entries :]).flatten(2)], dim=2)
        length = raw[..., raw.shape[2] - len(self._pairs) :]
        nearest = [length[..., group].amin(2) for group in self._alike]
        touching = (length[..., None] < self._radii).to(raw.dtype).flatten(2)
        return torch.cat([*parts, *nearest, touching], dim=2)

    def contacts(self, obs_SnJ: Tensor) -> Tensor:
        """Every neighbouring pair of entries as a vector d: max(r - |d|, 0) d / |d| for every radius r, both entries.

        Bodies that touch push each other by a multiple of it; a sum of several has any force that is piecewise linear
        in the distance. [S, n, contacts_size].
        """
        x, y = obs_SnJ.index_select(2, self._pairs), obs_SnJ.index_select(2, self._pairs + 1)
        length = (x.square() + y.square() + 1e-12).sqrt()
        depth = (self._radii - length[..., None]).clamp(min=0.0) / length[..., None]
        return torch.cat([(depth * x[..., None]).flatten(2), (depth * y[..., None]).flatten(2)], dim=2)

    def __call__(self, obs_SnJ: Tensor) -> Tensor:
        """[S, n, J] to [S, n, size]."""
        return self.scale.apply(self.raw(obs_SnJ)).clamp(-self.LIMIT, self.LIMIT)


def _alike(layout: Layout, owner_of_pair: list[int]) -> list[list[list[int]]]:
    """For every kind of several agents the pairs [members][pairs of one], in the order of their places."""
    members: dict[int, list[list[int]]] = {}
    for n, kind in enumerate(layout.spec.kinds):
        members.setdefault(kind, []).append([p for p, owner in enumerate(owner_of_pair) if owner == n])
    # message slots, which are no entries here, may leave agents of a kind with different pairs
    return [group for group in members.values() if len(group) > 1 and len({len(pairs) for pairs in group}) == 1]


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
        weight = self._inverse(self.gram_SPP) @ self.cross_SPJ
        explained = (weight * self.cross_SPJ).sum(1)
        rest = (self.squares_SJ - explained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        self.weight_SPJ, self.residual_S1J = weight.float(), rest.sqrt().float()[:, None]

    def _inverse(self, gram_SPP: Tensor) -> Tensor:
        """Pseudo-inverse of a symmetric matrix, nought in directions that were never seen."""
        values, vectors = torch.linalg.eigh(gram_SPP)
        usable = values > self.CUT * values[:, -1:]
        inverse = torch.where(usable, 1.0 / values.where(usable, 1.0), 0.0)
        return (vectors * inverse[:, None]) @ vectors.transpose(1, 2)

    def __call__(self, inputs_SnP: Tensor) -> Tensor:
        return torch.bmm(inputs_SnP, self.weight_SPJ)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            setattr(self, name, state[name].to(value.device))


class Ridge(LeastSquares):
    """Least squares of many inputs: with a small penalty on every weight, in units of its input's mean square.

    Args:
        free: the first inputs, whose weights are not penalised: what they explain, the others cannot.
    """

    PENALTY = 1e-6
    FLOOR = 1e-4  # of the largest input's root mean square: below it, inputs are penalised as if they were so large

    def __init__(self, inputs: int, outputs: int, replicas: int, device: torch.device | str, free: int = 0) -> None:
        super().__init__(inputs, outputs, replicas, device)
        self._free = free

    def solve(self) -> None:
        """The penalised problem's weights, and the residual's root mean square on the data."""
        p = self._free
        inverse = self._inverse(self.gram_SPP[:, :p, :p])
        mixed_SpQ, cross_SpJ = self.gram_SPP[:, :p, p:], self.cross_SPJ[:, :p]
        shared = inverse @ mixed_SpQ
        # what is left of the penalised inputs and of the outputs beside the free inputs (Frisch and Waugh)
        gram = self.gram_SPP[:, p:, p:] - mixed_SpQ.transpose(1, 2) @ shared
        cross = self.cross_SPJ[:, p:] - shared.transpose(1, 2) @ cross_SpJ
        scale_SQ = self.gram_SPP[:, p:, p:].diagonal(dim1=1, dim2=2).sqrt()
        # inputs that have hardly ever been seen would be given weights without bound
        scale_SQ = torch.maximum(scale_SQ, self.FLOOR * scale_SQ.amax(1, keepdim=True))
        scale_SQ = scale_SQ.where(scale_SQ > 0, 1.0)
        gram = gram / (scale_SQ[:, :, None] * scale_SQ[:, None])
        gram.diagonal(dim1=1, dim2=2).add_(self.PENALTY)
        factor = torch.linalg.cholesky(gram)
        penalised = torch.cholesky_solve(cross / scale_SQ[..., None], factor) / scale_SQ[..., None]
        weight = torch.cat([inverse @ cross_SpJ - shared @ penalised, penalised], dim=1)
        gained = 2.0 * (weight * self.cross_SPJ).sum(1) - (weight * (self.gram_SPP @ weight)).sum(1)
        rest = (self.squares_SJ - gained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        self.weight_SPJ, self.residual_S1J = weight.float(), rest.sqrt().float()[:, None]
