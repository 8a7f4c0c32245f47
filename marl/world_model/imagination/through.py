"""The actor loss through the model: the value of an imagined rollout as a function of every actor's parameters.

    V_i = sum_{k < H} gamma^k r_i,k + gamma^H Q_i(o_H, a_H)

Actions and latents are hard samples with a straight-through gradient, messages stand in the receivers' imagined
observations. So a speaker's gradient passes through the channel into the imagined listener's next action and on to
the rewards: inside the model the channel is differentiable. In MPE a message sent at step t moves the listener's
velocity at t + 2 and its position at t + 3, hence a horizon of at least 3 (or a critic that knows).

The gradient reaches actors only: the model imagines by averaged parameters that take none, the critic's are held
constant. Each group of agents with a common objective has a copy of the rollout in which only its own members'
parameters are live, so that no agent learns to serve another's reward.

Shape suffixes: S replicas, N agents, P groups, R rollouts, O observation, A action, H heads, K choices.

Source: gradients through a learned model of discrete latents and actions: Hafner et al. 2021 (DreamerV2, arXiv
2010.02193), equation 6; through other agents' imagined reactions: the differentiable channel of Foerster et al. 2016
(DIAL, 1605.06676), here inside the model only, so that execution stays discrete and decentralised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marl.learner import relaxation
from marl.world_model.imagination.gate import Gate
from marl.world_model.imagination.rollouts import Rollouts

Tail = Callable[[Tensor, Tensor], Tensor]
"""Observations [S, N, B, O] and actions [S, N, B, A] to values [S, N, B]."""


class ThroughModel:
    """The loss of imagined rollouts of the current actors: an `ActorLoss` (marl/learner/interfaces.py).

    Args:
        rollouts: model, starts and stream.
        gate: where it is closed, there is no loss.
        actor: observations [S, N, B, O] to logits [S, N, B, H, K]; the module whose parameters learn.
        tail: the critics' value at the end of a rollout; it may pass gradients to observations and actions.
        groups: agents with a common objective, the mean of their rewards; every agent in exactly one.
        estimator: relaxation of the actors' choices, one of `PATHWISE` (marl/learner/relaxation.py) without noise
            of its own.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        gate: Gate,
        actor: nn.Module,
        tail: Tail,
        groups: tuple[tuple[int, ...], ...],
        estimator: str,
    ) -> None:
        self._rollouts, self._gate, self._actor = rollouts, gate, actor
        self._tail, self._estimator = tail, estimator
        device = gate.length_S.device
        agents = torch.arange(rollouts.layout.spec.num_agents)
        member_PN = torch.stack([torch.isin(agents, torch.tensor(group)) for group in groups]).to(device)
        self._live_NP = member_PN.T
        self._share_PN = member_PN / member_PN.sum(1, keepdim=True)

    def loss(self, temperature: float | Tensor) -> Tensor:
        """Minus the weighted mean value of every group, [S, P]; sum it, and each actor gets its own group's gradient.

        Zero, with no gradient, in a replica whose gate is closed: there the model is not good enough to learn from.
        """
        rollouts, groups = self._rollouts, len(self._share_PN)
        if not bool(self._gate.length_S.any()):  # a rollout costs as much as several updates
            return self._share_PN.new_zeros(len(self._gate.length_S), groups)
        with torch.no_grad():
            state, obs, _, _, valid_SR = rollouts.starts.draw()
            # a copy of every row for every group, groups first
            rows = torch.arange(valid_SR.shape[1], device=obs.device).repeat(groups)
            state = state.pick(rows.expand(len(obs), -1))
            obs = obs[:, :, rows]
        value_SNX = self._value(state, obs, temperature)
        value_SNPR = value_SNX.unflatten(2, (groups, -1))
        weight_SR = valid_SR * (self._gate.length_S > 0)[:, None]
        mean_SNP = (value_SNPR * weight_SR[:, None, None]).sum(3) / valid_SR.sum(1).clamp(min=1)[:, None, None]
        return rollouts.config.through_weight * -(mean_SNP.transpose(1, 2) * self._share_PN).sum(2)

    def _value(self, state: object, obs_SNXO: Tensor, temperature: float | Tensor) -> Tensor:
        """V of every agent, [S, N, X]."""
        rollouts = self._rollouts
        total, weight = torch.zeros_like(obs_SNXO[..., 0]), torch.ones_like(obs_SNXO[..., 0])
        for _ in range(rollouts.config.size("through_horizon")):
            action = self._act(obs_SNXO, temperature)
            rows = rollouts.layout.join_action(action)
            noise = rollouts.stream.uniform(obs_SNXO.shape[2], rollouts.model.noise_size)
            state, predicted = rollouts.model.step(state, rows, noise)
            total = total + weight * predicted.reward.transpose(1, 2)
            going = predicted.discount.detach().transpose(1, 2) >= 0.5 * rollouts.gamma
            weight = weight * rollouts.gamma * going
            obs_SNXO = rollouts.layout.assemble(predicted.obs, rows)
        return total + weight * self._tail(obs_SNXO, self._act(obs_SNXO, temperature))

    def _act(self, obs_SNXO: Tensor, temperature: float | Tensor) -> Tensor:
        """Relaxed one-hots [S, N, X, A]; in a group's rows the parameters of all other agents are constants."""
        logits = self._actor(obs_SNXO)
        if len(self._share_PN) > 1:
            constant = {name: p.detach() for name, p in self._actor.named_parameters()}
            fixed = torch.func.functional_call(self._actor, constant, (obs_SNXO,))
            live_NX = self._live_NP.repeat_interleave(obs_SNXO.shape[2] // len(self._share_PN), dim=1)
            logits = torch.where(live_NX[..., None, None], logits, fixed)
        gumbel = self._rollouts.stream.gumbel(*logits.shape[1:])
        return relaxation.relax(self._estimator, logits, gumbel, temperature, self._rollouts.head_mask).flatten(-2)


def critic_tail(critic: nn.Module) -> Tail:
    """The first of every agent's critics, with its parameters constant, as the end of a rollout.

    Args:
        critic: joint rows [S, B, N * O + N * A] to values [S, C, N, B].
    """

    def value(obs_SNBO: Tensor, action_SNBA: Tensor) -> Tensor:
        joint = torch.cat([x.transpose(1, 2).flatten(2) for x in (obs_SNBO, action_SNBA)], dim=2)
        constant = {name: p.detach() for name, p in critic.named_parameters()}
        return torch.func.functional_call(critic, constant, (joint,))[:, 0]

    return value
