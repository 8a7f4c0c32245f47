"""Grouped networks: one batched matrix product a layer serves every agent of every replica.

Shape suffixes: S replicas, G groups (agents, or critics of agents), N agents, C critics per agent, X = S * groups,
B batch, O observation, H heads, K choices of a head, A = H * K, D = N * (O + A) joint input, W width, Y = N * W,
P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.learner.networks import grouped_mlp as grouped
from marl.learner.networks.unrolled_mlp import UnrolledMLP


class GroupedMLP(nn.Module):
    """S * G independent multilayer perceptrons of one shape, whose parameters are one tensor `flat` [S, G, P].

    One tensor makes clipping, Adam and the target step one kernel each; layers are views of it. Every hidden layer is
    linear, layer normalisation (without affine part: the next layer's weights hold its scale), ReLU.

    Args:
        sizes: widths from input to output.
        num_groups: G.
        layer_norm: normalise hidden layers (Ba et al. 2016).
        stream: noise of the initial weights; its rows are the replicas.
        fan_in: true number of inputs of every group, where the input is zero-padded.
        out_gain: scale of the last layer's initial weights.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        num_groups: int,
        layer_norm: bool,
        stream: Stream,
        fan_in: Sequence[int] | None = None,
        out_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.layer_norm = layer_norm
        shapes = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        lengths = [n for i, o in shapes for n in (i * o, o)]
        draws_SGP = stream.uniform(num_groups, sum(lengths)) * 2 - 1
        first_G = torch.tensor(list(fan_in or [self.sizes[0]] * num_groups), dtype=torch.float32)
        first_G1 = first_G.rsqrt().to(draws_SGP.device)[:, None]
        bounds = [first_G1 if k == 0 else i**-0.5 for k, (i, _) in enumerate(shapes)]
        bounds[-1] = bounds[-1] * out_gain
        parts = draws_SGP.split(lengths, dim=2)
        scaled = [part * bounds[k // 2] for k, part in enumerate(parts)]
        self.flat = nn.Parameter(torch.cat(scaled, dim=2))

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights [S, G, in, out] and biases [S, G, out] of every layer, as views of `flat`."""
        return [(block[:, :, :-1], block[:, :, -1]) for block in grouped.blocks(self.flat, self.sizes)]

    def last(self, flat_SGP: Tensor) -> Tensor:
        """Parameters [S, G, in + 1, out] of the layer behind which the outputs stand, as a view of `flat_SGP`."""
        return grouped.blocks(flat_SGP, self.sizes)[-1]

    def prepare(self, flat_SGP: Tensor, shared_input: bool = False) -> tuple[Tensor, ...]:
        """Parameters of this shape in the form that a forward pass takes (`grouped_mlp.prepare`)."""
        return grouped.prepare(flat_SGP, self.sizes, self.layer_norm, shared_input)


class Actor(nn.Module):
    """Every agent's policy: its own observation to the logits of its heads.

    With `shared`, interchangeable agents (spec.kinds) use one set of parameters.
    """

    network: Any = GroupedMLP  # or one that takes the same arguments
    mlp: Any

    def __init__(
        self, spec: EnvSpec, hidden: Sequence[int], layer_norm: bool, stream: Stream, shared: bool = False
    ) -> None:
        super().__init__()
        kinds = spec.kinds if shared else tuple(range(spec.num_agents))
        widths = [spec.agents[kinds.index(kind)].obs_size for kind in range(max(kinds) + 1)]
        self.heads = (spec.num_heads, spec.head_size)
        self.mlp = self.network(
            (spec.obs_size, *hidden, spec.action_size), len(widths), layer_norm, stream, widths, out_gain=0.01
        )
        device = self.mlp.flat.device
        self.group_N = torch.tensor(kinds, device=device) if len(widths) < spec.num_agents else None
        self.head_mask = spec.head_mask.to(device)  # [N, H, K]
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def forward(self, obs_SNBO: Tensor, agents: Sequence[int] | None = None) -> Tensor:
        """Logits [S, n, B, H, K] of `agents` (None: all); entries of absent choices are meaningless."""
        return self.logits(obs_SNBO, self.prepared(agents))

    def prepared(self, agents: Sequence[int] | None = None) -> Any:
        """The parameters of `agents` as the network prepares them; to be made again when they have changed."""
        flat_SGP: Tensor = self.mlp.flat
        if self.group_N is not None:
            flat_SGP = flat_SGP.index_select(1, self.group_N)
        if agents is not None:
            flat_SGP = flat_SGP.index_select(1, self._index(tuple(agents)))
        return self.mlp.prepare(flat_SGP)

    def logits(self, obs_SNBO: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Logits [S, n, B, H, K] of n agents from their observations and their `prepared` parameters."""
        logits_XAB = grouped.run(obs_SNBO.transpose(2, 3).flatten(0, 1), parameters, self.mlp.layer_norm)
        logits: Tensor = logits_XAB.unflatten(0, obs_SNBO.shape[:2]).transpose(2, 3).unflatten(-1, self.heads)
        return logits

    def unrolled(self, block_N: Tensor, num_blocks: int) -> Callable[[Tensor], Tensor]:
        """Logits [S, N, B, H, K] of observations [S, N, B, O] at the steps of a rollout, one call a step.

        Args:
            block_N: int64, in which of the blocks that the rows come in each agent's parameters are live; elsewhere
                they are constants.
            num_blocks: of so many rows each.
        """
        flat_SGP = self.mlp.flat if self.group_N is None else self.mlp.flat.index_select(1, self.group_N)
        steps = UnrolledMLP(flat_SGP, self.mlp.sizes, self.mlp.layer_norm, block_N, num_blocks)

        def logits(obs_SNBO: Tensor) -> Tensor:
            logits_XAB = steps(obs_SNBO.transpose(2, 3).flatten(0, 1))
            result: Tensor = logits_XAB.unflatten(0, obs_SNBO.shape[:2]).transpose(2, 3).unflatten(-1, self.heads)
            return result

        return logits

    def _index(self, agents: tuple[int, ...]) -> Tensor:
        """`agents` on the device; made once, since a copy from the host would break a CUDA graph."""
        if agents not in self._indices:
            self._indices[agents] = torch.tensor(agents, device=self.mlp.flat.device)
        return self._indices[agents]


class Critic(nn.Module):
    """C centralised critics per agent: everybody's observation and action to that agent's value.

    With `independent`, each sees its own agent's observation and action only.
    """

    network: Any = GroupedMLP  # or one that takes the same arguments
    mlp: Any

    def __init__(
        self,
        spec: EnvSpec,
        hidden: Sequence[int],
        layer_norm: bool,
        stream: Stream,
        num_critics: int = 1,
        independent: bool = False,
    ) -> None:
        super().__init__()
        self.num_critics, self.num_agents, self.action_size = num_critics, spec.num_agents, spec.action_size
        n, o, a = spec.num_agents, spec.obs_size, spec.action_size
        widths = [agent.obs_size + agent.choices for agent in spec.agents]
        fan_in = widths if independent else [sum(widths)] * n
        self.mlp = self.network((n * (o + a), *hidden, 1), num_critics * n, layer_norm, stream, fan_in * num_critics)
        self.seen_GP: Tensor | None = None
        if independent:
            self.seen_GP = own_only(self.mlp, num_critics, n, (o, a))

    def flat(self) -> Tensor:
        """Parameters [S, C * N, P]; those of inputs that an independent critic does not see are zero."""
        flat_SGP: Tensor = self.mlp.flat
        return flat_SGP if self.seen_GP is None else flat_SGP * self.seen_GP

    def prepared(self) -> Any:
        """The parameters as the network prepares them; to be made again when they have changed."""
        return self.mlp.prepare(self.flat(), shared_input=True)

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D]: all observations, then all action one-hots."""
        values = grouped.run(joint_SBD.transpose(1, 2), self.prepared(), self.mlp.layer_norm)
        return values.view(-1, self.num_critics, self.num_agents, joint_SBD.shape[1])

    def first_reads(self, joint_SBD: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the perceptrons of the first critics of all agents read of joint rows, [S, B, ...] with the actions at
        its end, and their `prepared` parameters."""
        parameters: tuple[Tensor, ...] = self.mlp.prepare(self.flat()[:, : self.num_agents], shared_input=True)
        return joint_SBD, parameters

    @torch.no_grad()
    def own_action(self, joint_SBD: Tensor) -> OwnActionValue:
        """The first critic's value as a function of each agent's own action, all else as in `joint_SBD`.

        The first layer is linear, so replacing one agent's action adds its rows of the weight times (new - old) to the
        pre-activation of the joint row: N joint inputs cost one product and N small ones.
        """
        read_SBD, (first_SYD, bias_SY1, *tail) = self.first_reads(joint_SBD)
        first = own_inputs(first_SYD, bias_SY1, read_SBD, self.num_agents, self.action_size)
        return OwnActionValue((joint_SBD.shape[0], self.num_agents), (*first, *tail), self.mlp.layer_norm)


def own_only(mlp: Any, critics: int, agents: int, widths: tuple[int, int], start: int = 0) -> Tensor:
    """Bool-valued [C * N, P]: 0 at the weights of inputs that are of other agents than the critic's own.

    Args:
        mlp: the critics' network.
        critics, agents: C, N.
        widths: of what the first layer reads of each agent, its observation and its action.
        start: where its weights begin among the P parameters.
    """
    device, outputs = mlp.flat.device, mlp.sizes[1]
    agent_N = torch.arange(agents, device=device)
    owner_D = torch.cat([agent_N.repeat_interleave(width) for width in widths])
    seen_GD = (owner_D == agent_N[:, None]).to(torch.float32).repeat(critics, 1)
    seen_GP = torch.ones(mlp.flat.shape[1:], device=device)
    seen_GP[:, start : start + owner_D.numel() * outputs] = seen_GD.repeat_interleave(outputs, 1)
    return seen_GP


class OwnActionValue:
    """Q_i with agent i's action replaced, for all i at once; differentiable in the action only.

    Args:
        agents: (S, N).
        parameters: constants of `grouped_mlp.run`, as functions of the own action: all else is in the biases.
        layer_norm: whether hidden layers are normalised.
    """

    def __init__(self, agents: tuple[int, int], parameters: tuple[Tensor, ...], layer_norm: bool) -> None:
        self._agents, self._parameters, self._layer_norm = agents, parameters, layer_norm

    def __call__(self, action_SNBA: Tensor) -> Tensor:
        """Values [S, N, B] of own actions [S, N, B, A]."""
        action_XAB = action_SNBA.transpose(2, 3).flatten(0, 1)
        return grouped.run(action_XAB, self._parameters, self._layer_norm).view(*self._agents, -1)


def own_inputs(
    first_SYD: Tensor, bias_SY1: Tensor, joint_SBD: Tensor, agents: int, action_size: int
) -> tuple[Tensor, Tensor]:
    """A first layer as a function of each agent's own action: its weight [S * N, W, A] and a bias [S * N, W, B].

    Args:
        first_SYD, bias_SY1: weight and bias of the layer of one critic of every agent.
        joint_SBD: everything else that the critics see.
        agents, action_size: N, A.
    """
    seen = joint_SBD.shape[2] - agents * action_size
    actions_SNAB = joint_SBD[..., seen:].unflatten(2, (agents, -1)).permute(0, 2, 3, 1)
    # of the columns of the joint row, agent n's block n
    own_SNWA = first_SYD[..., seen:].unflatten(1, (agents, -1)).unflatten(3, (agents, -1)).diagonal(dim1=1, dim2=3)
    own_XWA = own_SNWA.permute(0, 3, 1, 2).flatten(0, 1)
    pre_SYB = torch.baddbmm(bias_SY1, first_SYD, joint_SBD.transpose(1, 2))
    pre_XWB = pre_SYB.view(len(own_XWA), -1, joint_SBD.shape[1])
    # pre-activation of the joint row without the own action
    return own_XWA, torch.baddbmm(pre_XWB, own_XWA, actions_SNAB.flatten(0, 1), alpha=-1.0)


def joint_rows(obs_SNBO: Tensor, action_SNBA: Tensor) -> Tensor:
    """The critic's input [S, B, D]: all observations, then all actions."""
    return torch.cat([obs_SNBO.transpose(1, 2).flatten(2), action_SNBA.transpose(1, 2).flatten(2)], dim=2)
