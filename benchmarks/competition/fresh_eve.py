"""Does a trained cipher of simple_crypto hold against an Eve who never trained with it?

Alice and Bob are frozen and a fresh Eve learns beside them (`marl.exploit`), for as many environment steps as they
trained, with the same settings. Since Alice and Bob are a table of four rows (secret and key), greedy or sampled, the
best Eve without memory is also known exactly.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.competition.duels import Arena
from marl.config.schema import Config
from marl.errors import UserError
from marl.exploit import best_response
from marl.play.policy import Policy
from marl.play.rollout import Player

ENV = "simple_crypto"
SYMBOLS = 4
HEARD_STEPS = 24  # of 25: at the first one nothing has been said


def fresh_eves(arena: Arena, run: Path, seed: int, greedy: bool) -> dict[str, list[float]]:
    """What Alice and Bob of every replica keep against an Eve who learns beside them, frozen.

    Args:
        arena: of simple_crypto; where they meet afterwards.
        run: directory of the run.
        seed: of the Eves, one a replica.
        greedy: how Alice and Bob play, and the Eve of their own training: greedily, else sampled; fresh Eves play
            greedily.

    Returns:
        Return of each of Alice and Bob, one a replica: `with their own eve`, `with a fresh eve`, `guaranteed` (by the
        best Eve without memory); and of Eve: `fresh eve`.

    Raises:
        UserError: the run's policies have memory.
    """
    first = Policy.load(run)
    require_no_memory(first.config)
    players = [Policy.load(run, r, greedy=greedy) for r in range(first.num_replicas)]
    with tempfile.TemporaryDirectory() as scratch:
        learned = Path(scratch) / "eves"
        best_response(run, arena.sides["alice and bob"], learned, seed=seed, greedy=greedy)
        eves = [Policy.load(learned, r) for r in range(first.num_replicas)]
    own = [arena.play({"eve": pair, "alice and bob": pair}) for pair in players]
    fresh = [arena.play({"eve": eve, "alice and bob": pair}) for eve, pair in zip(eves, players, strict=True)]
    return {
        "with their own eve": [float(one["alice and bob"].mean()) for one in own],
        "with a fresh eve": [float(one["alice and bob"].mean()) for one in fresh],
        "guaranteed": [guaranteed(pair) for pair in players],
        "fresh eve": [float(one["eve"].mean()) for one in fresh],
    }


def require_no_memory(config: Config) -> None:
    """Refuse settings whose policies see more than one observation.

    Raises:
        UserError: they do.
    """
    if config.maddpg.frames > 1 or config.maddpg.recurrent:
        raise UserError(
            "the fresh Eve and the best one are for policies that see one observation (--maddpg.frames 1, no recurrent "
            "networks)."
        )


def guaranteed(pair: Player) -> float:
    """Return of each of Alice and Bob against the best Eve without memory, exactly; sampled policies in the mean.

    An error costs 2. At the first step Eve has heard nothing and errs in half of the episodes; then she takes for every
    symbol the secret that it stands for most often. What Alice is told does not change in an episode.
    """
    secret, key = np.repeat([0, 0, 1, 1], SYMBOLS), np.repeat([0, 1, 0, 1], SYMBOLS)
    symbol = np.tile(np.arange(SYMBOLS), 4)
    shown = np.eye(SYMBOLS, dtype=np.float32)
    rows = np.arange(len(secret))

    def chances(message: np.ndarray) -> dict[str, np.ndarray]:
        """Of every row each agent's symbols, [16, SYMBOLS]."""
        seen = {"eve_0": message, "bob_0": np.hstack([shown[key], message])}
        seen["alice_0"] = np.hstack([shown[secret], shown[key]])
        if isinstance(pair, Policy) and not pair.greedy:
            return {name: p[:, 0] for name, p in pair.probabilities(seen).items()}
        return {name: shown[ids] for name, ids in pair.act(seen).items()}

    pair.reset(len(rows))
    start = chances(np.zeros((len(rows), SYMBOLS), dtype=np.float32))
    said = start["alice_0"][rows, symbol]  # of each case of secret and key, the chance of each symbol
    bob = np.sum(said * chances(shown[symbol])["bob_0"][rows, secret]) / 4
    best = sum(max(said[(symbol == m) & (secret == goal)].sum() for goal in (0, 1)) for m in range(SYMBOLS)) / 4
    first = np.mean(start["bob_0"][rows, secret]) - 0.5
    return float(2 * (first + HEARD_STEPS * (bob - best)))
