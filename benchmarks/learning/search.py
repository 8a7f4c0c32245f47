"""A random search over the settings of one task.

    python -m benchmarks.learning.search --env simple_tag --trials 12 --replicas 3 --seed 1 -- --total-steps 30000
    python -m benchmarks.learning.search --env simple_tag                    only prints the ranking of what was tried

Trial 0 is the task's configuration as it stands; trial k is drawn from `SPACE` by (seed, k) alone, so that a search
that was cut off goes on where it ended. The objective is the mean over replicas, on episodes that judge no published
result, of: on a competitive task the score of each side against every scripted opponent (0: as much as random play of
the same side, 1: as much as the best script of it), each kept within [-1, 2], averaged over opponents, then over the
two sides; on simple_crypto the return that Alice and Bob keep against the best Eve possible, of 24; elsewhere the gain
where the task has one, else the score. Never a return against one's own opponent. Seeds from 1000 on are for published
results and refused.

Written: one line a trial in benchmarks/results/search/<env>.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.competition.duels import BATCH, SCRIPTS, Arena, against_scripts, tournament
from benchmarks.competition.fresh_eve import HEARD_STEPS, guaranteed
from benchmarks.learning.training_runs import split_at_dashes, train_arm
from benchmarks.machine import machine
from marl import Policy
from marl.errors import UserError
from marl.evaluate.returns import evaluate

RESULTS = Path(__file__).resolve().parents[1] / "results" / "search"
EPISODES_SEED = seeds.seeds(seeds.EPISODES, "tuning").first
KEPT = (-1.0, 2.0)  # bounds of a score against one opponent
SPACE: dict[str, Sequence[Any]] = {  # a pair of floats: log-uniform between them; anything else: one of these
    "lr": (1e-3, 1e-2),
    "--maddpg.gamma": [0.8, 0.9, 0.95],
    "--maddpg.batch-size": [128, 256, 512],
    "--maddpg.updates-per-step": [0.03125, 0.0625, 0.125, 0.25],
    "--maddpg.hidden": ["64 64", "128 128"],
    "--maddpg.team-reward": ["false", "true"],
    "--maddpg.share-actors": ["false", "true"],
    "--maddpg.logit-penalty": [1e-3, 1e-2],
    "--num-envs": [8, 16, 32],
}
MESSAGES: dict[str, Sequence[Any]] = {"--maddpg.signalling-bonus": [0.0, 0.1, 1.0]}  # of tasks with a channel
QUIET = ["--logging.progress=false", "--evaluation.every=0", "--maddpg.diagnostics-every=0"]
WITH_A_CHANNEL = ("simple_crypto", "simple_reference", "simple_speaker_listener", "simple_world_comm")


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    parser = _parser()
    options = parser.parse_args(own)
    try:
        seeds.require(seeds.RUNS, "tuning", options.seed)
    except UserError as error:
        parser.error(f"--seed: {error}")
    path: Path = options.log or RESULTS / f"{options.env}.jsonl"
    for trial in range(options.trials):
        settings = drawn(options.env, options.seed, trial)
        known = {"seed": options.seed, "trial": trial, "replicas": options.replicas, "flags": flags}
        if any(all(line.get(key) == value for key, value in known.items()) for line in _lines(path)):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            run = Path(scratch) / "run"
            words = [word for name, value in settings.items() for word in _flag(name, value)]
            _, result = train_arm(options.env, [*QUIET, *words, *flags], options.seed, options.replicas, run)
            players = [Policy.load(run, replica) for replica in range(options.replicas)]
            outcome = objective(options.env, players, options.episodes)
        line = {"env": options.env, **known, "settings": settings, **outcome, "seconds": round(result.seconds)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line | {"machine": machine()}) + "\n")
        print(_row(line), flush=True)
    print("\n".join(["", *map(_row, sorted(_lines(path), key=lambda line: -line["objective"]))]))
    return 0


def drawn(env: str, seed: int, trial: int) -> dict[str, Any]:
    """The settings of a trial, {flag: value}; "lr" is that of actors and critics. Trial 0 changes nothing."""
    if trial == 0:
        return {}
    rng = np.random.default_rng([seed, trial])
    space = SPACE | (MESSAGES if env in WITH_A_CHANNEL else {})
    return {name: _draw(rng, choices) for name, choices in space.items()}


def _draw(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    if isinstance(choices, tuple):
        low, high = choices
        return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.2g}")
    return choices[int(rng.integers(len(choices)))]


def _flag(name: str, value: Any) -> list[str]:
    if name == "lr":
        return [f"--maddpg.actor-lr={value}", f"--maddpg.critic-lr={value}"]
    return [name, *str(value).split()]


def objective(env: str, players: Sequence[Policy], episodes: int) -> dict[str, Any]:
    """{objective, parts}: the number that is searched for, and what it is the mean of."""
    if env == "simple_crypto":
        kept = [guaranteed(pair) / HEARD_STEPS for pair in players]
        return {"objective": float(np.mean(kept)), "parts": {"replicas": kept}}
    if env in SCRIPTS:
        return combined(against_scripts(tournament(_arena(env, episodes), players)))
    result = evaluate(
        players, env, episodes=episodes, seed=EPISODES_SEED, backend="torch", batch=min(episodes, BATCH)
    )  # fmt: skip
    by_gain = result.gain is not None
    replicas = [one.gain if by_gain else one.score for one in result.replicas]
    value = result.gain if by_gain else result.score
    return {"objective": value, "parts": {"replicas": replicas, "return": result.mean_return}}


@functools.cache
def _arena(env: str, episodes: int) -> Arena:
    """One for all trials: it plays every scripted pairing once."""
    return Arena(env, episodes, EPISODES_SEED)


def combined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The objective of a competitive task from the rows of `against_scripts`."""
    parts: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["score"] is not None:
            parts.setdefault(row["side"], {})[row["opponent"]] = float(np.clip(row["score"], *KEPT))
    sides = [float(np.mean(list(scores.values()))) for scores in parts.values()]
    return {"objective": float(np.mean(sides)), "parts": parts}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def _row(line: Mapping[str, Any]) -> str:
    told = " ".join(f"{name.rpartition('.')[2].removeprefix('--')}={v}" for name, v in line["settings"].items())
    where = f"seed {line['seed']} trial {line['trial']}, {line['replicas']} replicas"
    return f"{line['objective']:6.3f}  {where}: {told or 'the configuration'} | {' '.join(line['flags'])}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", required=True, help="task")
    parser.add_argument("--trials", type=int, default=0, help="how many, the first being the configuration (default 0)")
    parser.add_argument("--replicas", type=int, default=3, help="independent runs of each (default 3)")
    parser.add_argument("--episodes", type=int, default=300, help="of every duel of the objective (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="root seed of the runs and of the draws (default 1)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="in place of benchmarks/results/search/<env>.jsonl")
    parser.epilog = "Everything behind -- are flags of run.py, the same for every trial; they override the drawn ones."
    return parser


if __name__ == "__main__":
    sys.exit(main())
