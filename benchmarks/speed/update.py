"""What does an update cost, beside its own matrix products and beside the same update elsewhere?

    python -m benchmarks.speed.update [--jax PYTHON] [--agilerl PYTHON] [--rounds 15] [--out benchmarks/results/update]

The settings that ship for the task, on one pinned core, in processor time. Contenders run in turn, a few calls each,
round after round, with one replica and with several side by side:

- products: every torch.bmm of the explicit update, with its operands, in its buffers, and nothing else;
- explicit: this package's update, with numba's and with torch's kernels;
- autograd: the same update as it was before, by torch's autograd and optimiser;
- eager loop: MADDPG as public torch code writes it, one agent after another (update_eager.py; one replica);
- JAX: the same update in JAX, as sixteen compiled calls and as one compiled scan (update_jax.py), in the environment
  whose Python is given: `pip install jax`;
- AgileRL: its MADDPG (update_agilerl.py; one replica): `pip install agilerl peft transformers`, torch of one version.

A call is a training round's sixteen updates with the batches that they draw; the products draw none. The table shows
the medians over rounds of each round's fastest call, by update, and medians of each round's own ratios. JAX's update
is compared with ours in every case before it is timed: parameters after one update from the same state.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.speed.update_cases import UPDATES, Case, Contender, Worker
from marl.training.devices import keep_freed_memory

BASES = {  # contenders that others are compared with -> head of the column
    "products": "/ products",
    "autograd": "/ autograd",
    "JAX, jit": "/ JAX jit",
    "JAX, scan": "/ JAX scan",
    "AgileRL": "/ AgileRL",
}
DIFFERS = (
    "The eager loop and AgileRL do another update than the others: no relabelling of messages, no signalling bonus, "
    "targets by argmax (eager) or from soft actions (AgileRL), the other agents' actions chosen anew (eager), batch "
    "normalisation of the input (eager), AgileRL without clipping and logit penalty."
)
KINK = (
    ". Where it was looked into, a pre-activation of one row was zero within float32's rounding: its ReLU took the "
    "other side, for all parameters of one agent of one replica, whose gradients were small, which Adam magnifies."
)
Results = dict[str, dict[str, list[float]]]  # case -> contender -> seconds of an update in every round


def measure(contenders: dict[str, Contender], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Processor seconds of an update in the fastest of `repeats` calls: contender -> one number a round.

    All in turn; a first round warms up.
    """
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds + 1):
        for name, calls in contenders.items():
            seconds = min(calls(repeats)) / UPDATES
            if k:
                results[name].append(seconds)
    return results


