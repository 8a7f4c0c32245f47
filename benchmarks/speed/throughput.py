"""Steps per second of our MPE beside mpe2, JaxMARL's and VMAS's, in one run, one thread each.

    python -m benchmarks.speed.throughput --jax-python VENV/bin/python --vmas-python VENV/bin/python
    python -m benchmarks.speed.throughput --venvs DIR          makes both virtual environments there first, by pip
    python -m benchmarks.speed.throughput --device cuda        our port alone, on a GPU, up to the knee

Contenders are worker processes (`benchmarks/speed/throughput_worker.py`) that stay alive and play in turns, so that a
busy machine slows all of them alike. All are pinned to the same core; torch is told to use one thread, XLA by
`--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1`. What counts is processor time of all threads of
the process, which a neighbour on the core does not lengthen as it lengthens the time that passes (that is recorded
too). Actions are drawn beforehand; observations, rewards and resets are included; compilation is not.

Writes `throughput.json` and `throughput.png` into --out. JaxMARL and VMAS are no dependencies of this package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "benchmarks" / "speed" / "throughput_worker.py"
TASKS = ("simple_speaker_listener", "simple_reference", "simple_spread", "simple_world_comm")
COUNTS = (1, 100, 1000, 10_000)
MOST_MPE2 = 100  # each of mpe2's environments holds a picture of 2 MB; more of them do not step any faster
NAMES = {
    "project": "this package",
    "project_compiled": "this package, compiled",
    "mpe2": "mpe2",
    "jaxmarl": "JaxMARL",
    "vmas": "VMAS",
    "vmas_continuous": "VMAS, continuous actions",
}
PACKAGES = ("torch", "mpe2", "jax", "jaxmarl", "vmas")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "SDL_VIDEODRIVER": "dummy",
}


class Contender:
    """A worker process that answers one request at a time."""

    def __init__(self, name: str, python: str, core: int, log: TextIO) -> None:
        self.name, self.python = name, python
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
        command = [python, str(WORKER), name, str(core)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=ROOT
        )

    def ask(self, task: str, count: int, seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"task": task, "envs": count, "seconds": seconds}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"its process ended with {self.process.wait()}"}

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


# ------------------------------------------------------------------ measuring
def compare(
    contenders: Sequence[Contender], tasks: Sequence[str], counts: Sequence[int], repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """One row for each task, number of environments and contender, with every repeat."""
    rows = []
    for task in tasks:
        for count in counts:
            playing = [c for c in contenders if c.name != "mpe2" or count <= MOST_MPE2]
            answers: dict[str, list[dict[str, Any]]] = {c.name: [] for c in playing}
            for contender in playing:
                contender.ask(task, count, 0.0)  # prepares, compiles, warms up
            for _ in range(repeats):
                for contender in playing:
                    answers[contender.name].append(contender.ask(task, count, seconds))
            rows += [summary(task, count, name, given) for name, given in answers.items()]
            print(line_of(rows[-len(playing) :]), flush=True)
    return rows


def summary(task: str, count: int, name: str, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median rate over the repeats, with all of them; or the fault."""
    row: dict[str, Any] = {"task": task, "envs": count, "contender": name}
    faults = [answer["error"] for answer in answers if "error" in answer]
    if faults:
        return {**row, "rate": None, "error": faults[0]}
    rates = [answer["steps"] / answer["cpu"] for answer in answers]
    wall = [answer["steps"] / answer["wall"] for answer in answers]
    return {**row, "rate": statistics.median(rates), "rates": rates, "wall_rates": wall}


def line_of(rows: Sequence[dict[str, Any]]) -> str:
    told = ", ".join(f"{row['contender']} {row.get('error') or format(row['rate'], ',.0f')}" for row in rows)
    return f"{rows[0]['task']}, {rows[0]['envs']} environments: {told}"


