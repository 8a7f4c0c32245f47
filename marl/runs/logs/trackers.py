"""Trackers of experiments beside TensorBoard: W&B and MLflow, each imported only where it was asked for.

A tracker gets the same names and numbers as metrics.jsonl. Where it sends them is its own business, by its own
environment variables (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...). trackers.json in
the run directory remembers under which id, so that a resumed run goes on in the same place.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from marl.errors import UserError
from marl.runs.durable import replace_text

IDS = "trackers.json"
PROJECT = "marl"  # W&B's project and MLflow's experiment where no environment variable names another
_PACKAGE = "marl-discrete-communication"


class Tracker(Protocol):
    """One place that a run's records go to; every method may raise anything."""

    id: str
    """Under which it goes on after a resume."""
    place: str
    """Where the run can be looked at, in words."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """The run's settings, once."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One record of finite numbers."""

    def close(self) -> None:
        """The end, of this process at least."""


class Wandb:
    """Weights & Biases. Steps are a metric of their own: W&B's counter cannot go back, as a resumed run does."""

    def __init__(self, run_dir: Path, known: str | None) -> None:
        import wandb  # an extra

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=_name(run_dir),
            dir=str(run_dir),
            id=known,
            resume="allow" if known else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")
        self.id = str(self._run.id)
        self.place = self._run.url or f"{run_dir}/wandb (offline; wandb sync sends it)"

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow, by its client: nothing global is set."""

    def __init__(self, run_dir: Path, known: str | None) -> None:
        import mlflow  # an extra
        from mlflow.entities import Metric, Param

        self._metric, self._param, self._client = Metric, Param, mlflow.MlflowClient()
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
            known = self._client.create_run(experiment_id, run_name=_name(run_dir)).info.run_id
        else:
            self._client.update_run(known, status="RUNNING")
        self.id = str(known)
        self.place = f"run {self.id} in {mlflow.get_tracking_uri()}"

    def settings(self, values: Mapping[str, Any]) -> None:
        rows = [self._param(_plain_name(name), str(value)) for name, value in values.items()]
        for some in _pieces(rows, 100):
            self._client.log_batch(self.id, params=some)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [self._metric(_plain_name(name), value, now, step) for name, value in values.items()]
        for some in _pieces(rows, 1000):
            self._client.log_batch(self.id, metrics=some)

    def close(self) -> None:
        self._client.set_terminated(self.id)


TRACKERS: dict[str, Callable[[Path, str | None], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


class Trackers:
    """The trackers of one run. What one of them raises ends that tracker, with one warning, and never the run.

    Args:
        names: of `TRACKERS`.
        run_dir: the run directory, where ids and what trackers write locally go.
        resume: go on under the ids of trackers.json.
        warn: called once with the words about a tracker that failed.
        say: called with where each tracker can be looked at.
    """

    def __init__(
        self,
        names: Iterable[str],
        run_dir: Path,
        resume: bool,
        warn: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._warn, self._open = warn, dict[str, Tracker]()
        known = _read(run_dir / IDS) if resume else {}
        for name in names:
            made = self._guarded(name, lambda name=name: TRACKERS[name](run_dir, known.get(name)))  # type: ignore[misc]
            if made is not None:
                self._open[name] = made
                say(f"{name}: {made.place}")
        if self._open:
            ids = {**known, **{name: tracker.id for name, tracker in self._open.items()}}
            self._guarded("", lambda: replace_text(run_dir / IDS, json.dumps(ids, indent=1) + "\n"))

    def settings(self, values: Mapping[str, Any]) -> None:
        """The run's settings."""
        self._each(lambda tracker: tracker.settings(values))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One record; numbers that are not finite are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._each(lambda tracker: tracker.log(step, finite))

    def close(self) -> None:
        """The end; calling it twice is harmless."""
        self._each(lambda tracker: tracker.close())
        self._open = {}

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: work(tracker))  # type: ignore[misc]

    def _guarded(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; None where it raised, after which the tracker gets nothing more."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the trackers' own
                return work()
        except Exception as error:  # whatever it is, the training matters more
            self._open.pop(name, None)
            words = " ".join(str(error).split())[:300] or type(error).__name__
            self._warn(f"tracker {name or IDS} failed ({words}). Training goes on without it.")
            return None


def require_installed(names: Iterable[str]) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    missing = [name for name in names if not _installed(name)]
    if missing:
        raise UserError(
            f"--logging.trackers {' '.join(missing)}: not installed. Install with: "
            f"pip install '{_PACKAGE}[{','.join(missing)}]'"
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _name(run_dir: Path) -> str:
    """A run's name: the last two parts of its directory."""
    return "/".join(run_dir.resolve().parts[-2:])


def _plain_name(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./ -]", "_", name)


def _pieces(rows: list[Any], most: int) -> list[list[Any]]:
    return [rows[start : start + most] for start in range(0, len(rows), most)]


def _read(path: Path) -> dict[str, str]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        return {name: one for name, one in ids.items() if isinstance(one, str)}
    except (OSError, ValueError, AttributeError):
        return {}
