"""Do agents that never met understand each other? Raw cross-play against the size of the population they grew up in.

    python -m benchmarks.populations --env simple_speaker_listener --sizes 1 2 4 8
    python -m benchmarks.populations --env E --sizes 1 8 -- --other-play         further flags of run.py for all sizes

For each size P, `--populations` populations of P replicas are trained side by side (`--population P`), for as many
updates and environment steps of a replica as any other size. One role of N learns from an episode among partners, so
populations take N times the batch of the task's configuration: every agent learns from as many rows. Then the speakers
of one replica play with the listeners of another, symbols as they are, in the same episodes for all:

    self      a replica with itself
    within    with each other member of its population
    between   with members of the other populations of that size, as many as it has partners within, at least three

Written: benchmarks/results/communication/populations_ENV.json and .png. Seeds are those for studies; the batched port
plays (equal to `mpe2` within rounding).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import envs
from benchmarks.learning.training_runs import placeless, split_at_dashes, train_arm
from benchmarks.machine import machine
from benchmarks.seeds import EPISODES, RUNS, seeds
from marl import Policy, stats
from marl.cli.parse import parse
from marl.communication.measures.crossplay import sides
from marl.evaluate import anchors
from marl.figures import plots
from marl.play.rollout import Mixed, play

RESULTS = Path(__file__).resolve().parent / "results" / "communication"
FIRST_SEED = seeds(RUNS, "studies").first + 500  # size P trains from this plus P
EPISODES_SEED = seeds(EPISODES, "studies").first + 500_000
KINDS = {"self": "with itself", "within": "with other members", "between": "with members of other populations"}
SETTINGS = {"simple_speaker_listener": ("--maddpg.signalling-bonus", "0.03")}
"""Of all sizes, where the task's configuration does not fit populations. A signalling bonus rewards all codes alike: a
strong one fixes every speaker's own before anybody understands it, and members do not come together any more."""
Pair = tuple[int, int]


