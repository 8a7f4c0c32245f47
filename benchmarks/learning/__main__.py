"""What the tuned configurations reach: final policies, unseen episodes of the real environment, intervals over seeds.

    python -m benchmarks.learning --env simple_speaker_listener            trains, judges, writes, prints the table
    python -m benchmarks.learning --env simple_reference --replicas 5 --episodes 1000
    python -m benchmarks.learning                                          only prints the table of what was written

Every replica trains for the `total_steps` of configs/<env>.yaml with a seed that no tuning has seen (tuning uses seeds
below 1000). The final policy, never the best one, plays `--episodes` episodes of `mpe2` that neither training nor
tuning has seen, greedy and sampled. Steps and seconds to a threshold are those of the first evaluation during training
(greedy, its own seeds) at or above it; seconds are those of all replicas side by side, divided by their number.

Written: benchmarks/results/learning/<env>.json and .png, and README.md with the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.training_runs import first_reached, machine, median, run_arm, split_at_dashes
from marl import stats
from marl.evaluate.anchors import lines_of, score
from marl.figures import plots

RESULTS = Path(__file__).resolve().parents[1] / "results" / "learning"
SEED = 1000  # of the reported runs
_COLUMNS = (
    "task",
    "steps",
    "replicas",
    "return per agent, IQM [95 %]",
    "worst",
    "sampled",
    "random / silent / oracle",
    "score",
    "gain",
    "gain >= .95",
    "steps to median gain .90",
    "seconds to it, a replica",
    "seconds, a replica",
)
HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    options = _parser().parse_args(own)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if options.env:
        record = run_arm(
            options.env, flags, options.seed, options.replicas, options.episodes, ("greedy", "sampled"),
            keep=options.keep,
        )  # fmt: skip
        record |= {"machine": machine(), "command": " ".join(["python -m benchmarks.learning", *sys.argv[1:]])}
        (RESULTS / f"{options.env}.json").write_text(json.dumps(record) + "\n")
        plots.save(_figure(record), RESULTS / f"{options.env}.png")
    table = "\n".join([HEAD, *map(_row, _records())])
    (RESULTS / "README.md").write_text(f"{__doc__}\n{table}\n\n{_sources()}\n")
    print(table)
    return 0


def _records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def _row(record: dict[str, Any]) -> str:
    greedy, sampled = record["final"]["greedy"], record["final"]["sampled"]
    returns = [one["mean_return"] for one in greedy["replicas"]]
    low, high = stats.bootstrap_interval(returns)
    gains = [one["gain"] for one in greedy["replicas"]]
    has_gain = greedy["gain"] is not None
    cells = [
        record["env"],
        f"{record['steps'] / 1000:g}k",
        str(record["replicas"]),
        f"{stats.aggregate(returns):.2f} [{low:.2f}, {high:.2f}]",
        f"{min(returns):.2f}",
        f"{sampled['mean_return']:.2f}",
        " / ".join("" if line is None else f"{line:.2f}" for line in _lines(record["env"])),
        _number(score(record["env"], greedy["mean_return"])),
        _number(greedy["gain"]),
        f"{sum(g >= 0.95 for g in gains)} of {len(gains)}" if has_gain else "",
        _thousands(_arrival(record, "step")) if has_gain else "",
        _number(_arrival(record, "seconds") / record["replicas"]) if has_gain else "",
        f"{record['seconds'] / record['replicas']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _arrival(record: dict[str, Any], what: str) -> float:
    return median(first_reached(record["curve"], "gain", 0.9, what))


def _lines(env: str) -> list[float | None]:
    lines = lines_of(env)
    return [lines["random"], lines["no communication"], lines["oracle"]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _thousands(steps: float) -> str:
    return f"{steps / 1000:g}k" if np.isfinite(steps) else "never"


def _sources() -> str:
    return "\n".join(f"- `{r['command']}`, {r['machine']}" for r in _records())


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
    parser.add_argument("--seed", type=int, default=SEED, help="root seed (default 1000)")
    parser.add_argument("--replicas", type=int, default=10, help="independent runs (default 10)")
    parser.add_argument("--episodes", type=int, default=4000, help="of the judgement, per replica (default 4000)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the run directory there")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser


if __name__ == "__main__":
    sys.exit(main())
