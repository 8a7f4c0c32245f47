"""Critics of a team that are sums over its agents: each adds a value of its own observation and action.

    Q_team(o, a) = sum over the agents j of the team of f_j(o_j, a_j)

The sum is regressed on the team's reward, and an agent's actor follows the gradient of its own term. What the other
agents earn is told by their terms and is no noise of this agent's: where rewards are events in which single agents have
a part and for which all are paid (`collect_treasure`), that is what a critic of one's own observation cannot know, and
what a critic of the joint row has to find among everybody's observations. With shared actors, interchangeable agents
share f too, so that a transition teaches it once for every agent. A reward that is no sum of what agents see each by
themselves (who covers which landmark) is more than such a critic can tell.

Source: value decomposition, Sunehag et al. 2018 (VDN, arXiv 1706.05296), section 3; in the critic of a deterministic
policy gradient, Peng et al. 2021 (FACMAC, arXiv 2003.06709), section 3.1.
Differs from source: no mixing network; a sum for every team; the actions of others in the actor loss are the replay's,
on which the gradient of a sum does not depend; shared by kind (`EnvSpec.kinds`), not by an index in the input.

Shape suffixes: S replicas, C critics, N agents, X agents of all replicas, B batch, D joint input, O observation,
A action, P parameters of a term, G terms of one critic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.learner.networks import grouped_mlp as grouped
from marl.learner.networks.actor_critic import Critic, GroupedMLP, OwnActionValue
from marl.learner.spec_tensors import team_matrix


class FactoredCritic(Critic):
    """C critics per agent, each the sum of what the agents of its team add; `Critic`'s interface.

    Args:
        spec, hidden, layer_norm, stream, num_critics: as of `Critic`.
        shared: interchangeable agents share their term.
    """

    mlp: GroupedMLP

    def __init__(
        self,
        spec: EnvSpec,
        hidden: Sequence[int],
        layer_norm: bool,
        stream: Stream,
        num_critics: int = 1,
        shared: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # no perceptron of the joint row
        self.num_critics, self.num_agents, self.action_size = num_critics, spec.num_agents, spec.action_size
        kinds = spec.kinds if shared else tuple(range(spec.num_agents))
        self.terms = max(kinds) + 1  # of one critic
        owners = [spec.agents[kinds.index(kind)] for kind in range(self.terms)]
        widths = [agent.obs_size + agent.choices for agent in owners]
        sizes = (spec.obs_size + spec.action_size, *hidden, 1)
        self.mlp = GroupedMLP(sizes, num_critics * self.terms, layer_norm, stream, widths * num_critics)
        self.seen_GP = None
        device = self.mlp.flat.device
        self.term_N = torch.tensor(kinds, device=device)
        self.sum_NN = (team_matrix(spec, device) > 0).float()

    def flat(self) -> Tensor:
        """Parameters [S, C * N, P] of every agent's term in every critic."""
        by_critic_SCGP = self.mlp.flat.unflatten(1, (self.num_critics, self.terms))
        parameters: Tensor = by_critic_SCGP.index_select(2, self.term_N).flatten(1, 2)
        return parameters

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D]: all observations, then all action one-hots."""
        own = self._own(joint_SBD)
        rows = own.unsqueeze(1).expand(-1, self.num_critics, -1, -1, -1).flatten(0, 2)
        terms = grouped.run(rows, self.mlp.prepare(self.flat()), self.mlp.layer_norm)
        return torch.matmul(self.sum_NN, terms.view(-1, self.num_critics, self.num_agents, joint_SBD.shape[1]))

    @torch.no_grad()
    def own_action(self, joint_SBD: Tensor) -> OwnActionValue:
        """An agent's own term in the first critic as a function of its action: what the others add is a constant."""
        weight, bias, *tail = self.mlp.prepare(self.flat()[:, : self.num_agents])
        seen = self._own(joint_SBD).flatten(0, 1)[:, : -self.action_size]
        constant = torch.baddbmm(bias, weight[..., : -self.action_size], seen)
        parameters = (weight[..., -self.action_size :], constant, *tail)
        return OwnActionValue((len(joint_SBD), self.num_agents), parameters, self.mlp.layer_norm)

    def _own(self, joint_SBD: Tensor) -> Tensor:
        """Every agent's own observation and action, [S, N, O + A, B]."""
        seen = joint_SBD.shape[2] - self.num_agents * self.action_size
        parts = [x.unflatten(2, (self.num_agents, -1)) for x in (joint_SBD[..., :seen], joint_SBD[..., seen:])]
        return torch.cat(parts, dim=3).permute(0, 2, 3, 1)