def rates_of(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int, str], float]:
    """{(task, envs, contender): steps per second} without those that failed."""
    return {(row["task"], row["envs"], row["contender"]): row["rate"] for row in rows if row["rate"]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: steps per second of each contender, and how many times the rate of JaxMARL and both of VMAS ours is."""
    rates = rates_of(rows)
    names = [name for name in NAMES if any(key[2] == name for key in rates)]
    head = ["task", "environments", *(NAMES[name] for name in names), "x JaxMARL", "x VMAS", "x VMAS, continuous"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for task, count in dict.fromkeys((row["task"], row["envs"]) for row in rows):
        results = [rates.get((task, count, name)) for name in names]
        ours = rates.get((task, count, "project"))
        times = [_times(ours, rates.get((task, count, other))) for other in ("jaxmarl", "vmas", "vmas_continuous")]
        lines.append([f"`{task}`", f"{count:,}", *(_millions(rate) for rate in results), *times])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _millions(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e6:.3g} M" if rate >= 1e5 else f"{rate:,.0f}"


def _times(ours: float | None, theirs: float | None) -> str:
    return "" if ours is None or theirs is None else f"{ours / theirs:.1f}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Steps per second against the number of environments, one panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rates = rates_of(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.6), sharey=True, squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for index, (name, label) in enumerate(NAMES.items()):
            points = sorted((key[1], rate) for key, rate in rates.items() if key[0] == task and key[2] == name)
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", color=f"C{index}", label=label)
        axis.set_title(task)
        axis.set_xlabel("environments")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("steps per second, one thread")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


# ------------------------------------------------------------------ the machine and the virtual environments
def make_venv(path: Path, *installs: Sequence[str]) -> str:
    """The python of a virtual environment at `path`, made with these `pip install` commands if it is not there."""
    python = path / "bin" / "python"
    if not python.exists():
        venv.create(path, with_pip=True)
        for arguments in installs:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
    return str(python)


def make_venvs(directory: Path) -> tuple[str, str]:
    """Pythons with JaxMARL and with VMAS; the latter with the torch that runs here."""
    import torch

    jax = make_venv(directory / "jaxmarl", ["jaxmarl==0.2.0"])
    needs = [f"torch=={torch.__version__}", "numpy", "gym", "six", "pyglet<=1.5.27"]
    return jax, make_venv(directory / "vmas", needs, ["--no-deps", "vmas==1.5.2"])


def versions(python: str) -> dict[str, str]:
    """Versions of the packages that matter, as this python has them."""
    code = (
        "import json, importlib.metadata as m\n"
        f"names = {PACKAGES!r}\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}\n"
        "print(json.dumps({n: have[n] for n in names if n in have}))"
    )
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.speed.throughput`; returns the exit code."""
    options = parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device != "cpu":
        from benchmarks.speed.throughput_device import sweep_and_save
        from envs import UserError

        try:
            print(sweep_and_save(options.device, options.tasks, options.out))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    jax, vmas = options.jax_python, options.vmas_python
    if options.venvs is not None:
        made = make_venvs(options.venvs)
        jax, vmas = jax or made[0], vmas or made[1]
    pythons = {"project": sys.executable, "project_compiled": sys.executable, "mpe2": sys.executable}
    pythons |= {"jaxmarl": jax} if jax else {}
    pythons |= {"vmas": vmas, "vmas_continuous": vmas} if vmas else {}
    chosen = {name: python for name, python in pythons.items() if name not in options.without}
    with (options.out / "throughput.log").open("w") as log:
        contenders = [Contender(name, python, options.core, log) for name, python in chosen.items()]
        rows = compare(contenders, options.tasks, options.counts, options.repeats, options.seconds)
        for contender in contenders:
            contender.close()
    (options.out / "throughput.log").unlink()
    results = {
        "machine": machine(),
        "threads": 1,
        "pinned": {"core": options.core, **ONE_THREAD},
        "versions": {name: versions(python) for name, python in chosen.items()},
        "unit": "environment steps per second of processor time, median of the repeats",
        "repeats": options.repeats,
        "rows": rows,
    }
    (options.out / "throughput.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(rows, options.out / "throughput.png")
    print(table(rows))
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--jax-python", metavar="PYTHON", help="python that has jaxmarl 0.2.0; unset: left out")
    made.add_argument("--vmas-python", metavar="PYTHON", help="python that has vmas 1.5.2; unset: left out")
    made.add_argument("--venvs", type=Path, metavar="DIR", help="make what is unset here")
    made.add_argument("--without", nargs="*", default=[], choices=tuple(NAMES), help="contenders to leave out")
    made.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    made.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="numbers of environments")
    made.add_argument("--repeats", type=int, default=7, help="turns of every contender (default 7)")
    made.add_argument("--seconds", type=float, default=0.3, help="of a turn, at least (default 0.3)")
    made.add_argument("--core", type=int, default=0, help="the core that all are pinned to (default 0)")
    made.add_argument("--device", default="cpu", help="cpu: compare; cuda: our port alone, up to the knee")
    made.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "throughput")
    return made


if __name__ == "__main__":
    sys.exit(main())
