"""How long does a newcomer wait? The README's first command, from the shell's return key to the last line.

    python -m benchmarks.speed.first_command [--env simple_speaker_listener] [--seeds 0 1 2 3 4] [--cores 2]
                                             [--out benchmarks/results/first_command]

Runs `python run.py --env ENV --seed K` as a process of its own, one after another, on the first `--cores` cores, with
the settings that ship. The first run is cold: numba's and Python's own caches are empty folders, which the later ones
find filled. Times are wall seconds: `start` until training begins, `training` as the command prints it (whole seconds),
and `end` for the final evaluation, the language and the report. `processor` is what all its processes used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[2]
TRAINED = re.compile(r"Training took (\d+) s")  # whole seconds


def run(env: str, seed: int, cores: set[int], caches: Path, folder: Path, flags: list[str]) -> dict[str, Any]:
    """One command: {seed, seconds of every phase, processor, gain, score}."""
    settings = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "PYTHONPYCACHEPREFIX": str(caches / "python"),
        "PYTHONUNBUFFERED": "1",
    }
    directory = folder / f"seed_{seed}"
    words = [sys.executable, "run.py", "--env", env, "--seed", str(seed), "--run-dir", str(directory), *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    lines, trained, training = [], 0.0, 0.0
    with subprocess.Popen(
        words, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if said := TRAINED.match(line):
                trained, training = time.perf_counter() - began, float(said[1])
    if process.returncode != 0:
        raise SystemExit("".join(lines))
    whole = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads((directory / "evaluation.json").read_text())
    return {
        "seed": seed,
        "seconds": whole,
        "start": trained - training,
        "training": training,
        "end": whole - trained,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "gain": result["gain"],
        "score": result["score"],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a run, then the median of the warm ones."""
    names = ("seconds", "start", "training", "end", "processor")
    lines = [
        "| seed | caches | wall s | start | training | end | processor s | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for k, one in enumerate(runs):
        cells = " | ".join(f"{one[name]:.1f}" for name in names)
        gain = one["score"] if one["gain"] is None else one["gain"]
        lines.append(f"| {one['seed']} | {'warm' if k else 'cold'} | {cells} | {gain:.3f} |")
    if warm := runs[1:]:
        cells = " | ".join(f"{statistics.median(one[name] for one in warm):.1f}" for name in names)
        lines.append(f"| median | warm | {cells} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/first_command")
    parser.epilog = "Everything behind -- are flags of run.py."
    own = sys.argv[1:]
    at = own.index("--") if "--" in own else len(own)
    args = parser.parse_args(own[:at])
    cores = set(sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seeds = args.seeds
        runs = [run(args.env, seed, cores, folder / "caches", folder, own[at + 1 :]) for seed in seeds]
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"{args.env}_{len(cores)}_cores"
    record = {"command": " ".join(sys.argv[1:]), "machine": machine(), "cores": len(cores), "runs": runs}
    (args.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / f"{name}.md").write_text(table(runs))
    print(table(runs))


if __name__ == "__main__":
    main()
