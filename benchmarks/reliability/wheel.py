"""From `pip install` to a trained pair, analysed, with its page open: does the wheel alone do it, and how soon?

    python -m benchmarks.reliability.wheel              builds, installs, runs, and records
    python -m benchmarks.reliability.wheel --out FILE   a record elsewhere; docs/speed.md stays as it is

Builds the wheel from a copy that holds what the Dockerfile copies and nothing else, makes an empty virtual environment,
installs torch and the wheel with what pip finds, and runs the commands of `COMMANDS` in an empty directory, with empty
caches of numba, matplotlib and Python. Needs a network. The seconds are those of the wall:

build      the wheel
download   the wheels of torch and of everything else, into a folder
install    from that folder, without a network
NAME       each command; `page`: from starting a Chromium until the listening page plays, null where there is none

`together` is what a newcomer waits for beside the download: install, evaluate, communication, listen and page. `nice`
is the priority of the measurement: a record with any but 0 is not for publishing.

Written: benchmarks/results/wheel.json, and from it the lines of docs/speed.md. Exit code 1 where a command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.reliability.faults import put
from docs.browser import Browser, installed
from marl.runs.durable import replace_text

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "wheel.json", ROOT / "docs" / "speed.md"
TORCH = "torch==2.13.0"
PARTS = ("pyproject.toml", "README.md", "LICENSE", "configs", "envs", "marl")  # all that a wheel is made of
TASK = "simple_reference"
HOME = f"runs/pretrained/{TASK}"
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "evaluate": (["python", "-m", "marl.evaluate", TASK, "--pretrained"], ()),
    "communication": (["python", "-m", "marl.communication", TASK, "--pretrained"], (f"{HOME}/communication.json",)),
    "listen": (["python", "-m", "marl.listen", TASK, "--pretrained"], (f"{HOME}/listen.html",)),
    "train": (
        ["marl-train", "--env", "simple_speaker_listener", "--device", "cpu", "--run-dir", "run"],
        ("run/evaluation.json", "run/report.html", "run/listen.html"),
    ),
}
"""Name -> (words, files that it must leave behind). The last one is the README's first command, as a wheel has it."""
TOGETHER = ("install", "evaluate", "communication", "listen", "page")
PLAYS = "document.querySelectorAll('#roles button').length > 0"
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


class Failed(Exception):
    """A step that did not end well; its words say which, and what it printed."""


