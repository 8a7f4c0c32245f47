"""Pushes of bodies that touch: which pairs push, and within which radius, learned from transitions.

A push is a force along a vector d between two bodies, of size max(r - |d|, 0). Which vectors push, and their radii r,
are no linear unknowns. They are searched for, one push after another: the one that explains most of what is left
(orthogonal matching pursuit), its radius by a search along the line, then all radii together by Gauss and Newton.

A push must hold where it was not fitted: every row is predicted by a fit of all others (closed form: residual /
(1 - leverage)). The squared error of these predictions must fall by the share `SHARE`, and for clearly more than half
of the rows that touch, of which there must be `LEAST`: few rows with large errors would otherwise buy pushes that go
wrong in other episodes.

Shape suffixes: S replicas, n rows, J observation entries and outputs, P free inputs, L pairs of neighbouring entries,
K pushes, R radii, C columns that may be pushes, Q columns of an orthonormal basis, X columns of any kind.

Source: Mallat & Zhang 1993, Pati et al. 1993 (matching pursuit); Golub & Pereyra 1973 (linear unknowns projected
out); Allen 1974 (PRESS: errors of rows left out).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.world_model.small.regression import LeastSquares, eigen_inverse
from marl.world_model.small.sample import Rows


class Pushes:
    """x' = [x, a, 1, pushes of x] W, fitted to a sample of the transitions.

    Args:
        pairs_L: the first entry of every pair of neighbours.
        inputs: P, free inputs: what they explain needs no push.
        outputs: J.
        replicas: S.
        device: where everything is kept.
    """

    MOST = 24  # pushes
    LEAST = 8  # rows that touch, for two weights an output and a radius
    MARGIN = 1.0  # standard errors, by which more than half of them must be predicted better with it
    SHARE = 0.02  # of the squared error of rows left out, which a push must take away
    EXACT = 1e-4  # deviations: where the root mean square left is less, there is nothing to look for
    QUANTILES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5)  # of a pair's lengths: the first radii tried
    FINER = 5  # searches along the line, each a fifth as wide
    NEWTON = 4  # steps of Gauss and Newton after every push

    def __init__(self, pairs_L: Tensor, inputs: int, outputs: int, replicas: int, device: torch.device | str) -> None:
        self._pairs_L, self._inputs, self._outputs = pairs_L, inputs, outputs
        self.pair_SK = torch.zeros(replicas, self.MOST, dtype=torch.int64, device=device)
        self.radius_SK = torch.zeros(replicas, self.MOST, device=device)  # 0: no push
        self.fitted = LeastSquares(inputs + 2 * self.MOST, outputs, replicas, device)

    def features(self, obs_SnJ: Tensor) -> Tensor:
        """max(r - |d|, 0) d / |d| of every push: first entries, then second ones, [S, n, 2 K]."""
        rows, entry_SK = obs_SnJ.shape[1], self._pairs_L[self.pair_SK]
        index = entry_SK[:, None].expand(-1, rows, -1)
        x, y = obs_SnJ.gather(2, index), obs_SnJ.gather(2, index + 1)
        return torch.cat(_hinges(x, y, self.radius_SK[:, None]), dim=2)

    def touching(self, obs_SnJ: Tensor) -> Tensor:
        """1 where the vector of a push is shorter than its radius, else 0, [S, n, K]."""
        entry_SnK = self._pairs_L[self.pair_SK][:, None].expand(-1, obs_SnJ.shape[1], -1)
        squares = obs_SnJ.gather(2, entry_SnK).square() + obs_SnJ.gather(2, entry_SnK + 1).square()
        return (squares < self.radius_SK[:, None].square()).to(obs_SnJ.dtype)

    @torch.no_grad()
    def fit(self, rows: Rows, linear: LeastSquares) -> None:
        """Look for pushes in the rows anew, and fit all weights to them.

        Where none is found the weights are those of `linear`, which knows all transitions.
        """
        inputs, obs, after, _, weight_Sn = rows
        radii = torch.zeros_like(self.radius_SK)
        for s in range(len(weight_Sn)):
            kept = weight_Sn[s] > 0
            if not bool(kept.any()):
                continue
            search = _Search(self, inputs[s, kept], obs[s, kept], after[s, kept])
            for k, (pair, radius) in enumerate(search.run()):
                self.pair_SK[s, k], radii[s, k] = pair, radius
        self.radius_SK = radii
        fit = LeastSquares(self._inputs + 2 * self.MOST, self._outputs, len(weight_Sn), weight_Sn.device)
        fit.add(torch.cat([inputs, self.features(obs)], dim=2), after, weight_Sn)
        fit.solve()
        none_S = (radii == 0).all(1)[:, None, None]
        fit.weight_SPJ = torch.where(none_S, padded(linear.weight_SPJ, fit.weight_SPJ.shape[1]), fit.weight_SPJ)
        fit.residual_S1J = torch.where(none_S, linear.residual_S1J, fit.residual_S1J)
        self.fitted = fit

    def state_dict(self) -> dict[str, Any]:
        return {"pair": self.pair_SK, "radius": self.radius_SK, "fitted": self.fitted.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.radius_SK.device
        self.pair_SK, self.radius_SK = state["pair"].to(device), state["radius"].to(device)
        self.fitted.load_state_dict(state["fitted"])


def padded(weight_SPJ: Tensor, inputs: int) -> Tensor:
    """Weights with zeros for further inputs."""
    return torch.nn.functional.pad(weight_SPJ, (0, 0, 0, inputs - weight_SPJ.shape[1]))


def _hinges(x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """max(radius - |d|, 0) d / |d| of vectors d = (x, y)."""
    length = (x.square() + y.square() + 1e-12).sqrt()
    depth = (radius - length).clamp(min=0.0) / length
    return depth * x, depth * y


class _Search:
    """The search in one replica's rows, in double precision.

    Args:
        pushes: what is looked for.
        inputs_nP, obs_nJ, after_nJ: the rows.
    """

    def __init__(self, pushes: Pushes, inputs_nP: Tensor, obs_nJ: Tensor, after_nJ: Tensor) -> None:
        self._p, obs = pushes, obs_nJ.double()
        self._x, self._y = obs[:, pushes._pairs_L], obs[:, pushes._pairs_L + 1]  # [n, L]
        self._length = (self._x.square() + self._y.square() + 1e-12).sqrt()
        self._free_nQ = _orthonormal(inputs_nP.double())
        after = after_nJ.double()
        deviation_J = after.std(0, correction=0)
        self._target_nJ = after / torch.where(deviation_J > 1e-6, deviation_J, 1.0)
        self._target_nJ = _without(self._target_nJ, self._free_nQ)
        self._order_nL = self._length.sort(dim=0).values
        self._pair: list[int] = []
        self._radius: list[float] = []

    def run(self) -> list[tuple[int, float]]:
        """Pairs and radii."""
        pushes, rest = self._p, self._target_nJ
        if len(rest) <= pushes.LEAST or self._done(rest):
            return []
        quantiles = torch.tensor(pushes.QUANTILES, dtype=torch.float64, device=rest.device)
        grid_RL = self._order_nL[(quantiles * (len(rest) - 1)).long().clamp(min=pushes.LEAST)]
        grid_RL = torch.cat([grid_RL, grid_RL[-1:]])  # the last one bounds the search of the one before it
        columns_nC = torch.cat(_hinges(self._x[:, None], self._y[:, None], grid_RL[:-1]), dim=1).flatten(1).float()
        basis_nQ, free_C = self._free_nQ, _squares_of(self._free_nQ.float(), columns_nC)
        taken_C, wrong_n = free_C, _left_out(basis_nQ, rest)
        open_C = torch.ones(len(columns_nC.T) // 2, device=rest.device)
        for _ in range(pushes.MOST):
            gain = _gain(columns_nC, taken_C, rest.float(), 1e-4).view(2, -1).sum(0) * open_C  # both entries of a push
            best = int(gain.argmax())
            r, pair = divmod(best, grid_RL.shape[1])
            low = float(grid_RL[r - 1, pair]) if r else float(self._order_nL[pushes.LEAST, pair])
            radius, gained = self._along(pair, low, float(grid_RL[r + 1, pair]), basis_nQ, rest)
            if gained < pushes.SHARE * float(rest.square().sum()):
                break
            before = self._pair, self._radius
            self._pair, self._radius = [*self._pair, pair], [*self._radius, radius]
            self._newton()
            tried_nQ = self._basis()
            fresh = tried_nQ[:, self._free_nQ.shape[1] :]
            other = _without(self._target_nJ, fresh)
            now_n = _left_out(tried_nQ, other)
            if not self._holds(wrong_n, now_n):
                (self._pair, self._radius), open_C[best] = before, 0.0
                continue
            basis_nQ, rest, wrong_n = tried_nQ, other, now_n
            if self._done(rest):
                break
            taken_C = free_C + _squares_of(fresh.float(), columns_nC)
        return list(zip(self._pair, self._radius, strict=True))

    def _holds(self, wrong_n: Tensor, now_n: Tensor) -> bool:
        """Whether the last push helps rows that it was not fitted to, by their squared errors without and with it."""
        touching_n = self._length[:, self._pair[-1]] < self._radius[-1]
        count = int(touching_n.sum())
        if count < self._p.LEAST:
            return False
        better = float((now_n < wrong_n)[touching_n].double().mean())
        sure = 0.5 + 0.5 * self._p.MARGIN / count**0.5
        return better >= sure and float(now_n.sum()) <= (1.0 - self._p.SHARE) * float(wrong_n.sum())

    def _done(self, rest_nJ: Tensor) -> bool:
        return float(rest_nJ.square().mean().sqrt()) < self._p.EXACT

    def _columns(self, radius: Tensor) -> Tensor:
        """Of the pushes of `self._pair`, [n, 2 K]."""
        return torch.cat(_hinges(self._x[:, self._pair], self._y[:, self._pair], radius), dim=1)

    def _basis(self) -> Tensor:
        """Orthonormal: the free inputs, then what the pushes add to them."""
        radius = torch.tensor(self._radius, dtype=torch.float64, device=self._x.device)
        return torch.cat([self._free_nQ, _orthonormal(_without(self._columns(radius), self._free_nQ))], dim=1)

    def _along(self, pair: int, low: float, high: float, basis_nQ: Tensor, rest_nJ: Tensor) -> tuple[float, float]:
        """The best radius of one more push between two bounds, and the squares that it explains."""
        x, y = self._x[:, pair : pair + 1], self._y[:, pair : pair + 1]
        best = (0.5 * (low + high), 0.0)
        for _ in range(self._p.FINER):
            radii_R = torch.linspace(low, high, 11, dtype=torch.float64, device=x.device)
            columns = torch.cat(_hinges(x, y, radii_R), dim=1)
            gain_R = _gain(columns, _squares_of(basis_nQ, columns), rest_nJ, 1e-6).view(2, -1).sum(0)
            at = int(gain_R.argmax())
            best = (float(radii_R[at]), float(gain_R[at]))
            step = (high - low) / 10
            low, high = max(best[0] - step, low), best[0] + step
        return best

    def _newton(self) -> None:
        """All radii together; a step that explains less is halved, and at last not made."""
        radius = torch.tensor(self._radius, dtype=torch.float64, device=self._x.device)
        least = self._order_nL[self._p.LEAST, self._pair]  # within it so many rows touch
        rest, weight = self._solved(radius)
        left = float(rest.square().sum())
        for _ in range(self._p.NEWTON):
            inside = (self._length[:, self._pair] < radius).double() / self._length[:, self._pair]
            # a prediction's slope by a radius is that of its columns times their weights: products of both suffice
            slope = torch.cat([inside * v[:, self._pair] for v in (self._x, self._y)], dim=1)
            slope = _without(slope, self._basis())
            gram = ((slope.T @ slope) * (weight @ weight.T)).unflatten(0, (2, -1)).unflatten(2, (2, -1)).sum((0, 2))
            pull = ((slope.T @ rest) * weight).sum(1).view(2, -1).sum(0)
            gram.diagonal().mul_(1.0 + 1e-9).add_(1e-12)
            step = eigen_inverse(gram, LeastSquares.CUT) @ pull  # linalg.lstsq differs from call to call
            for _ in range(3):
                tried = torch.maximum(radius + step, least)
                other, heavier = self._solved(tried)
                if (now := float(other.square().sum())) < left:
                    break
                step = 0.5 * step
            else:
                return
            gained, left = left - now, now
            radius, rest, weight = tried, other, heavier
            self._radius = radius.tolist()
            if gained < 1e-3 * left:
                return

    def _solved(self, radius_K: Tensor) -> tuple[Tensor, Tensor]:
        """What the pushes leave of the target, and their weights [2 K, J]."""
        columns = _without(self._columns(radius_K), self._free_nQ)
        weight = eigen_inverse(columns.T @ columns, LeastSquares.CUT) @ (columns.T @ self._target_nJ)
        return self._target_nJ - columns @ weight, weight


def _orthonormal(columns_nX: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span."""
    values, vectors = torch.linalg.eigh(columns_nX.T @ columns_nX)
    usable = values > LeastSquares.CUT * values[-1:].clamp(min=1e-30)
    return columns_nX @ (vectors[:, usable] / values[usable].sqrt())


