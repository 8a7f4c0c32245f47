"""One task under every condition of its channel: what learning to speak brings, and which way of learning it.

    python -m benchmarks.conditions --env simple_speaker_listener
    python -m benchmarks.conditions --env simple_reference --replicas 10 --arms gumbel none oracle
    python -m benchmarks.conditions --env simple_reference --keep DIR      goes on there where it was cut off
    python -m benchmarks.conditions                                        only the tables of what was written

An arm is the task's configuration, and the flags after --, with another --channel: same updates, steps, seeds and
episodes. All replicas of an arm train side by side; its final policies play `--episodes` greedy episodes of the real
environment through the same channel, whose luck is taken off (benchmarks/judgement.py), and as many of the batched port
to tell whether there is a protocol (benchmarks/conditions/protocols.py). An arm that the task cannot have is named with
the reason. Runs are kept in DIR/<env>/<arm>; an arm that was cut off goes on from its last checkpoint, and one that is
in the record already is not trained again.
Written: benchmarks/results/conditions/<env>.json, after every arm.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import envs
from benchmarks import seeds
from benchmarks.conditions.protocols import formed_at, protocol
from benchmarks.conditions.tables import table
from benchmarks.learning.training_runs import run_arm, split_at_dashes
from benchmarks.machine import machine
from envs.conditions import Condition
from marl import Policy
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.errors import UserError
from marl.learner.messages import LEARNERS
from marl.runs.checkpoint import DIRECTORY, newest

RESULTS = Path(__file__).resolve().parents[1] / "results" / "conditions"
ARMS: dict[str, str] = {
    **{name: f"--channel {name}" for name in ("gumbel", "none", "oracle", "self", "constant", "shuffled", "noisy")},
    **{name: f"--channel {name}" for name in ("rial", "dial")},
    "dial_soft": "--channel dial --maddpg.message-estimator gumbel_soft",
    "intent": "--channel intent",
}


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    options = _parser().parse_args(own)
    if options.env is None:
        print("\n\n".join(table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))))
        return 0
    out = options.out or RESULTS / f"{options.env}.json"
    record = _begun(out, options, flags)
    for name in options.arms or ARMS:
        if name in record["arms"]:
            print(f"{name}: measured before", flush=True)
            continue
        record["arms"][name] = arm = _measure(options, name, [*flags, *ARMS[name].split()])
        record["arms"] = {one: record["arms"][one] for one in ARMS if one in record["arms"]}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, allow_nan=False) + "\n")
        print(f"{name}: {arm.get('refused') or arm['judged']['iqm']}", flush=True)
    print(table(record))
    return 0


def _begun(out: Path, options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """The record that is gone on with, or a new one."""
    config = parse(["--env", options.env, *flags]).config
    seed = seeds.seeds(seeds.RUNS, "conditions").first if options.seed is None else options.seed
    setting = {
        "env": options.env,
        "flags": flags,
        "configuration": seeds.fingerprint(config),
        "seed": seeds.require(seeds.RUNS, "conditions", seed),
        "replicas": options.replicas,
        "steps": config.total_steps,
        "episodes": options.episodes,
    }
    if out.exists():
        record: dict[str, Any] = json.loads(out.read_text())
        if record["setting"] != setting:
            differ = ", ".join(name for name, value in setting.items() if record["setting"].get(name) != value)
            raise UserError(
                f"{out} holds arms of other settings ({differ}); give another file with --out, or remove it to measure "
                f"all arms again."
            )
        return record
    own = ["--env", options.env, "--replicas", str(options.replicas), "--episodes", str(options.episodes)]
    behind = ["--", *flags] if flags else []
    command = " ".join(["python -m benchmarks.conditions", *own, *behind])
    return {"setting": setting, "command": command, "machine": machine(), "arms": {}}


def _measure(options: argparse.Namespace, name: str, flags: list[str]) -> dict[str, Any]:
    config = parse(["--env", options.env, *flags]).config
    reason = refused(config)
    if reason is not None:
        return {"flags": flags, "refused": reason}
    first = seeds.seeds(seeds.EPISODES, "conditions").first
    seed = seeds.seeds(seeds.RUNS, "conditions").first if options.seed is None else options.seed
    folder = options.keep / options.env / name
    if (folder / "config.yaml").is_file() and newest(folder / DIRECTORY) is None:
        shutil.rmtree(folder)  # cut off before its first checkpoint: there is nothing to go on with
    measured = run_arm(options.env, flags, seed, options.replicas, options.episodes, first, keep=folder)
    half = first + options.episodes  # other episodes than those of the judgement
    protocols = [protocol(Policy.load(folder, r), options.episodes, half) for r in range(options.replicas)]
    steps = formed_at(measured["curve"], [one.formed for one in protocols])
    return {
        "flags": flags,
        "steps": measured["steps"],
        "seconds": measured["seconds"],
        "curve": measured["curve"],
        "judged": measured["judged"]["greedy"],
        "protocols": [one.to_json() for one in protocols],
        "formed_at": None if steps is None else [step if math.isfinite(step) else None for step in steps],
    }


def refused(config: Config) -> str | None:
    """Why a task cannot have this channel; None where it can."""
    env = envs.make(config.env, env_args=config.env_args)
    try:
        condition = Condition.of(config.channel, config.channel_noise)
        if condition is not None:
            condition.check(env.spec)
        if config.channel in LEARNERS:
            LEARNERS[config.channel](env.spec, config.maddpg, 0)
    except UserError as error:
        return str(error)
    finally:
        env.close()
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conditions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", help="task with messages; none: only the tables")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--replicas", type=int, default=10, help="independent runs of each arm (default 10)")
    parser.add_argument("--episodes", type=int, default=1000, help="of each replica's judgement (default 1000)")
    parser.add_argument("--seed", type=int, help="root seed (default: the first of the purpose)")
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/conditions"), metavar="DIR", help="runs (default runs/conditions)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record (default: that of the task)")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
