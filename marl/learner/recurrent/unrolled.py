"""Recurrent actors and critics along imagined rollouts: their states go on from call to call.

Shape suffixes: S replicas, N agents, X agents of all replicas, S * N, Y = X, or S where all critics of a replica share
their input, B batch, P blocks of it, L rows of one block, I inputs of a layer, W width of the state, O observation,
A action, H heads, K choices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from marl.learner.networks.actor_critic import Actor, joint_rows
from marl.learner.recurrent.networks import Prepared, RecurrentActor, RecurrentCritic, actor_input, columns


class UnrolledActor:
    """Logits of the steps of a rollout, one call a step; differentiable in observations and live parameters.

    Args:
        actor: all agents' policies.
        memory_SNBW: the states before the first step.
        block_N: int64, in which of the blocks that the rows come in each agent's parameters are live; elsewhere they
            are constants.
        num_blocks: P.
    """

    def __init__(self, actor: RecurrentActor, memory_SNBW: Tensor, block_N: Tensor, num_blocks: int) -> None:
        self._actor, self._agents, self._blocks = actor, memory_SNBW.shape[:2], num_blocks
        self._state_XWB = columns(memory_SNBW)
        self._live = actor.prepared()
        with torch.no_grad():
            self._constant = actor.prepared() if num_blocks > 1 else self._live
        self._block_X = block_N.repeat(len(memory_SNBW))
        self._every_X = torch.arange(len(self._block_X), device=block_N.device)

    def __call__(self, obs_SNBO: Tensor) -> Tensor:
        """Logits [S, N, B, H, K] of the next observations."""
        obs_XOB, before_XWB = actor_input(obs_SNBO), self._state_XWB
        output, live = _stepped(self._live, self._own(obs_XOB), self._own(before_XWB))
        if self._blocks == 1:
            self._state_XWB = live
        else:
            constant_output, constant = _stepped(self._constant, obs_XOB, before_XWB)
            self._state_XWB = self._joined(live, constant)
            output = self._joined(output, constant_output)
        logits: Tensor = output.unflatten(0, self._agents).transpose(2, 3).unflatten(-1, self._actor.heads)
        return logits

    def _own(self, x_XIB: Tensor) -> Tensor:
        """The rows [X, I, L] in which an agent's parameters are live."""
        if self._blocks == 1:
            return x_XIB
        own: Tensor = x_XIB.unflatten(2, (self._blocks, -1))[self._every_X, :, self._block_X]
        return own

    def _joined(self, live_XIL: Tensor, constant_XIB: Tensor) -> Tensor:
        """All rows: where parameters are live those, else the constant ones."""
        blocks = constant_XIB.unflatten(2, (self._blocks, -1)).movedim(2, 1)  # [X, P, I, L]
        joined: Tensor = blocks.index_put((self._every_X, self._block_X), live_XIL).movedim(1, 2).flatten(2)
        return joined


class UnrolledCritic:
    """Values of the first critic of every agent along a rollout, with constant parameters; differentiable in
    observations and actions, those of the steps before too.

    Args:
        critic: all agents' critics.
        memory_SNBW: the states of the first ones before the first step.
    """

    def __init__(self, critic: RecurrentCritic, memory_SNBW: Tensor) -> None:
        self._parameters = critic.first()
        self._agents, self._state_XWB = memory_SNBW.shape[:2], columns(memory_SNBW)

    def follow(self, obs_SNBO: Tensor, action_SNBA: Tensor) -> None:
        """These observations and actions are remembered from now on."""
        entered_XIB = self._parameters.enter(joint_rows(obs_SNBO, action_SNBA).transpose(1, 2))
        self._state_XWB = self._parameters.step(entered_XIB, self._state_XWB)

    def __call__(self, obs_SNBO: Tensor, action_SNBA: Tensor) -> Tensor:
        """Values [S, N, B] of what is done next; not remembered."""
        x_SDB = joint_rows(obs_SNBO, action_SNBA).transpose(1, 2)
        return _stepped(self._parameters, x_SDB, self._state_XWB)[0].view(*self._agents, -1)


def _stepped(parameters: Prepared, x_YIB: Tensor, state_XWB: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of inputs behind states, and the states after them."""
    entered_XIB = parameters.enter(x_YIB)
    after_XWB = parameters.step(entered_XIB, state_XWB)
    return parameters.output(entered_XIB, after_XWB), after_XWB


def acting(actor: Actor, rows: int) -> Callable[[Tensor], Tensor]:
    """The policy of so many episodes side by side, from their first steps on: observations [S, N, B, O] to logits
    [S, N, B, H, K], one call a step. One without a memory is the actor itself."""
    if not isinstance(actor, RecurrentActor):
        return actor
    agents, flat_SGP = len(actor.head_mask), actor.mlp.flat
    memory_SNBW = flat_SGP.new_zeros(len(flat_SGP), agents, rows, actor.mlp.width)
    return UnrolledActor(actor, memory_SNBW, torch.zeros(agents, dtype=torch.int64, device=flat_SGP.device), 1)
