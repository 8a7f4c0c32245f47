"""The cheapest matching of agents to slots, for many problems at once, without leaving the device."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

MOST_AGENTS = 10  # work and memory grow as n 2^n


class Assignment:
    """Exact minimum-cost perfect matching of n agents to n slots by dynamic programming over sets of slots.

    After agent i every set of i + 1 slots keeps the cheapest way to serve agents 0 .. i with it. Source: Bellman,
    "Dynamic programming treatment of the travelling salesman problem", J. ACM 1962 (the recursion over subsets).

    Args:
        count: n, at most `MOST_AGENTS`.
        device: where to compute.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        assert 1 <= count <= MOST_AGENTS
        self.levels: list[tuple[Tensor, Tensor]] = []
        before: dict[tuple[int, ...], int] = {(slot,): slot for slot in range(count)}
        for size in range(2, count + 1):
            sets = list(combinations(range(count), size))
            without = [[before[tuple(s for s in chosen if s != last)] for last in chosen] for chosen in sets]
            last = [list(chosen) for chosen in sets]
            self.levels.append((torch.tensor(without, device=device), torch.tensor(last, device=device)))
            before = {chosen: index for index, chosen in enumerate(sets)}

    def __call__(self, cost: Tensor, *payloads: tuple[Tensor, str]) -> list[Tensor]:
        """What the best matching amounts to.

        Args:
            cost: [agents, slots, e]; its sum is minimised.
            payloads: pairs (values [agents, slots, e], "sum" or "max") to accumulate along the best matching.

        Returns:
            For every payload, its sum or maximum over the matched pairs, [e].
        """
        best, carried = cost[0], [values[0] for values, _ in payloads]
        for agent, (without, last) in enumerate(self.levels, start=1):
            sets, options = without.shape
            envs = cost.shape[-1]

            def look_up(values: Tensor, index: Tensor, shape: tuple[int, int, int] = (sets, options, envs)) -> Tensor:
                return values.index_select(0, index.view(-1)).view(shape)

            best, choice = (look_up(best, without) + look_up(cost[agent], last)).min(1)
            chosen = choice.unsqueeze(1)
            for index, (values, how) in enumerate(payloads):
                old, new = look_up(carried[index], without), look_up(values[agent], last)
                joined = old + new if how == "sum" else torch.maximum(old, new)
                carried[index] = joined.gather(1, chosen).squeeze(1)
        return [values[0] for values in carried]
