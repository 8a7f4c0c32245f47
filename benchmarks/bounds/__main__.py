"""Computes what no policy exceeds on average, and how far the best script is from it.

    python -m benchmarks.bounds                        all bounds and gaps; about ten minutes on one core
    python -m benchmarks.bounds --only simple_line --scale 0.1 --out FILE
    python -m benchmarks.bounds --page                 only writes page and module from the record

A bound holds for the *expected* return per agent over the environment's own resets, default arguments, discrete
actions; the mean of finitely many episodes may lie above it by luck. Where it rests on drawn resets it includes 3.09
standard errors (one-sided 99.9 %, normal). The gap is the mean over the script's episodes of the bound of each start
less the script's return, with its standard error. Proofs: `mover.py`, `prices.py`, `goals.py`, `silent.py`, `reach.py`.
Written: benchmarks/results/bounds.json, and from it the table of docs/results/bounds.md and marl/evaluate/bounds.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.bounds.entries import ENTRIES, SEED, Entry
from benchmarks.bounds.page import as_module, with_table
from benchmarks.bounds.resets import resets
from benchmarks.machine import machine
from envs.mpe import catalogue
from marl.play.rollout import play
from marl.scripted.by_name import scripted
from marl.stats import mean_and_se

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "bounds.json"
PAGE = ROOT / "docs" / "results" / "bounds.md"
MODULE = ROOT / "marl" / "evaluate" / "bounds.py"
EPISODES = 1000


def measure(entry: Entry, scale: float) -> dict[str, Any]:
    """The bound, what the script returns, and the gap."""
    start = time.process_time()
    bound = entry.bound(scale)
    episodes = max(20, round(EPISODES * scale))
    returns = play(entry.env, scripted(entry.env, entry.script), episodes, SEED).returns.mean(1)
    starts = resets(entry.env, SEED, episodes)
    mean, error = mean_and_se(returns)
    gap, gap_error = mean_and_se(-entry.costs(starts) - returns)
    return {
        "bound": round(bound.value, 4), "margin": round(bound.margin, 4), "method": bound.method,
        "script": entry.script, "episodes": episodes, "return": round(float(mean), 4), "se": round(float(error), 4),
        "gap": round(float(gap), 4), "gap_se": round(float(gap_error), 4),
        "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bounds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", metavar="ENV", help="these environments only")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of samples and episodes")
    parser.add_argument("--out", type=Path, default=RESULT, help="the record to write")
    parser.add_argument("--page", action="store_true", help="compute nothing, write the page")
    options = parser.parse_args()
    if options.scale != 1 and options.out == RESULT:
        parser.error("--scale is for a trial: name another record with --out FILE, the published one is of all samples")
    chosen = None if options.only is None else {catalogue.require_id(env) for env in options.only}
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if not options.page:
        for entry in ENTRIES:
            if chosen is None or entry.env in chosen:
                result = measure(entry, options.scale)
                record.setdefault("bounds", {}).setdefault(entry.env, {})[entry.kind] = result
                print(entry.env, entry.kind, result, flush=True)
        record |= {"command": "python -m benchmarks.bounds", "seed": SEED, "machine": machine()}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    if options.out == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), record))
        MODULE.write_text(as_module(record))


if __name__ == "__main__":
    main()
