"""One rank of the tests of several processes: python ranks_child.py TASK DIRECTORY, with torchrun's variables set.

What a rank finds goes to DIRECTORY/rank<R>.pt.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from whole_runs import StopAfter, config

from marl import train
from marl.errors import RunFailed, UserError
from marl.parallel import ranks as distributed
from marl.parallel.division import Division
from marl.parallel.ranks import Echo, Ranks, processes
from marl.runs.checkpoint import DIRECTORY, newest

REPLICAS = {"num_replicas": 3, "maddpg.n_step": 2, "evaluation.every": 80, "checkpoint.every": 100}
DATA = {
    "num_replicas": 2,
    "maddpg.frames": 2,
    "maddpg.estimator": "rao_blackwell",
    "evaluation.every": 80,
    "distributed": "data",
}


def exchanges(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Every exchange once."""

    def refused() -> None:
        raise UserError("said on rank 0")

    rank = ranks.rank
    result: dict[str, Any] = {
        "first": ranks.broadcast(lambda: {"from": rank}),
        "only": ranks.first_only(lambda: "kept"),
    }
    try:
        ranks.broadcast(refused)
    except UserError as error:
        result["error"] = str(error)
    except Echo as echo:
        result["error"] = echo.exit_code
    result["any"] = [ranks.any_rank(rank == 1), ranks.any_rank(False)]
    result["agreed"] = [ranks.poll_stop(False), any(ranks.poll_stop(rank == 1) for _ in range(3000))]
    result["collected"] = ranks.collected([f"{rank}a", f"{rank}b"][: rank + 1])
    result["mean"] = ranks.mean(torch.tensor([1.0, 2.0]) * (1 + 2 * rank))
    result["rows"] = ranks.rows(torch.full((2, 3), float(rank), dtype=torch.float32))
    own = {"a": torch.full((2 * (rank + 1), 2 + rank), rank), "list": [torch.full((rank + 1,), rank > 0), 7], "n": 1.5}
    result["joined"] = ranks.joined(own)
    whole = {"x": torch.arange(12).view(6, 2), "scalar": torch.tensor(5), "flag": True, "none": None}
    result["cut"] = ranks.cut(whole if rank == 0 else None, ranks.shares(3), 3)
    result["trained"] = list(Division(ranks, 3).trained)
    return result


def runs(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Whole runs in both modes, one that is stopped, and one that goes on from a checkpoint of a single process."""
    result = {"whole": train(config(out / "replicas", REPLICAS), ranks=copy.copy(ranks)).evaluation}
    stop = StopAfter(9 if ranks.is_first else 10**9)
    half = train(config(out / "stopped", REPLICAS), ranks=copy.copy(ranks), stop=stop)
    result["stopped"] = half.step, half.evaluation
    train(config(out / "one", REPLICAS), ranks=ranks, resume=newest(out / "one" / DIRECTORY))
    train(config(out / "data", DATA), ranks=ranks)
    half = train(config(out / "data_stopped", DATA), ranks=copy.copy(ranks), stop=StopAfter(9))
    result["data_stopped"] = half.step
    train(config(out / "data_one", DATA), ranks=ranks, resume=newest(out / "data_one" / DIRECTORY))
    return result


def more_runs(ranks: Ranks, out: Path) -> dict[str, Any]:
    """The real environment, worker processes and a world model."""
    for name, settings in MORE.items():
        train(config(out / name, settings), ranks=ranks)
    return {}


MODEL = {
    "world_model": True, "wm.kind": "mlp", "wm.sequences": 4, "wm.warmup_steps": 60, "wm.updates_per_step": 0.125,
    "wm.refresh_every": 24, "wm.rollout": 3, "wm.starts": 12, "wm.gate": 1e6, "wm.reward_gate": 1e6,
    "wm.validation_share": 0.3,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "real": {"backend": "pettingzoo", "num_replicas": 3, "num_envs": 2},
    "workers": {"backend": "pettingzoo", "num_replicas": 2, "num_envs": 2, "workers": 1},
    "model": {**MODEL, "num_replicas": 3},
    "data real": {"backend": "pettingzoo", "num_envs": 4, "distributed": "data"},
    "data model": {**MODEL, "num_replicas": 1, "distributed": "data"},
}


def fails(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Rank 1 meets an error of its own in the middle of a run; the others are told why."""

    class Breaks(StopAfter):
        @property
        def requested(self) -> bool:  # type: ignore[override]
            self._left -= 1
            if self._left <= 0:
                raise RunFailed("the gradient is not finite")
            return False

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    long = {**REPLICAS, "total_steps": 10**7, "replay.capacity": 1000, "evaluation.every": 0}
    train(config(out / "fails", long), ranks=ranks, stop=Breaks(60 if ranks.rank == 1 else 10**9))
    raise AssertionError("rank 1 has failed unnoticed")


def hangs(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Rank 1 stands still."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.any_rank(False)
    raise AssertionError("rank 1 was not missed")


def refused(ranks: Ranks, out: Path) -> dict[str, Any]:
    """More processes than replicas; a run directory that is in use."""
    result = {}
    (out / "full").mkdir(exist_ok=True)
    (out / "full" / "file").write_text("")
    odd = {"distributed": "data", "maddpg.batch_size": 15}
    for name, settings in {"few": {}, "odd": odd, "full": REPLICAS}.items():
        try:
            train(config(out / name, settings), ranks=ranks)
        except UserError as error:
            result[name] = str(error)
        except Echo as echo:
            result[name] = echo.exit_code
    return result


TASKS: dict[str, Callable[[Ranks, Path], dict[str, Any]]] = {
    task.__name__: task for task in (exchanges, runs, more_runs, fails, hangs, refused)
}

if __name__ == "__main__":
    directory = Path(sys.argv[2])
    distributed._POLL_SECONDS = 0.02  # so that these short runs meet some agreements
    seconds = 5 if sys.argv[1] == "hangs" else 60
    with processes(timedelta(seconds=seconds)) as joined:
        answer: dict[str, Any] = {}
        for task in sys.argv[1].split("+"):
            answer |= TASKS[task](copy.copy(joined), directory)  # a copy: the rhythm of agreements starts anew
            torch.save(answer, directory / f"rank{joined.rank}.pt")
