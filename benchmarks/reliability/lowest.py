"""Do the lowest versions that pyproject.toml allows work?

    python -m benchmarks.reliability.lowest                       Python 3.11, every direct dependency at its floor
    python -m benchmarks.reliability.lowest --python 3.12 3.13    where a floor has no wheel, the lowest that has one
    python -m benchmarks.reliability.lowest --keep torch==2.13.0  with another version of one package

Needs uv and a network (`pip install -e ".[dev]"`). For every Python it resolves the direct dependencies to the lowest
versions that have wheels, installs them and this checkout into an environment of their own, and runs the tests in
`SMOKE`. Exit code 1 where one of them fails. Nothing is recorded: the answer is yes, or a floor to be raised.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMOKE = (
    "tests/test_examples.py",
    "tests/marl/pretrained/test_pretrained.py",
    "tests/marl/figures",
    "tests/marl/export/test_export.py",
    "tests/envs/pettingzoo",
)
"""Tests that together touch every dependency: runs, evaluation, figures, export, other people's environments."""
WARNINGS = "default"  # no errors: matplotlib 3.8 calls what pyparsing 3.3 calls outdated
EXTRAS = ("test", "export", "pandas")


def direct(project: Path = ROOT / "pyproject.toml") -> list[str]:
    """Names of the direct dependencies, as pyproject.toml spells them."""
    listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [re.split(r"[<>=!~ \[;]", one)[0] for one in listed]


def resolve(python: str, keep: Sequence[str], folder: Path) -> Path:
    """The file of pinned requirements for one Python, the direct dependencies at their lowest."""
    override, result = folder / "keep.txt", folder / f"lowest-{python}.txt"
    override.write_text("".join(f"{one}\n" for one in keep), encoding="utf-8")
    words = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    words += ["--resolution", "lowest-direct", "--python-version", python, "--override", str(override)]
    words += [word for extra in EXTRAS for word in ("--extra", extra)]
    subprocess.run([*words, "pyproject.toml", "--output-file", str(result)], cwd=ROOT, check=True)
    return result


def shown(requirements: Path) -> str:
    """One line of the direct dependencies' versions."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", requirements.read_text(encoding="utf-8"), re.M))
    return ", ".join(f"{name} {pinned.get(name.lower(), '?')}" for name in direct())


def tested(python: str, keep: Sequence[str], folder: Path) -> bool:
    """Install the lowest versions for one Python and run the smoke tests; whether they pass."""
    requirements, venv = resolve(python, keep, folder), folder / f"venv-{python}"
    print(f"Python {python}: {shown(requirements)}", flush=True)
    own = {**os.environ, "VIRTUAL_ENV": str(venv), "OMP_NUM_THREADS": "1"}
    subprocess.run(["uv", "venv", "--quiet", "--python", python, str(venv)], check=True)
    for what in (["--only-binary", ":all:", "--requirements", str(requirements)], ["--no-deps", "--editable", "."]):
        subprocess.run(["uv", "pip", "install", "--quiet", *what], cwd=ROOT, env=own, check=True)
    words = [str(venv / "bin" / "python"), "-m", "pytest", "-o", f"filterwarnings={WARNINGS}", *SMOKE]
    return subprocess.run(words, cwd=ROOT, env=own).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The lowest versions that pyproject.toml allows, tested.")
    parser.add_argument("--python", nargs="+", default=["3.11"], metavar="VERSION")
    parser.add_argument("--keep", nargs="+", default=[], metavar="PACKAGE==VERSION", help="in place of its floor")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        failed = [python for python in options.python if not tested(python, options.keep, Path(folder))]
    print(f"failed: {', '.join(failed)}" if failed else "the lowest versions work")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
