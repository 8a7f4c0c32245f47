"""Actors and critics whose last hidden layer is a gated recurrent unit: what they saw and did before counts too.

Shape suffixes: S replicas, N agents, C critics per agent, G groups, X = S * G, Y = X, or S where all groups of a
replica share their input, I inputs, W width of the state, Z = 3 * W gates, B rows, T steps, R = T * B rows (row
t * B + b is step t of row b), O observation, H heads, K choices, A = H * K, D = N * (O + A), P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from envs.streams import Stream
from marl.learner.networks import grouped_mlp
from marl.learner.networks.actor_critic import Actor, Critic, GroupedMLP, own_inputs
from marl.learner.recurrent import grouped_gru


class Prepared(NamedTuple):
    """Parameters in the form of the products."""

    inputs: tuple[Tensor, ...]  # of `grouped_mlp.run`, from the input to the gates
    weight_XZW: Tensor  # of the state, to the gates
    bias_XZ1: Tensor
    head_XOW: Tensor  # of the state, to the output
    head_bias_XO1: Tensor
    layer_norm: bool

    def gates(self, x_YIB: Tensor) -> Tensor:
        """What inputs add to the gates, [X, Z, B]."""
        gates = grouped_mlp.run(x_YIB, self.inputs, self.layer_norm)
        return gates.view(*self.weight_XZW.shape[:2], -1)  # one shared layer leaves its groups below each other

    def step(self, gates_XZB: Tensor, state_XWB: Tensor) -> Tensor:
        """The state after one step."""
        return grouped_gru.cell(gates_XZB, self.weight_XZW, self.bias_XZ1, state_XWB)

    def unroll(self, gates_XZR: Tensor, state_XWB: Tensor, keep_X1TB: Tensor) -> tuple[Tensor, Tensor]:
        """The states before and after every step, [X, W, R]; see `grouped_gru.unroll`."""
        return grouped_gru.unroll(gates_XZR, self.weight_XZW, self.bias_XZ1, state_XWB, keep_X1TB)

    def output(self, state_XWB: Tensor) -> Tensor:
        """The outputs [X, O, B] of states."""
        return torch.baddbmm(self.head_bias_XO1, self.head_XOW, state_XWB)


class GroupedGRU(nn.Module):
    """S * G independent networks of one shape whose last hidden layer is a GRU; the arguments are `GroupedMLP`'s.

    All parameters are one tensor `flat` [S, G, P]: those of the perceptron from the input to the gates, whose hidden
    layers are all but the last; those from the state to the gates; those from the state to the output.
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
        *below, width, out = sizes
        self.sizes, self.width, self.layer_norm = (*below, 3 * width), width, layer_norm
        self._out = out
        parts = [
            GroupedMLP(self.sizes, num_groups, layer_norm, stream, fan_in),
            GroupedMLP((width, 3 * width), num_groups, layer_norm, stream),
            GroupedMLP((width, out), num_groups, layer_norm, stream, out_gain=out_gain),
        ]
        self._lengths = [part.flat.shape[2] for part in parts]
        self.flat = nn.Parameter(torch.cat([part.flat.detach() for part in parts], dim=2))

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights [S, G, in, out] and biases [S, G, out] from the input to the gates, as views of `flat`."""
        blocks = grouped_mlp.blocks(self.flat[:, :, : self._lengths[0]], self.sizes)
        return [(block[:, :, :-1], block[:, :, -1]) for block in blocks]

    def last(self, flat_SGP: Tensor) -> Tensor:
        """Parameters [S, G, W + 1, out] of the layer behind which the outputs stand, as a view of `flat_SGP`."""
        return grouped_mlp.blocks(flat_SGP.split(self._lengths, dim=2)[2], (self.width, self._out))[-1]

    def prepare(self, flat_SGP: Tensor, shared_input: bool = False) -> Prepared:
        """Parameters of this shape in the form of the products; `shared_input` as for `grouped_mlp.prepare`."""
        inputs, inner, head = flat_SGP.split(self._lengths, dim=2)
        below = grouped_mlp.prepare(inputs, self.sizes, self.layer_norm, shared_input)
        weight_XZW, bias_XZ1 = grouped_mlp.prepare(inner, (self.width, 3 * self.width), False)
        head_XOW, head_bias_XO1 = grouped_mlp.prepare(head, (self.width, self._out), False)
        return Prepared(below, weight_XZW, bias_XZ1, head_XOW, head_bias_XO1, self.layer_norm)


class RecurrentActor(Actor):
    """Every agent's policy, from all that it has seen and done since the episode began."""

    network = GroupedGRU

    def forward(self, obs_SNBO: Tensor, agents: Sequence[int] | None = None) -> Tensor:
        """Logits [S, n, B, H, K] of `agents` (None: all) at the first observation of an episode."""
        state_SNBW = obs_SNBO.new_zeros(*obs_SNBO.shape[:3], self.mlp.width)
        return self.step(obs_SNBO, state_SNBW, self.prepared(agents))[0]

    def step(self, obs_SNBO: Tensor, state_SNBW: Tensor, parameters: Prepared) -> tuple[Tensor, Tensor]:
        """Logits [S, N, B, H, K] and the states after observations, from the states before them."""
        after_XWB = parameters.step(parameters.gates(actor_input(obs_SNBO)), columns(state_SNBW))
        return self.choices(after_XWB, parameters, obs_SNBO.shape[:2]), rows(after_XWB, state_SNBW.shape[:2])

    def choices(self, after_XWB: Tensor, parameters: Prepared, agents: Sequence[int]) -> Tensor:
        """Logits [S, n, B, H, K] of states; `agents` is (S, n)."""
        logits: Tensor = rows(parameters.output(after_XWB), agents).unflatten(-1, self.heads)
        return logits


