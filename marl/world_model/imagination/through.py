"""The actor loss through the model: the value of an imagined rollout as a function of every actor's parameters.

    V_i = sum_{k < H} gamma^k r_i,k + gamma^H Q_i(o_H, a_H)

Actions and latents are hard samples with a straight-through gradient, messages stand in the receivers' imagined
observations. So a speaker's gradient passes through the channel into the imagined listener's next action and on to
the rewards: inside the model the channel is differentiable. In MPE a message sent at step t moves the listener's
velocity at t + 2 and its position at t + 3, hence a horizon of at least 3 (or a critic that knows).

The gradient reaches actors only: the model imagines by averaged parameters that take none, the critic's are held
constant. Each group of agents with a common objective has a copy of the rollout in which only its own members'
parameters are live, so that no agent learns to serve another's reward.

Shape suffixes: S replicas, N agents, V flags, P groups, R rollouts, O observation, A action, H heads, K choices.

Source: gradients through a learned model of discrete latents and actions: Hafner et al. 2021 (DreamerV2, arXiv
2010.02193), equation 6; through other agents' imagined reactions: the differentiable channel of Foerster et al. 2016
(DIAL, 1605.06676), here inside the model only, so that execution stays discrete and decentralised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from marl.learner import relaxation
from marl.learner.networks.actor_critic import Actor
from marl.learner.recurrent.networks import RecurrentActor, RecurrentCritic
from marl.learner.recurrent.unrolled import UnrolledActor, UnrolledCritic
from marl.world_model.imagination.gate import Gate
from marl.world_model.imagination.rollouts import Rollouts

Tail = Callable[[Tensor, Tensor], Tensor]
"""Observations [S, N, B, O] and actions [S, N, B, A] to values [S, N, B]."""


class ThroughModel:
    """The loss of imagined rollouts of the current actors: an `ActorLoss` (marl/learner/interfaces.py).

    Args:
        rollouts: model, starts and stream.
        gate: where it is closed, there is no loss.
        actor: whose parameters learn.
        tail: the critics' value at the end of a rollout; it may pass gradients to observations and actions. Of
            recurrent actors their recurrent critics, and rollouts start with a memory (`Start.memory`).
        groups: agents with a common objective, the mean of their rewards; every agent in exactly one.
        estimator_H: relaxation of the actors' choices at each head position, one of `PATHWISE`
            (marl/learner/relaxation.py) without noise of its own.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        gate: Gate,
        actor: Actor,
        tail: Tail | RecurrentCritic,
        groups: tuple[tuple[int, ...], ...],
        estimator_H: Sequence[str],
    ) -> None:
        self._rollouts, self._gate, self._actor = rollouts, gate, actor
        self._tail, self._estimator_H = tail, tuple(estimator_H)
        device = gate.length_S.device
        agents = torch.arange(rollouts.layout.spec.num_agents)
        member_PN = torch.stack([torch.isin(agents, torch.tensor(group)) for group in groups]).to(device)
        self._group_N = member_PN.int().argmax(0)
        self._share_PN = member_PN / member_PN.sum(1, keepdim=True)

    def loss(self, temperature: float | Tensor) -> Tensor:
        """Minus the weighted mean value of every group, [S, P]; sum it, and each actor gets its own group's gradient.

        Zero, with no gradient, in a replica whose gate is closed: there the model is not good enough to learn from.
        """
        rollouts, groups = self._rollouts, len(self._share_PN)
        if not bool(self._gate.length_S.any()):  # a rollout costs as much as several updates
            return self._share_PN.new_zeros(len(self._gate.length_S), groups)
        with torch.no_grad():
            state, obs, _, _, valid_SR, flags, memory = rollouts.starts.draw()
            # a copy of every row for every group, groups first
            rows = torch.arange(valid_SR.shape[1], device=obs.device).repeat(groups)
            state = state.pick(rows.expand(len(obs), -1))
            obs, flags = obs[:, :, rows], flags[:, rows]
            memory = None if memory is None else memory[:, :, rows]
        value_SNX = self._value(state, obs, flags, temperature, memory)
        value_SNPR = value_SNX.unflatten(2, (groups, -1))
        counts_SR = valid_SR & (self._gate.length_S > 0)[:, None]
        sum_SNP = torch.where(counts_SR[:, None, None], value_SNPR, 0.0).sum(3)
        mean_SNP = sum_SNP / valid_SR.sum(1).clamp(min=1)[:, None, None]
        return rollouts.config.through_weight * -(mean_SNP.transpose(1, 2) * self._share_PN).sum(2)

    def _value(
        self,
        state: object,
        obs_SNXO: Tensor,
        flags_SXV: Tensor,
        temperature: float | Tensor,
        memory_SGXW: Tensor | None = None,
    ) -> Tensor:
        """V of every agent, [S, N, X].

        Whoever is gone acts no more and is paid nothing. One that leaves without a termination (a truncation of its
        own) has the critic's value of what it leaves at, as a real transition is bootstrapped there.
        """
        rollouts, table = self._rollouts, self._rollouts.flags
        horizon, rows = rollouts.config.size("through_horizon"), obs_SNXO.shape[2]
        actor, tail = self._players(memory_SGXW)
        agents, heads = rollouts.layout.spec.num_agents, self._actor.heads
        gumbel = rollouts.stream.gumbel(horizon + 1, agents, rows, *heads).unbind(1)
        noise = rollouts.stream.uniform(horizon, rows, rollouts.model.noise_size).unbind(1)

        def act(obs_SNXO: Tensor, step: int, flags_SXV: Tensor | None) -> Tensor:
            """Relaxed one-hots [S, N, X, A] of what is allowed, zeros of who is gone; with no flags, of everybody. In a
            group's rows the parameters of all other agents are constants."""
            logits = actor(obs_SNXO)
            there, allowed = rollouts.masks(flags_SXV)
            action = self._relaxed(logits, gumbel[step], temperature, allowed).flatten(-2)
            return action if there is None else action * there[..., None]

        total, weight = torch.zeros_like(obs_SNXO[..., 0]), torch.ones_like(obs_SNXO[..., 0])
        for k in range(horizon):
            action, there = act(obs_SNXO, k, flags_SXV), table.there(flags_SXV)
            joint = rollouts.layout.join_action(action)
            if isinstance(tail, UnrolledCritic):
                tail.follow(obs_SNXO, action)
            state, predicted = rollouts.model.step(state, joint, noise[k], uncertain=False)
            total = total + weight * predicted.reward.transpose(1, 2)
            going = predicted.discount.detach().transpose(1, 2) >= 0.5 * rollouts.gamma
            weight = weight * rollouts.gamma * going
            obs_SNXO = rollouts.layout.assemble(predicted.obs, joint)
            flags_SXV = flags_SXV if predicted.flags is None else predicted.flags
            after = table.there(flags_SXV)
            if there is not None and after is not None:
                obs_SNXO = obs_SNXO * (there | after)[..., None]
                leaving = there & ~after & going
                if bool(leaving.any()):
                    total = total + weight * leaving * tail(obs_SNXO, act(obs_SNXO, k + 1, None))
                weight, obs_SNXO = weight * after, obs_SNXO * after[..., None]
        return total + weight * tail(obs_SNXO, act(obs_SNXO, horizon, flags_SXV))

    def _relaxed(
        self, logits_SNXHK: Tensor, gumbel_SNXHK: Tensor, temperature: float | Tensor, allowed: Tensor
    ) -> Tensor:
        """A draw of every head, [S, N, X, H, K], by its own estimator; the same one everywhere costs one call."""
        results = {
            name: relaxation.relax(name, logits_SNXHK, gumbel_SNXHK, temperature, allowed)
            for name in dict.fromkeys(self._estimator_H)
        }
        if len(results) == 1:
            return results[self._estimator_H[0]]
        return torch.stack([results[name][..., h, :] for h, name in enumerate(self._estimator_H)], dim=-2)

    def _players(self, memory_SGXW: Tensor | None) -> tuple[Callable[[Tensor], Tensor], Tail]:
        """The actors from the first step on, one call a step, and the value at the end."""
        actor, tail, groups = self._actor, self._tail, len(self._share_PN)
        if not isinstance(tail, RecurrentCritic):
            return actor.unrolled(self._group_N, groups), tail
        assert isinstance(actor, RecurrentActor) and memory_SGXW is not None, (
            "recurrent critics are of recurrent actors"
        )
        acting, valuing = memory_SGXW.chunk(2, dim=1)
        return UnrolledActor(actor, acting, self._group_N, groups), UnrolledCritic(tail, valuing)


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
