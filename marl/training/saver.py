"""Checkpoints of a run that goes on where one could not be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.batched import BatchedEnv
from marl.config.resolve import to_dict
from marl.config.schema import Config
from marl.errors import RunFailed
from marl.runs import checkpoint
from marl.runs.logs.logger import RunLog
from marl.training.stop import StopRequest

_MAX_FAILED = 3


class Saver:
    """Writes the checkpoints of one run directory.

    Args:
        run_dir: where.
        config: the run; goes into every checkpoint.
        env: its environments; their spec and how a policy reads their own values go in, too.
        logger: warned where a checkpoint could not be written.
        stop: waits while a checkpoint is written.
    """

    def __init__(self, run_dir: Path, config: Config, env: BatchedEnv, logger: RunLog, stop: StopRequest) -> None:
        self._root, self._keep = run_dir / checkpoint.DIRECTORY, config.checkpoint.keep
        self._env, self._config = env, to_dict(config)
        self._logger, self._stop = logger, stop
        self._failed = 0  # in a row

    def write(self, step: int, parts: dict[str, Any], last: bool) -> bool:
        """Write a checkpoint; whether it could be written.

        Args:
            step: environment steps of a replica.
            parts: what it holds.
            last: of the run.

        Raises:
            RunFailed: it could not be written and is the last, or the third such in a row.
        """
        reader = self._env.reader  # what it knows of the environment may have grown
        stored = {} if reader is None else {"reader": reader.to_dict()}
        manifest = {"spec": self._env.spec.to_dict(), "config": self._config, **stored}
        try:
            with self._stop.saving():
                checkpoint.save(self._root, step, parts, manifest, self._keep)
        except checkpoint.SaveFailed as error:
            self._failed += 1
            if last or self._failed >= _MAX_FAILED:
                raise RunFailed(f"{error} This was failure {self._failed} in a row.") from error
            self._logger.warn(f"{error} Training goes on.")
            return False
        self._failed = 0
        return True
