"""What a run writes of itself while it trains: records of metrics and evaluations, warnings, the progress bar.

Shape suffixes: S replicas, N agents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from marl.evaluate.results import Evaluation
from marl.parallel.division import Division
from marl.runs.logs.logger import RunLog


class Clock:
    """Wall time of a run, in seconds, and its speed."""

    def __init__(self) -> None:
        self._started, self._before = time.perf_counter(), 0.0
        self._last = (self._started, 0)  # when the speed was last asked for, and at which step

    @property
    def seconds(self) -> float:
        """Since the start of the run, the time before a resume included."""
        return self._before + time.perf_counter() - self._started

    def speed(self, step: int) -> float:
        """Environment steps of a replica a second since this was last asked for, in the time of the training alone."""
        now = time.perf_counter()
        (then, steps), self._last = self._last, (now, step)
        return (step - steps) / max(now - then, 1e-9)

    def leave_out(self, seconds: float) -> None:
        """These seconds, just now, were no training: the speed does not count them."""
        self._last = (self._last[0] + seconds, self._last[1])

    def resume(self, seconds: float, step: int) -> None:
        """The run had taken so many seconds, and is at `step`."""
        self._before, self._last = seconds, (time.perf_counter(), step)


class Journal:
    """Composes records and gives them to the logger, on rank 0 those of all replicas.

    Args:
        logger: the only writer.
        division: which replicas this process trains, and who else is there.
        agents: names of the agents, in order.
    """

    def __init__(self, logger: RunLog, division: Division, agents: Sequence[str]) -> None:
        self.logger, self.clock = logger, Clock()
        self._division, self._agents = division, tuple(agents)
        self._success: dict[str, float] = {}  # gain, or score where there is none, of the last evaluation
        self.aside_seconds = 0.0
        self._warned = False

    def record(self, step: int, values: dict[str, float | Tensor]) -> None:
        """Write one record of all replicas."""
        self.logger.log(step, self._division.record(values))

    def metrics(self, step: int, returns_SN: Tensor, metrics: dict[str, Tensor], updates: int) -> None:
        """Write the record of a round.

        Args:
            step: environment steps of a replica.
            returns_SN: mean returns since the last record.
            metrics: name -> [S] or [S, N] or one number, of learner and batch source.
            updates: that the learner has made.
        """
        values: dict[str, float | Tensor] = {"rollout/return": returns_SN.mean(1)}
        values |= {f"rollout/return/{name}": returns_SN[:, n] for n, name in enumerate(self._agents)}
        for name, value in metrics.items():
            if value.dim() == 2:
                values |= {f"{name}/{agent}": value[:, n] for n, agent in enumerate(self._agents)}
            else:
                values[name] = value
        values["updates"] = float(updates)
        values["time/steps_per_second"] = self.clock.speed(step) * self._division.replicas
        values["time/seconds"] = self.clock.seconds
        self.record(step, values)

    def evaluation(self, step: int, result: Evaluation) -> None:
        """Record what `evaluate` has returned under evaluation/."""
        replicas = result.replicas
        values: dict[str, float | Tensor] = {
            "evaluation/return": torch.tensor([one.mean_return for one in replicas]),
            "time/seconds": self.clock.seconds,
        }
        for agent in replicas[0].returns:
            means = [one.returns[agent].mean for one in replicas]
            values[f"evaluation/return/{agent}"] = torch.tensor(means)
        if result.score is not None:
            values["evaluation/score"] = torch.tensor([one.score for one in replicas])
        if result.gain is not None:
            values["evaluation/gain"] = torch.tensor([one.gain for one in replicas])
        named = {"gain": result.gain, "score": result.score}
        self._success = dict([(name, value) for name, value in named.items() if value is not None][:1])
        self.logger.log(step, values)

    def warn_once(self, texts: list[str]) -> None:
        """Show once in a run what the sources of batches of all ranks warn of."""
        for text in self._division.ranks.collected(texts):
            if not self._warned:
                self.logger.warn(text)
            self._warned = True

    def advance(self, step: int) -> None:
        """Show the progress, and the last evaluation's gain or score beside it."""
        self.logger.advance(step, self._success)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done within is no training: no rate counts its time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.clock.leave_out(spent)
            self.logger.leave_out(spent)
            self.aside_seconds += spent

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        return {"success": self._success, "seconds": self.clock.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """`state` names the step, too."""
        self._success = state.get("success", {})
        self.clock.resume(state["seconds"], state["step"])
