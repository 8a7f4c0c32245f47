"""Actors and critics with a gated recurrent unit beside their input: what they saw and did before counts too.

    h' = GRU(x, h),  output = MLP([x, h'])

The unit reads the input as it is and the hidden layers read both, as they would read several observations side by
side. In place of the last hidden layer, behind a normalised one, it keeps less of what small differences tell: on
simple_adversary, where two positions and what was done between tell a velocity, agents learn less (trials:
benchmarks/results/competition/variants/trials.json).

Shape suffixes: S replicas, N agents, C critics per agent, G groups, X = S * G, Y = X, or S where all groups of a
replica share their input, I inputs, W width of the state and of the first hidden layer, Z = 3 * W gates, B rows, T
steps, R = T * B rows (row t * B + b is step t of row b), O observation, H heads, K choices, A = H * K,
D = N * (O + A), P parameters.
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

    inputs: tuple[Tensor, ...]  # of `grouped_mlp.run`: one layer from the input to the gates and the first hidden layer
    weight_XZW: Tensor  # of the state before, to the gates
    bias_XZ1: Tensor
    read_XWW: Tensor  # of the state after, to the first hidden layer
    read_bias_XW1: Tensor
    behind: tuple[Tensor, ...]  # of `grouped_mlp.run`: from the first hidden layer to the output
    ahead: tuple[Tensor, ...]  # of `grouped_mlp.run`: one layer from the state after to what is predicted
    layer_norm: bool

    def enter(self, x_YIB: Tensor) -> Tensor:
        """What inputs add to the gates and to the first hidden layer, [X, Z + W, B]."""
        entered = grouped_mlp.run(x_YIB, self.inputs, False)
        return entered.view(len(self.weight_XZW), -1, entered.shape[2])  # shared inputs leave groups below each other

    def step(self, entered_XIB: Tensor, state_XWB: Tensor) -> Tensor:
        """The state after one step."""
        return grouped_gru.cell(self._gates(entered_XIB), self.weight_XZW, self.bias_XZ1, state_XWB)

    def unroll(self, entered_XIR: Tensor, state_XWB: Tensor, keep_X1TB: Tensor) -> tuple[Tensor, Tensor]:
        """The states before and after every step, [X, W, R]; see `grouped_gru.unroll`."""
        return grouped_gru.unroll(self._gates(entered_XIR), self.weight_XZW, self.bias_XZ1, state_XWB, keep_X1TB)

    def output(self, entered_XIB: Tensor, after_XWB: Tensor) -> Tensor:
        """The outputs [X, O, B] of inputs and of the states behind them."""
        first_XWB = entered_XIB[:, self.weight_XZW.shape[1] :]
        first_XWB = first_XWB + torch.baddbmm(self.read_bias_XW1, self.read_XWW, after_XWB)
        if self.layer_norm:
            first_XWB = first_XWB - first_XWB.mean(1, keepdim=True)
        return grouped_mlp.run(grouped_mlp.hidden(first_XWB, self.layer_norm), self.behind, self.layer_norm)

    def predicted(self, after_XIB: Tensor) -> Tensor:
        """What is predicted [X, O, B] from the states after a step, and what stands beside them below."""
        return grouped_mlp.run(after_XIB, self.ahead, False)

    def _gates(self, entered_XIB: Tensor) -> Tensor:
        return entered_XIB[:, : self.weight_XZW.shape[1]]


class GroupedGRU(nn.Module):
    """S * G independent networks of one shape, each a GRU as wide as its first hidden layer and a perceptron that reads
    the input and the state of the GRU; the arguments are `GroupedMLP`'s, with a hidden layer at least, and one more.

    All parameters are one tensor `flat` [S, G, P]: those from the input to the gates and to the first hidden layer;
    from the state before to the gates; from the state after to the first hidden layer; from the state after to what is
    predicted (prediction.py); and of the layers behind the first, the outputs' last.

    Args:
        predicts: how many numbers stand beside the state for a prediction, and how many are predicted.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        num_groups: int,
        layer_norm: bool,
        stream: Stream,
        fan_in: Sequence[int] | None = None,
        out_gain: float = 1.0,
        predicts: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        inputs, width, *behind = sizes
        self.width, self.layer_norm = width, layer_norm
        self.sizes = (inputs, 4 * width)
        ahead = width + predicts[0], predicts[1]
        self._parts = [self.sizes, (width, 3 * width), (width, width), ahead, (width, *behind)]
        parts = [
            GroupedMLP(self.sizes, num_groups, False, stream, fan_in),
            GroupedMLP(self._parts[1], num_groups, False, stream),
            GroupedMLP(self._parts[2], num_groups, False, stream),
            GroupedMLP(self._parts[3], num_groups, False, stream),
            GroupedMLP(self._parts[4], num_groups, layer_norm, stream, out_gain=out_gain),
        ]
        self._lengths = [part.flat.shape[2] for part in parts]
        self.flat = nn.Parameter(torch.cat([part.flat.detach() for part in parts], dim=2))

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights [S, G, in, out] and biases [S, G, out] of all products, in the order of `flat`, as views of it."""
        parts = zip(self.flat.split(self._lengths, dim=2), self._parts, strict=True)
        blocks = [block for part, sizes in parts for block in grouped_mlp.blocks(part, sizes)]
        return [(block[:, :, :-1], block[:, :, -1]) for block in blocks]

    def last(self, flat_SGP: Tensor) -> Tensor:
        """Parameters [S, G, in + 1, out] of the layer behind which the outputs stand, as a view of `flat_SGP`."""
        return grouped_mlp.blocks(flat_SGP.split(self._lengths, dim=2)[4], self._parts[4])[-1]

    def prepare(self, flat_SGP: Tensor, shared_input: bool = False) -> Prepared:
        """Parameters of this shape in the form of the products; `shared_input` as for `grouped_mlp.prepare`."""
        inputs, inner, read, ahead, behind = flat_SGP.split(self._lengths, dim=2)
        weight_XZW, bias_XZ1 = grouped_mlp.prepare(inner, self._parts[1], False)
        read_XWW, read_bias_XW1 = grouped_mlp.prepare(read, self._parts[2], False)
        return Prepared(
            grouped_mlp.prepare(inputs, self.sizes, False, shared_input),
            weight_XZW,
            bias_XZ1,
            read_XWW,
            read_bias_XW1,
            grouped_mlp.prepare(behind, self._parts[4], self.layer_norm),
            grouped_mlp.prepare(ahead, self._parts[3], False),
            self.layer_norm,
        )


class RecurrentActor(Actor):
    """Every agent's policy, from all that it has seen and done since the episode began."""

    def network(
        self,
        sizes: Sequence[int],
        groups: int,
        layer_norm: bool,
        stream: Stream,
        fan_in: Sequence[int],
        out_gain: float,
    ) -> GroupedGRU:
        """States predict the next observation beside the executed action."""
        return GroupedGRU(sizes, groups, layer_norm, stream, fan_in, out_gain, predicts=(sizes[-1], sizes[0]))

    def forward(self, obs_SNBO: Tensor, agents: Sequence[int] | None = None) -> Tensor:
        """Logits [S, n, B, H, K] of `agents` (None: all) at the first observation of an episode."""
        state_SNBW = obs_SNBO.new_zeros(*obs_SNBO.shape[:3], self.mlp.width)
        return self.step(obs_SNBO, state_SNBW, self.prepared(agents))[0]

    def step(self, obs_SNBO: Tensor, state_SNBW: Tensor, parameters: Prepared) -> tuple[Tensor, Tensor]:
        """Logits [S, N, B, H, K] and the states after observations, from the states before them."""
        entered_XIB = parameters.enter(actor_input(obs_SNBO))
        after_XWB = parameters.step(entered_XIB, columns(state_SNBW))
        logits = self.choices(parameters.output(entered_XIB, after_XWB), obs_SNBO.shape[:2])
        return logits, rows(after_XWB, state_SNBW.shape[:2])

    def choices(self, output_XAB: Tensor, agents: Sequence[int]) -> Tensor:
        """Logits [S, n, B, H, K] of outputs; `agents` is (S, n)."""
        logits: Tensor = rows(output_XAB, agents).unflatten(-1, self.heads)
        return logits


