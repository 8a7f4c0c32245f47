"""Tries environments of other packages from the check to the finished policy: the table of docs/results/third_party.md.

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 -e . -r benchmarks/reliability/third_party.txt
    python -m benchmarks.reliability.third_party --venv ENV               all of them, about half an hour on one core
    python -m benchmarks.reliability.third_party --venv ENV --only rps kitchen --timeout 60 --out FILE
    python -m benchmarks.reliability.third_party --page                   only writes the page from the record

Their packages need a virtual environment of their own, since some pin others. Every cell is a command of its own in
that environment, which is ended after --timeout seconds, so that nothing waits for ever:

check     python -m envs.check ENV
train     run.py for `steps` steps, 8 environments at a time, an update every 16 steps
resume    the same run for half as many steps more, from its checkpoint
evaluate  python -m marl.evaluate RUN --episodes 20 --seconds 5
play      the loop of the README with the environment's own dictionaries, on two seeds; "yes" where the agents'
          returns are those of marl.evaluate on the same seeds
alone     steps a second with random allowed actions and nothing else; training: with updates, without evaluations;
          both by the processor's time of one thread, so that the machine may do other things

Written: benchmarks/results/third_party.json, and from it the page's table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.reliability.third_party_page import with_table

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "third_party.json"
PAGE = ROOT / "docs" / "results" / "third_party.md"
MAKERS, HELPER = "benchmarks.reliability.third_party_envs", "benchmarks.reliability.third_party_play"
TIMEOUT, STEPS = 150.0, 2000


@dataclass(frozen=True)
class Entry:
    """An environment, and how it is tried."""

    name: str
    """What the page calls it."""
    packages: tuple[str, ...]
    """Whose versions are named."""
    steps: int = STEPS
    """Environment steps of the training."""
    flags: tuple[str, ...] = ()
    """Further ones of run.py."""
    check: tuple[str, ...] = ()
    """Further ones of envs.check."""


REBUILT = {"flags": ("--rebuild",), "check": ("--rebuild",)}
ENTRIES = {
    "rps": Entry("classic rps_v2", ("pettingzoo",)),
    "tictactoe": Entry("classic tictactoe_v3, in turns", ("pettingzoo",)),
    "connect_four": Entry("classic connect_four_v3, in turns", ("pettingzoo",)),
    "hanabi": Entry("classic hanabi_v5, in turns", ("pettingzoo", "shimmy", "open_spiel")),
    "texas_holdem": Entry("classic texas_holdem_v4, in turns", ("pettingzoo", "rlcard")),
    "pistonball": Entry("butterfly pistonball_v6, 6 pistons, 20 x 20 grey", ("pettingzoo", "supersuit", "pymunk")),
    "pistonball_pictures": Entry("butterfly pistonball_v6 as it is", ("pettingzoo", "pymunk")),
    "cooperative_pong": Entry("butterfly cooperative_pong_v6, 24 x 24 grey", ("pettingzoo", "supersuit")),
    "knights_archers_zombies": Entry("butterfly knights_archers_zombies_v11", ("pettingzoo",), **REBUILT),
    "pursuit": Entry("sisl pursuit_v5", ("pettingzoo",)),
    "multiwalker": Entry("sisl multiwalker_v9", ("pettingzoo",)),
    "adversarial_pursuit": Entry("MAgent2 adversarial_pursuit_v4", ("magent2",)),
    "foraging": Entry("lbforaging Foraging-8x8-2p-2f-v3, wrapped", ("lbforaging",), **REBUILT),
    "kitchen": Entry("frondori-kitchen", ("frondori-kitchen",)),
    "speaker_listener": Entry("cooperative-marl-labs SpeakerListener", ("cooperative-marl-labs",)),
    "wireless": Entry("cooperative-marl-labs Wireless", ("cooperative-marl-labs",)),
    "stacked_spread": Entry("mpe2 simple_spread_v3, supersuit frame_stack_v1", ("mpe2", "supersuit")),
}


class Cells:
    """Runs the commands of one environment, each within a time limit.

    Args:
        python: of the environments' packages.
        env_id: module:function.
        timeout: seconds of one command.
    """

    def __init__(self, python: Path, env_id: str, timeout: float) -> None:
        self.python, self.env_id, self.timeout = python, env_id, timeout

    def run(self, *words: str) -> dict[str, Any]:
        """{"code": exit code, None where it was ended, "seconds", "out": its last lines, "told": of its errors}."""
        environment = {
            **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep),
            "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1",
            "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        began = time.monotonic()
        process = subprocess.Popen(
            [str(self.python), *words], cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            out, told = process.communicate(timeout=self.timeout)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            out, told = process.communicate()
            code = None
        return {
            "code": code, "seconds": round(time.monotonic() - began, 1), "out": out.strip()[-2000:],
            "told": told.strip()[-2000:],
        }  # fmt: skip


def measure(entry: Entry, env_id: str, python: Path, timeout: float) -> dict[str, Any]:
    """Every cell of a row; those that need a trained run are left out where there is none."""
    cells, row = Cells(python, env_id, timeout), {"name": entry.name}
    row["check"] = cells.run("-m", "envs.check", env_id, "--episodes", "2", *entry.check)
    row["alone"] = _answer(cells.run("-m", HELPER, "alone", env_id))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        row["train"] = cells.run("-m", HELPER, "run", "--env", env_id, "--run-dir", str(run), *_settings(entry))
        row["training_steps_per_second"] = _rate(run)
        if row["train"]["code"] != 0 and not list((run / "checkpoints").glob("step_*")):
            return row
        row["resume"] = cells.run("run.py", "--resume", str(run), "--total-steps", str(entry.steps * 3 // 2))
        row["evaluate"] = cells.run("-m", "marl.evaluate", str(run), "--episodes", "20", "--seconds", "5")
        row["play"] = _answer(cells.run("-m", HELPER, "policy", str(run), env_id))
    return row


def _settings(entry: Entry) -> list[str]:
    chosen = {
        "total-steps": entry.steps, "num-envs": 8, "maddpg.warmup-steps": entry.steps // 4, "maddpg.batch-size": 128,
        "logging.every": max(entry.steps // 10, 8), "logging.tensorboard": False, "logging.report": False,
        "evaluation.every": entry.steps // 2, "evaluation.final-seconds": 3, "checkpoint.every": entry.steps // 2,
        "device": "cpu", "threads": 1,
    }  # fmt: skip
    words = ["--backend", "pettingzoo", *entry.flags]
    for name, value in chosen.items():
        words += [f"--no-{name}".replace("no-logging.", "logging.no-")] if value is False else [f"--{name}", str(value)]
    return words


def _answer(done: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that `third_party_play` printed, beside how it ended."""
    last = done["out"].splitlines()[-1:] if done["code"] == 0 else []
    return {**done, **(json.loads(last[0]) if last else {})}


