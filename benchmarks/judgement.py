"""What trained policies are worth: their returns with the luck of the episodes taken off, and how sure that is.

The episodes of a judgement are common to all replicas: 4000 of them move every replica's mean return on
speaker_listener by .12 (one standard error), several times what the replicas differ by. A fast script ("coast") plays
the same episodes; what it returns there, less its mean over a million others, is mostly that luck:

    return without luck = mean over episodes of (return - the script's return) + the script's long mean

The intervals are over replicas and episodes (`marl.stats.crossed_interval`) and hold the error of the long mean. Tasks
whose table has no such script keep their luck, and the same interval is then wider.

    python -m benchmarks.judgement        the long means: benchmarks/results/script_means.json, 10 minutes on one core

The long means are played in the batched port, which equals `mpe2` within rounding; the judgement plays `mpe2` itself.
Those of random play and of agents that never move are the floors of `marl.evaluate.anchors`, by side.
Shape suffixes: R replicas, E episodes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.seeds import EPISODES, seeds
from envs.mpe import catalogue
from marl import stats
from marl.evaluate import anchors
from marl.play.rollout import Player, play
from marl.results import Record
from marl.scripted.by_name import scripted

MEANS = Path(__file__).resolve().parent / "results" / "script_means.json"
SCRIPT = "coast"
TASKS = (
    "simple_v3",
    "simple_speaker_listener_v4",
    "simple_reference_v3",
    "simple_spread_v3",
    "simple_line_v1",
    "simple_formation_v1",
)
FLOORS = ("random", "noop")
FLOORED = (
    *TASKS,
    "collect_treasure_v1",
    "simple_crypto_v3",
    "simple_adversary_v3",
    "simple_push_v3",
    "simple_tag_v3",
    "simple_world_comm_v3",
)  # tasks whose random play and whose agents that never move are measured too
LONG = 1_000_000  # episodes of a long mean
OF_FLOORS = 200_000  # of each of theirs
BATCH = 5000  # of them in lockstep


@dataclass(frozen=True)
class Judged(Record):
    """Returns per agent of several replicas of one task, each over the same episodes."""

    episodes: int
    """E."""
    seed: int
    """Episode i was reset with `seed + i`."""
    mode: str
    """"greedy" or "sampled"."""
    backend: str
    """"pettingzoo" or "torch"."""
    script: str | None
    """Whose luck was taken off; None: nothing was."""
    played: tuple[float, ...]
    """Mean return of each replica, as it was played."""
    returns: tuple[float, ...]
    """The same without the luck of the episodes."""
    iqm: float
    """Interquartile mean of `returns` over the replicas."""
    interval: tuple[float, float]
    """95 % interval of it, over replicas and episodes."""
    played_interval: tuple[float, float]
    """The same of `played`."""
    score: float | None
    """Of `iqm`: 0 is random play, 1 the best known; None where the task has no such anchors."""
    gain: float | None
    """Of `iqm`: 0 is the best without messages, 1 the best known."""
    scores: tuple[float | None, ...]
    """Of each replica."""
    gains: tuple[float | None, ...]
    """Of each replica."""


def judge(
    players: Sequence[Player],
    env: str,
    episodes: int,
    seed: int,
    mode: str = "greedy",
    backend: str = "pettingzoo",
    env_args: dict[str, Any] | None = None,
) -> Judged:
    """Play every player in the same episodes and take their luck off.

    Args:
        players: one for each replica.
        env: task id.
        episodes: of each player.
        seed: episode i is reset with `seed + i`.
        mode: how the players choose, for the record.
        backend: "pettingzoo": the real environment; "torch": the port.
        env_args: keyword arguments of the environment; with any, the luck stays.
    """
    batch = min(episodes, 1000) if backend == "torch" else 32
    env_args = env_args or {}

    def returns(player: Player) -> np.ndarray:
        return play(env, player, episodes, seed, backend=backend, env_args=env_args, batch=batch).returns.mean(1)

    played_RE = np.stack([returns(player) for player in players])
    long = None if env_args else long_mean(env)
    without_RE, error = played_RE, 0.0
    if long is not None:
        mean, error = long
        without_RE = played_RE - returns(scripted(env, SCRIPT)) + mean
    values = without_RE.mean(1).tolist()
    iqm = stats.aggregate(values)
    return Judged(
        episodes=episodes,
        seed=seed,
        mode=mode,
        backend=backend,
        script=None if long is None else SCRIPT,
        played=tuple(played_RE.mean(1).tolist()),
        returns=tuple(values),
        iqm=iqm,
        interval=stats.crossed_interval(without_RE, offset_se=error),
        played_interval=stats.crossed_interval(played_RE),
        score=anchors.score(env, iqm, env_args),
        gain=anchors.gain(env, iqm, env_args),
        scores=tuple(anchors.score(env, value, env_args) for value in values),
        gains=tuple(anchors.gain(env, value, env_args) for value in values),
    )


def long_mean(env: str) -> tuple[float, float] | None:
    """Mean return per agent of the task's script and its standard error; None where there is none."""
    table = json.loads(MEANS.read_text())["tasks"]
    entry = table.get(catalogue.canonical_id(env))
    return None if entry is None else (entry["mean"], entry["se"])


def main() -> int:
    first = seeds(EPISODES, "anchors").first
    tasks, floors = {}, {}
    for env in TASKS:
        returns = play(env, scripted(env, SCRIPT), LONG, first, backend="torch", batch=BATCH).returns.mean(1)
        tasks[env] = {"script": SCRIPT, "episodes": LONG, **_mean(returns)}
        print(env, tasks[env], flush=True)
    for env in FLOORED:
        spec, floors[env] = catalogue.describe(env, catalogue.parallel_env(env)), {}
        for name in FLOORS:
            returns = play(env, scripted(env, name, spec=spec), OF_FLOORS, first, backend="torch", batch=BATCH).returns
            columns = {side: [spec.agent_names.index(one) for one in who] for side, who in anchors.sides(spec).items()}
            floors[env][name] = {side: _mean(returns[:, own].mean(1)) for side, own in columns.items()}
        print(env, floors[env], flush=True)
    record = {"seed": first, "command": "python -m benchmarks.judgement", "machine": machine(), "tasks": tasks}
    MEANS.write_text(json.dumps(record | {"floors": {"episodes": OF_FLOORS, **floors}}, indent=1) + "\n")
    return 0


def _mean(returns_E: np.ndarray) -> dict[str, float]:
    mean, error = stats.mean_and_se(returns_E)
    return {"mean": round(float(mean), 5), "se": round(float(error), 5)}


if __name__ == "__main__":
    raise SystemExit(main())