def pairs(replicas: int, size: int) -> dict[str, list[Pair]]:
    """{kind: (speakers' replica, listeners' replica)}; between populations each replica meets evenly spread others."""
    found: dict[str, list[Pair]] = {"self": [(i, i) for i in range(replicas)], "within": [], "between": []}
    for i in range(replicas):
        first = i - i % size
        found["within"] += [(i, j) for j in range(first, first + size) if j != i]
        others = [j % replicas for j in range(first + size, first + replicas)]
        count = min(max(size - 1, 3), len(others))
        # spread over all other populations, at another place of each for every member
        chosen = {others[(k * len(others) // count + i) % len(others)] for k in range(count)}
        found["between"] += [(i, j) for j in sorted(chosen)]
    return found


def grouped(values: dict[Pair, np.ndarray], of: Sequence[Pair], size: int) -> list[np.ndarray]:
    """Returns [pairs, episodes] of each population, that of the speakers."""
    groups: dict[int, list[np.ndarray]] = {}
    for i, j in of:
        groups.setdefault(i // size, []).append(values[i, j])
    return [np.stack(rows) for rows in groups.values()]


def measured(env: str, groups: list[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Mean return of the populations with its interval, and both on the scale of the communication gain."""
    mean = float(np.mean([group.mean() for group in groups]))
    interval = stats.nested_interval(groups, seed=seed)
    gains = [anchors.gain(env, value) for value in (mean, *interval)]
    return {
        "return": mean,
        "interval": list(interval),
        "gain": gains[0],
        "gain_interval": None if gains[0] is None else gains[1:],
        "populations": [float(group.mean()) for group in groups],
        "pairs": int(sum(len(group) for group in groups)),
    }


def run(
    env: str, size: int, populations: int, flags: Sequence[str], episodes: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train populations of one size and play them with each other."""
    replicas = size * populations
    with tempfile.TemporaryDirectory() as scratch:
        directory, began = Path(scratch) / "run", time.process_time()
        plain = parse(["--env", env, *flags]).config
        agents = envs.make(env, 1, **plain.env_args).spec.num_agents
        rows = plain.maddpg.batch_size * (agents if size > 1 else 1)
        words = ["--population", str(size), "--maddpg.batch-size", str(rows), "--evaluation.every", "0"]
        config, result = train_arm(env, [*flags, *words], FIRST_SEED + size, replicas, directory)
        seconds = time.process_time() - began
        say(f"size {size}: {replicas} replicas trained for {result.step:,} steps, {seconds:.0f} processor seconds")
        players = [Policy.load(directory, r) for r in range(replicas)]
    speak, hear = sides(players[0].spec)
    values: dict[Pair, np.ndarray] = {}
    found = pairs(replicas, size)
    for i, j in sorted({pair for some in found.values() for pair in some}):
        team = Mixed({**dict.fromkeys(speak, players[i]), **dict.fromkeys(hear, players[j])})
        played = play(
            env, team, episodes, EPISODES_SEED, backend="torch", batch=episodes, env_args=config.env_args,
            spec=players[0].spec,
        )  # fmt: skip
        values[i, j] = played.returns.mean(1)
    kinds = {kind: measured(env, grouped(values, some, size)) for kind, some in found.items() if some}
    for kind, one in kinds.items():
        low, high = one["interval"]
        say(f"  {KINDS[kind]:<36} {one['return']:8.2f} [{low:.2f}, {high:.2f}]")
    return {
        "size": size,
        "replicas": replicas,
        "seed": FIRST_SEED + size,
        "steps": result.step,
        "batch_size": rows,
        "processor_seconds": round(time.process_time() - began, 1),
        "pairs": kinds,
    }


def figure(record: dict[str, Any]) -> Figure:
    """Mutual intelligibility against the size of the population."""
    gains = all(one["gain"] is not None for size in record["sizes"] for one in size["pairs"].values())
    value, span = ("gain", "gain_interval") if gains else ("return", "interval")
    drawn, ax = plots.canvas(3.4)
    sizes = [one["size"] for one in record["sizes"]]
    for (kind, name), colour in zip(KINDS.items(), plots.COLOURS, strict=False):
        there = [(k, one["pairs"][kind]) for k, one in enumerate(record["sizes"]) if kind in one["pairs"]]
        shift = 0.06 * (list(KINDS).index(kind) - 1)  # intervals side by side
        at = [k + shift for k, _ in there]
        ax.plot(at, [one[value] for _, one in there], color=colour, marker="o", markersize=4, label=name)
        for x, (_, one) in zip(at, there, strict=True):
            ax.plot([x, x], one[span], color=colour, linewidth=1.5)
            ax.scatter([x] * len(one["populations"]), _scaled(record["env"], one, gains), s=6, color=colour, alpha=0.5)
    ax.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    ax.legend(fontsize=plots.FONT - 1, frameon=False)
    of = f"{record['populations']} populations of each size; dots: each of them"
    plots.label(ax, f"{record['env']}: raw cross-play\n{of}", "members of a population", value)
    return drawn


def _scaled(env: str, one: dict[str, Any], gains: bool) -> list[float]:
    return [anchors.gain(env, value) or 0.0 for value in one["populations"]] if gains else one["populations"]


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.populations`."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, flags = split_at_dashes(words)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.populations", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="members (default 1 2 4 8)")
    parser.add_argument("--populations", type=int, default=3, help="of each size (default 3)")
    parser.add_argument("--total-steps", type=int, default=20_000, help="of a replica (default 20000)")
    parser.add_argument("--episodes", type=int, default=500, help="of each pair (default 500)")
    parser.add_argument("--out", type=Path, help="the record (default: benchmarks/results/communication/)")
    options = parser.parse_args(own)
    if options.populations < 2:
        parser.error("--populations must be at least 2: what is between populations needs another one.")
    torch.set_num_threads(1)
    path = options.out or RESULTS / f"populations_{options.env}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = ["--total-steps", str(options.total_steps), *SETTINGS.get(options.env, ()), *flags]
    record: dict[str, Any] = {
        "env": options.env,
        "command": " ".join(["python -m benchmarks.populations", *placeless(words)]),
        "machine": machine(),
        "flags": flags,
        "populations": options.populations,
        "episodes": options.episodes,
        "episodes_seed": EPISODES_SEED,
        "sizes": [],
    }
    for size in options.sizes:
        record["sizes"].append(
            run(options.env, size, options.populations, flags, options.episodes, lambda text: print(text, flush=True))
        )
        path.write_text(json.dumps(record, indent=1) + "\n")
        plots.save(figure(record), path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
