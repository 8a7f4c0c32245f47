"""Evaluates many replicas of a saved run in several processes: the real environments step on one core each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from marl.errors import RunFailed
from marl.evaluate.results import Evaluation, ReplicaReturns

_WORTH = 3000  # episodes in all, below which another process costs more than it brings


_WORTH_BESIDE = 500  # episodes of one replica, below which they are over before another process has begun


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(replicas: int, episodes: int, sharing: int = 1) -> int:
    """How many processes to evaluate with, this one included, where `sharing` of them use this machine's cores."""
    return max(1, min(replicas, _cores() // sharing)) if replicas * episodes >= _WORTH else 1


def beside(episodes: int) -> bool:
    """Whether one replica is worth evaluating in another process while this one has something else to do."""
    return episodes >= _WORTH_BESIDE and _cores() > 1


class Helpers:
    """Processes that evaluate replicas of a run's newest checkpoint; they end with the context.

    Args:
        run: the run directory.
        parts: the replicas of every process.
        episodes, seed, max_steps: as for `evaluate`.
        seconds: that the episodes of each process may take; 0: no limit.
    """

    def __init__(
        self,
        run: Path,
        parts: Sequence[Sequence[int]],
        episodes: int,
        seed: int,
        max_steps: int,
        seconds: float = 0.0,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / f"{i}.json" for i in range(len(parts))]
        importable = os.pathsep.join(place or os.getcwd() for place in sys.path)
        environment = {**os.environ, "PYTHONPATH": importable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "marl.evaluate", str(run), "--episodes", str(episodes), "--seed", str(seed)]
        command += ["--max-steps", str(max_steps), "--seconds", str(seconds)]
        self._processes = []
        for file, part in zip(self._files, parts, strict=True):
            words = [*command, "--json", str(file), "--replica", *map(str, part)]
            with open(file.with_suffix(".err"), "w") as errors:
                self._processes.append(
                    subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
                )

    def results(self) -> list[ReplicaReturns]:
        """What all replicas earned, in the order of `parts`; waits for the processes.

        Raises:
            RunFailed: a process ended without a result; with its words.
        """
        rows: list[ReplicaReturns] = []
        for process, file in zip(self._processes, self._files, strict=True):
            code = process.wait()
            if code != 0:
                words = file.with_suffix(".err").read_text(errors="replace").strip()[-500:]
                raise RunFailed(f"an evaluating process ended with code {code}: {words}")
            rows += Evaluation.from_json(json.loads(file.read_text())).replicas
        return rows

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()
