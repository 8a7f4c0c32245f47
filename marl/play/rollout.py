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

import envs
from envs.batched import BatchedEnv, encode_actions
from envs.continuous import choices_of, rows_of
from envs.ids import names_function
from envs.mpe import catalogue
from envs.pettingzoo.env import PettingZooEnv
from envs.pictures import Small
from envs.spec import EnvSpec
from marl.config.schema import EvaluationConfig
from marl.errors import RunFailed, UserError
from marl.play.budget import Budget, Pace
from marl.play.channel import Through, condition_of, even_batch

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

    Entries after the end of an episode are zeros; so are observations and rewards of agents that have left it.
    """

    returns: np.ndarray  # float64 [episodes, N], undiscounted, per agent
    lengths: np.ndarray  # int64 [episodes]
    obs: Observations | None = None  # {agent: float32 [T, episodes, width]} what the agent saw, after intervention
    actions: np.ndarray | None = None  # int64 [T, episodes, N, H]; 0 of continuous heads
    rows: np.ndarray | None = None  # float64 [T, episodes, N, A] one-hots and numbers; None where no head is continuous
    rewards: np.ndarray | None = None  # float64 [T, episodes, N]
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
    if condition is not None:
        batch = even_batch(episodes, batch)
    pace = Pace(episodes, min(batch, episodes), budget)
    lockstep: Lockstep | None = None
    parts: list[Episodes] = []
    try:
        while indices := pace.next():
            if lockstep is None or (budget and lockstep.size != len(indices)):
                if lockstep is not None:
                    lockstep.close()
                pictures = pictures_of([player])
                lockstep = _open(env_id, backend, dict(env_args or {}), make, len(indices), spec, pictures)
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
    return joined


# ------------------------------------------------------------------ what is stepped
class Lockstep(Protocol):
    """Environments that start and step together; a batch may use fewer than there are."""

    spec: EnvSpec
    size: int

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]: ...

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        """Observations, masks, rewards float64 [E, N] (0 where not running) and ended bool [E]."""
        ...

    def close(self) -> None: ...


def _open(
    env_id: str,
    backend: str,
    env_args: dict[str, Any],
    make: Callable[..., Any] | None,
    size: int,
    spec: EnvSpec | None,
    pictures: Small | None,
) -> Lockstep:
    if backend == "torch" and make is None:
        return _Batched(envs.make(env_id, num_envs=size, device="cpu", backend="torch", env_args=env_args))
    if backend != "pettingzoo":
        raise UserError(f"got backend={backend!r}; expected 'pettingzoo', or 'torch' for an MPE id (without make=).")
    if make is None and not names_function(env_id):
        return _RealMPE([catalogue.parallel_env(env_id, **env_args) for _ in range(size)], env_id, spec)
    # float64 keeps rewards as the environment gave them
    return _Batched(
        PettingZooEnv(env_id, size, dtype=torch.float64, spec=spec, make=make, pictures=pictures, env_args=env_args)
    )


class _RealMPE:
    """Real `mpe2` environments: float32 vectors, one integer per agent, all agents stay to the end.

    Their contract is known, so that it need not be checked at every step as `PettingZooEnv` does for any environment;
    and they are stepped agent by agent through `mpe2`'s own AEC interface, since PettingZoo's wrappers, which make a
    parallel environment of it, take two thirds of the time.
    """

    def __init__(self, members: list[Any], env_id: str, spec: EnvSpec | None) -> None:
        self.members = [member.unwrapped for member in members]
        self.size = len(members)
        self.spec = spec or catalogue.describe(env_id, members[0])

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]:
        observations = self._empty(len(seeds))
        for e, seed in enumerate(seeds):
            member = self.members[e]
            member.reset(seed=seed)
            for name, array in observations.items():
                array[e] = member.observe(name)
        return observations, None

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        count, names = len(running), self.spec.agent_names
        observations = self._empty(count)
        filled = list(observations.items())
        rewards = np.zeros((count, len(names)))
        ended = np.zeros(count, dtype=bool)
        # Python integers: mpe2 changes 0-d arrays in place
        own = [np.asarray(actions[agent.name]) for agent in self.spec.agents]
        rows = zip(*(list(x) if x.ndim > 1 else x.tolist() for x in own), strict=True)
        for e, row in enumerate(rows):
            if not running[e]:
                continue
            member = self.members[e]
            for action in row:
                member.step(action)
            for name, array in filled:
                array[e] = member.observe(name)
            rewards[e] = [member.rewards[name] for name in names]
            ended[e] = member.truncations[names[0]] or member.terminations[names[0]]
        return observations, None, rewards, ended

    def _empty(self, count: int) -> Observations:
        return {agent.name: np.zeros((count, agent.obs_size), dtype=np.float32) for agent in self.spec.agents}

    def close(self) -> None:
        """Drop the environments without closing them: closing one mpe2 environment ends rendering in all."""
        self.members = []


class _Batched:
    """A `BatchedEnv` on the CPU; what its rows play after the end of their episode is not looked at."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env = env
        self.size = env.num_envs
        self.spec = env.spec

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]:
        self.count = len(seeds)
        missing = self.size - self.count
        if isinstance(self.env, PettingZooEnv):
            obs = self.env.reset_to(seeds + seeds[-1:] * missing)
        else:
            obs = self.env.reset(seeds[0])
        return self._views(obs, self.env.mask)

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        missing = self.size - self.count  # a short last batch is filled up with rows that nobody looks at
        full = {name: np.concatenate([ids, ids[-1:].repeat(missing, 0)]) for name, ids in actions.items()}
        played, mask = encode_actions(self.spec, full), self.env.mask  # [N, E, ...]
        if missing and mask is not None:
            allowed_NEH = mask[:, self.count :].to(torch.uint8).argmax(-1)
            for n, allowed_EH in enumerate(allowed_NEH):
                played[n, self.count :] = rows_of(self.spec, n, allowed_EH) if self.spec.continuous else allowed_EH
        step = self.env.step(played)
        over = step.ended
        rewards = step.reward.to(torch.float64).T.numpy()[: self.count] * running[:, None]
        return *self._views(step.obs, step.mask), rewards, over[: self.count].numpy()

    def _views(self, obs: torch.Tensor, mask: torch.Tensor | None) -> tuple[Observations, Masks | None]:
        split = self.env.split_obs(obs)
        observations = {name: array[: self.count].to(torch.float32, copy=True).numpy() for name, array in split.items()}
        if mask is None:
            return observations, None
        return observations, {name: mask[n, : self.count].numpy() for n, name in enumerate(self.spec.agent_names)}

    def close(self) -> None:
        self.env.close()
