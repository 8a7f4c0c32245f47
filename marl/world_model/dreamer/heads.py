"""What is decoded from the state: the change of the observation, and rewards as sums of products.

Shape suffixes: S replicas, n rows, X = Z + D features of the state, J predicted observation entries, U joint action,
Q inputs of products, N agents. Observations are standardised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from envs.streams import Stream
from marl.world_model.layers import MLP, Dense

CHANGE = 0.1  # scale of what the state adds to the observation before
PRODUCTS = 128  # appended by each of the two layers
SMALL = 0.3  # gain of the reward's initial weights: from small ones few products grow, and those generalise


class StateHead(nn.Module):
    """The mean of p(x_t | h_t, z_t) or p(r_t | h_t, z_t): a perceptron of the state, as in the paper.

    Args:
        sizes: widths from X to J or N.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, sizes: Sequence[int], stream: Stream) -> None:
        super().__init__()
        self.state = MLP(sizes, stream)

    def forward(self, features_SnX: Tensor, *_: Tensor) -> Tensor:
        """Means [S, n, J] or [S, n, N] of the features alone; what the other decoder reads is not looked at."""
        return self.state(features_SnX)


class ChangeDecoder(nn.Module):
    """x_t = x_{t-1} + L [x_{t-1}, a_{t-1}] + 0.1 f(h_t, z_t), and f(h_t, z_t) itself at an episode's first frame.

    L is linear and zero at first. The state has to carry only what the last observation does not tell: what is hidden,
    and what is not linear.

    Differs from source (DreamerV2, equation 2): the observation depends on the one before it, not on h and z alone.

    Args:
        sizes: widths from X to J.
        actions: U.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, sizes: Sequence[int], actions: int, stream: Stream) -> None:
        super().__init__()
        self.state = MLP(sizes, stream)
        self.linear = Dense(sizes[-1] + actions, sizes[-1], stream, gain=0.0)

    def forward(self, features_SnX: Tensor, before_SnJ: Tensor, action_SnU: Tensor, follows_Sn1: Tensor) -> Tensor:
        """Means [S, n, J].

        Args:
            features_SnX: of the state after the action.
            before_SnJ: the observation before it; only looked at where `follows_Sn1`.
            action_SnU: the action; likewise.
            follows_Sn1: 0 at an episode's first frame, else 1.
        """
        moved = before_SnJ + self.linear(torch.cat([before_SnJ, action_SnU], dim=-1))
        own = self.state(features_SnX)
        return torch.where(follows_Sn1 > 0, moved + CHANGE * own, own)


class RewardHead(nn.Module):
    """The mean of p(r_t | x_t, a_{t-1}): two layers of products before a linear map and a perceptron.

    A reward is often a product: which goal, times how far. From few episodes a perceptron learns none. Here a layer
    appends the products (A q)(B q) to its input q = [x_t, a_{t-1}], and a linear map and a perceptron read the last q.
    The weights are drawn to zero by a constant force (`wm.sparse`, an L1 penalty apart from Adam's moments), so that a
    product keeps few factors.

    Differs from source (DreamerV2, equation 2): the reward reads the (decoded) observation and the action.
    Source of the layers: polynomials by products of linear maps, Chrysos et al. 2020 (Pi-nets, arXiv 2003.03828).

    Args:
        entries: Q = J + U.
        agents: N.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, entries: int, agents: int, stream: Stream) -> None:
        super().__init__()
        widths = (entries, entries + PRODUCTS)
        self.left = nn.ModuleList(Dense(width, PRODUCTS, stream, gain=SMALL) for width in widths)
        self.right = nn.ModuleList(Dense(width, PRODUCTS, stream, gain=SMALL) for width in widths)
        last = entries + 2 * PRODUCTS
        self.linear = Dense(last, agents, stream, gain=SMALL)
        self.perceptron = MLP((last, PRODUCTS, agents), stream, gain=SMALL)

    def forward(self, obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
        """Means [S, n, N] of standardised rewards."""
        q = torch.cat([obs_SnJ, action_SnU], dim=-1)
        for left, right in zip(self.left, self.right, strict=True):
            q = torch.cat([q, left(q) * right(q) * 0.5**0.5], dim=-1)
        return self.linear(q) + self.perceptron(q)
