"""Critics of a team that are sums over its agents: each adds a value of its own observation and action.

    Q_team(o, a) = sum over the agents j of the team of f_j(o_j, a_j)

The sum is regressed on the team's reward, and an agent's actor follows the gradient of its own term. What the other
agents earn is told by their terms and is no noise of this agent's: where rewards are events in which single agents have
a part and for which all are paid (`collect_treasure`), that is what a critic of one's own observation cannot know, and
what a critic of the joint row has to find among everybody's observations. With shared actors, interchangeable agents
share f too: their copies of its parameters begin equal and learn from the mean of their gradients, so that a
transition teaches it once for every agent. A reward that is not a sum of what agents see each by themselves (who covers
which landmark) is more than such a critic can tell.

Source: value decomposition, Sunehag et al. 2018 (VDN, arXiv 1706.05296), section 3; in the critic of a deterministic
policy gradient, Peng et al. 2021 (FACMAC, arXiv 2003.06709), section 3.1.
Differs from source: no mixing network; a sum for every team; the actions of others in the actor loss are the replay's,
of which the gradient of a sum does not depend; sharing by kind (`EnvSpec.kinds`) and not by an index in the input.

Shape suffixes: S replicas, C critics, N agents, B batch, D joint input, I inputs of a layer with the bias, Z its
outputs, P parameters of one critic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.learner.networks.actor_critic import Critic


class FactoredCritic(Critic):
    """C critics per agent, each the sum of what the agents of its team add; `Critic`'s interface.

    `own_action` gives an agent's own term alone: what the others add is a constant of its action.

    Args:
        spec, hidden, layer_norm, stream, num_critics: as of `Critic`.
        shared: interchangeable agents share their term's parameters.
    """

    def __init__(
        self,
        spec: EnvSpec,
        hidden: Sequence[int],
        layer_norm: bool,
        stream: Stream,
        num_critics: int = 1,
        shared: bool = False,
    ) -> None:
        super().__init__(spec, hidden, layer_norm, stream, num_critics, independent=True)
        device = self.mlp.flat.device
        self.sum_NN = torch.eye(spec.num_agents, device=device)
        for team in spec.teams:
            self.sum_NN[list(team)] = 0.0
            for agent in team:
                self.sum_NN[agent, list(team)] = 1.0
        kinds = spec.kinds if shared else tuple(range(spec.num_agents))
        self.copies = Copies(kinds, (spec.obs_size, spec.action_size), self.mlp.sizes[1], device)
        self.copies.begin(self.mlp.flat.detach())

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D]: all observations, then all action one-hots."""
        return torch.matmul(self.sum_NN, super().forward(joint_SBD))


class Copies:
    """Parameters of joint rows' perceptrons of which those of one kind are copies.

    A copy reads its own agent's part of the joint row where the first of its kind reads its own: the two parts are
    exchanged.

    Args:
        kinds: of every agent.
        widths: of an agent's observation and action in the joint row.
        outputs: of the first layer.
        device: where the parameters are.
    """

    def __init__(self, kinds: Sequence[int], widths: Sequence[int], outputs: int, device: torch.device) -> None:
        count, self.outputs = len(kinds), outputs
        kind_N = torch.tensor(kinds, device=device)
        same_NN = (kind_N[:, None] == kind_N).to(torch.float32)
        self.mean_NN = same_NN / same_NN.sum(1, keepdim=True)
        first = [kinds.index(kind) for kind in kinds]
        self.first_NN = torch.eye(count, device=device)[first]
        self.alone = max(kinds) + 1 == count
        self.agent_N = torch.arange(count, device=device)
        columns = [_exchanged(n, first[n], widths, count) for n in range(count)]
        self.row_IN = torch.tensor(columns, device=device).T.contiguous()

    def begin(self, flat_SGP: Tensor) -> None:
        """Give every copy the parameters of the first of its kind, in place."""
        self._mix(*self._parts(flat_SGP), self.first_NN)

    def average(self, gradient_SGP: Tensor) -> None:
        """Replace gradients by their means over the copies, in place."""
        self._mix(*self._parts(gradient_SGP), self.mean_NN)

    def average_layers(self, first: Tensor, rest: Sequence[Tensor]) -> None:
        """As `average`, of the first layer [..., I, N, Z] and of all others [..., N, any]."""
        self._mix(first, rest, self.mean_NN)

    def _parts(self, flat_SGP: Tensor) -> tuple[Tensor, list[Tensor]]:
        by_agent_SCNP = flat_SGP.unflatten(1, (-1, len(self.agent_N)))
        first, rest = by_agent_SCNP.tensor_split([len(self.row_IN) * self.outputs], dim=3)
        return first.unflatten(3, (-1, self.outputs)).transpose(2, 3), [rest]

    def _mix(self, first: Tensor, rest: Sequence[Tensor], weight_NN: Tensor) -> None:
        if self.alone:
            return
        exchanged = first[..., self.row_IN, self.agent_N, :]
        first[..., self.row_IN, self.agent_N, :] = torch.matmul(weight_NN, exchanged)
        for part in rest:
            part.copy_(torch.matmul(weight_NN, part))


def _exchanged(agent: int, first: int, widths: Sequence[int], count: int) -> list[int]:
    """Rows of the first layer of an agent's perceptron, in the order in which the first of its kind has them."""
    stands_for = {first: agent, agent: first}
    rows: list[int] = []
    start = 0
    for width in widths:
        for n in range(count):
            begin = start + stands_for.get(n, n) * width
            rows += range(begin, begin + width)
        start += count * width
    return [*rows, start]  # and the bias
