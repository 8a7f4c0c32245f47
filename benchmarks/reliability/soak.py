"""A long run whose memory must not grow: resident memory over the steps, printed, drawn in characters and saved.

    python -m benchmarks.reliability.soak                                  200,000 steps, a few minutes
    python -m benchmarks.reliability.soak --world-model --steps 30000

The replay (and the world model's store) is made small, so that it is full long before the end: what grows after that
is a leak. Checkpoints, evaluations, records and event files are written all along. Memory is read from /proc while
`run.py` trains in a process of its own (Linux only). The verdict compares medians over the third fifth of the run and
over its last fifth. Exit code 1 where the last is more than 2 % and 8 MB above the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from marl.runs.durable import replace_text
from marl.runs.versions import versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ALLOWED_SHARE, ALLOWED_MB = 0.02, 8.0
SECONDS = 0.25  # between two readings


def flags_of(options: argparse.Namespace) -> list[str]:
    """The run's flags without its directory."""
    store = str(options.steps // 10)
    flags = ["--env", options.env, "--total-steps", str(options.steps), "--seed", "1", "--device", "cpu"]
    flags += ["--threads", "1", "--replay.capacity", store, "--checkpoint.every", str(options.steps // 40)]
    flags += ["--evaluation.every", str(options.steps // 20), "--evaluation.episodes", "50"]
    flags += ["--logging.every", str(options.steps // 200), "--no-logging.progress", "--no-logging.report"]
    if options.world_model:
        small = ["--wm.deter", "64", "--wm.hidden", "64", "--wm.latents", "8", "--wm.updates-per-step", "0.02"]
        flags += ["--world-model", "--wm.through-horizon", "0", "--wm.capacity", store, *small]
    return flags


def watch(command: list[str], run: Path) -> list[tuple[int, float]]:
    """(environment step, resident MB) of the command's process from its first record on.

    Raises:
        RuntimeError: the command failed; holds what it said.
    """
    curve: list[tuple[int, float]] = []
    with tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            while child.poll() is None:
                step, memory = last_step(run / "metrics.jsonl"), resident_mb(child.pid)
                if step and memory:
                    curve.append((step, memory))
                time.sleep(SECONDS)
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            told.seek(0)
            raise RuntimeError(told.read())
    return curve


def last_step(records: Path) -> int:
    """The step of the last whole record; 0 where there is none yet."""
    try:
        with open(records, "rb") as file:
            file.seek(max(0, records.stat().st_size - 20_000))
            lines = file.read().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def judge(curve: list[tuple[int, float]], steps: int) -> dict[str, Any]:
    """Medians over the third and the last fifth, and whether the memory stayed."""

    def median(low: float, high: float) -> float:
        return statistics.median(memory for step, memory in curve if low * steps <= step <= high * steps)

    middle, end = median(0.4, 0.6), median(0.8, 1.0)
    grows = end - middle > max(ALLOWED_SHARE * middle, ALLOWED_MB)
    return {"middle_mb": round(middle, 1), "end_mb": round(end, 1), "peak_mb": max(m for _, m in curve), "grows": grows}


def thinned(curve: list[tuple[int, float]], points: int = 100) -> list[tuple[int, float]]:
    """The highest reading of each of `points` parts of the run."""
    last = curve[-1][0]
    parts: dict[int, tuple[int, float]] = {}
    for step, memory in curve:
        part = step * points // (last + 1)
        if memory > parts.get(part, (0, 0.0))[1]:
            parts[part] = (step, round(memory, 1))
    return [parts[part] for part in sorted(parts)]


def drawing(curve: list[tuple[int, float]], width: int = 50) -> str:
    """A bar for each twentieth of the run."""
    rows = thinned(curve, 20)
    most = max(memory for _, memory in rows)
    return "\n".join(f"{step:>9,}  {memory:7.1f} MB  {'#' * round(width * memory / most)}" for step, memory in rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--world-model", action="store_true")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/soak[_world_model].json")
    options = parser.parse_args(argv)
    flags = flags_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        start = time.monotonic()
        curve = watch([sys.executable, "run.py", *flags, "--run-dir", str(run)], run)
        seconds = time.monotonic() - start
    curve = [point for point in curve if point[0] < options.steps]  # then the real environment is loaded and played
    verdict = judge(curve, options.steps)
    print(drawing(curve))
    words = "grows" if verdict["grows"] else "does not grow"
    print(f"memory {words}: {verdict['middle_mb']} MB in the middle, {verdict['end_mb']} MB at the end")
    name = "soak_world_model.json" if options.world_model else "soak.json"
    out = options.out or RESULTS / name
    result = {
        "command": "python run.py " + " ".join(flags),
        "seconds": round(seconds),
        **verdict,
        "curve": thinned(curve),
        "versions": versions(),
    }
    replace_text(out, json.dumps(result, indent=1) + "\n")
    return int(verdict["grows"])


if __name__ == "__main__":
    sys.exit(main())