def _left_out(basis_nQ: Tensor, rest_nJ: Tensor) -> Tensor:
    """Squared error of every row, predicted by a fit of the others to the basis, [n]."""
    kept_n = (1.0 - basis_nQ.square().sum(1)).clamp(min=1e-6)
    return rest_nJ.square().sum(1) / kept_n.square()


def _without(columns_nX: Tensor, basis_nQ: Tensor) -> Tensor:
    return columns_nX - basis_nQ @ (basis_nQ.T @ columns_nX)


def _squares_of(basis_nQ: Tensor, columns_nC: Tensor) -> Tensor:
    """Squared length of the part of each column that the basis explains."""
    return (basis_nQ.T @ columns_nC).square().sum(0)


def _gain(columns_nC: Tensor, explained_C: Tensor, rest_nJ: Tensor, least: float) -> Tensor:
    """Squares of `rest_nJ`, which a basis has left, that each column would explain.

    None where the basis explains all but the share `least` of the column itself.
    """
    size_C = columns_nC.square().sum(0)
    left_C = size_C - explained_C
    gain_C = (columns_nC.T @ rest_nJ).square().sum(1) / left_C.clamp(min=1e-30)
    return torch.where(left_C > least * size_C.clamp(min=1e-9), gain_C, 0.0)
