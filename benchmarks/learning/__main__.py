"""What the tuned configurations reach: final policies, unseen episodes of the real environment, full intervals.

    python -m benchmarks.learning --env simple_speaker_listener            trains, judges, writes, prints the table
    python -m benchmarks.learning --env simple_reference --replicas 5 --episodes 1000
    python -m benchmarks.learning --env simple --tune -- --maddpg.tau .02  a trial on tuning seeds: prints one row
    python -m benchmarks.learning --env simple --repeat DIR                the published run again, written to DIR
    python -m benchmarks.learning                                          only prints the table of what was written

Every replica trains for the `total_steps` of configs/<env>.yaml. A configuration is reported once, on run seeds and
episodes that nothing has seen before (benchmarks/seeds.py): a second report of it is refused. The final policy, never
the best one, plays `--episodes` episodes of `mpe2`, greedy and sampled; the luck that these episodes have in common is
taken off by a script that plays them too, and intervals are over replicas and episodes (benchmarks/judgement.py).
Steps and seconds to a threshold are those of the first evaluation during training (greedy, its own seeds) at or above
it. Seconds are processor seconds of all replicas side by side on one core, divided by their number.

Written: benchmarks/results/learning/<env>.json and .png, README.md with the table, and the tables of the package's
README.md and of docs/results/learning.md. A task marked † has not been reported since its seeds were retired: its
settings were chosen after looking at them, its luck is in, and its intervals are over replicas only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.learning.tables import table, write_pages
from benchmarks.learning.training_runs import placeless, run_arm, split_at_dashes
from benchmarks.machine import machine
from marl.cli.parse import parse
from marl.errors import UserError
from marl.evaluate.anchors import lines_of
from marl.figures import plots

RESULTS = Path(__file__).resolve().parents[1] / "results" / "learning"


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    parser = _parser()
    options = parser.parse_args(own)
    if options.tune is not None:
        record = _measure(
            options,
            flags,
            seeds.require(seeds.RUNS, "tuning", options.tune),
            seeds.seeds(seeds.EPISODES, "tuning").first,
        )
        print(table([record]))
        return 0
    if options.env:
        config = parse(["--env", options.env, *flags]).config
        slot = seeds.reserve(config) if options.repeat is None else seeds.find(config)
        record = _measure(options, flags, slot.run_seed, slot.episodes_seed)
        folder = RESULTS if options.repeat is None else options.repeat
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{options.env}.json").write_text(json.dumps(record) + "\n")
        plots.save(_figure(record), folder / f"{options.env}.png")
        if options.repeat is not None:
            print(table([record]))
            return 0
        seeds.finish(slot)
    everything = table(records())
    (RESULTS / "README.md").write_text(f"{__doc__}\n{everything}\n\n{_sources()}\n")
    write_pages(records())
    print(everything)
    return 0


def _measure(options: argparse.Namespace, flags: list[str], run_seed: int, episodes_seed: int) -> dict[str, Any]:
    modes = ("greedy", "sampled")
    record = run_arm(
        options.env, flags, run_seed, options.replicas, options.episodes, episodes_seed, modes, keep=options.keep
    )
    return record | {
        "machine": machine(),
        "command": " ".join(["python -m benchmarks.learning", *placeless(sys.argv[1:])]),
    }


def records() -> list[dict[str, Any]]:
    """Every published row, in order of the task's name: the newest report, else that of seeds retired since."""
    paths = {path.name: path for folder in (RESULTS / "retired", RESULTS) for path in folder.glob("*.json")}
    return [json.loads(paths[name].read_text()) for name in sorted(paths)]


def _sources() -> str:
    return "\n".join(f"- `{r['command']}`, {r['machine']}" for r in records())


def _figure(record: dict[str, Any]) -> Any:
    curve = record["curve"]
    gains = np.array(curve["gain"]) if "gain" in curve else None
    title = f"{record['env']}: {record['replicas']} replicas"
    return plots.learning_figure(curve["step"], np.array(curve["return"]), lines_of(record["env"]), gains, title)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", help="task to train; none: only the table")
    parser.add_argument("--replicas", type=int, default=10, help="independent runs (default 10)")
    parser.add_argument("--episodes", type=int, default=4000, help="of the judgement, per replica (default 4000)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the run directory there")
    parser.add_argument("--tune", type=int, nargs="?", const=0, metavar="SEED", help="a trial on this tuning seed (0)")
    parser.add_argument("--repeat", type=Path, metavar="DIR", help="a published configuration again, written to DIR")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
