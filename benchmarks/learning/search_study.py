"""An Optuna study that may be interrupted, shared by several processes, and repeated exactly.

Draw k of a search is a function of its seed, of k and of the trials that have finished before: every parameter is drawn
by a TPE sampler with a seed of its own, so that no state is lost with a process. A trial that does not end (Ctrl-C, an
error, a killed process) stands as failed, and another with its number of the draw and its parameters is begun anew;
trials of one process are therefore the same with and without interruptions. Trials are pruned by Optuna's MedianPruner.
"""

from __future__ import annotations

import contextlib
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState

from marl.errors import RunFailed, UserError

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
DRAW = "draw"  # attribute of a trial: which draw of the search it is, 0 for the configuration as it stands
AGAIN = "again"  # the number of the trial that it repeats
FAILED = "failed"  # in what words the run gave up
_SIGN_OF_LIFE, _PATIENCE = 20, 120  # seconds between the signs of a running trial, and without one until it is dead
_WAIT = 60  # seconds for another process to let go of the file


class Repeatable(optuna.samplers.BaseSampler):
    """TPE whose random numbers are a function of (seed, draw, parameter).

    Args:
        seed: of the search.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:  # draw 0 has no parameters, so that none are common to all trials
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        entropy = [self.seed, trial.user_attrs[DRAW], zlib.crc32(param_name.encode())]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        tpe = optuna.samplers.TPESampler(seed=seed, multivariate=False)
        return tpe.sample_independent(study, trial, param_name, param_distribution)


def open_study(where: str, name: str, conditions: dict[str, Any]) -> optuna.Study:
    """The study `name`, which is made where there is none.

    Args:
        where: an SQLite file, or the URL of a database.
        name: of the study there.
        conditions: plain data that all of its trials have in common, among them `seed`, of the draws, and
            `prune_after`, the complete trials before any is pruned.

    Raises:
        UserError: the study was begun under other conditions, or the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url, options, alone = where, {}, contextlib.nullcontext()
    if "://" not in where:
        path = Path(where).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        url, options = f"sqlite:///{path}", {"connect_args": {"timeout": _WAIT}}
        alone = FileLock(f"{path}.lock")  # processes that begin together would each make the tables
    with alone:
        try:
            study = optuna.create_study(
                storage=_storage(url, options),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                sampler=Repeatable(conditions["seed"]),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=conditions["prune_after"]),
            )
        except Exception as error:  # SQLAlchemy's, of any driver
            raise UserError(f"--study {where} cannot be opened as a database of Optuna: {error}") from error
        begun = study.user_attrs.get("conditions")
        if begun is None:
            study.set_user_attr("conditions", conditions)
    if begun is not None and begun != conditions:
        other = ", ".join(f"{key} {begun.get(key)!r}" for key in conditions if begun.get(key) != conditions[key])
        raise UserError(f"the study in {where} was begun with {other}; give the same, or another --study.")
    return study


def _storage(url: str, options: dict[str, Any]) -> optuna.storages.RDBStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # signs of life
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=_SIGN_OF_LIFE,
            grace_period=_PATIENCE,
            heartbeat_stale_trial_callback=begin_again,
        )


def search(
    study: optuna.Study,
    trials: int,
    value: Callable[[optuna.Trial], float],
    finished: Callable[[FrozenTrial], None],
) -> None:
    """Go on until so many trials have finished, complete or pruned, those of other processes included.

    Args:
        study: of `open_study`.
        trials: in all; with p processes there may be p - 1 more.
        value: trains and judges; reads `trial.user_attrs["draw"]`, calls `report` on its way.
        finished: called with every trial that this process has finished.

    Raises:
        Whatever `value` raises, except `RunFailed` and, of settings that were drawn, `UserError`: with these a trial
            counts as pruned, since the same settings would fail again.
    """

    def attempt(trial: optuna.Trial) -> float:
        if DRAW not in trial.user_attrs:
            trial.set_user_attr(DRAW, _draw(study, trial.number))
        try:
            return value(trial)
        except optuna.TrialPruned:
            raise
        except (RunFailed, UserError) as error:
            if isinstance(error, UserError) and trial.user_attrs[DRAW] == 0:
                raise  # nothing was drawn: the configuration itself is no good
            trial.set_user_attr(FAILED, str(error))
            raise optuna.TrialPruned from error
        except BaseException:
            begin_again(study, study.get_trials(deepcopy=False)[trial.number])
            raise

    if len(study.get_trials(deepcopy=False, states=FINISHED)) < trials:
        enough = MaxTrialsCallback(trials, states=FINISHED)
        study.optimize(attempt, callbacks=[lambda _, trial: finished(trial), enough])


def report(trial: optuna.Trial, step: int, value: float) -> None:
    """Tell the pruner how a trial stands.

    Raises:
        TrialPruned: it is not worth going on.
    """
    trial.report(value, step)
    if trial.should_prune():
        raise optuna.TrialPruned


def begin_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial that does not end once more."""
    known = study.get_trials(deepcopy=False)
    if any(one.user_attrs.get(AGAIN) == trial.number for one in known):
        return
    draw = trial.user_attrs.get(DRAW, _draw(study, trial.number))
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={DRAW: draw, AGAIN: trial.number},
        )
    )


def _draw(study: optuna.Study, number: int) -> int:
    """Which draw a new trial is: repetitions do not count."""
    return sum(AGAIN not in one.user_attrs for one in study.get_trials(deepcopy=False)[:number])