def _rate(run: Path) -> float | None:
    """Steps a second in training: the median of the records with updates."""
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rates = sorted(line["time/steps_per_second"] for line in lines if line.get("updates") and "rollout/return" in line)
    return round(rates[len(rates) // 2], 1) if rates else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability.third_party", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--venv", type=Path, help="the virtual environment with the packages; default: this Python's")
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=[*ENTRIES], help="these environments only")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds of one cell")
    parser.add_argument("--out", type=Path, default=RESULT, help="the record, which keeps the rows of others")
    parser.add_argument("--page", action="store_true", help="only write the page from the record")
    options = parser.parse_args(argv)
    if not options.page:
        python = options.venv / "bin" / "python" if options.venv else Path(sys.executable)
        record = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
        for key in options.only or ENTRIES:
            record["rows"][key] = tried(ENTRIES[key], f"{MAKERS}:{key}", python, options.timeout)
            record |= {"command": "python -m benchmarks.reliability.third_party --venv ENV", "machine": machine()}
            record["timeout"] = options.timeout
            options.out.write_text(json.dumps(record, indent=1) + "\n")  # after every row: it takes long
    if options.out == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), json.loads(RESULT.read_text())))
    return 0


def tried(entry: Entry, env_id: str, python: Path, timeout: float) -> dict[str, Any]:
    """A row of the record: the cells, and the versions of the packages."""
    print(f"{entry.name} ...", flush=True)
    found = Cells(python, env_id, timeout).run("-m", HELPER, "versions", *entry.packages)
    row = {**measure(entry, env_id, python, timeout), "steps": entry.steps, "flags": list(entry.flags)}
    row["versions"] = json.loads(found["out"].splitlines()[-1])
    return without_paths(row)


def without_paths(value: Any) -> Any:
    """The record without the directories of this machine."""
    if isinstance(value, dict):
        return {name: without_paths(one) for name, one in value.items()}
    if isinstance(value, str):
        return re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+/", "", value.replace(f"{ROOT}/", ""))
    return value


if __name__ == "__main__":
    sys.exit(main())
