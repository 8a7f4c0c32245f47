"""Are goals understood that were never told in training, and do the parts of messages stand for parts of goals?

    python -m benchmarks.parts                       trains, plays, writes results/communication/parts.json; the table
    python -m benchmarks.parts --tune -- --maddpg.gamma .7     a trial on tuning seeds: prints the table only
    python -m benchmarks.parts --table               only prints the table of what was written

Arms, each with a third of 3 x 3 combinations held out. Two of `referential_game` with three candidates that differ in
the message alone: *parts*, two places of three symbols; *whole*, one place of nine symbols, which has as many messages
and can name a goal only as a whole: the control, whose words for held-out goals nobody has learned. *moving*, the
listener of `speaker_listener_variant` among two landmarks, with two places of three symbols.

Every arm is reported once, on run seeds and episodes that nothing has seen before (benchmarks/seeds.py). The final
policies, never the best ones, play `--episodes` episodes of each kind of goals, greedy; intervals are over replicas and
episodes. Structure is measured on the messages of other episodes, among training goals, of every replica by itself. All
of it in the batched port, which equals the real environments within rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.learning.training_runs import curve, placeless, split_at_dashes, train_arm
from benchmarks.machine import machine
from marl.cli.parse import parse
from marl.communication.options import Options
from marl.communication.run_analysis import analyse_run
from marl.communication.zero_shot import zero_shot
from marl.errors import UserError
from marl.runs.logs.records import read_run

RESULT = Path(__file__).resolve().parent / "results" / "communication" / "parts.json"
_GOALS = ["--env-args", "attributes=[3,3]", "held_out=3"]
_MOVING = {  # no file of configs/ is for this task's arguments
    "total-steps": "40000", "num-envs": "16", "maddpg.actor-lr": "0.003", "maddpg.critic-lr": "0.005",
    "maddpg.gamma": "0.75", "maddpg.tau": "0.02", "maddpg.batch-size": "64", "maddpg.updates-per-step": "0.5",
    "maddpg.signalling-bonus": "0.3",
}  # fmt: skip
ARMS: dict[str, tuple[str, list[str]]] = {
    "parts": ("referential_game", [*_GOALS, "num_candidates=3", "num_symbols=3", "message_length=2"]),
    "whole": ("referential_game", [*_GOALS, "num_candidates=3", "num_symbols=9", "message_length=1"]),
    "moving": (
        "speaker_listener_variant",
        [*_GOALS, "num_landmarks=2", "message_length=2", *(w for k, v in _MOVING.items() for w in (f"--{k}", v))],
    ),
}
MEASURES = ("topographic_similarity", "bag_of_symbols_disentanglement", "positional_best_matching")


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    options = _parser().parse_args(own)
    if options.table:
        print(table(json.loads(RESULT.read_text())))
        return 0
    records = {}
    for name in options.arms:
        env, arm = ARMS[name][0], [*ARMS[name][1], *flags]
        if options.tune is not None:
            run_seed = seeds.require(seeds.RUNS, "tuning", options.tune)
            records[name] = measure(env, arm, run_seed, seeds.seeds(seeds.EPISODES, "tuning").first, options)
            continue
        slot = seeds.reserve(parse(["--env", env, *arm]).config)
        records[name] = measure(env, arm, slot.run_seed, slot.episodes_seed, options)
        kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(kept | {name: records[name]}) + "\n")
        seeds.finish(slot)
    print(table(records))
    return 0


def measure(
    env: str, flags: list[str], run_seed: int, episodes_seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train an arm, play both kinds of goals, analyse the messages of each replica."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        began = time.process_time()
        config, result = train_arm(env, flags, run_seed, options.replicas, directory)
        processor = time.process_time() - began
        unseen = zero_shot(directory, episodes=options.episodes, seed=episodes_seed, backend="torch").to_json()
        analysis = analyse_run(
            directory,
            Options(
                episodes=1000, seed=episodes_seed + seeds.EPISODES_IN_A_SLOT // 2, interventions=("shuffled",),
                cross_episodes=0, figures=False, formation=False, backend="torch",
            ),
        )  # fmt: skip
        channels = [one.channels[0] for one in analysis.replicas]
        record = {
            "env": env,
            "flags": flags,
            "configuration": seeds.fingerprint(config),
            "seed": run_seed,
            "replicas": options.replicas,
            "steps": result.step,
            "processor": round(processor, 1),
            "curve": curve(read_run(directory)),
            "zero_shot": {key: value for key, value in unseen.items() if key != "run"},
            "analysis_seed": analysis.seed,
            "bits_told": [getattr(one.signalling.information, "corrected", None) for one in channels],
            "bits_per_episode": [one.usage.bits_per_episode for one in channels],
            "compositionality": [
                None if one.signalling.compositionality is None else one.signalling.compositionality.to_json()
                for one in channels
            ],
        }
    return record | {
        "machine": machine(),
        "command": " ".join(["python -m benchmarks.parts", *placeless(sys.argv[1:])]),
    }


def table(records: dict[str, dict[str, Any]]) -> str:
    """A row for each arm: right picks of both kinds of goals, and medians of the measures over the replicas."""
    heads = ["arm", "at random", "training goals [95 %]", "held-out goals [95 %]", "worst, best", "bits told"]
    rows = [[*heads, *(name.replace("_", " ") for name in MEASURES), "its p < .05"]]
    for name, record in records.items():
        cells = [name, f"{record['zero_shot']['chance']:.3f}"]
        for goals in ("training", "held_out"):
            one = record["zero_shot"][goals]["together"]
            cells.append(f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
        each = record["zero_shot"]["held_out"]["replicas"]
        cells += [f"{min(each):.2f}, {max(each):.2f}", f"{np.median(record['bits_told']):.2f}"]
        found = record["compositionality"]
        for measure_name in MEASURES:
            values = [one[measure_name]["value"] for one in found if one and "value" in one[measure_name]]
            cells.append(f"{np.median(values):.2f}" if values else "")
        sure = sum(one["positional_best_matching"]["p"] < 0.05 for one in found if one)
        rows.append([*cells, f"{sure} of {len(found)}" if found[0] else ""])
    first, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([first, "|---" * len(rows[0]) + "|", *rest])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="default: all")
    parser.add_argument("--replicas", type=int, default=10, help="independent runs of each arm (default 10)")
    parser.add_argument("--episodes", type=int, default=2000, help="per replica and kind of goals (default 2000)")
    parser.add_argument("--tune", type=int, nargs="?", const=0, metavar="SEED", help="a trial on this tuning seed (0)")
    parser.add_argument("--table", action="store_true", help="only print what was written")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
