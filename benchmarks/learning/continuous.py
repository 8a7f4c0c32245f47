"""Continuous moves (mpe2's continuous_actions=True) beside the published settings of other packages.

    python -m benchmarks.learning.continuous --env simple_spread
    python -m benchmarks.learning.continuous --env simple_speaker_listener --arms ours twin --replicas 10
    python -m benchmarks.learning.continuous --env simple_spread --tune --arms ours -- --maddpg.exploration 0.5
    python -m benchmarks.learning.continuous                                  only the tables of what was written

All arms share seeds and episodes; steps are those of the task's configuration, for `harl` and `xuance` those of STEPS
(unless the flags behind -- say otherwise); every replica's final policy plays `--episodes` greedy episodes of the real
environment, whose luck stays. `harl` and `xuance` are the published settings of those packages in this learner: batch,
step sizes, discount, targets, noise, widths, sharing, environments and updates a step. What differs is ours: actions in
[-1, 1], ReLU, clipped gradients (harl), and messages of one symbol, where both packages send numbers. HARL trains for 5
million steps, which take hours here, XuanCe for 10, as here; it has no settings for simple_speaker_listener.

Returns have no score: the anchors hold for discrete moves. Published numbers of simple_spread stand in
docs/results/learning.md.
Written: benchmarks/results/continuous/<env>/<arm>.json and table.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.learning.training_runs import run_arm, split_at_dashes
from benchmarks.machine import machine

RESULTS = Path(__file__).resolve().parents[1] / "results" / "continuous"
CONFIGS = "configs/continuous"
_CONSTANT = "--maddpg.lr-final 1 --maddpg.layer-norm false --maddpg.logit-penalty 0 --maddpg.signalling-bonus 0 "
ARMS: dict[str, str] = {
    "ours": "",
    "gaussian": "--maddpg.continuous gaussian",
    "twin": "--maddpg.twin-critics true --maddpg.actor-delay 2 --maddpg.smoothing 0.2",
    # tuned_configs/pettingzoo_mpe/<task>-continuous/maddpg/config.json, PKU-MARL/HARL, read in November 2026; an update
    # for every step of 20 environments
    "harl": _CONSTANT + "--maddpg.communication-correction false --maddpg.actor-lr 0.0005 --maddpg.critic-lr 0.001 "
    "--maddpg.gamma 0.99 --maddpg.tau 0.005 --maddpg.batch-size 1000 --maddpg.hidden 128 128 --maddpg.team-reward true "
    "--maddpg.share-actors false --maddpg.exploration 0.1 --maddpg.exploration-final 0.1 --maddpg.warmup-steps 10000 "
    "--num-envs 20 --maddpg.updates-per-step 0.05",
    # xuance/configs/maddpg/mpe/simple_spread_v3.yaml, agi-brain/xuance, read in November 2026; an update where the
    # step, a multiple of 16, is one of 25. Its noise is on the scale of [0, 1]
    "xuance": _CONSTANT + "--maddpg.communication-correction false --maddpg.actor-lr 0.01 --maddpg.critic-lr 0.001 "
    "--maddpg.gamma 0.95 --maddpg.tau 0.001 --maddpg.batch-size 256 --maddpg.hidden 64 64 --maddpg.team-reward false "
    "--maddpg.share-actors true --maddpg.exploration 2 --maddpg.exploration-final 0.02 --maddpg.warmup-steps 1000 "
    "--maddpg.max-grad-norm 1000000 --replay.capacity 100000 --num-envs 16 --maddpg.updates-per-step 0.0025",
}
STEPS = {  # where they are not those of our configuration
    ("harl", "simple_speaker_listener"): 250_000,  # ten times ours, half as many updates
    ("xuance", "simple_spread"): 10_000_000,
}
"""Environment steps of a replica."""


def arms_of(env: str) -> list[str]:
    """The arms that a task has."""
    return [name for name in ARMS if name != "xuance" or env == "simple_spread"]


def words_of(name: str, env: str) -> list[str]:
    """The flags of run.py for an arm."""
    steps = STEPS.get((name, env))
    own = [] if steps is None else ["--total-steps", str(steps), "--evaluation.every", str(steps // 20)]
    return ["--config", f"{CONFIGS}/{env}.yaml", *ARMS[name].split(), *own]


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    options = _parser().parse_args(own)
    purpose: seeds.Purpose = "tuning" if options.tune else "studies"
    run_seed, first = seeds.seeds(seeds.RUNS, purpose).first, seeds.seeds(seeds.EPISODES, purpose).first
    for name in (options.arms or arms_of(options.env)) if options.env else ():
        words = [*words_of(name, options.env), *flags]
        record = run_arm(options.env, words, run_seed, options.replicas, options.episodes, first)
        record |= {"arm": name, "machine": machine()}
        print(_row(record), flush=True)
        if not options.tune:
            folder = RESULTS / options.env
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(record) + "\n")
    for folder in sorted(path for path in RESULTS.glob("*") if path.is_dir()):
        print(table(folder))
    return 0


def table(folder: Path) -> str:
    """The table of a task, which is written beside its records."""
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    records.sort(key=lambda record: -float(record["judged"]["greedy"]["iqm"]))
    first = records[0]
    head = [
        f"{first['env']}, continuous_actions=True, seed {first['seed']}, "
        f"{first['machine']}; final policies, {first['judged']['greedy']['episodes']} greedy episodes a replica; "
        "intervals over replicas and episodes",
        "",
        "| arm | steps | replicas | return per agent, IQM [95 %] | worst | best during training "
        "| processor seconds a replica |",
        "|---|---|---|---|---|---|---|",
    ]
    text = "\n".join([*head, *map(_row, records)]) + "\n"
    (folder / "table.md").write_text(text)
    return text


def _row(record: dict[str, Any]) -> str:
    greedy = record["judged"]["greedy"]
    low, high = greedy["interval"]
    curve = np.array(record["curve"]["return"])
    best = f"{curve.mean(1).max():.2f}" if curve.size else ""
    cells = [record["arm"], f"{round(record['steps'] / 1000):,}k", str(record["replicas"])]
    cells += [f"{greedy['iqm']:.2f} [{low:.2f}, {high:.2f}]", f"{min(greedy['returns']):.2f}", best]
    cells += [f"{record['processor'] / record['replicas']:.0f}"]
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.continuous",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", choices=["simple_spread", "simple_speaker_listener"], help="task; none: only tables")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", help=f"some of {', '.join(ARMS)}")
    parser.add_argument("--replicas", type=int, default=5, help="independent runs of each arm (default 5)")
    parser.add_argument("--episodes", type=int, default=1000, help="of the judgement, per replica (default 1000)")
    parser.add_argument("--tune", action="store_true", help="a trial on tuning seeds, of which nothing is written")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser


if __name__ == "__main__":
    sys.exit(main())
