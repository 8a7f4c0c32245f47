"""What stops learning in collect_treasure and simple_world_comm: probes that each change one thing.

    python -m benchmarks.learning.probes --env collect_treasure
    python -m benchmarks.learning.probes --env simple_world_comm --probes plain predators prey
    python -m benchmarks.learning.probes --env collect_treasure --again -- --total-steps 1000000
    python -m benchmarks.learning.probes --env collect_treasure --tune --probes plain -- --maddpg.gamma 0.95

A probe changes the task (fewer agents, another reward, other bodies, other lengths), who learns (scripts play all
others, in training and afterwards), or one setting; all else is the shipped configuration, shorter. What is learned
stands beside the scripts and random play under the same change. Everything is played in the batched port, which equals
`mpe2` within rounding (but for the places of new treasures). Learners among scripts have critics that see the learners
alone. The seeds are those of studies: settings that follow from a table are tuned on tuning seeds and reported on a
slot of their own (benchmarks/seeds.py).

Written: benchmarks/results/probes/<env>.json after every probe, and <env>.md. Probes that are recorded are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import seeds
from benchmarks.learning.probes.catalogue import GROUPS, PROBES, STEPS
from benchmarks.learning.probes.tables import page
from benchmarks.learning.probes.trials import Bench, run
from benchmarks.learning.training_runs import placeless, split_at_dashes
from benchmarks.machine import machine
from marl.errors import UserError

RESULTS = Path(__file__).resolve().parents[2] / "results" / "probes"


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    options = _parser().parse_args(own)
    env, names = options.env, options.probes or list(PROBES[options.env])
    unknown = [name for name in names if name not in PROBES[env]]
    if unknown:
        raise UserError(f"{env} has no probe {unknown[0]!r}. It has {', '.join(map(repr, PROBES[env]))}.")
    purpose: seeds.Purpose = "tuning" if options.tune else "studies"
    bench = Bench(options.episodes, seeds.seeds(seeds.EPISODES, purpose).first)
    path = options.out / f"{env}.json"
    kept = {} if options.tune else read(path)
    others = {name: group.others for name, group in GROUPS[env].items()}
    for name in names:
        if name in kept and not options.again:
            print(f"{name}: recorded after {kept[name]['steps']:,} steps; --again trains it again", flush=True)
            continue
        record = run(env, name, flags, seeds.seeds(seeds.RUNS, purpose).first, options.replicas, bench)
        command = " ".join(["python -m benchmarks.learning.probes", *placeless(sys.argv[1:])])
        kept[name] = record | {"machine": machine(), "command": command}
        kept = {one: kept[one] for one in PROBES[env] if one in kept}
        if not options.tune:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, kept)
            path.with_suffix(".md").write_text(page(env, kept, others))
        spent = record["processor"] + record["measuring"]
        print(f"{name}: {spent:.0f} processor seconds", flush=True)
    print(page(env, kept, others))
    return 0


def read(path: Path) -> dict[str, dict[str, Any]]:
    """{probe: its record}; nothing where nothing was written."""
    records: dict[str, dict[str, Any]] = json.loads(path.read_text())["probes"] if path.exists() else {}
    return records


def write(path: Path, records: dict[str, dict[str, Any]]) -> None:
    """One line a probe."""
    lines = [f"{json.dumps(name)}: {json.dumps(record)}" for name, record in records.items()]
    path.write_text('{"probes": {\n' + ",\n".join(lines) + "\n}}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.probes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", choices=list(PROBES), required=True, help="task")
    parser.add_argument("--probes", nargs="+", metavar="NAME", help="some of the task's; default all")
    parser.add_argument("--replicas", type=int, default=2, help="independent runs of each (default 2)")
    parser.add_argument("--episodes", type=int, default=400, help="of each measurement, per replica (default 400)")
    parser.add_argument("--again", action="store_true", help="train probes that are recorded again")
    parser.add_argument("--tune", action="store_true", help="a trial on tuning seeds, of which nothing is written")
    parser.add_argument("--out", type=Path, metavar="DIR", default=RESULTS, help="where the results are written")
    steps = ", ".join(f"{env} {count:,}" for env, count in STEPS.items())
    parser.epilog = (
        f"Everything behind -- are flags of run.py, for all probes. Steps without any: {steps}. "
        + " ".join(f"Probes of {env}: {', '.join(map(repr, probes))}." for env, probes in PROBES.items())
    )
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
