"""A search over the settings of one task, with Optuna (pip install -e ".[tune]").

    python -m benchmarks.learning.search --env simple_tag --trials 12 --replicas 3 --seed 1 -- --total-steps 30000
    python -m benchmarks.learning.search --env simple_tag                    only prints the ranking of what was tried

Trial 0 is the task's configuration as it stands; the others are drawn from benchmarks/learning/search_space.py by TPE.
The same command goes on where it was stopped, and several at once share one study (docs/howto/sweep.md). The objective
is the mean over replicas, on episodes that judge no published result, of: on a competitive task the score of each side
against every scripted opponent (0: as much as random play of the same side, 1: as much as the best script of it), each
kept within [-1, 2], averaged over opponents, then over the two sides; on simple_crypto the return that Alice and Bob
keep against the best Eve possible, of 24; elsewhere the gain where the task has one, else the score, else the return.
Never a return against one's own opponent. A trial whose policies stand below the median of the others, at one of five
evaluations on its way, is pruned. Seeds from 1000 on are for published results and refused.

Written: one line a trial in benchmarks/results/search/<env>.jsonl, "objective" null for a pruned one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import seeds
from benchmarks.competition.duels import BATCH, SCRIPTS, Arena, against_scripts, tournament
from benchmarks.competition.fresh_eve import HEARD_STEPS, guaranteed
from benchmarks.learning.search_space import Drawn, space
from benchmarks.learning.training_runs import split_at_dashes, train_arm
from benchmarks.machine import machine
from envs.ids import names_function
from envs.mpe.catalogue import canonical_id
from marl import Policy
from marl.cli.parse import parse
from marl.errors import UserError
from marl.evaluate.results import Evaluation
from marl.evaluate.returns import evaluate

if TYPE_CHECKING:
    import optuna

RESULTS = Path(__file__).resolve().parents[1] / "results" / "search"
EPISODES_SEED = seeds.seeds(seeds.EPISODES, "tuning").first
KEPT = (-1.0, 2.0)  # bounds of a score against one opponent
PARTS = 6  # of a run; between two of them its policies are looked at
BEST = 20  # trials that are printed
QUIET = ["--logging.progress", "false", "--maddpg.diagnostics-every", "0"]


def main(argv: Sequence[str] | None = None) -> int:
    own, flags = split_at_dashes(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(own)
    if known := canonical_id(options.env):  # of MPE: without its version, as SCRIPTS and the logs name it
        options.env = known.rpartition("_v")[0]
    path: Path = options.log or RESULTS / f"{options.env.replace(':', '.')}.jsonl"
    if options.trials:
        try:
            seeds.require(seeds.RUNS, "tuning", options.seed)
        except UserError as error:
            parser.error(f"--seed: {error}")
        if importlib.util.find_spec("optuna") is None:
            parser.error('a search needs Optuna: pip install -e ".[tune]"')
        try:
            run(options, flags, path)
        except UserError as error:
            parser.error(str(error))
        except KeyboardInterrupt:
            print("stopped; the same command begins the interrupted trial anew and goes on.", file=sys.stderr)
            return 130
    lines = _lines(path)
    ranked = sorted((line for line in lines if line["objective"] is not None), key=lambda line: -line["objective"])
    print("\n".join(["", *map(_row, ranked[:BEST])]))
    print(f"{len(ranked)} trials complete, {len(lines) - len(ranked)} pruned: {path}")
    return 0


def run(options: argparse.Namespace, flags: list[str], path: Path) -> None:
    """Go on with the study until it has `options.trials`, and log those that this process finishes in `path`.

    Raises:
        UserError: flags that no run takes, or a study that was begun otherwise.
    """
    from benchmarks.learning import search_study

    env: str = options.env
    every = max(parse(["--env", env, *flags]).config.total_steps // PARTS, 1)
    looks = ["--evaluation.every", str(every)]
    config = parse(["--env", env, *looks, *flags]).config
    drawn = space(env, flags, config.env_args)
    known = {"seed": options.seed, "replicas": options.replicas, "flags": flags}

    def value(trial: optuna.Trial) -> float:
        as_it_stands = trial.user_attrs["draw"] == 0
        words = [] if as_it_stands else [word for one in drawn for word in one.words(one.draw(trial))]

        def watch(step: int, evaluation: Evaluation, policies: list[Policy]) -> None:
            if step:
                stands = on_its_way(env, evaluation, policies, options.episodes // PARTS)
                search_study.report(trial, step // config.evaluation_every, stands)

        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "run"
            given = [*QUIET, *looks, *words, *flags]
            _, result = train_arm(env, given, options.seed, options.replicas, directory, watch)
            players = [Policy.load(directory, replica) for replica in range(options.replicas)]
            outcome = objective(env, players, options.episodes, config.env_args)
        trial.set_user_attr("outcome", {"parts": outcome["parts"], "seconds": round(result.seconds)})
        return outcome["objective"]

    def finished(trial: optuna.trial.FrozenTrial) -> None:
        line = {"env": env, **known, **record(trial, drawn), "machine": machine()}
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" * cut_off + json.dumps(line) + "\n")
        print(_row(line), flush=True)

    where = str(options.study or Path("runs") / "search" / f"{env.replace(':', '.')}.db")
    conditions = {"env": env, **known, "episodes": options.episodes, "prune_after": options.prune_after}
    study = search_study.open_study(where, env, conditions)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end a trial in order
    try:
        search_study.search(study, options.trials, value, finished)
    finally:
        signal.signal(signal.SIGTERM, before)


def record(trial: optuna.trial.FrozenTrial, drawn: Sequence[Drawn]) -> dict[str, Any]:
    """What a line of the log says of a finished trial: {trial, settings, objective, parts, seconds, sampler}.

    A pruned one has no objective; its parts are what it had reported, and `failed` how its run broke where it did.
    """
    outcome = trial.user_attrs.get("outcome")
    if outcome is None:
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        outcome = {"parts": {"reported": list(trial.intermediate_values.values())}, "seconds": round(seconds)}
    failed = {name: trial.user_attrs[name] for name in ("failed",) if name in trial.user_attrs}
    return {
        "trial": trial.user_attrs["draw"],
        "settings": {one.name: trial.params[one.name] for one in drawn if one.name in trial.params},
        "objective": trial.value if trial.state.name == "COMPLETE" else None,
        **outcome,
        **failed,
        "sampler": "tpe",
    }


def on_its_way(env: str, evaluation: Evaluation, policies: Sequence[Policy], episodes: int) -> float:
    """The objective as far as a run has come: of its own evaluation, or of fewer duels where that says nothing."""
    if env == "simple_crypto" or env in SCRIPTS:
        return float(objective(env, policies, max(episodes, 1), {})["objective"])
    return float(_valued(evaluation)[0])


def objective(env: str, players: Sequence[Policy], episodes: int, env_args: dict[str, Any]) -> dict[str, Any]:
    """{objective, parts}: the number that is searched for, and what it is the mean of."""
    if env == "simple_crypto":
        kept = [guaranteed(pair) / HEARD_STEPS for pair in players]
        return {"objective": float(np.mean(kept)), "parts": {"replicas": kept}}
    if env in SCRIPTS:
        return combined(against_scripts(tournament(_arena(env, episodes), players)))
    backend = "pettingzoo" if names_function(env) else "torch"
    result = evaluate(
        players, env, episodes=episodes, seed=EPISODES_SEED, env_args=env_args, backend=backend,
        batch=min(episodes, BATCH) if backend == "torch" else 32,
    )  # fmt: skip
    value, replicas = _valued(result)
    return {"objective": value, "parts": {"replicas": replicas, "return": result.mean_return}}


def _valued(result: Evaluation) -> tuple[float, list[Any]]:
    """The gain where there is one, else the score, else the return: of all, and of each replica."""
    if result.gain is not None:
        return result.gain, [one.gain for one in result.replicas]
    if result.score is not None:
        return result.score, [one.score for one in result.replicas]
    return result.mean_return, [one.mean_return for one in result.replicas]


@functools.cache
def _arena(env: str, episodes: int) -> Arena:
    """One for all trials: it plays every scripted pairing once."""
    return Arena(env, episodes, EPISODES_SEED)


def combined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The objective of a competitive task from the rows of `against_scripts`."""
    parts: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["score"] is not None:
            parts.setdefault(row["side"], {})[row["opponent"]] = float(np.clip(row["score"], *KEPT))
    sides = [float(np.mean(list(scores.values()))) for scores in parts.values()]
    return {"objective": float(np.mean(sides)), "parts": parts}


