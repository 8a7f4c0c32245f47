"""Centralised critics that are invariant to the order of interchangeable agents: deep sets in place of one long row.

The critic of agent i embeds every agent's observation and action, x_j, by a hidden layer of its own for itself and one
for each kind of agents (`EnvSpec.kinds`, as shared actors have), which all others of that kind share; takes the mean of
the embeddings of a kind; and goes on from its own embedding and these means:

    Q_i = rho_i( e_i,own(x_i), mean over j != i of kind 1 of e_i,1(x_j), mean over j != i of kind 2 of e_i,2(x_j), ... )

It has as many hidden layers as a joint critic; the first one is the embedding. Critics of different agents share
nothing.

Source: Zaheer et al. 2017, "Deep sets" (arXiv 1703.06114), theorem 2, in which the embeddings are summed.
Differs from source: the mean, which is the sum but for a constant as long as nobody joins or leaves, and whose scale
does not depend on how many agents there are; several kinds of elements, and the agent itself apart from them.

Shape suffixes: S replicas, N agents, C critics per agent, G = C * N, Z parts: its own and one for each kind,
I = O + A inputs of an embedding, W width, B rows, X = S * G, D joint input, P parameters of one critic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.learner.networks import grouped_mlp as grouped
from marl.learner.networks.actor_critic import Critic, GroupedMLP, OwnActionValue


class SetMLP(nn.Module):
    """Z embeddings of each of S * G critics, and the perceptrons behind them; all parameters are `flat` [S, G, P].

    Args:
        sizes: I, the hidden widths, of which the first is that of the embeddings, and the output's.
        num_groups: G.
        layer_norm: normalise hidden layers, the embeddings too.
        stream: noise of the initial weights.
        fan_in: [G, Z] true number of inputs of every embedding; 0 for a part that is always empty.
    """

    def __init__(
        self, sizes: Sequence[int], num_groups: int, layer_norm: bool, stream: Stream, fan_in: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        inputs, width, *behind = sizes
        self.parts, self.layer_norm = len(fan_in[0]), layer_norm
        self.below, self.behind = (inputs, width), (self.parts * width, *behind)
        widths = [max(size, 1) for row in fan_in for size in row]
        joined = [width * sum(size > 0 for size in row) for row in fan_in]
        embedding = GroupedMLP(self.below, num_groups * self.parts, layer_norm, stream, widths).flat.detach()
        rest = GroupedMLP(self.behind, num_groups, layer_norm, stream, joined).flat.detach()
        self.flat = nn.Parameter(torch.cat([embedding.view(len(embedding), num_groups, -1), rest], dim=2))

    def split(self, flat_SGP: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the embeddings [S, G, Z, I + 1, W], centred if their outputs are normalised, and the others."""
        inputs, width = self.below
        length = self.parts * (inputs + 1) * width
        below, behind = flat_SGP.split([length, flat_SGP.shape[2] - length], dim=2)
        block = below.unflatten(2, (self.parts, inputs + 1, width))
        return block - block.mean(4, keepdim=True) if self.layer_norm else block, behind

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights [S, G, in, out] and biases [S, G, out] of the layers behind the embeddings, as views of `flat`."""
        length = self.parts * (self.below[0] + 1) * self.below[1]
        return [(block[:, :, :-1], block[:, :, -1]) for block in grouped.blocks(self.flat[:, :, length:], self.behind)]


class SetCritic(Critic):
    """C centralised critics per agent, each invariant to the order of interchangeable others; `Critic`'s interface."""

    mlp: SetMLP

    def __init__(
        self,
        spec: EnvSpec,
        hidden: Sequence[int],
        layer_norm: bool,
        stream: Stream,
        num_critics: int = 1,
        independent: bool = False,
    ) -> None:
        assert hidden and not independent, "an embedding is a hidden layer, and there are others to embed"
        nn.Module.__init__(self)  # no perceptron of the joint row
        self.num_critics, self.num_agents, self.action_size = num_critics, spec.num_agents, spec.action_size
        part_NNZ = parts_of(spec)
        width_N1 = torch.tensor([[agent.obs_size + agent.choices] for agent in spec.agents])
        fan_in_NZ = (part_NNZ * width_N1).amax(1)
        sizes = (spec.obs_size + spec.action_size, *hidden, 1)
        self.mlp = SetMLP(sizes, num_critics * spec.num_agents, layer_norm, stream, fan_in_NZ.tolist() * num_critics)
        part_GNZ = part_NNZ.to(torch.float32).repeat(num_critics, 1, 1).to(self.mlp.flat.device)
        self.part_GNZ = part_GNZ  # 1 where that agent is embedded in that part
        self.mean_GZN = (part_GNZ / part_GNZ.sum(1, keepdim=True).clamp(min=1.0)).transpose(1, 2).contiguous()

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D]: all observations, then all action one-hots."""
        block_SGZIW, behind = self.mlp.split(self.mlp.flat)
        joined_XVB = self._joined(joint_SBD, block_SGZIW, len(self.part_GNZ)).flatten(0, 1).flatten(1, 2)
        norm = self.mlp.layer_norm
        values = grouped.run(joined_XVB, grouped.prepare(behind, self.mlp.behind, norm), norm)
        return values.view(-1, self.num_critics, self.num_agents, joint_SBD.shape[1])

    @torch.no_grad()
    def own_action(self, joint_SBD: Tensor) -> OwnActionValue:
        """The first critic's value as a function of each agent's own action, all else as in `joint_SBD`.

        An agent's own action is in its own embedding alone; what the others add to the layer behind is a constant.
        """
        agents, norm, actions = self.num_agents, self.mlp.layer_norm, self.action_size
        block_SNZIW, behind = (x[:, :agents] for x in self.mlp.split(self.mlp.flat))
        own_XIW = block_SNZIW[:, :, 0].flatten(0, 1)
        seen_XIB = self._rows(joint_SBD)[:, :-actions]
        weight_XWI = own_XIW[:, :-1].transpose(1, 2)
        constant_XWB = torch.baddbmm(own_XIW[:, -1:].transpose(1, 2), weight_XWI[..., :-actions], seen_XIB)
        joined_XZWB = self._joined(joint_SBD, block_SNZIW, agents).flatten(0, 1)
        joined_XZWB[:, 0].zero_()
        weight, bias, *rest = grouped.prepare(behind, self.mlp.behind, norm)
        following = weight[..., : self.mlp.below[1]], torch.baddbmm(bias, weight, joined_XZWB.flatten(1, 2))
        parameters = (weight_XWI[..., -actions:], constant_XWB, *following, *rest)
        return OwnActionValue((len(joint_SBD), agents), parameters, norm)

    def _rows(self, joint_SBD: Tensor) -> Tensor:
        """Every agent's own observation and action, [S * N, I, B]."""
        seen = joint_SBD.shape[2] - self.num_agents * self.action_size
        parts = [x.unflatten(2, (self.num_agents, -1)) for x in (joint_SBD[..., :seen], joint_SBD[..., seen:])]
        return torch.cat(parts, dim=3).permute(0, 2, 3, 1).flatten(0, 1)

    def _joined(self, joint_SBD: Tensor, block_SGZIW: Tensor, groups: int) -> Tensor:
        """What the first `groups` critics go on from, [S, G, Z, W, B]: the mean embedding of every part."""
        agents, (inputs, width), rows = self.num_agents, self.mlp.below, joint_SBD.shape[1]
        # the layer by which each critic embeds each agent; a product with ones and zeros, since its derivative sums
        # in a fixed order on any device
        each_SGNIW = torch.matmul(self.part_GNZ[:groups], block_SGZIW.flatten(3)).unflatten(3, (inputs + 1, width))
        each_XIY = each_SGNIW.permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(2)  # every agent's row is read once
        each_XYI = each_XIY.transpose(1, 2)
        pre_XYB = torch.baddbmm(each_XYI[..., -1:], each_XYI[..., :-1], self._rows(joint_SBD))
        embedded = grouped.hidden(pre_XYB.view(-1, width, rows), self.mlp.layer_norm)
        embedded_SGNR = embedded.view(-1, agents, groups, width * rows).transpose(1, 2)
        joined_SGZWB: Tensor = torch.matmul(self.mean_GZN[:groups], embedded_SGNR).unflatten(3, (width, rows))
        return joined_SGZWB


def parts_of(spec: EnvSpec) -> Tensor:
    """Bool [N, N, Z]: in which part the critic of the first agent sees the second: its own is 0, kind k is k + 1."""
    kind_N = torch.tensor(spec.kinds)
    part_NN = kind_N.repeat(spec.num_agents, 1) + 1
    part_NN.fill_diagonal_(0)
    return part_NN[..., None] == torch.arange(int(kind_N.max()) + 2)
