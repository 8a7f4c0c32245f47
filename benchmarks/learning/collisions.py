"""How often agents of simple_spread touch, and what it costs them: trained policies beside the scripted rules.

    python -m benchmarks.learning.collisions RUN            every replica of a run of simple_spread, and the scripts
    python -m benchmarks.learning.collisions                only the scripts

In every step an agent's reward holds -1/2 for each other agent that it touches (centres nearer than .3). Counted are
steps of pairs: two agents that stay in touch for four steps count four. 18 % of the episodes begin with a pair in
touch. Greedy policies in the batched port (equal to `mpe2` within rounding), the same episodes for all, which neither
training nor tuning has seen. Written: benchmarks/results/collisions.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from benchmarks.seeds import EPISODES, seeds
from marl import Policy
from marl.play.rollout import Player, play
from marl.runs.logs.records import read_run
from marl.scripted.by_name import scripted
from marl.stats import mean_and_se

RESULT = Path(__file__).resolve().parents[1] / "results" / "collisions.json"
ENV = "simple_spread"
SCRIPTS = ("coast", "fixed", "random")
EPISODES_SEED = seeds(EPISODES, "studies").first
LENGTH = 25  # steps of an episode
TOUCH = 0.3  # between the centres of two agents, each of radius .15
OTHERS = slice(10, 14)  # of an observation: where the two other agents are, relative to the own place


def touches(player: Player, episodes: int) -> np.ndarray:
    """Steps in which a pair of agents touches, summed over the pairs; int [episodes]."""
    # one step more than an episode has: what is seen before it is where the last counted step has led
    played = play(
        ENV, player, episodes, EPISODES_SEED, backend="torch", batch=min(episodes, 1000), record=True,
        env_args={"max_cycles": LENGTH + 1},
    )  # fmt: skip
    assert played.obs is not None
    seen_NTEO = np.stack(list(played.obs.values()))[:, 1:]
    apart_NTE2 = np.linalg.norm(seen_NTEO[..., OTHERS].reshape(*seen_NTEO.shape[:3], 2, 2), axis=-1)
    return (apart_NTE2 < TOUCH).sum((0, 1, 3)) // 2  # every pair is seen from both sides


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.collisions", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--episodes", type=int, default=4000, help="of every policy (default 4000)")
    options = parser.parse_args()
    players: dict[str, Player] = {f"script: {name}": scripted(ENV, name) for name in SCRIPTS}
    if options.run:
        replicas = read_run(options.run).config.num_replicas
        players |= {f"trained, replica {r}": Policy.load(options.run, r) for r in range(replicas)}
    rows = {}
    for name, player in players.items():
        mean, error = mean_and_se(touches(player, options.episodes))
        rows[name] = {"touches": float(mean), "standard_error": float(error)}
        cost = mean / 3  # two agents pay 1/2 each, the mean is over three
        print(f"{name:20} {mean:6.3f} ± {error:.3f} steps in touch an episode, {cost:.3f} of the return per agent")
    RESULT.write_text(json.dumps({"episodes": options.episodes, "machine": machine(), "policies": rows}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
