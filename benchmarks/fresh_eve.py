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

import numpy as np

from benchmarks.duels import Arena
from envs.mpe import catalogue
from envs.spec import EnvSpec
from marl import train
from marl.config import Config
from marl.policy import Policy
from marl.rollout import Player
from marl.teaching import Beside

ENV = "simple_crypto"
SYMBOLS = 4
HEARD_STEPS = 24  # of 25: at the first one nothing has been said


def train_beside(config: Config, spec: EnvSpec, frozen: Player, learners: list[str]) -> Policy:
    """The greedy policy of fresh learners beside a frozen player.

    Args:
        config: its environment, settings, seed and `total_steps`.
        spec: of the whole environment.
        frozen: without memory; plays all other agents.
        learners: names of the agents that learn.
    """
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        quiet = replace(
            config,
            num_replicas=1,
            run_dir=str(run),
            evaluation=replace(config.evaluation, every=0, final_episodes=1),
            checkpoint=replace(config.checkpoint, every=0),
            logging=replace(config.logging, progress=False, tensorboard=False, report=False),
        )
        train(quiet, make_env=lambda: Beside(catalogue.parallel_env(ENV), spec, frozen, learners))
        return Policy.load(run)


def fresh_eves(arena: Arena, players: Sequence[Policy], seed: int) -> dict[str, list[float]]:
    """What Alice and Bob of every replica keep against an Eve who learns beside them, frozen and greedy.

    Args:
        arena: of simple_crypto; where they meet afterwards.
        players: the replicas.
        seed: of the first Eve; the others have the next ones.

    Returns:
        Return of each of Alice and Bob, one a replica: `with their own eve`, `with a fresh eve`, `guaranteed` (by the
        best Eve that there is); and of Eve: `fresh eve`.
    """
    eves = [
        train_beside(replace(pair.config, env_args={}, seed=seed + s), arena.spec, pair, arena.sides["eve"])
        for s, pair in enumerate(players)
    ]
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
