"""An environment that fails when it is told to.

FAULTS=KIND:STEP,... in the process's environment: what happens in the given step of every copy, counted from its
making. Without it the environment is a good one, so that a run that broke can be resumed and compared.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from toy_envs import Toy


class Faulty(Toy):
    """Two agents that drift; see `toy_envs.Toy`."""

    played = 0

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        self.played += 1
        kinds = [fault.partition(":") for fault in os.environ.get("FAULTS", "").split(",") if fault]
        now = [kind for kind, _, step in kinds if int(step) == self.played]
        for kind in now:
            _ACTIONS.get(kind, _nothing)()
        result = super().step(actions)
        for kind in now:
            _RESULTS.get(kind, _nothing_more)(result)
        return result


def faulty() -> Faulty:
    return Faulty(length=6, ragged=True)


def _nothing() -> None: ...


def _nothing_more(result: tuple[dict, ...]) -> None: ...


def _raise() -> None:
    raise ZeroDivisionError("the sky fell")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill() -> None:
    """Fill the file system of FAULT_DISK to the last byte."""
    with open(Path(os.environ["FAULT_DISK"]) / "filler", "ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def _free() -> None:
    (Path(os.environ["FAULT_DISK"]) / "filler").unlink(missing_ok=True)  # every copy is told to


_ACTIONS = {"raise": _raise, "die": _die, "hang": lambda: time.sleep(3600), "fill": _fill, "free": _free}


def _wrong(index: int, agent: str, value: Any) -> Any:
    def change(result: tuple[dict, ...]) -> None:
        if value is KeyError:
            del result[index][agent]
        else:
            result[index][agent] = value

    return change


_RESULTS = {
    "nan_reward": _wrong(1, "a_1", float("nan")),
    "inf_reward": _wrong(1, "a_0", float("inf")),
    "nan_observation": _wrong(0, "a_1", np.array([0, np.nan, 0], np.float32)),
    "inf_observation": _wrong(0, "a_0", np.array([0, 0, -np.inf], np.float32)),
    "missing_reward": _wrong(1, "a_1", KeyError),
    "missing_observation": _wrong(0, "a_0", KeyError),
    "unknown_agent": _wrong(1, "a_7", 0.0),
    "wrong_shape": _wrong(0, "a_1", np.zeros(4, np.float32)),
    "wrong_type": _wrong(0, "a_1", "here"),
    "wrong_flag": _wrong(2, "a_0", 0.5),
}
