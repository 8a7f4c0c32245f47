"""The learner against frozen opponents (marl/data/opponents.py), and the policies of their pool.

A batch says which agents learn from a transition and, of all others, what their frozen policies would do at the next
observation (`Batch.learns`, `Batch.next_action`). Against the update of `MADDPG` three things differ, all of them at
rows of frozen agents:

- targets take the stored next action, a sample of the policy that played, in place of the present target actor's;
- the critic and the actor of a frozen agent do not learn from the row: neither did its actor choose the action, nor do
  the opponents of its own present policy stand in the targets of that row (signalling and listening bonuses, which
  need no action, are paid there as everywhere);
- messages that a frozen sender said stay as they were heard: it would draw the same ones again, from the same policy.

In the actor loss the others' actions are those of the replay, the frozen agents' too, as in the source.

Shape suffixes: S replicas, N agents, B rows, D joint input of a critic, J environments that play against a pool,
K slots in the ring of one replica, or choices behind H, G groups of parameters, P parameters, X = S * J frozen players,
O observation, A action, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import Config
from marl.data.batch import Batch
from marl.data.opponents import Opponents
from marl.errors import UserError
from marl.learner.continuous import STREAMS, Numbers
from marl.learner.maddpg import MADDPG
from marl.learner.relaxation import sample_onehot
from marl.learner.spec_tensors import corrected_routes


class PoolMADDPG(MADDPG):
    """Its batches say who was frozen; arguments are those of `MADDPG`."""

    @torch.no_grad()
    def relabel(self, batch: Batch) -> None:
        routes = corrected_routes(self.spec, self.config)
        heard = [batch.obs[:, route.receiver, :, route.slot].clone() for route in routes]
        super().relabel(batch)
        for route, before in zip(routes, heard, strict=True):
            slot = batch.obs[:, route.receiver, :, route.slot]
            slot.copy_(torch.where(batch.frozen[:, route.sender, :, None], before, slot))

    def _ahead(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        logits, value = super()._ahead(batch)
        agents, width = self.spec.num_agents, self.spec.action_size

        def against(joint_SBD: Tensor) -> Tensor:
            """The target critics' values where frozen agents do what they would have done; writes into `joint_SBD`."""
            action_SNBA = joint_SBD[..., -agents * width :].unflatten(2, (agents, width)).transpose(1, 2)
            action_SNBA.copy_(torch.where(batch.frozen[..., None], batch.frozen_action, action_SNBA))
            return value(joint_SBD)

        return logits, against


class FrozenActors:
    """The actors of all snapshots of all replicas (a `marl.data.opponents.FrozenPolicies`).

    They sample, as in training; continuous heads get the noise that exploration has now, not that of the snapshot.

    Args:
        learner: whose actors are taken; seeds and sizes are its own.
        seed: root seed of the run.
        slots: K.
    """

    def __init__(self, learner: MADDPG, seed: int, slots: int) -> None:
        self._learner = learner
        spec, device = learner.spec, learner.device
        flat_SGP = learner.actor.mlp.flat
        self.flat_SKGP = torch.zeros(len(flat_SGP), slots, *flat_SGP.shape[1:], device=device)
        names = ["opponents/act", *(f"opponents/{name}" for name in STREAMS.values() if spec.continuous)]
        self.noise = {name: Stream(seed, name, learner.replicas, device) for name in names}
        self._numbers = None
        if spec.continuous:
            own = {name: self.noise[f"opponents/{name}"] for name in STREAMS.values()}
            self._numbers = Numbers(spec, learner.config, own, learner.schedules.exploration)

    @torch.no_grad()
    def put(self, slot: int) -> None:
        """The present policies of all replicas take a slot of their rings."""
        self.flat_SKGP[:, slot].copy_(self._learner.actor.mlp.flat)

    @torch.no_grad()
    def seats(self, row_SJ: Tensor) -> tuple[Tensor, ...]:
        """The parameters of the actors in rows int64 [S, J] of all rings, as the network prepares them."""
        actor = self._learner.actor
        flat_XGP = self.flat_SKGP.flatten(0, 1).index_select(0, row_SJ.flatten())
        if actor.group_N is not None:
            flat_XGP = flat_XGP.index_select(1, actor.group_N)
        prepared: tuple[Tensor, ...] = actor.mlp.prepare(flat_XGP)
        return prepared

    @torch.no_grad()
    def act(self, seats: tuple[Tensor, ...], obs_SNJO: Tensor, mask: Tensor | None) -> Tensor:
        """Sampled one-hots, and numbers, [S, N, J, H, K], each environment's by its own actors."""
        learner, shape = self._learner, (obs_SNJO.shape[0], obs_SNJO.shape[2])
        logits_XN1 = learner.actor.logits(obs_SNJO.transpose(1, 2).flatten(0, 1)[:, :, None], seats)
        logits = logits_XN1[:, :, 0].unflatten(0, shape).transpose(1, 2)
        allowed = learner.head_mask if mask is None else learner.head_mask & mask
        onehot = sample_onehot(logits, self.noise["opponents/act"].gumbel(*logits.shape[1:]), allowed)
        return onehot if self._numbers is None else onehot + self._numbers(logits, "act")

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.flat_SKGP.clone(),
            "noise": {name: stream.state_dict() for name, stream in self.noise.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flat_SKGP.copy_(state["actor"])
        for name, stream in self.noise.items():
            stream.load_state_dict(state["noise"][name])


def refuse_pool(spec: EnvSpec, config: Config) -> None:
    """Refuse a pool of opponents where nobody is one, or where one would be replaced within an episode.

    Raises:
        UserError: the environment has one team, or the pool is full before the run ends and its snapshots are nearer to
            one another than the length of an episode.
    """
    if len(spec.teams) < 2:
        raise UserError(
            f"{spec.id} has one team, so that there are no opponents to draw from a pool; expected a competitive task "
            f"such as simple_tag or simple_adversary with --opponents pool."
        )
    every, episode = config.snapshot_every, (spec.horizon or 0) * config.num_envs
    needed = config.total_steps // every
    if every < episode and needed > config.opponents.size + 1:
        raise UserError(
            f"opponents.every {every} is less than an episode of all environments takes ({spec.horizon} steps x "
            f"{config.num_envs} environments = {episode}), so that full pools would replace an opponent within its "
            f"game; expected --opponents.every {episode} or more, or --opponents.size {needed - 1}."
        )


def opponents_of(config: Config, learner: MADDPG) -> Opponents:
    """The pool of a run, still empty, as its configuration has it."""
    pool, spec = config.opponents, learner.spec
    against = max(round(pool.share * config.num_envs), 1)
    return Opponents(
        FrozenActors(learner, config.seed, pool.size + 1),
        Stream(config.seed, "opponents", learner.replicas, learner.device),
        spec.teams,
        (against, config.num_envs),
        pool.size + 1,
        pool.draw,
        pool.replicas,
    )
