"""Grouped networks: one batched matrix product a layer serves every agent of every replica.

Shape suffixes: S replicas, G groups (agents, or critics of agents), N agents, C critics per agent, B batch,
O observation, H heads, K choices of a head, A = H * K, D = N * (O + A) joint input, W width, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream


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
        shapes = [(i, o) for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True)]
        self._lengths = [n for i, o in shapes for n in (i * o, o)]
        draws_SGP = stream.uniform(num_groups, sum(self._lengths)) * 2 - 1
        first_G = torch.tensor(list(fan_in or [self.sizes[0]] * num_groups), dtype=torch.float32)
        first_G1 = first_G.rsqrt().to(draws_SGP.device)[:, None]
        bounds = [first_G1 if k == 0 else i**-0.5 for k, (i, _) in enumerate(shapes)]
        bounds[-1] = bounds[-1] * out_gain
        parts = draws_SGP.split(self._lengths, dim=2)
        scaled = [part * bounds[k // 2] for k, part in enumerate(parts)]
        self.flat = nn.Parameter(torch.cat(scaled, dim=2))

    def layers(self, flat_SGP: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Weights [S, G, in, out] and biases [S, G, 1, out] of every layer, as views of `flat_SGP`."""
        flat_SGP = self.flat if flat_SGP is None else flat_SGP
        groups = flat_SGP.shape[:2]
        parts = flat_SGP.split(self._lengths, dim=2)
        return [
            (parts[2 * k].unflatten(2, (i, o)), parts[2 * k + 1].view(*groups, 1, o))
            for k, (i, o) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        ]

    def activate(self, x: Tensor) -> Tensor:
        """Layer normalisation (where on) and ReLU."""
        return F.relu(F.layer_norm(x, x.shape[-1:]) if self.layer_norm else x)

    def tail(self, hidden_SGBW: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Everything behind the first layer's pre-activation."""
        for weight, bias in layers[1:]:
            hidden_SGBW = grouped_linear(self.activate(hidden_SGBW), weight, bias)
        return hidden_SGBW


def grouped_linear(x_SGBI: Tensor, weight_SGIO: Tensor, bias_SG1O: Tensor) -> Tensor:
    """x @ weight + bias for every replica and group: [S, G, B, I] to [S, G, B, O]."""
    groups = weight_SGIO.shape[:2]
    flat = torch.baddbmm(bias_SG1O.flatten(0, 1), x_SGBI.flatten(0, 1), weight_SGIO.flatten(0, 1))
    return flat.unflatten(0, groups)


class Actor(nn.Module):
    """Every agent's policy: its own observation to the logits of its heads.

    With `shared`, interchangeable agents (spec.kinds) use one set of parameters.
    """

    def __init__(
        self, spec: EnvSpec, hidden: Sequence[int], layer_norm: bool, stream: Stream, shared: bool = False
    ) -> None:
        super().__init__()
        kinds = spec.kinds if shared else tuple(range(spec.num_agents))
        widths = [spec.agents[kinds.index(kind)].obs_size for kind in range(max(kinds) + 1)]
        self.heads = (spec.num_heads, spec.head_size)
        self.mlp = GroupedMLP(
            (spec.obs_size, *hidden, spec.action_size), len(widths), layer_norm, stream, widths, out_gain=0.01
        )
        device = self.mlp.flat.device
        self.group_N = torch.tensor(kinds, device=device) if len(widths) < spec.num_agents else None
        self.head_mask = spec.head_mask.to(device)  # [N, H, K]

    def forward(self, obs_SNBO: Tensor, agents: Sequence[int] | None = None) -> Tensor:
        """Logits [S, n, B, H, K] of `agents` (None: all); entries of absent choices are meaningless."""
        flat_SGP: Tensor = self.mlp.flat
        if self.group_N is not None:
            flat_SGP = flat_SGP[:, self.group_N]
        if agents is not None:
            flat_SGP = flat_SGP[:, list(agents)]
        layers = self.mlp.layers(flat_SGP)
        logits = self.mlp.tail(grouped_linear(obs_SNBO, *layers[0]), layers)
        return logits.unflatten(-1, self.heads)


class Critic(nn.Module):
    """C centralised critics per agent: everybody's observation and action to that agent's value.

    With `independent`, each sees its own agent's observation and action only.
    """

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
        self.num_critics, self.num_agents = num_critics, spec.num_agents
        n, o, a = spec.num_agents, spec.obs_size, spec.action_size
        widths = [agent.obs_size + sum(head.size for head in agent.heads) for agent in spec.agents]
        fan_in = widths if independent else [sum(widths)] * n
        self.mlp = GroupedMLP((n * (o + a), *hidden, 1), num_critics * n, layer_norm, stream, fan_in * num_critics)
        device = self.mlp.flat.device
        agent_N = torch.arange(n, device=device)
        self.action_rows_NA = n * o + agent_N[:, None] * a + torch.arange(a, device=device)
        owner_D = torch.cat([agent_N.repeat_interleave(o), agent_N.repeat_interleave(a)])
        seen_ND = (owner_D == agent_N[:, None]).to(torch.float32)
        self.seen_GD1 = seen_ND.repeat(num_critics, 1)[..., None] if independent else None

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        layers = self.mlp.layers()
        if self.seen_GD1 is not None:
            layers[0] = (layers[0][0] * self.seen_GD1, layers[0][1])
        return layers

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D]: all observations, then all action one-hots."""
        layers = self._layers()
        values = self.mlp.tail(first_layer(joint_SBD, *layers[0]), layers)
        return values.squeeze(-1).unflatten(1, (self.num_critics, self.num_agents))

    def own_action(self, joint_SBD: Tensor) -> OwnActionValue:
        """The first critic's value as a function of each agent's own action, all else as in `joint_SBD`."""
        return OwnActionValue(self, joint_SBD)


class OwnActionValue:
    """Q_i with agent i's action replaced, for all i at once; differentiable in the action only.

    The first layer is linear, so replacing one agent's action adds (new - old) @ its rows of the weight to the
    pre-activation of the joint row: N joint inputs cost one product and N small ones.
    """

    def __init__(self, critic: Critic, joint_SBD: Tensor) -> None:
        n = critic.num_agents
        self._mlp = critic.mlp
        with torch.no_grad():
            self._layers = [(weight[:, :n], bias[:, :n]) for weight, bias in critic._layers()]
            weight_SNDW, bias = self._layers[0]
            agents = torch.arange(n, device=joint_SBD.device)[:, None]
            self._own_SNAW = weight_SNDW[:, agents, critic.action_rows_NA]
            action_SNBA = joint_SBD[..., critic.action_rows_NA].permute(0, 2, 1, 3)
            pre_SNBW = first_layer(joint_SBD, weight_SNDW, bias)
            # pre-activation of the joint row without the own action
            self._base_SNBW = pre_SNBW - torch.matmul(action_SNBA, self._own_SNAW)

    def __call__(self, action_SNBA: Tensor) -> Tensor:
        """Values [S, N, B] of own actions [S, N, B, A]."""
        pre_SNBW = self._base_SNBW + torch.matmul(action_SNBA, self._own_SNAW)
        return self._mlp.tail(pre_SNBW, self._layers).squeeze(-1)


def first_layer(joint_SBD: Tensor, weight_SGDW: Tensor, bias_SG1W: Tensor) -> Tensor:
    """One product of the joint rows with every group's first weight: [S, B, D] to [S, G, B, W]."""
    groups, width = weight_SGDW.shape[1], weight_SGDW.shape[3]
    wide_SDX = weight_SGDW.transpose(1, 2).flatten(2)
    pre_SBX = torch.baddbmm(bias_SG1W.flatten(1)[:, None], joint_SBD, wide_SDX)
    return pre_SBX.unflatten(2, (groups, width)).transpose(1, 2)