class RecurrentCritic(Critic):
    """C centralised critics per agent: everybody's observations and actions since the episode began to its value."""

    network = GroupedGRU

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D] at the first step of an episode."""
        parameters, groups = self.prepared(), self.num_critics * self.num_agents
        state_XWB = joint_SBD.new_zeros(len(joint_SBD) * groups, self.mlp.width, joint_SBD.shape[1])
        return self.values(parameters.step(parameters.gates(joint_SBD.transpose(1, 2)), state_XWB), parameters)

    def values(self, after_XWB: Tensor, parameters: Prepared) -> Tensor:
        """Values [S, C, N, B] of states."""
        return parameters.output(after_XWB).view(-1, self.num_critics, self.num_agents, after_XWB.shape[2])

    def first(self) -> Prepared:
        """The parameters of the first critic of every agent."""
        parameters: Prepared = self.mlp.prepare(self.flat()[:, : self.num_agents], shared_input=True)
        return parameters


class OwnActionInMemory:
    """Q_i with agent i's action at a step replaced, for all i and steps at once; differentiable in the action only.

    The states before the steps are those of the actions that were executed.

    Args:
        critic: whose first critics are asked.
        parameters: `critic.first()`.
        joint_SBD: joint rows.
        before_XWB: the states of the first critics before these rows.
    """

    @torch.no_grad()
    def __init__(self, critic: Critic, parameters: Prepared, joint_SBD: Tensor, before_XWB: Tensor) -> None:
        first_SYD, bias_SY1, *tail = parameters.inputs
        first = own_inputs(first_SYD, bias_SY1, joint_SBD, critic.num_agents, critic.action_size)
        self._parameters = parameters._replace(
            inputs=(*first, *(x.detach() for x in tail)),
            weight_XZW=parameters.weight_XZW.detach(),
            bias_XZ1=parameters.bias_XZ1.detach(),
            head_XOW=parameters.head_XOW.detach(),
            head_bias_XO1=parameters.head_bias_XO1.detach(),
        )
        self._before_XWB, self._agents = before_XWB.detach(), (len(joint_SBD), critic.num_agents)

    def __call__(self, action_SNBA: Tensor) -> Tensor:
        """Values [S, N, B] of own actions [S, N, B, A]."""
        parameters = self._parameters
        gates_XZB = parameters.gates(action_SNBA.transpose(2, 3).flatten(0, 1))
        return parameters.output(parameters.step(gates_XZB, self._before_XWB)).view(*self._agents, -1)


@dataclass(frozen=True)
class Traced:
    """A network's states along the learned steps of windows."""

    parameters: Prepared
    before_XWR: Tensor  # before every step; a constant
    after_XWR: Tensor  # after every step; differentiable where the parameters are


def trace(
    parameters: Prepared,
    lead_YIR: Tensor,
    x_YIR: Tensor,
    state_XWB: Tensor,
    lead_keep_X1TB: Tensor,
    keep_X1TB: Tensor,
) -> Traced:
    """The states along windows: the burn-in brings the stored state up to date, without gradient.

    Args:
        parameters: of the network.
        lead_YIR: inputs of the burn-in, none or some steps.
        x_YIR: inputs of the learned steps.
        state_XWB: stored states, before the burn-in.
        lead_keep_X1TB, keep_X1TB: 0 where an episode begins at a step, else 1.

    Source: Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning" (R2D2),
    section 3: stored state and burn-in.
    """
    if lead_keep_X1TB.shape[2]:
        with torch.no_grad():
            after_XWR = parameters.unroll(parameters.gates(lead_YIR), state_XWB, lead_keep_X1TB)[1]
            state_XWB = after_XWR[..., -state_XWB.shape[2] :]
    return Traced(parameters, *parameters.unroll(parameters.gates(x_YIR), state_XWB, keep_X1TB))


def actor_input(obs_SNBO: Tensor) -> Tensor:
    """[X, O, B] of observations."""
    return obs_SNBO.transpose(2, 3).flatten(0, 1)


def columns(state_SGBW: Tensor) -> Tensor:
    """[S, G, B, W] to [X, W, B]."""
    return state_SGBW.transpose(2, 3).flatten(0, 1)


def rows(x_XWB: Tensor, groups: Sequence[int]) -> Tensor:
    """[X, W, B] to [S, G, B, W]; `groups` is (S, G)."""
    x_SGBW: Tensor = x_XWB.unflatten(0, tuple(groups)).transpose(2, 3)
    return x_SGBW
