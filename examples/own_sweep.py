"""A search over settings with Optuna.

    pip install -e ".[tune]"
    python -m examples.own_sweep simple_speaker_listener --trials 20 --total-steps 10000

Every trial is a run of its own in runs/sweep/TASK/, two replicas of it, and is judged by the mean return of the final
policies. Trials stand in sweep.db there: the same command goes on where it was stopped, and several at once share one
search. The seed serves to choose settings; report the winner on another.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import optuna

from marl import train, tuned

SEED = 4_000


def settings(trial: optuna.Trial) -> dict[str, Any]:
    """What is tried; the names are those of the group `maddpg` in docs/cli.md."""
    rate = trial.suggest_float("lr", 3e-4, 1e-2, log=True)
    return {
        "actor_lr": rate,
        "critic_lr": rate,
        "gamma": trial.suggest_categorical("gamma", [0.8, 0.9, 0.95]),
        "signalling_bonus": trial.suggest_float("signalling_bonus", 0.0, 1.0),
    }


def search(env: str, trials: int, folder: Path, **changes: Any) -> optuna.Study:
    """Run `trials` more trials of the search in `folder`.

    Args:
        env: as `--env`.
        trials: how many.
        folder: for sweep.db and the runs.
        changes: of the task's own settings, as for `tuned`, the same in every trial.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def mean_return(trial: optuna.Trial) -> float:
        run_dir = str(folder / f"trial_{trial.number}")
        own = {**changes.get("maddpg", {}), **settings(trial)}
        result = train(tuned(env, seed=SEED, **{**changes, "maddpg": own, "run_dir": run_dir}))
        if result.evaluation is None:
            raise optuna.TrialPruned
        return result.evaluation.mean_return

    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'sweep.db'}", study_name=env, direction="maximize", load_if_exists=True
    )
    study.optimize(mean_return, n_trials=trials)
    return study


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Search settings with Optuna.")
    parser.add_argument("env", help="as --env of run.py")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--total-steps", type=int, default=10_000)
    options = parser.parse_args(arguments)
    folder = Path("runs") / "sweep" / options.env.replace(":", ".")
    short = {"total_steps": options.total_steps, "num_replicas": 2, "device": "cpu"}
    study = search(options.env, options.trials, folder, **short, logging={"progress": False, "report": False})
    print(f"best of {len(study.trials)}: {study.best_value:.2f} with {study.best_params}, {folder}")


if __name__ == "__main__":
    main()
