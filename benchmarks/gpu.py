"""Training on one GPU: transitions a second, replicas, seconds to a language, estimators, world model, a profile.

On a bare machine with an NVIDIA GPU, from the root of the repository:

    pip install -e . && python -m benchmarks.gpu

It prints one table, every goal beside what was reached, and writes gpu.json and gpu.md into benchmarks/results/gpu
(`--out`). `--only NAME ...` measures some parts. It takes about ten minutes. No GPU: it refuses, but

    python -m benchmarks.gpu --device cpu --tiny --out /tmp/gpu

plays every part of it with tiny sizes, whose numbers mean nothing.

Transitions: every round steps E environments once, stores them and makes one update on a batch of E: as many are
collected as are trained on. "Launched" is the same with `--no-graphs`. Every time is wall time until the device has
finished, after enough rounds to record all graphs. "GPU busy" is the sum of all kernels' times over the wall time of
the profiled rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import envs
from benchmarks.gumbel.page import ROOT, meta
from benchmarks.world_model.prediction import configuration
from envs import commands
from envs.streams import Stream
from marl.config.resolve import tuned
from marl.config.schema import Config, Estimator
from marl.data.replay import Replay
from marl.errors import RunFailed
from marl.learner import relaxation
from marl.learner.maddpg import INNER_DRAWS, MADDPG
from marl.runs.durable import replace_text
from marl.training.cuda_graphs import WARM_UP, Graphs
from marl.training.devices import choose_device
from marl.training.rounds import Rounds
from marl.world_model.assess import collect
from marl.world_model.imagination.source import make_model
from marl.world_model.layout import Layout

TASK, HORIZON = "simple_speaker_listener", 25
GOAL_RATE, GOAL_FLAT, GOAL_SECONDS, GOAL_GAIN, GOAL_MODEL = 5e6, 1.5, 60.0, 0.90, 10.0


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    envs: tuple[int, ...] = (4096, 16384)
    replicas: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    batch: int = 256  # of the updates of many replicas
    rounds: int = 20 * HORIZON  # of a block
    blocks: int = 5  # timed
    hidden: int = 64
    rows: int = 65536  # of an estimator's call
    episodes: int = 64
    learners: int = 32  # replicas of the run to a gain
    learning: tuple[str, ...] = ("--evaluation.every", "10000", "--evaluation.episodes", "100")


TINY = Sizes(
    envs=(32,),
    replicas=(1, 2),
    batch=16,
    rounds=4,
    blocks=1,
    hidden=8,
    rows=64,
    episodes=2,
    learners=1,
    learning=("--total-steps", "160", "--evaluation.every", "80", "--evaluation.episodes", "2"),
)


# ------------------------------------------------------------------ clock
def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], repeats: int, device: torch.device, blocks: int) -> float:
    """Of one call: median over blocks of `repeats` calls, until the device has finished."""
    results = []
    for _ in range(blocks):
        wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        wait(device)
        results.append((time.perf_counter() - start) / repeats)
    return statistics.median(results)


# ------------------------------------------------------------------ training
def trainer(device: torch.device, sizes: Sizes, replicas: int, num_envs: int, batch: int, graphs: bool) -> Rounds:
    """A run without files: one update a round, nothing logged, nothing diagnosed."""
    config: Config = tuned(TASK, num_replicas=replicas, num_envs=num_envs, device=str(device), graphs=graphs)
    m = replace(
        config.maddpg,
        batch_size=batch,
        updates_per_step=1.0 / num_envs,
        warmup_steps=0,
        hidden=(sizes.hidden,) * 2,
        diagnostics_every=0,
    )
    config = replace(config, total_steps=10**12, maddpg=m)
    env = envs.make(TASK, replicas * num_envs, device)
    env.reset(seed=0)
    learner = MADDPG(env.spec, m, 0, range(replicas), device)
    replay = Replay(env.spec, 64 * num_envs, num_envs, Stream(0, "replay", range(replicas), device), m.gamma)
    return Rounds(config, env, learner, replay)


def warmed(made: Rounds, device: torch.device) -> Rounds:
    """After enough rounds for every graph: the step that ends episodes comes once in 25."""
    for _ in range(HORIZON * (WARM_UP + 1) + 2 if device.type == "cuda" else 2):
        made.run()
    made.learner.check()
    return made


def transitions(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Training transitions per second, by number of environments and by who launches the kernels."""
    results: dict[str, Any] = {}
    for count in sizes.envs:
        for name, graphs in (("graphs", True), ("launched", False)):
            made = warmed(trainer(device, sizes, 1, count, count, graphs), device)
            rate = count / seconds(lambda made=made: made.run(), sizes.rounds, device, sizes.blocks)
            made.learner.check()
            results.setdefault(str(count), {})[name] = rate
    return results