class Watch:
    """Runs commands and notes their seconds.

    Attributes:
        seconds: {step: wall seconds}.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float | None] = {}
        self.environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}

    def run(self, step: str, words: Sequence[str | Path], cwd: Path) -> str:
        """The standard output of a command; its time is added to that of its step.

        Raises:
            Failed: its exit code is not 0.
        """
        began = time.perf_counter()
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd, env=self.environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        self.add(step, time.perf_counter() - began)
        if done.returncode != 0:
            said = "\n".join([done.stdout.strip()[-2000:], done.stderr.strip()[-2000:]]).strip()
            raise Failed(f"{step}: {' '.join(map(str, words))} ended with exit code {done.returncode}:\n{said}")
        print(f"{step:<14}{self.seconds[step]:7.1f} s", flush=True)
        return done.stdout

    def add(self, step: str, seconds: float) -> None:
        self.seconds[step] = round((self.seconds.get(step) or 0.0) + seconds, 2)


def built(watch: Watch, folder: Path) -> Path:
    """The wheel of this checkout, from a copy: a build leaves folders behind, and must not find those of another."""
    source, wheels = folder / "source", folder / "built"
    source.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, source / name)
    watch.run("build", [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", wheels, source], folder)
    (wheel,) = wheels.glob("*.whl")
    return wheel


def environment(watch: Watch, wheel: Path, folder: Path) -> Path:
    """The folder of programs of a new virtual environment with the wheel and what it needs."""
    venv, wheels = folder / "venv", folder / "wheels"
    watch.run("venv", [sys.executable, "-m", "venv", venv], folder)
    pip = [venv / "bin" / "python", "-m", "pip"]
    watch.run("download", [*pip, "wheel", "--wheel-dir", wheels, TORCH, wheel], folder)
    watch.run("install", [*pip, "install", "--no-index", "--find-links", wheels, TORCH, wheel], folder)
    return venv / "bin"


def page(watch: Watch, path: Path) -> None:
    """Open the listening page in a Chromium; its time is None where there is none.

    Raises:
        Failed: its scripts complain, or it asks for anything but itself.
    """
    program = installed()
    if program is None:
        watch.seconds["page"] = None
        return
    began = time.perf_counter()
    with Browser(program) as browser:
        browser.open(path)
        browser.wait(PLAYS)
        watch.add("page", time.perf_counter() - began)
        others = set(browser.requests) - {"about:blank", path.resolve().as_uri()}
        if browser.errors or others:
            raise Failed(f"page: complaints {browser.errors}, requests of other addresses {sorted(others)}")
    print(f"{'page':<14}{watch.seconds['page']:7.1f} s", flush=True)


def measure(folder: Path) -> dict[str, Any]:
    """{"seconds": {step: s}, "together", "gain" of the trained pair, "size_mb" of the wheel}."""
    watch = Watch()
    wheel = built(watch, folder)
    programs = environment(watch, wheel, folder)
    empty = folder / "empty"
    empty.mkdir()
    watch.environment["XDG_CACHE_HOME"] = watch.environment["MPLCONFIGDIR"] = str(folder / "caches")
    watch.environment.pop("NUMBA_CACHE_DIR", None)
    for name, (words, files) in COMMANDS.items():
        watch.run(name, [programs / words[0], *words[1:]], empty)
        if missing := [file for file in files if not (empty / file).is_file()]:
            raise Failed(f"{name}: did not write {', '.join(missing)}")
        if name == "listen":
            page(watch, empty / files[0])
    gain = json.loads((empty / "run" / "evaluation.json").read_text())["gain"]
    together = sum(watch.seconds[step] or 0.0 for step in TOGETHER)
    size = wheel.stat().st_size / 1e6
    return {"seconds": watch.seconds, "together": round(together, 1), "gain": gain, "size_mb": round(size, 1)}


def words(record: dict[str, Any] | None) -> str:
    """What docs/speed.md says of a record, one paragraph; None: nothing has been measured yet."""
    if record is None:
        return "Not measured yet: `python -m benchmarks.reliability.wheel`."
    of = {step: "" if value is None else f"{value:.1f}" for step, value in record["seconds"].items()}
    opened = f", its page open in a browser {of['page']}" if of["page"] else ""
    return (
        f"The wheel ({record['size_mb']} MB) in an empty environment with empty caches, outside of the checkout, wall "
        f"seconds, `python -m benchmarks.reliability.wheel` ({record['machine']}, Python {record['python']}): building "
        f"it {of['build']}; with everything downloaded ({of['download']}), installing it with torch {of['install']}, "
        f"`marl.evaluate {TASK} --pretrained` {of['evaluate']}, `marl.communication {TASK} --pretrained` "
        f"{of['communication']}, `marl.listen {TASK} --pretrained` {of['listen']}{opened}. Together "
        f"**{record['together']:.0f} seconds** from `pip install` to a trained pair, its language and its page (the "
        f"goal was 60). The README's first command, as `marl-train`, takes {of['train']}, with kernels to compile."
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability.wheel", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="the record")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            measured = measure(Path(scratch))
        except Failed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
    about = {"command": "python -m benchmarks.reliability.wheel", "machine": machine()}
    record = {**about, "python": platform.python_version(), "nice": os.nice(0), **measured}
    replace_text(options.out, json.dumps(record, indent=1) + "\n")
    if options.out == RESULT:
        replace_text(PAGE, put(PAGE.read_text(encoding="utf-8"), "wheel", words(record)))
    print(words(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
