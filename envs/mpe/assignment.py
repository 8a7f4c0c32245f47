"""The cheapest matching of agents to slots, for many problems at once, without leaving the device."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

MOST_AGENTS = 10  # work and memory grow as n 2^n


class Assignment:
    """Exact minimum-cost perfect matching of n agents to n slots by dynamic programming over sets of slots.

    After agent i every set of i + 1 slots keeps the least cost of serving agents 0 .. i with it; the matching is then
    read off backwards. Source: the recursion over subsets of Bellman, "Dynamic programming treatment of the travelling
    salesman problem", J. ACM 1962.

    Args:
        count: n, at most `MOST_AGENTS`.
        device: where to compute.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        assert 1 <= count <= MOST_AGENTS
        # for agent 1, 2, ...: [options, sets] the set of one slot less, and the slot that this leaves for the agent
        self.levels: list[tuple[Tensor, Tensor]] = []
        before: dict[tuple[int, ...], int] = {(slot,): slot for slot in range(count)}
        for size in range(2, count + 1):
            sets = list(combinations(range(count), size))
            without = [[before[chosen[:k] + chosen[k + 1 :]] for chosen in sets] for k in range(size)]
            left = [[chosen[k] for chosen in sets] for k in range(size)]
            self.levels.append((torch.tensor(without, device=device), torch.tensor(left, device=device)))
            before = {chosen: index for index, chosen in enumerate(sets)}

    def __call__(self, cost: Tensor) -> Tensor:
        """Costs [agents, e] of the matched pairs, from all costs [agents, slots, e]; their sum is least."""
        envs = cost.shape[-1]
        least = [cost[0]]
        for agent, (without, left) in enumerate(self.levels, start=1):
            shape = (*without.shape, envs)
            served = least[-1].index_select(0, without.view(-1)).view(shape)
            least.append(served.add_(cost[agent].index_select(0, left.view(-1)).view(shape)).amin(0))
        matched = []
        chosen = torch.zeros(envs, dtype=torch.int64, device=cost.device)  # the set of all slots
        for agent in range(len(self.levels), 0, -1):
            without, left = (table.index_select(1, chosen) for table in self.levels[agent - 1])  # [options, e]
            price = cost[agent].gather(0, left)
            option = (least[agent - 1].gather(0, without) + price).min(0, keepdim=True).indices
            matched.append(price.gather(0, option))
            chosen = without.gather(0, option)[0]
        matched.append(cost[0].gather(0, chosen.unsqueeze(0)))
        return torch.cat(matched[::-1])
