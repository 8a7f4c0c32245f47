"""Comparisons of learners on one task: ablations, estimators, two heads against a flat one, settings for seconds.

    python -m benchmarks.learning.studies ablations --env simple_speaker_listener
    python -m benchmarks.learning.studies estimators --env simple_speaker_listener --replicas 10
    python -m benchmarks.learning.studies ablations --env simple_speaker_listener --arms default no_layer_norm
    python -m benchmarks.learning.studies heads --env simple_reference
    python -m benchmarks.learning.studies seconds --seed 300                   settings for seconds, on tuning seeds
    python -m benchmarks.learning.studies table                                    only the tables of what was written

An arm is the task's configuration, and the flags after --, with a few settings changed. All arms share seeds, steps
and episodes; every replica's final policy plays `--episodes` greedy episodes of the batched port (equal to `mpe2`
within rounding, and far faster). The luck of these episodes is taken off (benchmarks/judgement.py).
Written: benchmarks/results/studies/<study>_<env>/<arm>.json, table.md and figure.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.learning.training_runs import first_reached, median, run_arm, split_at_dashes
from benchmarks.machine import machine
from marl.evaluate import anchors
from marl.figures import plots

RESULTS = Path(__file__).resolve().parents[1] / "results" / "studies"

ABLATIONS: dict[str, str] = {
    "default": "",
    "no_layer_norm": "--maddpg.layer-norm false",
    "no_correction": "--maddpg.communication-correction false",
    "no_signalling": "--maddpg.signalling-bonus 0",
    "signalling_k_0.5": "--maddpg.signalling-k 0.5",
    "annealed_signalling": "--maddpg.signalling-final 0",
    "listening": "--maddpg.listening-bonus 0.1",
    "own_rewards": "--maddpg.team-reward false",
    "team_rewards": "--maddpg.team-reward true",
    "lr_x_0.3": "LR 0.3",
    "lr_x_3": "LR 3",
    "constant_lr": "--maddpg.lr-final 1",
    "width_32": "--maddpg.hidden 32 32",
    "width_128": "--maddpg.hidden 128 128",
    "twin_critics": "--maddpg.twin-critics true --maddpg.actor-delay 2",
    "others_current": "--maddpg.other-actions current",
    "argmax_targets": "--maddpg.target-action argmax",
    "half_the_updates": "UPDATES 0.5",
    "twice_the_updates": "UPDATES 2",
    "n_step_3": "--maddpg.n-step 3",
    "gamma_0.9": "--maddpg.gamma 0.9",
    "shared_actors": "--maddpg.share-actors true",
    "independent_critics": "--maddpg.independent-critics true",
    "joint_critics": "--maddpg.independent-critics false",
    "factored_critics": "--maddpg.independent-critics false --maddpg.critic factored --maddpg.team-reward true",
    "no_logit_penalty": "--maddpg.logit-penalty 0",
}
ESTIMATORS: dict[str, str] = {
    "gumbel_st_t1": "--maddpg.estimator gumbel_st",
    "gumbel_st_t0.5": "--maddpg.estimator gumbel_st --maddpg.temperature 0.5",
    "gumbel_st_t2": "--maddpg.estimator gumbel_st --maddpg.temperature 2",
    "gumbel_st_annealed": "--maddpg.estimator gumbel_st --maddpg.temperature 2 --maddpg.temperature-final 0.5",
    "gumbel_soft_t1": "--maddpg.estimator gumbel_soft",
    "gumbel_soft_t0.5": "--maddpg.estimator gumbel_soft --maddpg.temperature 0.5",
    "straight_through": "--maddpg.estimator straight_through",
    "rao_blackwell_t1": "--maddpg.estimator rao_blackwell",
    "rao_blackwell_t0.5": "--maddpg.estimator rao_blackwell --maddpg.temperature 0.5",
    "gapped_t1": "--maddpg.estimator gapped",
    "gapped_t0.7": "--maddpg.estimator gapped --maddpg.temperature 0.7",
    "reinmax": "--maddpg.estimator reinmax",
    "reinforce": "--maddpg.estimator reinforce",
    "exact": "--maddpg.estimator exact",
}
FLAT = "flat"  # trained on benchmarks/learning/flat_heads.py, with the configuration of the task that it flattens
HEADS: dict[str, str] = {
    "two_heads": "",
    "two_heads_alone": "--maddpg.communication-correction false --maddpg.signalling-bonus 0",
    FLAT: "--maddpg.signalling-bonus 0",
}
SECONDS: dict[str, str] = {  # what reaches a gain soonest on the clock: the only study that settings are chosen by
    "batch_128_15k": "--maddpg.batch-size 128 --maddpg.tau 0.01 --total-steps 15000",
    "batch_128_15k_lr_.01_tau_.03": "--maddpg.batch-size 128 --maddpg.actor-lr 0.01 --maddpg.critic-lr 0.01 "
    "--maddpg.tau 0.03 --total-steps 15000",
    "batch_128_15k_width_32": "--maddpg.batch-size 128 --maddpg.tau 0.01 --maddpg.hidden 32 32 --total-steps 15000",
    "batch_64_20k": "--maddpg.batch-size 64 --maddpg.tau 0.01 --total-steps 20000",
    "batch_64_25k": "--maddpg.batch-size 64 --maddpg.tau 0.01 --total-steps 25000",
    "batch_32_20k": "--maddpg.tau 0.01 --total-steps 20000",
    "batch_32_25k": "--maddpg.tau 0.01",
    "batch_32_25k_tau_.02": "",
    "batch_32_25k_width_48": "--maddpg.tau 0.01 --maddpg.hidden 48 48",
    "batch_32_25k_no_layer_norm": "--maddpg.tau 0.01 --maddpg.layer-norm false",
    "batch_32_25k_actor_delay_2": "--maddpg.tau 0.01 --maddpg.actor-delay 2",
    "batch_32_30k": "--maddpg.tau 0.01 --total-steps 30000",
    "batch_16_30k": "--maddpg.batch-size 16 --maddpg.tau 0.01 --total-steps 30000",
}


@dataclass(frozen=True)
class Measured:
    """What an arm reached."""

    name: str
    """"gain", or "score" where the task has no gain."""
    values: list[float]
    """Of each replica."""
    middle: float
    """Of their interquartile mean return."""
    interval: tuple[float, float]
    """95 % interval of it, over replicas and episodes."""


STUDIES = {"ablations": ABLATIONS, "estimators": ESTIMATORS, "heads": HEADS, "seconds": SECONDS}


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    options = _parser().parse_args(own)
    if options.study != "table":
        arms = STUDIES[options.study]
        for name in options.arms or arms:
            _measure(options, name, [*flags, *_flags(options.env, flags, arms[name].split())])
    for folder in sorted(path for path in RESULTS.glob("*_*") if path.is_dir()):
        print(_tabulate(folder))
    return 0


def _measure(options: argparse.Namespace, name: str, flags: list[str]) -> None:
    folder = RESULTS / f"{options.study}_{options.env}"
    folder.mkdir(parents=True, exist_ok=True)
    env, backend = options.env, "torch"
    if name == FLAT:
        env, backend = f"benchmarks.learning.flat_heads:{env}", "pettingzoo"
        flags = ["--config", f"configs/{options.env}.yaml", *flags]
    purpose: seeds.Purpose = "tuning" if options.study == "seconds" else "studies"
    seed = seeds.seeds(seeds.RUNS, purpose).first if options.seed is None else options.seed
    seeds.require(seeds.RUNS, purpose, seed)
    first = seeds.seeds(seeds.EPISODES, purpose).first
    record = run_arm(env, flags, seed, options.replicas, options.episodes, first, backend=backend)
    record |= {"env": options.env, "arm": name, "machine": machine()}
    if name == FLAT:
        _rate(record)
    (folder / f"{name}.json").write_text(json.dumps(record) + "\n")
    print(f"{name}: {record['seconds']:.0f} s, {_measured(record).middle:.3f}", flush=True)


def _rate(record: dict[str, Any]) -> None:
    """Fill in the gains that the flat task, which is not among those with anchors, came without."""
    env, greedy, curve = record["env"], record["judged"]["greedy"], record["curve"]
    greedy["gain"] = anchors.gain(env, greedy["iqm"])
    greedy["gains"] = [anchors.gain(env, value) for value in greedy["returns"]]
    curve["gain"] = [[anchors.gain(env, value) for value in row] for row in curve["return"]]


def _flags(env: str, flags: list[str], words: list[str]) -> list[str]:
    """The arm's flags; LR and UPDATES scale what the task's configuration and the flags of all arms say."""
    from marl.cli.parse import parse

    config = parse(["--env", env, *flags]).config.maddpg
    if words[:1] == ["LR"]:
        scale = float(words[1])
        return [f"--maddpg.actor-lr={scale * config.actor_lr}", f"--maddpg.critic-lr={scale * config.critic_lr}"]
    if words[:1] == ["UPDATES"]:
        return [f"--maddpg.updates-per-step={float(words[1]) * config.updates_per_step}"]
    return words


def _measured(record: dict[str, Any]) -> Measured:
    greedy = record["judged"]["greedy"]
    name = "gain" if greedy["gain"] is not None else "score"
    scale = anchors.gain if name == "gain" else anchors.score
    low, high = (scale(record["env"], end) for end in greedy["interval"])
    assert low is not None and high is not None
    return Measured(name, greedy[f"{name}s"], greedy[name], (low, high))


def _tabulate(folder: Path) -> str:
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    records.sort(key=lambda record: -_measured(record).middle)
    measure = _measured(records[0]).name
    first = records[0]
    over = first["judged"]["greedy"].get("interval_over", "replicas and episodes")  # until November 2026: replicas
    lines = [
        f"{first['env']}, {first['replicas']} replicas, {first['steps']} steps, seed {first['seed']}, "
        f"{first['machine']}; final policies, {first['judged']['greedy']['episodes']} greedy episodes a replica "
        f"whose luck is taken off; intervals over {over}",
        "",
        f"| arm | {measure}, IQM [95 %] | worst | replicas above .10 | above .50 | above .90 "
        "| median steps to .80 | to .90 | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        values, middle, (low, high) = (one := _measured(record)).values, one.middle, one.interval
        steps = [median(first_reached(record["curve"], measure, threshold)) for threshold in (0.8, 0.9)]
        reached = " | ".join(f"{n / 1000:g}k" if np.isfinite(n) else "never" for n in steps)
        above = " | ".join(f"{sum(v >= bar for v in values)} of {len(values)}" for bar in (0.1, 0.5, 0.9))
        lines.append(
            f"| {record['arm']} | {middle:.3f} [{low:.3f}, {high:.3f}] | {min(values):.3f} | {above} | {reached} "
            f"| {record['seconds']:.0f} |"
        )
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text)
    plots.save(_figure(records, measure), folder / "figure.png")
    return text


def _figure(records: list[dict[str, Any]], measure: str) -> Any:
    """Every replica a dot, the interquartile mean a bar with its interval, one row an arm."""
    figure, ax = plots.canvas(1.0 + 0.26 * len(records))
    for row, record in enumerate(reversed(records)):
        values, middle, (low, high) = (one := _measured(record)).values, one.middle, one.interval
        ax.plot(np.clip(values, -1.0, None), [row] * len(values), ".", color=plots.COLOURS[4], alpha=0.7)
        ax.plot(np.clip([low, high], -1.0, None), [row, row], color=plots.COLOURS[0], linewidth=3, alpha=0.6)
        ax.plot(max(middle, -1.0), row, "D", color=plots.COLOURS[0], markersize=4)
    ax.set_yticks(range(len(records)), [record["arm"] for record in reversed(records)])
    title = f"{records[0]['env']}, {len(values)} replicas"
    clipped = any(value < -1.0 for record in records for value in _measured(record).values)
    plots.label(ax, title, f"{measure}: replicas, IQM, 95 % interval" + (" (below -1: at -1)" if clipped else ""))
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=[*STUDIES, "table"])
    parser.add_argument("--env", default="simple_speaker_listener", help="task")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these")
    parser.add_argument("--seed", type=int, help="root seed (default: the first of the study's purpose)")
    parser.add_argument("--replicas", type=int, default=5, help="independent runs of each arm (default 5)")
    parser.add_argument("--episodes", type=int, default=1000, help="of the judgement, per replica (default 1000)")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser


if __name__ == "__main__":
    sys.exit(main())
