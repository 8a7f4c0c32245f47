"""How fast does training go, and how fast could it?

    python -m benchmarks.speed.training [--agilerl PYTHON] [--rounds 12] [--out benchmarks/results/training]

`--agilerl` is the Python of a virtual environment with AgileRL (`pip install agilerl peft transformers`, torch of the
same version); without it that row is missing. All contenders run in turn, a few updates each, round after round, on one
thread; the table shows the median over rounds of each round's fastest update, and ratios of one round.

The floor of one update, by hand. Multiply-adds of one row of the batch and one agent, with O inputs of an actor, D of
a critic, A outputs, hidden layers W x W (biases and everything without W are left out):

    actor forward   a = O W + W W + W A                   critic forward   c = D W + W W + W
    targets         a + c                                 relabelling      a for every agent that sends
    critic          c forward, c for the weights, c - D W for the activations
    actor           a + c forward, c - D W + A W through the critic, a for the weights, a - O W for the activations

times N agents times B rows, at the rate that torch reaches on this machine for the largest of these products. Bytes: a
hidden layer's normalisation and ReLU cannot do with less than reading a tensor and writing one (forward), reading three
and writing one (backward); 5 networks run forward and 3 backward, 2 hidden layers each, 4 bytes a number, at the rate
of a copy of one such tensor. Both in the same rounds as the contenders.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import envs
from benchmarks.speed.training_eager import EagerMADDPG
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.resolve import tuned
from marl.config.schema import MADDPGConfig
from marl.data.batch import Batch
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner.maddpg import MADDPG
from marl.training.devices import keep_freed_memory


def _tuned(env: str) -> dict[str, object]:
    """The task's settings but for the sizes, which every case names."""
    return {name: value for name, value in vars(tuned(env).maddpg).items() if name not in ("hidden", "batch_size")}


CASES = {  # name: environment, replicas, batch, width, further settings
    "2 agents, 1024": ("simple_speaker_listener", 1, 1024, 64, {"communication_correction": False}),
    "with communication correction": ("simple_speaker_listener", 1, 1024, 64, {}),
    "speaker_listener, tuned": ("simple_speaker_listener", 1, 256, 64, _tuned("simple_speaker_listener")),
    "speaker_listener, tuned, 10 replicas": (
        "simple_speaker_listener", 10, 256, 64, _tuned("simple_speaker_listener")
    ),
    "reference, tuned, 10 replicas": ("simple_reference", 10, 256, 64, _tuned("simple_reference")),
    "spread, tuned, 10 replicas": ("simple_spread", 10, 512, 128, _tuned("simple_spread")),
}  # fmt: skip
ENVS = 16


def multiply_adds(spec: EnvSpec, replicas: int, batch: int, width: int, correction: bool) -> int:
    """Of one update, as the header derives them."""
    n, o, a = spec.num_agents, spec.obs_size, spec.action_size
    d, w = n * (o + a), width
    actor, critic = o * w + w * w + w * a, d * w + w * w + w
    row = (actor + critic) + (3 * critic - d * w)
    row += actor + critic + (critic - d * w + a * w) + (2 * actor - o * w)
    senders = len(spec.senders) if correction else 0
    return (row * n + actor * senders) * replicas * batch


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class Case:
    """One setting of our learner with a filled replay."""

    def __init__(self, name: str) -> None:
        env_id, self.replicas, self.batch, self.width, options = CASES[name]
        self.config = replace(MADDPGConfig(hidden=(self.width,) * 2, batch_size=self.batch), **options)
        env = envs.make(env_id, self.replicas * ENVS)
        env.reset(seed=0)
        self.spec, rows = env.spec, range(self.replicas)
        self.learner = MADDPG(env.spec, self.config, 0, rows)
        self.collector = Collector(env, self.learner.act, self.replicas)
        self.replay = Replay(env.spec, 8000, ENVS, Stream(0, "replay", rows), self.config.gamma)
        for _ in range(60):
            self.collect()
        self.fixed: Batch = self.replay.sample(self.batch)

    def collect(self) -> None:
        self.replay.add(self.collector.collect()[0])

    def update(self) -> None:
        self.learner.update(self.fixed, 0.1)

    def floor(self, repeats: int) -> dict[str, float]:
        """Seconds of arithmetic and of memory traffic at rates measured now."""
        w, rows, groups = self.width, self.batch, self.replicas * self.spec.num_agents
        x, weight = torch.randn(groups, w, rows), torch.randn(groups, w, w)
        out = torch.empty_like(x)
        product = fastest(lambda: torch.bmm(weight, x, out=out), repeats)
        copy = fastest(lambda: out.copy_(x), repeats)
        work = multiply_adds(self.spec, self.replicas, rows, w, self.config.communication_correction)
        passes = 5 * 2 * 2 + 3 * 2 * 4
        return {"arithmetic": work / (groups * w * w * rows) * product, "bytes": passes / 2 * copy}


