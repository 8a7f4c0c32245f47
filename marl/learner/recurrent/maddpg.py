"""MADDPG with recurrent actors and critics: the same update on windows of consecutive steps.

Every network, online or target, starts a window from the stored state, which the burn-in brings up to date. Gradients
of both losses flow back through the learned steps of the actors' and of the critics' memory, not into the burn-in. A
critic's memory holds the actions that were executed; the actor loss replaces an agent's action at one step at a time.

Shape suffixes: S replicas, C critics, N agents, E environments, T steps of a window, b windows, B = T * b rows,
G networks of a replica, its actors and then its critics, W width of their states. The others are those of
marl/learner/recurrent/networks.py.

Source: Kapturowski et al. 2019 (R2D2), section 3, for windows; Heess et al. 2015 (arXiv 1512.04455), section 3, RDPG,
for recurrent actors and critics of continuous actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from marl.data.batch import Batch, Windows
from marl.learner import losses
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import Actor, Critic, joint_rows
from marl.learner.recurrent import prediction
from marl.learner.recurrent.networks import (
    OwnActionInMemory,
    Prepared,
    RecurrentActor,
    RecurrentCritic,
    Traced,
    actor_input,
    columns,
    rows,
    trace,
)


class RecurrentMADDPG(MADDPG):
    """Its batches are `Windows`; messages in them stay those that were heard, without communication correction."""

    actor_type, critic_type = RecurrentActor, RecurrentCritic
    actor: RecurrentActor
    critic: RecurrentCritic
    target_actor: RecurrentActor
    target_critic: RecurrentCritic

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unexplained: dict[str, Tensor] = {}  # [S, C, N] of the update that is being computed

    @property
    def memory_shape(self) -> tuple[int, int]:
        """(G, W)."""
        return (1 + self.critic.num_critics) * self.spec.num_agents, self.actor.mlp.width

    def memory(self, envs: int) -> RunningMemory:
        return RunningMemory(self, envs)

    def relabel(self, batch: Batch) -> None:
        """Nothing: a memory of messages that nobody sent would fit to no action that followed."""

    # --------------------------------------------------------------- what depends on earlier steps
    def _ahead(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        actors, critics = self._acting(self.target_actor, batch), self._valuing(self.target_critic, batch)

        def value(joint_SBD: Tensor) -> Tensor:
            return self.target_critic.values(joint_SBD, critics.after_XWR, critics.parameters)

        return self._behind(actors.parameters, batch.next_obs, actors.after_XWR), value

    def _returns(self, batch: Batch, reward_SNB: Tensor, next_q_SCNB: Tensor) -> Tensor:
        assert isinstance(batch, Windows)
        windows, n_step = batch.memory.shape[2], self.config.n_step
        return losses.window_target(reward_SNB, batch.discount, next_q_SCNB, batch.going_on, windows, n_step)

    def _values(self, batch: Batch) -> Tensor:
        critics = self._valuing(self.critic, batch)
        self._predict("critic", critics, batch)
        return self.critic.grouped(critics.output())

    def _acting_logits(self, batch: Batch) -> Tensor:
        actors = self._acting(self.actor, batch)
        self._predict("actor", actors, batch, actor_input(batch.action))
        return self.actor.choices(actors.output(), batch.next_obs.shape[:2])

    # ------------------------------------------------------- what networks learn beside values
    def _predict(self, name: str, traced: Traced, batch: Batch, beside_XAR: Tensor | None = None) -> None:
        """Add to the networks' next loss what their states do not tell of the next observation."""
        if self.config.prediction_loss == 0.0:
            return
        state_XWR = traced.after_XWR if beside_XAR is None else torch.cat([traced.after_XWR, beside_XAR], dim=1)
        self._unexplained[name] = prediction.unexplained(traced.parameters, state_XWR, batch)

    def _step(self, loss: Tensor, module: Actor | Critic, optimiser: torch.optim.Optimizer, name: str) -> Tensor:
        if name in self._unexplained:
            loss = loss + self.config.prediction_loss * self._unexplained[name].sum()
        return super()._step(loss, module, optimiser, name)

    def update_critic(self, batch: Batch, measure: bool) -> dict[str, Tensor]:
        return super().update_critic(batch, measure) | self._told("critic", measure)

    def update_actor(self, batch: Batch, measure: bool) -> dict[str, Tensor]:
        return super().update_actor(batch, measure) | self._told("actor", measure)

    def _told(self, name: str, measure: bool) -> dict[str, Tensor]:
        """The prediction's error, if asked for; it is of one update."""
        if (unexplained_SCN := self._unexplained.pop(name, None)) is None or not measure:
            return {}
        return {f"{name}/prediction": unexplained_SCN.detach().mean(1)}

    def _logits(self, batch: Batch, obs_SNBO: Tensor | None = None) -> Tensor:
        actors = self._acting(self.actor, batch)
        if obs_SNBO is not None:  # at one step at a time, behind what really happened
            return self._behind(actors.parameters, obs_SNBO, actors.before_XWR)
        return self.actor.choices(actors.output(), batch.next_obs.shape[:2])

    def _behind(self, parameters: Prepared, obs_SNBO: Tensor, state_XWB: Tensor) -> Tensor:
        """Logits [S, N, B, H, K] of actors with these parameters at observations behind states."""
        entered_XIB = parameters.enter(actor_input(obs_SNBO))
        output_XAB = parameters.output(entered_XIB, parameters.step(entered_XIB, state_XWB))
        return self.actor.choices(output_XAB, obs_SNBO.shape[:2])

    def _own_action(self, batch: Batch, joint_SBD: Tensor) -> OwnActionInMemory:
        with torch.no_grad():
            critics = self._valuing(self.critic, batch, first=True)
        return OwnActionInMemory(self.critic, critics.parameters, joint_SBD, critics.before_XWR)

    def looked_at(self, batch: Batch, rows: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        with torch.no_grad():
            critics = self._valuing(self.critic, batch, first=True)
        joint_SBD, before_XWR = batch.joint[:, :rows], critics.before_XWR[..., :rows]
        value = OwnActionInMemory(self.critic, critics.parameters, joint_SBD, before_XWR)
        return self._logits(batch)[:, :, :rows], value

    def _acting(self, actor: RecurrentActor, batch: Batch) -> Traced:
        """The states of all actors along the windows."""
        assert isinstance(batch, Windows)
        lead, learned, agents = actor_input(batch.lead.obs), actor_input(batch.obs), self.spec.num_agents
        return _traced(actor.prepared(), lead, learned, batch.memory[:, :agents], batch)

    def _valuing(self, critic: RecurrentCritic, batch: Batch, first: bool = False) -> Traced:
        """The states of all critics along the windows, or of the first of every agent."""
        assert isinstance(batch, Windows)
        agents = self.spec.num_agents
        parameters = critic.first() if first else critic.prepared()
        state_SGbW = batch.memory[:, agents : 2 * agents if first else None]
        return _traced(parameters, batch.lead.joint.transpose(1, 2), batch.joint.transpose(1, 2), state_SGbW, batch)


def _traced(parameters: Prepared, lead_YIR: Tensor, x_YIR: Tensor, state_SGbW: Tensor, batch: Windows) -> Traced:
    groups, windows = state_SGbW.shape[1:3]

    def keep(first_SB: Tensor) -> Tensor:
        steps_STb: Tensor = (~first_SB).to(state_SGbW.dtype).unflatten(1, (-1, windows))
        return steps_STb.repeat_interleave(groups, 0)[:, None]

    return trace(parameters, lead_YIR, x_YIR, columns(state_SGbW), keep(batch.lead.first), keep(batch.first))


class RunningMemory:
    """The states of a learner's networks in the running episodes (a `marl.data.collector.Memory`).

    Args:
        learner: acts, and whose parameters are read at every step.
        envs: E.
    """

    def __init__(self, learner: RecurrentMADDPG, envs: int) -> None:
        networks, width = learner.memory_shape
        self._learner, self._agents = learner, learner.spec.num_agents
        self.state = torch.zeros(len(learner.replicas), networks, envs, width, device=learner.device)  # [S, G, E, W]

    @torch.no_grad()
    def act(self, obs_SNEO: Tensor, mask: Tensor | None) -> Tensor:
        """Sampled one-hot actions [S, N, E, H, K]; the actors' states then are those after the observations."""
        actor, mine_SNEW = self._learner.actor, self.state[:, : self._agents]
        logits, after_SNEW = actor.step(obs_SNEO, mine_SNEW, actor.prepared())
        mine_SNEW.copy_(after_SNEW)
        return self._learner.sampled(logits, "act", mask)

    @torch.no_grad()
    def remember(self, obs_SNEO: Tensor, action_SNEA: Tensor) -> None:
        """The critics' states then are those after these observations and actions."""
        parameters, theirs_SGEW = self._learner.critic.prepared(), self.state[:, self._agents :]
        entered_XIE = parameters.enter(joint_rows(obs_SNEO, action_SNEA).transpose(1, 2))
        theirs_SGEW.copy_(rows(parameters.step(entered_XIE, columns(theirs_SGEW)), theirs_SGEW.shape[:2]))
