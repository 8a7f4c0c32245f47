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
        self._pairs = torch.tensor(pairs, dtype=torch.int64, device=device)
        self.size = 2 * len(kept) + len(pairs)
        self.scale = Normaliser(replicas, self.size, device)
        self._entries = len(kept)
        products = len(kept) * (self.size - len(kept))
        self._multiply = products <= self.MOST_PRODUCTS
        self.products_size = 1 + self.size + products * self._multiply

    def raw(self, obs_SnJ: Tensor) -> Tensor:
        squares = obs_SnJ.square()
        lengths = squares.index_select(2, self._pairs) + squares.index_select(2, self._pairs + 1)
        return torch.cat([obs_SnJ, squares, (lengths + 1e-8).sqrt()], dim=2)

    def products(self, obs_SnJ: Tensor) -> Tensor:
        """One, the features, and every entry times every square and length, [S, n, products_size].

        Which landmark's distance pays depends on who is told to go where: a product of the two.
        """
        raw = self.raw(obs_SnJ)
        parts = [torch.ones_like(raw[..., :1]), raw]
        if self._multiply:
            parts.append((obs_SnJ[..., :, None] * raw[..., None, self._entries :]).flatten(2))
        return torch.cat(parts, dim=2)

    def __call__(self, obs_SnJ: Tensor) -> Tensor:
        """[S, n, J] to [S, n, size]."""
        return self.scale.apply(self.raw(obs_SnJ)).clamp(-self.LIMIT, self.LIMIT)


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
        values, vectors = torch.linalg.eigh(self.gram_SPP)
        usable = values > self.CUT * values[:, -1:]
        inverse = torch.where(usable, 1.0 / values.where(usable, 1.0), 0.0)
        weight = vectors @ (inverse[..., None] * (vectors.transpose(1, 2) @ self.cross_SPJ))
        explained = (weight * self.cross_SPJ).sum(1)
        rest = (self.squares_SJ - explained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        self.weight_SPJ, self.residual_S1J = weight.float(), rest.sqrt().float()[:, None]

    def __call__(self, inputs_SnP: Tensor) -> Tensor:
        return torch.bmm(inputs_SnP, self.weight_SPJ)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, state[name].to(value.device))


class Ridge(LeastSquares):
    """Least squares of many inputs: with a small penalty on every weight, in units of its input's mean square."""

    PENALTY = 1e-6

    def solve(self) -> None:
        """The penalised problem's weights, and the residual's root mean square on the data."""
        scale_SP = self.gram_SPP.diagonal(dim1=1, dim2=2).sqrt()
        scale_SP = scale_SP.where(scale_SP > 0, 1.0)
        gram = self.gram_SPP / (scale_SP[:, :, None] * scale_SP[:, None])
        gram.diagonal(dim1=1, dim2=2).add_(self.PENALTY)
        factor = torch.linalg.cholesky(gram)
        weight = torch.cholesky_solve(self.cross_SPJ / scale_SP[..., None], factor) / scale_SP[..., None]
        gained = 2.0 * (weight * self.cross_SPJ).sum(1) - (weight * (self.gram_SPP @ weight)).sum(1)
        rest = (self.squares_SJ - gained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        self.weight_SPJ, self.residual_S1J = weight.float(), rest.sqrt().float()[:, None]