class AgileRL:
    """The worker process of benchmarks/speed/training_agilerl.py."""

    def __init__(self, python: str, batch: int) -> None:
        script = Path(__file__).with_name("training_agilerl.py")
        command = [python, str(script), str(batch)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def _read(self) -> object:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit("AgileRL's process ended; run benchmarks/speed/training_agilerl.py by hand to see why")

    def fastest(self, repeats: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        seconds = self._read()
        assert isinstance(seconds, list)
        return min(seconds)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(rounds: int, agilerl: str | None, cases: list[str]) -> dict[str, dict[str, list[float]]]:
    """Seconds: case -> what -> one number a round."""
    ours = {name: Case(name) for name in cases}
    eager = EagerMADDPG((3, 11), (3, 5), 1024, 64)
    peer = AgileRL(agilerl, 1024) if agilerl else None
    results: dict[str, dict[str, list[float]]] = {name: {} for name in [*cases, "peers"]}
    for k in range(rounds + 1):  # the first warms up
        for name, case in ours.items():
            repeats = max(12 // case.replicas, 3)
            now = {
                "update": fastest(case.update, repeats),
                "sample": fastest(lambda case=case: case.replay.sample(case.batch), repeats),
                "collect": fastest(case.collect, repeats),
                **case.floor(repeats),
            }
            for what, seconds in now.items():
                results[name].setdefault(what, []).append(seconds)
            if name == "2 agents, 1024":
                results["peers"].setdefault("eager loop", []).append(fastest(eager.update, repeats))
                if peer is not None:
                    results["peers"].setdefault("AgileRL", []).append(peer.fastest(repeats))
        if k == 0:
            results = {name: {} for name in results}
    if peer is not None:
        peer.close()
    return results


def table(result: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: medians over rounds; shares and ratios are medians of each round's own."""
    lines = [
        "| update | ms | floor ms | times the floor | updates/s | transitions/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, seconds in result.items():
        if name == "peers":
            continue
        floor = [a + b for a, b in zip(seconds["arithmetic"], seconds["bytes"], strict=True)]
        share = statistics.median(u / f for u, f in zip(seconds["update"], floor, strict=True))
        update, sample, collect = (statistics.median(seconds[what]) for what in ("update", "sample", "collect"))
        replicas = CASES[name][1]
        joint = collect + ENVS * (0.125 if CASES[name][2] == 256 else 0.0625) * (update + sample)
        lines.append(
            f"| {name} | {update * 1e3:.2f} | {statistics.median(floor) * 1e3:.2f} | {share:.2f} "
            f"| {replicas / (update + sample):.0f} | {replicas * ENVS / joint:.0f} |"
        )
    lines += ["", "| peer (2 agents, 1024) | ms | times our update |", "|---|---|---|"]
    for name, times in result["peers"].items():
        ratio = statistics.median(t / u for t, u in zip(times, result["2 agents, 1024"]["update"], strict=True))
        lines.append(f"| {name} | {statistics.median(times) * 1e3:.2f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def figure(result: dict[str, dict[str, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in result if name != "peers"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=(1, 2), layout="constrained")
    first = result["2 agents, 1024"]
    bars = {"floor": [a + b for a, b in zip(first["arithmetic"], first["bytes"], strict=True)], "this": first["update"]}
    bars |= result["peers"]
    left.barh(list(bars), [statistics.median(times) * 1e3 for times in bars.values()], color="C0")
    left.set_xlabel("ms an update (2 agents, batch 1024, one thread)")
    left.invert_yaxis()
    lefts = [0.0] * len(names)
    for what in ("arithmetic", "bytes", "update"):
        shares = []
        for name in names:
            median = {key: statistics.median(values) for key, values in result[name].items()}
            whole = median["update"]
            rest = whole - median["arithmetic"] - median["bytes"]
            shares.append((rest if what == "update" else median[what]) / whole)
        right.barh(names, shares, left=lefts, label="all else" if what == "update" else what)
        lefts = [a + b for a, b in zip(lefts, shares, strict=True)]
    right.set_xlabel("share of an update")
    right.invert_yaxis()
    right.legend()
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--agilerl", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    result = measure(args.rounds, args.agilerl, args.cases)
    (args.out / "training.json").write_text(json.dumps(result) + "\n")
    (args.out / "training.md").write_text(table(result))
    figure(result, args.out / "training.png")
    print(table(result))


if __name__ == "__main__":
    main()