def replicas(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """Milliseconds of sampling and one update, by number of replicas."""
    results = {}
    for count in sizes.replicas:
        made = warmed(trainer(device, sizes, count, 16, sizes.batch, True), device)

        results[str(count)] = 1e3 * seconds(made.update, sizes.rounds, device, sizes.blocks)
        made.learner.check()
    return results


def profiled(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """The kernels of recorded rounds with the most environments, and the share of the time that the GPU is busy."""
    made = warmed(trainer(device, sizes, 1, sizes.envs[-1], sizes.envs[-1], True), device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    rounds = min(sizes.rounds, 4 * HORIZON)
    with profile(activities=kinds) as watched:
        start = time.perf_counter()
        for _ in range(rounds):
            made.run()
        wait(device)
        wall = time.perf_counter() - start
    of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = watched.key_averages()
    busy = sum(getattr(one, of) for one in averages) * 1e-6
    table = averages.table(sort_by=of, row_limit=25, max_name_column_width=60)
    return {"busy": busy / wall, "ms_a_round": 1e3 * wall / rounds, "table": table}


# ------------------------------------------------------------------ parts
def estimators(device: torch.device, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Microseconds of drawing noise, sampling and one gradient of every estimator, on rows of 5 choices."""
    choices, stream = 5, Stream(0, "estimators", (0,), device)
    logits = stream.gumbel(sizes.rows, choices)
    weights, out = stream.uniform(sizes.rows, choices), torch.empty_like(logits)

    def surrogate(name: str, leaf: Tensor, noise: Tensor) -> Tensor:
        if name == "exact":
            return relaxation.exact_surrogate(leaf, weights)
        onehot = relaxation.sample_onehot(leaf, noise)
        if name == "reinforce":
            return relaxation.reinforce_surrogate(leaf, onehot, (onehot * weights).sum(-1))
        inner = stream.uniform(INNER_DRAWS, sizes.rows, choices).movedim(1, 0) if name == "rao_blackwell" else None
        return relaxation.relax(name, leaf, noise, 1.0, None, inner) * weights

    results: dict[str, dict[str, float]] = {}
    for name in get_args(Estimator):

        def work(name: str = name) -> None:
            leaf = logits.detach().requires_grad_()
            value = surrogate(name, leaf, stream.gumbel(sizes.rows, choices))
            out.copy_(torch.autograd.grad(value.sum(), leaf)[0])

        for kind, wanted in (("graph", True), ("launched", False)):
            graphs = Graphs.on(device, wanted)

            def call(graphs: Graphs = graphs, work: Callable[[], None] = work) -> None:
                graphs.run("call", work, lambda: None)

            for _ in range(WARM_UP + 1):
                call()
            results.setdefault(name, {})[kind] = 1e6 * seconds(call, max(sizes.rounds // 5, 2), device, sizes.blocks)
    return results


def world_model(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Milliseconds of an update of DreamerV2's model on 64 episodes of 25 steps, by preset."""
    results: dict[str, Any] = {}
    for preset in ("gpu", "cpu"):
        config = configuration(TASK, "rssm", ("--wm.preset", preset))
        seq = collect(TASK, None, 1, sizes.episodes, HORIZON, 0)
        seq = replace(seq, **{name: x.to(device) for name, x in vars(seq).items()})
        layout = Layout(envs.make(TASK).spec, device)
        model = make_model(layout, config.wm, config.maddpg.gamma, Stream(0, "model", [0], device))
        noise = Stream(0, "training", [0], device)
        for kind, wanted in (("launched", False), ("graph", True)):
            graphs = Graphs.on(device, wanted)

            def update(graphs: Graphs = graphs, model: Any = model, seq: Any = seq, noise: Stream = noise) -> None:
                graphs.run("update", lambda: model.update(seq, noise), lambda: None)

            try:
                for _ in range(WARM_UP + 1):
                    update()
                repeats = max(sizes.rounds // 50, 1)
                results.setdefault(preset, {})[kind] = 1e3 * seconds(update, repeats, device, sizes.blocks)
            except RunFailed as error:
                results.setdefault(preset, {})[kind] = None
                results[preset]["why"] = str(error)
    return results


def learning(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Seconds from the start of `run.py` until the record in which the replicas' median gain reaches the goal."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [sys.executable, "run.py", "--env", TASK, "--num-replicas", str(sizes.learners), *sizes.learning]
        command += ["--device", str(device), "--run-dir", str(run), "--logging.no-progress", "--logging.no-report"]
        command += ["--evaluation.final-episodes", "1"]
        start, log = time.perf_counter(), Path(place) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            reached: dict[str, Any] = {"command": " ".join(command[1:]), "seconds": None, "step": None, "gain": None}
            try:
                while reached["seconds"] is None and process.poll() is None:
                    time.sleep(0.1)
                    gain, step = _median_gain(run / "metrics.jsonl")
                    if gain is not None:
                        reached |= {"gain": gain, "step": step}
                        reached["seconds"] = time.perf_counter() - start if gain >= GOAL_GAIN else None
            finally:
                if process.poll() is None:
                    process.terminate()
                process.wait()
        if reached["gain"] is None:
            raise RunFailed(f"{' '.join(command)} ended without a gain:\n{log.read_text()[-2000:]}")
    return reached


def _median_gain(path: Path) -> tuple[float | None, int]:
    """Of the newest evaluation in a run's records, and its step."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed([line for line in lines if line.endswith("}") and "evaluation/gain" in line]):
        record = json.loads(line)
        each = [value for name, value in record.items() if name.startswith("evaluation/gain/")]  # of many replicas
        return statistics.median(each or [record["evaluation/gain"]]), record["step"]
    return None, 0


# ------------------------------------------------------------------ the table
PARTS: dict[str, Callable[[torch.device, Sizes], Any]] = {
    "transitions": transitions,
    "replicas": replicas,
    "learning": learning,
    "estimators": estimators,
    "profile": profiled,
    "world_model": world_model,  # last: a graph that cannot be recorded may leave the device in disorder
}


def rows(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, reached, goal) of every number."""

    def verdict(good: bool, goal: str) -> str:
        return f"{goal}: {'reached' if good else 'missed'}"

    table: list[tuple[str, str, str]] = []
    for count, rates in result.get("transitions", {}).items():
        goal = verdict(rates["graphs"] >= GOAL_RATE, f"at least {GOAL_RATE:,.0f}")
        table.append((f"training transitions/s, {count} environments", f"{rates['graphs']:,.0f}", goal))
        what = f"the same, launched; graphs are {rates['graphs'] / rates['launched']:.1f} times as fast"
        table.append((what, f"{rates['launched']:,.0f}", ""))
    times = result.get("replicas", {})
    for count, ms in times.items():
        ratio = ms / times["1"]
        goal = verdict(ratio <= GOAL_FLAT, f"at most {GOAL_FLAT} times one replica's") if count == "16" else ""
        table.append((f"sampling and update of {count} replicas, ms", f"{ms:.3f} ({ratio:.2f} x)", goal))
    if told := result.get("learning"):
        reached = f"{told['seconds']:.1f}" if told["seconds"] else f"not reached ({told['gain']:.2f})"
        good = bool(told["seconds"]) and told["seconds"] <= GOAL_SECONDS
        what = f"seconds to a median gain of {GOAL_GAIN} from the start, step {told['step']}"
        table.append((what, reached, verdict(good, f"at most {GOAL_SECONDS:.0f}")))
    for name, us in result.get("estimators", {}).items():
        reached = f"{us['graph']:.0f} ({us['launched']:.0f})"
        table.append((f"{name}: noise, sample and gradient, µs (launched)", reached, ""))
    for preset, ms in result.get("world_model", {}).items():
        best = min(value for name, value in ms.items() if name != "why" and value is not None)
        graph = "not recorded" if ms["graph"] is None else f"{ms['graph']:.1f}"
        goal = verdict(best <= GOAL_MODEL, f"at most {GOAL_MODEL:.0f}") if preset == "gpu" else ""
        table.append((f"update of the RSSM, preset {preset}, ms (launched)", f"{graph} ({ms['launched']:.1f})", goal))
    if seen := result.get("profile"):
        table.append(("GPU busy", f"{seen['busy']:.0%} of {seen['ms_a_round']:.3f} ms a round", ""))
    return table


def page(result: dict[str, Any]) -> str:
    """Markdown: the machine, the table, the profile."""
    told = result["meta"]
    lines = [f"`{told['command']}`, {told['date']}, {result['device']}, torch {told['machine']['torch']}", ""]
    lines += ["| | reached | goal |", "|---|---:|---|"]
    lines += [f"| {what} | {reached} | {goal} |" for what, reached, goal in rows(result)]
    if "profile" in result:
        lines += ["", "```text", result["profile"]["table"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def measure(options: argparse.Namespace) -> str:
    """All parts that are asked for; their table, also written into files.

    Raises:
        UserError: there is no such device.
        RunFailed: training failed.
    """
    device = choose_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    sizes = TINY if options.tiny else Sizes()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    flags = " ".join(sys.argv[1:])
    results: dict[str, Any] = {"meta": meta(f"python -m benchmarks.gpu {flags}".strip()), "device": name}
    options.out.mkdir(parents=True, exist_ok=True)
    for part, work in PARTS.items():
        if part in options.only:
            print(f"{part} ...", file=sys.stderr, flush=True)
            results[part] = work(device, sizes)
            replace_text(options.out / "gpu.json", json.dumps(results, indent=1) + "\n")
    replace_text(options.out / "gpu.md", page(results))
    return page(results)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cuda", help="cuda or cuda:i; cpu to try the script itself")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, whose numbers mean nothing")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="these parts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    options = parser.parse_args(argv)
    return commands.ended(lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
