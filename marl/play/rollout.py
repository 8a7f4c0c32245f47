"""Plays whole episodes with anything that acts, in the real environments, many in lockstep.

Stepping the real environment is what costs time, so the player sees a batch: one call of `act` per step of all
environments together. Episode i is reset with `seed + i` whatever the size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from envs.batched import encode_actions
from envs.continuous import choices_of
from envs.pictures import Small
from envs.spec import EnvSpec
from marl.config.schema import EvaluationConfig
from marl.errors import RunFailed, UserError
from marl.play.budget import Budget, Pace, even_batch
from marl.play.channel import Through, condition_of
from marl.play.lockstep import Lockstep, opened

Observations = dict[str, np.ndarray]  # {agent: float32 [E, that agent's own width]}
Actions = dict[str, np.ndarray]  # {agent: int64 [E] PettingZoo ids} (MultiDiscrete: [E, heads]; Box: [E, entries])
Masks = dict[str, np.ndarray]  # {agent: bool [E, heads, largest head]} allowed choices
Intervention = Callable[[int, Observations], Observations]
MAX_STEPS = EvaluationConfig.max_steps
"""Steps after which an episode is stopped where nothing else is said."""
NO_LIMIT = Budget()


class Player(Protocol):
    """Anything that plays: a trained policy, a script, a mix of both.

    A player may also have `probabilities(observations, masks=None) -> {agent: float64 [E, H, K]}`, the distribution
    of each head (a deterministic script: one-hots), and `condition`, the channel that it hears through: an
    `envs.conditions.Condition`, or None for the channel as it is.
    """

    def reset(self, num_envs: int) -> None:
        """Start of `num_envs` episodes: forget all memory."""

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions:
        """{agent: float32 [E, width]} to {agent: int64 [E]} PettingZoo ids (MultiDiscrete: [E, heads])."""
        ...


class Mixed:
    """One player per agent; a player that several agents share is asked once a step.

    Args:
        players: {agent: Player}. Each sees all observations and only its own agents' actions are taken.

    Raises:
        UserError: they were trained with different channels.
    """

    def __init__(self, players: dict[str, Player]) -> None:
        self.players = dict(players)
        self._distinct = list({id(player): player for player in self.players.values()}.values())
        self.condition = condition_of(self._distinct)

    def reset(self, num_envs: int) -> None:
        for player in self._distinct:
            player.reset(num_envs)

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions:
        chosen = {id(player): player.act(observations, masks) for player in self._distinct}
        return {agent: chosen[id(player)][agent] for agent, player in self.players.items()}

    def probabilities(self, observations: Observations, masks: Masks | None = None) -> dict[str, np.ndarray]:
        """{agent: float64 [E, H, K]} of players that all have `probabilities`."""
        distinct: list[Any] = self._distinct
        results = {id(player): player.probabilities(observations, masks) for player in distinct}
        return {agent: results[id(player)][agent] for agent, player in self.players.items()}


def pictures_of(players: Iterable[Any]) -> Small | None:
    """How players that look at pictures want these to be made small; None: they read rows of numbers.

    Raises:
        UserError: they were trained on pictures of different sizes.
    """
    known: set[Small] = set()
    for player in players:
        spec = getattr(player, "spec", None)
        small = pictures_of(player.players.values()) if isinstance(player, Mixed) else spec and Small.of(spec)
        known |= {small} if small else set()
    if len(known) > 1:
        raise UserError("players that were trained on pictures of different sizes or colours cannot play together.")
    return known.pop() if known else None


@dataclass
class Episodes:
    """What was played; the recorded fields are None unless `record=True`. T is the longest episode's length.

    Entries after the end of an episode are zeros; so are observations and rewards of agents that have left it, whose
    actions are what the player chose for them and nobody took.
    """

    returns: np.ndarray  # float64 [episodes, N], undiscounted, per agent
    lengths: np.ndarray  # int64 [episodes]
    obs: Observations | None = None  # {agent: float32 [T, episodes, width]} what the agent saw, after intervention
    actions: np.ndarray | None = None  # int64 [T, episodes, N, H]; 0 of continuous heads
    rows: np.ndarray | None = None  # float64 [T, episodes, N, A] one-hots and numbers; None where no head is continuous
    rewards: np.ndarray | None = None  # float64 [T, episodes, N]
    present: np.ndarray | None = None  # bool [T, episodes, N] the agent was there to act; None: all agents to the end
    unfinished: int = 0  # episodes that were stopped at the limit of steps


def play(
    env_id: str,
    player: Player,
    episodes: int,
    seed: int,
    *,
    env_args: dict[str, Any] | None = None,
    backend: str = "pettingzoo",
    make: Callable[..., Any] | None = None,
    record: bool = False,
    intervene: Intervention | None = None,
    batch: int = 32,
    neighbours: bool = False,
    spec: EnvSpec | None = None,
    max_steps: int = MAX_STEPS,
    budget: Budget = NO_LIMIT,
    progress: Callable[[int], None] | None = None,
) -> Episodes:
    """Play `episodes` whole episodes; fewer where none of those that start together ends, or the budget is used up.

    Args:
        env_id: MPE id with or without version, or package.module:function of a ParallelEnv.
        player: acts on `{agent: float32 [E, width]}`; it is reset at the start of each batch of episodes, and hears
            through its `condition`, where it has one.
        episodes: how many, at least 1.
        seed: episode i is reset with `seed + i`. With `backend="torch"` the episodes that start together come from
            one seed, `seed +` the index of the first of them.
        env_args: keyword arguments of the environment.
        backend: "pettingzoo" (the real environment) or "torch" (the batched port).
        make: builds one ParallelEnv from `env_args` in place of `env_id`; "pettingzoo" only.
        record: keep observations, actions and rewards of every step.
        intervene: `intervene(t, observations) -> observations` changes what the player sees at step t.
        batch: environments in lockstep; changes no result of a deterministic player. Building one mpe2 environment
            costs as much as 40 steps of it, so many more than the default only pay with a slow player.
        neighbours: for an intervention that looks from one episode to another: batches are nearly alike, and none is
            a single episode where there are two. So it is, unasked, where messages are shuffled by the `condition`.
        spec: the environment's spec where it is already known.
        max_steps: steps after which an episode is stopped, at least 1; an environment's own longer time limit goes
            before it.
        budget: what all episodes together may cost.
        progress: called after every step with the number of episodes that have ended.

    Raises:
        UserError: unknown environment, arguments or backend, or nothing to play.
        RunFailed: the environment returned a reward or observation that is not finite.
    """
    if episodes < 1 or batch < 1:
        raise UserError(f"episodes and batch must be at least 1, got {episodes} and {batch}.")
    if max_steps < 1:
        raise UserError(f"max_steps must be at least 1, got {max_steps}.")
    condition = condition_of([player])
    neighbours = neighbours or (condition is not None and condition.needs_neighbours)
    if condition is not None or neighbours:
        batch = even_batch(episodes, batch)
    pace = Pace(episodes, min(batch, episodes), budget, neighbours=neighbours)
    lockstep: Lockstep | None = None
    parts: list[Episodes] = []
    try:
        while indices := pace.next():
            if lockstep is None or (budget and lockstep.size != len(indices)):
                if lockstep is not None:
                    lockstep.close()
                pictures = pictures_of([player])
                lockstep = opened(env_id, backend, dict(env_args or {}), make, len(indices), spec, pictures)
                lockstep = lockstep if condition is None else Through(lockstep, condition)
            limit = max(max_steps, lockstep.spec.horizon or 0)
            parts.append(_play_batch(lockstep, player, indices, seed, record, intervene, limit, progress))
            pace.add(len(indices), int(parts[-1].lengths.sum()))
            if pace.played >= pace.batch and parts[-1].unfinished == len(indices):
                break  # an environment without end
    finally:
        if lockstep is not None:
            lockstep.close()
    assert lockstep is not None
    return _join(parts, lockstep.spec, record)


# ------------------------------------------------------------------ one batch of episodes
def _play_batch(
    lockstep: Lockstep,
    player: Player,
    indices: range,
    seed: int,
    record: bool,
    intervene: Intervention | None,
    limit: int,
    progress: Callable[[int], None] | None,
) -> Episodes:
    """Episodes `indices`, all started together, until the last one ends or `limit` steps are played."""
    spec, count = lockstep.spec, len(indices)
    returns = np.zeros((count, spec.num_agents))
    lengths = np.zeros(count, dtype=np.int64)
    running = np.ones(count, dtype=bool)
    seen: list[Observations] = []
    done: list[Actions] = []
    paid: list[np.ndarray] = []
    there: list[np.ndarray] = []
    player.reset(count)
    observations, masks = lockstep.reset([seed + i for i in indices])
    for t in range(limit):
        if intervene is not None:
            observations = intervene(t, observations)
        actions = player.act(observations, masks)
        seen_now = observations
        observations, masks, rewards, ended = lockstep.step(actions, running)
        returns += rewards
        lengths += running
        if record:
            seen.append({name: np.where(running[:, None], obs, np.float32(0)) for name, obs in seen_now.items()})
            done.append(actions)
            paid.append(rewards)
            if lockstep.active is not None:
                there.append(lockstep.active & running[:, None])
        running = running & ~ended
        if progress is not None:
            progress(indices.start + count - int(running.sum()))
        if not running.any():
            break
    if not np.isfinite(returns).all():
        episode, agent = np.argwhere(~np.isfinite(returns))[0]
        raise RunFailed(
            f"{spec.id} gave agent {spec.agent_names[agent]!r} a return of {returns[episode, agent]} in the episode "
            f"with seed {seed + indices[episode]}; expected finite rewards."
        )
    unfinished = int(running.sum())
    if not record:
        return Episodes(returns, lengths, unfinished=unfinished)
    played = torch.stack([encode_actions(spec, one) for one in done]).transpose(1, 2)  # [T, E, N, ...]
    heads = choices_of(spec, played.flatten(0, 1).transpose(0, 1)).transpose(0, 1).unflatten(0, played.shape[:2])
    alive = (np.arange(len(done))[:, None] < lengths)[:, :, None, None]
    return Episodes(
        returns,
        lengths,
        obs={name: np.stack([step[name] for step in seen]) for name in spec.agent_names},
        actions=heads.numpy() * alive,
        rows=played.numpy() * alive if spec.continuous else None,
        rewards=np.stack(paid),
        present=np.stack(there) if there else None,
        unfinished=unfinished,
    )


def _join(parts: list[Episodes], spec: EnvSpec, record: bool) -> Episodes:
    """Batches one after another; shorter batches are padded with zeros to the longest."""
    joined = Episodes(
        np.concatenate([p.returns for p in parts]),
        np.concatenate([p.lengths for p in parts]),
        unfinished=sum(p.unfinished for p in parts),
    )
    if record:
        longest = int(joined.lengths.max())

        def along_episodes(arrays: list[np.ndarray]) -> np.ndarray:
            padded = [np.pad(a, [(0, longest - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays]
            return np.concatenate(padded, axis=1)

        joined.obs = {name: along_episodes([p.obs[name] for p in parts if p.obs]) for name in spec.agent_names}
        if spec.continuous:
            joined.rows = along_episodes([p.rows for p in parts if p.rows is not None])
        joined.actions = along_episodes([p.actions for p in parts if p.actions is not None])
        joined.rewards = along_episodes([p.rewards for p in parts if p.rewards is not None])
        if parts[0].present is not None:
            joined.present = along_episodes([p.present for p in parts if p.present is not None])
    return joined
