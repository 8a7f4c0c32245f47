"""What do an update of DreamerV2's model and a loss through a model cost, beside their own matrix products?

    python -m benchmarks.speed.world_model [--env simple_speaker_listener simple_spread] [--rounds 15]

One replica, one pinned core, processor time. The update is that of the settings that ship (`--wm.kind rssm`, preset
cpu). The loss is the actors' through eight imagined steps from 64 starts, with its gradient, through the small model
and through DreamerV2's; beside it the learner's whole update without and with that loss (batch 256). The products are
every matrix product that one of them makes, forward and backward, in its order, with operands of the same sizes and
strides in buffers that are there already, and nothing else. All run in turn, round after round; the tables show the
medians, and the median of each round's own ratio. The floating point operations are counted from the same products.

Written: benchmarks/results/update/world_model.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import envs
from benchmarks.machine import machine
from benchmarks.world_model.prediction import ONE_OBSERVATION, STEPS, configuration, steps_of
from envs.streams import Stream
from marl.cli.parse import parse
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner.interfaces import ActorLoss, further_gradient
from marl.learner.maddpg import MADDPG
from marl.training.devices import keep_freed_memory
from marl.world_model.assess import collect
from marl.world_model.attach import imagining
from marl.world_model.imagination.source import make_model
from marl.world_model.layout import Layout

RESULTS = Path(__file__).resolve().parents[1] / "results" / "update"
SEQUENCES = 16  # of 25 random steps, in an update
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
Product = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # (sizes, strides) of its two factors


class Recorder(TorchDispatchMode):
    """Notes the factors of every matrix product that runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.rstrip("_") in PRODUCTS:
            factors = [x for x in args if isinstance(x, Tensor)][-2:]
            self.products.append(tuple((tuple(x.shape), tuple(x.stride())) for x in factors))
        return func(*args, **(kwargs or {}))


def operations(products: list[Product]) -> int:
    """Floating point operations: two for each multiplication of the products."""
    total = 0
    for (left, _), (right, _) in products:
        count = left[0] if len(left) == 3 else 1
        total += 2 * count * left[-2] * left[-1] * right[-1]
    return total


def replay(products: list[Product]) -> Callable[[], None]:
    """Runs the products again, each into a buffer of its own."""
    work = []
    for (left, left_strides), (right, right_strides) in products:
        a, b = _filled(left, left_strides), _filled(right, right_strides)
        work.append((a, b, torch.matmul(a, b)))

    def run() -> None:
        for a, b, out in work:
            torch.matmul(a, b, out=out)

    return run


def _filled(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    reach = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    return torch.randn(reach).as_strided(shape, strides)


def update(env_id: str) -> Callable[[], None]:
    """One update of a task's model, on `SEQUENCES` episodes of random play."""
    config = configuration(env_id, "rssm")
    layout, episodes = Layout(envs.make(env_id).spec), collect(env_id, None, 1, SEQUENCES, STEPS, 0)
    model = make_model(layout, config.wm, config.maddpg.gamma, Stream(0, "model", [0]))
    model.absorb(steps_of(episodes, slice(None))[0], torch.ones(1, SEQUENCES, dtype=torch.bool))
    stream = Stream(0, "training", [0])
    return lambda: model.update(episodes, stream)


def through(env_id: str, kind: str) -> dict[str, Callable[[], None]]:
    """{"update": the loss through a model and its gradient, "alone", "with": the learner's update without and with it}.

    The model has seen 40 steps of 16 environments and few updates: what it predicts does not change what it costs.
    """
    words = ["--env", env_id, "--world-model", "--wm.kind", kind, "--num-envs", "16", "--maddpg.batch-size", "256"]
    words += ["--wm.through-horizon", "8", "--wm.starts", "64", "--wm.warmup-steps", "200", "--wm.gate", "1e9"]
    words += ["--wm.validation-share", "0.25", "--wm.reward-gate", "1e9", "--total-steps", "640", *ONE_OBSERVATION]
    config = parse(words).config
    env = envs.make(env_id, config.num_envs)
    env.reset(seed=0)
    learner = MADDPG(env.spec, config.maddpg, 0)
    replay = Replay(env.spec, config.total_steps, config.num_envs, Stream(0, "replay", [0]), config.maddpg.gamma)
    source, collector = imagining(replay, learner, config), Collector(env, learner.act, 1)
    for _ in range(config.total_steps // config.num_envs):
        source.add(collector.collect()[0])
    loss = learner.actor_loss
    assert loss is not None and further_gradient(learner) is not None, "its gate is open"

    def whole(further: ActorLoss | None) -> None:
        learner.actor_loss = further
        learner.update(source.sample(config.maddpg.batch_size))
        learner.actor_loss = loss

    def alone() -> None:
        further_gradient(learner)

    return {
        "update": alone,
        "alone": lambda: whole(None),
        "with": lambda: whole(loss),
    }


def measure(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, Any]:
    """{update, products, ...: milliseconds of every round, ratio: median of the rounds' own, operations, count}."""
    step = calls["update"]
    step()
    with Recorder() as recorder:
        step()
    contenders = {**calls, "products": replay(recorder.products)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds + 1):
        for name, call in contenders.items():
            fastest = min(_milliseconds(call) for _ in range(3))
            if k:  # the first round warms up
                times[name].append(fastest)
    ratios = [a / b for a, b in zip(times["update"], times["products"], strict=True)]
    return {
        **times,
        "ratio": statistics.median(ratios),
        "operations": operations(recorder.products),
        "count": len(recorder.products),
    }


def _milliseconds(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def table(record: dict[str, Any]) -> str:
    """Markdown: a row a task, for the updates and for the losses through a model."""
    head = "| task | products of an update | operations | products alone, ms | update, ms | update / products |"
    lines = [head, "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {env_id} {_cells(one)} |" for env_id, one in record["tasks"].items()]
    lines += [
        "",
        head.replace("task", "task, loss through").replace("an update", "a loss").replace("update", "loss")[:-1]
        + "| update without, ms | with |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    for name, one in record["through"].items():
        alone, whole = (statistics.median(one[key]) for key in ("alone", "with"))
        lines.append(f"| {name} {_cells(one)} | {alone:.1f} | {whole:.1f} |")
    return "\n".join(lines) + "\n"


def _cells(one: dict[str, Any]) -> str:
    update_, products = (statistics.median(one[name]) for name in ("update", "products"))
    counts = f"{one['count']} | {one['operations'] / 1e9:.2f} G"
    return f"| {counts} | {products:.1f} | {update_:.1f} | {one['ratio']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--env", nargs="+", default=["simple_speaker_listener", "simple_spread"], help="tasks")
    parser.add_argument("--rounds", type=int, default=15, help="of both contenders (default 15)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results are written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    keep_freed_memory()
    record: dict[str, Any] = {"command": "python -m benchmarks.speed.world_model", "machine": machine()}
    record["tasks"] = {env_id: measure({"update": update(env_id)}, options.rounds) for env_id in options.env}
    record["through"] = {
        f"{env_id}, {kind}": measure(through(env_id, kind), options.rounds)
        for env_id in options.env
        for kind in ("mlp", "rssm")
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "world_model.json").write_text(json.dumps(record) + "\n")
    (options.out / "world_model.md").write_text(table(record))
    print(table(record))


if __name__ == "__main__":
    main()