def compare(
    env_id: str,
    replicas: list[int],
    batches: list[int],
    rounds: int,
    jax: str | None = None,
    agilerl: str | None = None,
    continuous: bool = False,
) -> tuple[Results, dict[str, Any]]:
    """All contenders in all cases, and what is to be known about them.

    Args:
        env_id: the task.
        replicas, batches: a case is one of each.
        rounds: that count.
        jax, agilerl: Pythons that have them.
        continuous: with continuous moves, which the peers are not written for.
    """
    about: dict[str, Any] = {"machine": machine(), "python": platform.python_version(), "rounds": rounds}
    about["difference of JAX"], about["continuous"] = {}, continuous
    results: Results = {}
    scripts = {"update_jax.py": jax, "update_agilerl.py": agilerl}
    workers = {script: Worker(python, script) for script, python in scripts.items() if python}
    with tempfile.TemporaryDirectory() as scratch:
        for count in replicas:
            for rows in batches:
                case, name = Case(env_id, count, rows, continuous), f"{count}, {rows}"
                contenders = case.contenders()
                file = Path(scratch) / "case.json"
                case.save(file)
                for script, worker in workers.items():
                    if script == "update_agilerl.py" and count > 1:
                        continue
                    lacking = case.why_not_jax() if script == "update_jax.py" else None
                    if lacking:
                        raise SystemExit(f"{env_id}: update_jax.py does not know {lacking}; leave --jax out")
                    about[script] = worker.ask({"case": str(file)})
                    names = ["AgileRL"] if script == "update_agilerl.py" else ["JAX, jit", "JAX, scan"]
                    contenders |= {peer: worker.contender(peer) for peer in names}
                    if script == "update_jax.py":
                        about["difference of JAX"][name] = case.difference(worker, Path(scratch))
                repeats = min(max(512 // (count * rows), 2), 4)
                results[name] = measure(contenders, rounds, repeats)
                print(*table({name: results[name]}).splitlines()[2:], sep="\n", flush=True)
        for worker in workers.values():
            worker.close()
    case = Case(env_id, 1, batches[0], continuous)
    sizes = {"actor": case.learner.actor, "critic": case.learner.critic}
    about["parameters"] = {name: module.mlp.flat.shape[2] for name, module in sizes.items()}
    return results, about


def table(result: Results) -> str:
    """Markdown: milliseconds of one update of all replicas, then ratios to those that ran."""
    ran = [base for base in BASES if any(base in seconds for seconds in result.values())]
    lines = ["| replicas, batch | contender | ms |" + "".join(f" {BASES[base]} |" for base in ran)]
    lines.append("|---|---|---:|" + "---:|" * len(ran))
    for case, seconds in result.items():
        for name, times in seconds.items():
            cells = [case, name, f"{statistics.median(times) * 1e3:.2f}"]
            ratios = [ratio(seconds, name, base) if base in seconds else None for base in ran]
            cells += ["" if x is None else f"{x:.2f}" if x >= 1 else f"{x:.3f}" for x in ratios]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median of each round's own ratio."""
    return statistics.median(t / other for t, other in zip(seconds[name], seconds[base], strict=True))


def notes(about: dict[str, Any]) -> str:
    """Markdown: where it was measured, and what is not alike."""
    remarks = [f"{about['machine']}, Python {about['python']}; medians of {about['rounds']} rounds."]
    remarks += [] if about.get("continuous") else [DIFFERS]
    if "update_agilerl.py" in about:
        peer, own = about["update_agilerl.py"], about["parameters"]
        remarks.append(
            f"AgileRL is {peer['version']}, eager as it comes. Its smallest actor has {peer['parameters']['actor']:,} "
            f"parameters (here {own['actor']:,}), which favours us; its critic {peer['parameters']['critic']:,} (here "
            f"{own['critic']:,} with padding), and what it leaves out above favours it."
        )
    if "update_jax.py" in about:
        every = [x for case in about["difference of JAX"].values() for x in case.values()]
        beyond, of = (sum(x[name] for x in every) for name in ("beyond", "of"))
        words = (
            f"JAX is {about['update_jax.py']['version']}. After one update from the same state, batch and noise "
            f"{beyond:,} of the {of:,} parameters of all cases differ from ours by more than 1e-5, the largest "
            f"difference is {max(x['largest'] for x in every):.0e}"
        )
        remarks.append(f"{words}{KINK if beyond else '.'}")
    return "\n\n".join(remarks) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--continuous", action="store_true", help="with continuous moves; without peers")
    parser.add_argument("--jax", metavar="PYTHON", help="with JAX; without it those rows are missing")
    parser.add_argument("--agilerl", metavar="PYTHON", help="with AgileRL; without it that row is missing")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256, 1024])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/update"))
    args = parser.parse_args()
    if args.continuous and (args.jax or args.agilerl):
        parser.error("--continuous: the peers are of discrete actions; leave --jax and --agilerl out")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for all, peers included
    torch.set_num_threads(1)
    keep_freed_memory()
    result, about = compare(args.env, args.replicas, args.batches, args.rounds, args.jax, args.agilerl, args.continuous)
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"{args.env}{'_continuous' * args.continuous}"
    (args.out / f"{name}.json").write_text(json.dumps({"about": about, "cases": result}) + "\n")
    (args.out / f"{name}.md").write_text(table(result) + "\n" + notes(about))
    print(table(result) + "\n" + notes(about))


if __name__ == "__main__":
    main()
