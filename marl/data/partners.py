"""Who plays with whom: partners drawn anew from a population in every episode.

Replicas p * P to p * P + P - 1 are the members of population p. In every environment of a replica one agent, drawn
uniformly at each reset, is played by the replica itself; every other agent is played by a member drawn uniformly from
the replica's population, itself included. Only the agent that the replica plays by itself learns from the episode:
given that an agent learns, its partners are independent and uniform.

Were an agent to learn also where the draw made its replica play it beside the first one, it would meet its own replica
too often: in those episodes that replica plays another role for certain.

Shape suffixes: S replicas, N agents, E environments of a replica.

Source: Tieleman et al., "Shaping representations through communication: community size effect in artificial learning
systems", 2019 (arXiv 1912.06208), section 2: encoders and decoders of a community are paired anew for every batch.
Graesser, Cho and Kiela, "Emergent linguistic phenomena in multi-agent communication games", EMNLP 2019. Differs from
source: pairs are drawn for every environment and episode, and learn off-policy from a replay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.streams import Stream


class Partners:
    """Which member of its replica's population plays every agent of every running episode.

    Written in place, so that it can be recorded in a CUDA graph.

    Args:
        stream: of the draws; its rows are the replicas, those of a population side by side.
        population: P, members.
        agents: N.
        envs: E.
    """

    def __init__(self, stream: Stream, population: int, agents: int, envs: int) -> None:
        replicas, device = len(stream.key_R), stream.key_R.device
        self.stream, self.population = stream, population
        self.member_SNE = torch.zeros(replicas, agents, envs, dtype=torch.int64, device=device)  # in 0 .. P - 1
        self.learns_SNE = torch.zeros(replicas, agents, envs, dtype=torch.bool, device=device)
        self._own_S11 = (torch.arange(replicas, device=device) % population)[:, None, None]
        self._agents_N1 = torch.arange(agents, device=device)[:, None]
        self.draw(torch.ones(replicas, envs, dtype=torch.bool, device=device))

    def draw(self, ended_SE: Tensor) -> None:
        """New teams where an episode has ended, bool [S, E]; the others stay."""
        _, agents, envs = self.member_SNE.shape
        learns_SNE = self._agents_N1 == self.stream.integers(agents, 1, envs)
        member_SNE = self.stream.integers(self.population, agents, envs)
        member_SNE = torch.where(learns_SNE, self._own_S11, member_SNE)
        self.learns_SNE.copy_(torch.where(ended_SE[:, None], learns_SNE, self.learns_SNE))
        self.member_SNE.copy_(torch.where(ended_SE[:, None], member_SNE, self.member_SNE))

    def state_dict(self) -> dict[str, Any]:
        return {
            "member": self.member_SNE.clone(),
            "learns": self.learns_SNE.clone(),
            "stream": self.stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.member_SNE.copy_(state["member"])
        self.learns_SNE.copy_(state["learns"])
        self.stream.load_state_dict(state["stream"])