def _lines(path: Path) -> list[dict[str, Any]]:
    """What the log holds, without a line that a killed process left half written."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _row(line: Mapping[str, Any]) -> str:
    values = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in line["settings"].items()}
    told = " ".join(f"{name.rpartition('.')[2].removeprefix('--')}={v}" for name, v in values.items())
    value = "pruned" if line["objective"] is None else f"{line['objective']:6.3f}"
    where = f"seed {line['seed']} trial {line['trial']}, {line['replicas']} replicas"
    return f"{value}  {where}: {told or 'the configuration'} | {' '.join(line['flags'])}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", required=True, help="task")
    parser.add_argument("--trials", type=int, default=0, help="in all, the first being the configuration (default 0)")
    parser.add_argument("--replicas", type=int, default=3, help="independent runs of each (default 3)")
    parser.add_argument("--episodes", type=int, default=300, help="of every duel of the objective (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="root seed of the runs and of the draws (default 1)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="in place of benchmarks/results/search/<env>.jsonl")
    parser.add_argument(
        "--study", metavar="FILE", help="SQLite file or database URL of the study (default runs/search/<env>.db)"
    )
    parser.add_argument("--prune-after", type=int, default=5, help="complete trials before any is pruned (default 5)")
    parser.epilog = "Everything behind -- are flags of run.py, the same for every trial; what they set is not drawn."
    return parser


if __name__ == "__main__":
    sys.exit(main())
