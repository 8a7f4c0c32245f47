"""The loop: collect, store, update, log, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv
from marl import checkpoint
from marl.collector import Collector
from marl.config import Config
from marl.configure import to_dict
from marl.errors import RunFailed
from marl.evaluate import evaluate
from marl.live_diagnostics import diagnose
from marl.logger import Logger
from marl.maddpg import MADDPG
from marl.policy import Policy
from marl.replay import BatchSource
from marl.signals import StopRequest

_EVALUATION_OFFSET = 10_000_000  # seeds of evaluations during training lie this far above those of the final one
_MAX_FAILED_SAVES = 3


class Trainer:
    """Owns the counters of a run; everything else is given to it.

    Args:
        config: the run.
        env: all replicas' environments, row s * E + e.
        learner: updated in place.
        source: where transitions go and batches come from.
        logger: the only writer.
        run_dir: for checkpoints.
        stop: polled once a round.
        make: builds the environment for evaluations where it has no id.
    """

    def __init__(
        self,
        config: Config,
        env: BatchedEnv,
        learner: MADDPG,
        source: BatchSource,
        logger: Logger,
        run_dir: Path,
        stop: StopRequest,
        make: Callable[..., Any] | None = None,
    ) -> None:
        self.config, self.env, self.learner, self.source = config, env, learner, source
        self.logger, self.run_dir, self.stop, self.make = logger, run_dir, stop, make
        self.collector = Collector(env, learner, config.num_replicas)
        self.step = 0  # environment steps of a replica
        self.credit = 0.0  # updates that are due
        self.returns: dict[str, Any] = {"sum": None, "count": 0}
        self._started, self._before, self._failed_saves = time.perf_counter(), 0.0, 0
        self._score: float | None = None
        self._loss: float | None = None
        self._rate = (time.perf_counter(), 0)

    # ------------------------------------------------------------------- loop
    def run(self) -> None:
        """Train until the last step or until a stop is requested; the last state is saved."""
        config = self.config
        saved = self.step if self.step else None
        while self.step < config.total_steps and not self.stop.requested:
            before = self.step
            due = self._crosses(before, config.logging.every)
            metrics = self._round(due)
            if due:
                self._log(metrics)
            self.logger.advance(self.step, self._score, self._loss)
            if self._crosses(before, config.evaluation.every) and self.step < config.total_steps:
                self._evaluate()
            if self._crosses(before, config.checkpoint.every) and self.save():
                saved = self.step
        if saved != self.step:
            self.save(last=True)

    def _crosses(self, before: int, every: int) -> bool:
        """Whether the round from step `before` passes a multiple of `every` (0: never)."""
        return every > 0 and before // every != (before + self.config.num_envs) // every

    def _round(self, measure: bool) -> dict[str, Tensor]:
        """One joint step of every environment and the updates that it earns."""
        config = self.config
        transitions, finished = self.collector.collect()
        self.source.add(transitions)
        self.step += config.num_envs
        if finished is not None:
            total = self.returns["sum"]
            self.returns = {
                "sum": finished if total is None else total + finished,
                "count": self.returns["count"] + 1,
            }
        metrics: dict[str, Tensor] = {}
        if self.step <= max(config.maddpg.warmup_steps, config.maddpg.n_step * config.num_envs):
            return metrics
        self.credit += config.num_envs * config.maddpg.updates_per_step
        updates, self.credit = int(self.credit), self.credit - int(self.credit)
        progress = self.step / config.total_steps
        for k in range(updates):
            batch = self.source.sample(config.maddpg.batch_size)
            metrics = self.learner.update(batch, progress, measure and k == updates - 1) or metrics
        every, done = config.maddpg.diagnostics_every, self.learner.updates
        if every and updates and (done - updates) // every != done // every:
            found = diagnose(self.learner, batch, progress, self.learner.noise["diagnose"])
            self.logger.log(self.step, found)
        return metrics

    # ---------------------------------------------------------------- records
    def _log(self, metrics: dict[str, Tensor]) -> None:
        names = self.env.spec.agent_names
        values: dict[str, float | Tensor] = {}
        if self.returns["count"]:
            mean_SN = self.returns["sum"] / self.returns["count"]
            values["rollout/return"] = mean_SN.mean(1)
            values |= {f"rollout/return/{name}": mean_SN[:, n] for n, name in enumerate(names)}
            self.returns = {"sum": None, "count": 0}
        for name, value in {**metrics, **self.source.metrics()}.items():
            if value.dim() == 2:
                values |= {f"{name}/{agent}": value[:, n] for n, agent in enumerate(names)}
            else:
                values[name] = value
        if "critic/loss" in metrics:
            self._loss = float(metrics["critic/loss"].mean())
        values["updates"] = float(self.learner.updates)
        now = time.perf_counter()
        then, steps = self._rate
        values["time/steps_per_second"] = (self.step - steps) * self.config.num_replicas / max(now - then, 1e-9)
        values["time/seconds"] = self.seconds
        self._rate = (now, self.step)
        self.logger.log(self.step, values)

    @property
    def seconds(self) -> float:
        """Wall time of the run, those before a resume included."""
        return self._before + time.perf_counter() - self._started

    def policies(self, greedy: bool = True) -> list[Policy]:
        """The current policy of every replica."""
        flat_SGP = self.learner.actor.mlp.flat
        return [Policy(self.env.spec, self.config, flat_GP, greedy) for flat_GP in flat_SGP]

    def _evaluate(self) -> None:
        """Greedy evaluation on seeds of its own; nothing of the training is touched."""
        config = self.config
        result = evaluate(
            self.policies(),
            config.env or self.env.spec.id,
            episodes=config.evaluation.episodes,
            seed=config.evaluation.seed + _EVALUATION_OFFSET,
            env_args=config.env_args,
            backend=config.backend,
            make=self.make,
            spec=self.env.spec if self.make is not None or ":" in config.env else None,
            batch=config.evaluation.episodes if config.backend == "torch" else 32,
        )
        self.log_evaluation(result)

    def log_evaluation(self, result: dict[str, Any]) -> None:
        """Record what `evaluate` found under evaluation/."""
        replicas = result["replicas"]
        values: dict[str, float | Tensor] = {
            "evaluation/return": torch.tensor([one["mean_return"] for one in replicas]),
            "time/seconds": self.seconds,
        }
        for agent in replicas[0]["return"]:
            means = [one["return"][agent]["mean"] for one in replicas]
            values[f"evaluation/return/{agent}"] = torch.tensor(means)
        for name in ("score", "gain"):
            if result[name] is not None:
                values[f"evaluation/{name}"] = torch.tensor([one[name] for one in replicas])
        self._score = result["score"]
        self.logger.log(self.step, values)

    # ------------------------------------------------------------- checkpoint
    def save(self, last: bool = False) -> bool:
        """Write a checkpoint; whether it could be written.

        A full disk is told and survived; three times in a row, or at the end, it ends the run.
        """
        self.logger.flush()
        parts = {
            "policy": {"actor": self.learner.actor.mlp.flat.detach()},
            "learner": self.learner.state_dict(),
            "source": self.source.state_dict(),
            "collector": self.collector.state_dict(),
            "progress": {
                "step": self.step,
                "credit": self.credit,
                "returns": self.returns,
                "score": self._score,
                "seconds": self.seconds,
            },
        }
        manifest = {"spec": self.env.spec.to_dict(), "config": to_dict(self.config)}
        try:
            with self.stop.saving():
                checkpoint.save(
                    self.run_dir / checkpoint.DIRECTORY, self.step, parts, manifest, self.config.checkpoint.keep
                )
        except checkpoint.SaveFailed as error:
            self._failed_saves += 1
            if last or self._failed_saves >= _MAX_FAILED_SAVES:
                raise RunFailed(f"{error} This was failure {self._failed_saves} in a row.") from error
            self.logger.warn(f"{error} Training goes on.")
            return False
        self._failed_saves = 0
        return True

    def restore(self, parts: dict[str, Any]) -> None:
        """Continue from the parts of a checkpoint."""
        self.learner.load_state_dict(parts["learner"])
        self.source.load_state_dict(parts["source"])
        self.collector.load_state_dict(parts["collector"])
        progress = parts["progress"]
        self.step, self.credit, self.returns = progress["step"], progress["credit"], progress["returns"]
        self._score, self._before = progress["score"], progress["seconds"]
        self._rate = (time.perf_counter(), self.step)