class RecurrentCritic(Critic):
    """C centralised critics per agent: everybody's observations and actions since the episode began to its value."""

    def network(
        self, sizes: Sequence[int], groups: int, layer_norm: bool, stream: Stream, fan_in: Sequence[int]
    ) -> GroupedGRU:
        """States, which hold what was done, predict the agent's next observation."""
        predicts = 0, sizes[0] // self.num_agents - self.action_size
        return GroupedGRU(sizes, groups, layer_norm, stream, fan_in, predicts=predicts)

    def forward(self, joint_SBD: Tensor) -> Tensor:
        """Values [S, C, N, B] of joint rows [S, B, D] at the first step of an episode."""
        groups = self.num_critics * self.num_agents
        state_XWB = joint_SBD.new_zeros(len(joint_SBD) * groups, self.mlp.width, joint_SBD.shape[1])
        return self.values(joint_SBD, state_XWB, self.prepared())

    def values(self, joint_SBD: Tensor, state_XWB: Tensor, parameters: Prepared) -> Tensor:
        """Values [S, C, N, B] of joint rows behind states [X, W, B]."""
        entered_XIB = parameters.enter(joint_SBD.transpose(1, 2))
        return self.grouped(parameters.output(entered_XIB, parameters.step(entered_XIB, state_XWB)))

    def grouped(self, output_X1B: Tensor) -> Tensor:
        """Outputs as values [S, C, N, B]."""
        return output_X1B.view(-1, self.num_critics, self.num_agents, output_X1B.shape[2])

    @torch.no_grad()
    def first(self) -> Prepared:
        """The parameters of the first critic of every agent, as constants."""
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
        first_SYD, bias_SY1 = parameters.inputs
        self._parameters = parameters._replace(
            inputs=own_inputs(first_SYD, bias_SY1, joint_SBD, critic.num_agents, critic.action_size)
        )
        self._before_XWB, self._agents = before_XWB.detach(), (len(joint_SBD), critic.num_agents)

    def __call__(self, action_SNBA: Tensor) -> Tensor:
        """Values [S, N, B] of own actions [S, N, B, A]."""
        parameters = self._parameters
        entered_XIB = parameters.enter(action_SNBA.transpose(2, 3).flatten(0, 1))
        return parameters.output(entered_XIB, parameters.step(entered_XIB, self._before_XWB)).view(*self._agents, -1)


@dataclass(frozen=True)
class Traced:
    """A network's states along the learned steps of windows."""

    parameters: Prepared
    entered_XIR: Tensor  # what the inputs of the steps add
    before_XWR: Tensor  # before every step; a constant
    after_XWR: Tensor  # after every step; differentiable where the parameters are

    def output(self) -> Tensor:
        """The network's outputs [X, O, R] at the steps."""
        return self.parameters.output(self.entered_XIR, self.after_XWR)


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
            after_XWR = parameters.unroll(parameters.enter(lead_YIR), state_XWB, lead_keep_X1TB)[1]
            state_XWB = after_XWR[..., -state_XWB.shape[2] :]
    entered_XIR = parameters.enter(x_YIR)
    return Traced(parameters, entered_XIR, *parameters.unroll(entered_XIR, state_XWB, keep_X1TB))


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
