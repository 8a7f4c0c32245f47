"""Does a trained cipher of simple_crypto hold against an Eve who never trained with it?

Alice and Bob are frozen and a fresh Eve learns beside them, for as many environment steps as they trained, with the
same settings. Since greedy Alice and Bob are a table of four rows (secret and key), the best Eve that there can be is
also known exactly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import envs
from benchmarks.duels import Arena
from envs.batched import BatchedEnv, Step, encode_actions
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config import Config
from marl.distributed import Ranks
from marl.division import Division, Silent
from marl.maddpg import MADDPG
from marl.policy import Policy
from marl.replay import Replay
from marl.rollout import Player
from marl.signals import StopRequest
from marl.trainer import Trainer

ENV = "simple_crypto"
SYMBOLS = 4
HEARD_STEPS = 24  # of 25: at the first one nothing has been said


class Beside(BatchedEnv):
    """A batched environment in which frozen players play all agents but the learners.

    Args:
        env: the whole environment, without masks; its E rows are split into equal blocks, one for each player.
        players: without memory; each plays the frozen agents of its block.
        learners: names of the agents that are left, which hear nothing of each other.
    """

    def __init__(self, env: BatchedEnv, players: Sequence[Player], learners: Sequence[str]) -> None:
        self.env, self.players = env, list(players)
        self.num_envs, self.device, self.dtype = env.num_envs, env.device, env.dtype
        names = env.spec.agent_names
        self.index = [n for n, name in enumerate(names) if name in learners]
        agents = tuple(env.spec.agents[n] for n in self.index)
        self.spec = EnvSpec(f"beside_{env.spec.id}", agents, env.spec.horizon)
        self.block = env.num_envs // len(self.players)
        self.obs = torch.zeros(0)

    def reset(self, seed: int | None = None) -> Tensor:
        """Own observations [n, E, O] of the n learners."""
        self.obs = self.env.reset(seed)
        return self._own(self.obs)

    def step(self, actions: Tensor) -> Step:
        """Play the learners' integer actions [n, E, H]."""
        joint = torch.cat([self._frozen(s) for s in range(len(self.players))], dim=1)
        joint[self.index, :, : actions.shape[2]] = actions
        step = self.env.step(joint)
        self.obs = step.obs
        kept = (step.reward, step.terminated, step.truncated)
        return Step(self._own(step.obs), self._own(step.final_obs), *(x[self.index] for x in kept), done=step.done)

    def _frozen(self, block: int) -> Tensor:
        """What one player does on its rows [N, E / players, H]; the learners' entries mean nothing."""
        rows = slice(block * self.block, (block + 1) * self.block)
        seen = {name: obs.numpy() for name, obs in self.env.split_obs(self.obs[:, rows]).items()}
        idle = {name: np.zeros(self.block, dtype=np.int64) for name in seen}
        return encode_actions(self.env.spec, idle | self.players[block].act(seen))

    def _own(self, obs_NEO: Tensor) -> Tensor:
        return obs_NEO[self.index, :, : self.spec.obs_size]

    def state_dict(self) -> dict[str, Any]:
        return self.env.state_dict() | {"seen": self.obs.transpose(0, 1).clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.obs = state.pop("seen").transpose(0, 1)
        self.env.load_state_dict(state)


def train_beside(config: Config, players: Sequence[Player], learners: Sequence[str]) -> list[Policy]:
    """Fresh learners, one set beside each player, in one batch.

    Args:
        config: its environment, settings and `total_steps`; its number of replicas is that of the players.
        players: play all other agents.
        learners: names of the agents that learn.

    Returns:
        The learners' greedy policies, one for each player.
    """
    count = len(players)
    config = replace(
        config,
        num_replicas=count,
        evaluation=replace(config.evaluation, every=0),
        checkpoint=replace(config.checkpoint, every=0),
    )
    env = Beside(envs.make(config.env, count * config.num_envs, "cpu"), players, learners)
    env.reset(config.seed)
    division = Division(Ranks(), count)
    learner = MADDPG(env.spec, config.maddpg, config.seed, division.trained)
    stream = Stream(config.seed, "replay", division.trained)
    capacity = min(config.replay.capacity, config.total_steps + config.num_envs)
    replay = Replay(env.spec, capacity, config.num_envs, stream, config.maddpg.gamma, config.maddpg.n_step)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(config, env, learner, replay, Silent(), Path(scratch), StopRequest(), division=division)
        trainer.run()
    return trainer.policies()


def fresh_eves(arena: Arena, players: Sequence[Policy], seed: int) -> dict[str, list[float]]:
    """What Alice and Bob of every replica keep against an Eve who learns beside them, frozen and greedy.

    Args:
        arena: of simple_crypto; where they meet afterwards.
        players: the replicas.
        seed: of the Eves.

    Returns:
        Return of each of Alice and Bob, one a replica: `with their own eve`, `with a fresh eve`, `guaranteed` (by the
        best Eve that there is); and of Eve: `fresh eve`.
    """
    config = replace(players[0].config, env=ENV, seed=seed)
    eves = train_beside(config, players, arena.sides["eve"])
    own = [arena.play({"eve": pair, "alice and bob": pair}) for pair in players]
    fresh = [arena.play({"eve": eve, "alice and bob": pair}) for eve, pair in zip(eves, players, strict=True)]
    return {
        "with their own eve": [float(one["alice and bob"].mean()) for one in own],
        "with a fresh eve": [float(one["alice and bob"].mean()) for one in fresh],
        "guaranteed": [guaranteed(pair) for pair in players],
        "fresh eve": [float(one["eve"].mean()) for one in fresh],
    }


def guaranteed(pair: Player) -> float:
    """Return of each of Alice and Bob against the best Eve possible, exactly; they are deterministic.

    An error costs 2. At the first step Eve has heard nothing and errs in half of the episodes; then she takes for every
    symbol the secret that it stands for most often. What Alice says does not change in an episode.
    """
    secret, key = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    silence = np.zeros((4, SYMBOLS), dtype=np.float32)
    shown = np.eye(SYMBOLS, dtype=np.float32)

    def act(message: np.ndarray) -> dict[str, np.ndarray]:
        seen = {"eve_0": message, "bob_0": np.hstack([shown[key], message])}
        return pair.act({**seen, "alice_0": np.hstack([shown[secret], shown[key]])})

    pair.reset(4)
    start = act(silence)
    said = start["alice_0"]
    bob = act(shown[said])["bob_0"]
    best = sum(max(np.sum((said == symbol) & (secret == goal)) for goal in (0, 1)) for symbol in range(SYMBOLS)) / 4
    first = 0.5 - np.mean(start["bob_0"] != secret)
    return float(2 * (first + HEARD_STEPS * ((1 - best) - np.mean(bob != secret))))
