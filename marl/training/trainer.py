"""The loop: collect, store, update, log, evaluate, checkpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv
from envs.ids import names_function
from marl.config.resolve import to_dict
from marl.config.schema import Config
from marl.data.batch import BatchSource
from marl.data.collector import Collector
from marl.errors import RunFailed
from marl.evaluate.helpers import Helpers
from marl.evaluate.results import Evaluation, ReplicaReturns
from marl.evaluate.returns import evaluate
from marl.evaluate.tables import unfinished
from marl.learner.diagnose import diagnose
from marl.learner.maddpg import MADDPG
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks
from marl.play.policy import Policy
from marl.runs import checkpoint
from marl.runs.logger import RunLog
from marl.training.cuda_graphs import Graphs
from marl.training.stop import StopRequest

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
        make: builds the environment for evaluations in place of its id.
        division: which replicas this process trains, and who else is there.
    """

    def __init__(
        self,
        config: Config,
        env: BatchedEnv,
        learner: MADDPG,
        source: BatchSource,
        logger: RunLog,
        run_dir: Path,
        stop: StopRequest,
        make: Callable[..., Any] | None = None,
        division: Division | None = None,
    ) -> None:
        self.config, self.env, self.learner, self.source = config, env, learner, source
        self.logger, self.run_dir, self.stop, self.make = logger, run_dir, stop, make
        self.division = division or Division(Ranks(), config.num_replicas)
        self.collector = Collector(env, learner.act, len(self.division.trained))
        self.step = 0  # environment steps of a replica
        self.credit = 0.0  # updates that are due
        self.progress = 0.0  # share of the run that is over, at the last updates
        shape, device = (len(self.division.trained), env.spec.num_agents), env.device
        self.returns = {  # of the episodes that have ended since the last record
            "sum": torch.zeros(shape, device=device),
            "count": torch.zeros(shape[0], dtype=torch.int64, device=device),
        }
        self.graphs = Graphs.on(device, config.graphs)
        self._started, self._before, self._failed_saves = time.perf_counter(), 0.0, 0
        self._score: float | None = None
        self._loss: float | None = None
        self._warned = False
        self._rate = (time.perf_counter(), 0)

    # ------------------------------------------------------------------- loop
    def run(self) -> bool:
        """Train until the last step or until a stop is requested, save the last state; whether it was stopped."""
        config, ranks = self.config, self.division.ranks
        saved = self.step if self.step else None
        while self.step < config.total_steps and not ranks.now_and_then(self.stop.requested):
            before = self.step
            due = self._crosses(before, config.logging.every)
            with self._told():
                metrics = self._round(due)
            if due:
                self._log(metrics)
            self.logger.advance(min(self.step, config.total_steps), self._score, self._loss)
            if self._crosses(before, config.evaluation.every) and self.step < config.total_steps:
                self._evaluate()
            if self._crosses(before, config.checkpoint.every) and self.save():
                saved = self.step
        if saved != self.step:
            self.save(last=True)
        return ranks.any(self.stop.requested)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Faults of the training inside are told with the step."""
        try:
            yield
        except RunFailed as error:
            raise RunFailed(f"at environment step {self.step}: {error}") from error

    def _check(self) -> None:
        """Raise `RunFailed` where the device has met a fault since it was last asked; it is waited for."""
        with self._told():
            self.learner.check()

    def _crosses(self, before: int, every: int) -> bool:
        """Whether the round from step `before` passes a multiple of `every` (0: never)."""
        return every > 0 and before // every != (before + self.config.num_envs) // every

    def _round(self, measure: bool) -> dict[str, Tensor]:
        """One joint step of every environment and the updates that it earns."""
        config, learner = self.config, self.learner
        self.graphs.run(self._pattern(), self._collect, self.env.repeated)
        self.step += config.num_envs
        metrics: dict[str, Tensor] = {}
        if self.step <= max(config.maddpg.warmup_steps, config.maddpg.n_step * config.num_envs):
            return metrics
        self.credit += config.num_envs * config.maddpg.updates_per_step
        updates, self.credit = int(self.credit), self.credit - int(self.credit)
        self.progress = min(self.step / config.total_steps, 1.0)
        every, done = config.maddpg.diagnostics_every, learner.updates + updates
        diagnosed = every > 0 and learner.updates // every != done // every
        seen = measure or diagnosed  # of the last update more is wanted than what it leaves behind
        learner.schedules.follow(self.progress)  # now, so that no update does it while it is recorded
        self._updates(max(updates - seen, 0))
        if seen and updates:
            batch = self.source.sample(config.maddpg.batch_size)
            metrics = learner.update(batch, self.progress, measure)
            if diagnosed:
                self._record(dict(diagnose(learner, batch, self.progress, learner.noise["diagnose"])))
        return metrics

    # What can be recorded (marl/training/cuda_graphs.py), and what tells its kinds apart. None: the host takes part,
    # as in a real PettingZoo environment, a world model, between ranks, or while the replay's n-step window fills.
    def _pattern(self) -> Hashable | None:
        """Of the next collected step."""
        pattern = self.env.pattern()
        return None if pattern is None or not self.source.settled else ("step", pattern)

    def _kind(self) -> Hashable | None:
        """Of the next update."""
        learner = self.learner
        alone = learner.combine is None and learner.imagined_loss is None
        return ("update", learner.actors_next) if alone and self.source.settled else None

    def _collect(self) -> None:
        """One joint step of every environment, stored."""
        transitions, (returns_SN, episodes_S) = self.collector.collect()
        self.source.add(transitions)
        self.returns["sum"] += returns_SN
        self.returns["count"] += episodes_S

    def _updates(self, count: int) -> None:
        """Updates of which nothing is measured."""
        learner = self.learner
        if learner.form != "autograd":
            learner.update_many(self.source, self.config.maddpg.batch_size, count, self.progress)
            return
        for _ in range(count):
            self.graphs.run(self._kind(), self._update, learner.repeated)

    def _update(self) -> None:
        """One of them by autograd."""
        self.learner.update(self.source.sample(self.config.maddpg.batch_size), self.progress, False)

    # ---------------------------------------------------------------- records
    def _record(self, values: dict[str, float | Tensor]) -> dict[str, float | Tensor]:
        """Write one record of all replicas; returns it on rank 0."""
        values = self.division.record(values)
        self.logger.log(self.step, values)
        return values

    def _log(self, metrics: dict[str, Tensor]) -> None:
        self._check()
        names = self.env.spec.agent_names
        values: dict[str, float | Tensor] = {}
        mean_SN = self.returns["sum"] / self.returns["count"][:, None]  # nan: none of this replica has ended
        values["rollout/return"] = mean_SN.mean(1)
        values |= {f"rollout/return/{name}": mean_SN[:, n] for n, name in enumerate(names)}
        for total in self.returns.values():
            total.zero_()
        for name, value in {**metrics, **self.source.metrics()}.items():
            if value.dim() == 2:
                values |= {f"{name}/{agent}": value[:, n] for n, agent in enumerate(names)}
            else:
                values[name] = value
        values["updates"] = float(self.learner.updates)
        now = time.perf_counter()
        then, steps = self._rate
        values["time/steps_per_second"] = (self.step - steps) * self.config.num_replicas / max(now - then, 1e-9)
        values["time/seconds"] = self.seconds
        self._rate = (now, self.step)
        loss = self._record(values).get("critic/loss")
        self._loss = self._loss if loss is None else float(torch.as_tensor(loss).mean())
        self._warn()

    def _warn(self) -> None:
        """Tell once what the source of batches finds wrong."""
        for text in self.division.ranks.collected(self.source.warnings()):
            if not self._warned:
                self.logger.warn(text)
            self._warned = True

    @property
    def seconds(self) -> float:
        """Wall time of the run, those before a resume included."""
        return self._before + time.perf_counter() - self._started

    def policies(self) -> list[Policy]:
        """The current greedy policies of the replicas that this process evaluates."""
        first = self.division.trained.start
        flat_SGP = self.learner.actor.mlp.flat
        spec, reader = self.env.spec, self.env.reader
        return [Policy(spec, self.config, flat_SGP[s - first], reader=reader) for s in self.division.evaluated]

    def evaluated(
        self,
        episodes: int,
        seed: int,
        backend: str,
        batch: int,
        helpers: Helpers | None = None,
        own: int | None = None,
    ) -> Evaluation:
        """What `evaluate` finds of every replica's current policy.

        Args:
            episodes, seed, backend, batch: as for `evaluate`.
            helpers: processes that evaluate all but the first `own` of this process's replicas.
            own: None: this process evaluates all of its replicas itself.
        """

        def collect(found: list[ReplicaReturns]) -> list[ReplicaReturns]:
            return self.division.ranks.collected(found + (helpers.results() if helpers else []))

        return evaluate(
            self.policies()[:own],
            self.config.env,
            episodes=episodes,
            seed=seed,
            env_args=self.config.env_args,
            backend=backend,
            make=self.make,
            spec=self.env.spec.single() if names_function(self.config.env) else None,
            replicas=self.division.evaluated[:own],
            batch=batch,
            max_steps=self.config.evaluation.max_steps,
            collect=collect,
        )

    def _evaluate(self) -> None:
        """Greedy evaluation on seeds of its own; nothing of the training is touched."""
        self._check()
        chosen, backend = self.config.evaluation, self.config.backend
        batch = chosen.episodes if backend == "torch" else 32
        result = self.evaluated(chosen.episodes, chosen.seed + _EVALUATION_OFFSET, backend, batch)
        self.log_evaluation(result)
        for text in unfinished(result):
            self.logger.warn(text.removeprefix("warning: "))

    def log_evaluation(self, result: Evaluation) -> None:
        """Record what `evaluate` found under evaluation/."""
        replicas = result.replicas
        values: dict[str, float | Tensor] = {
            "evaluation/return": torch.tensor([one.mean_return for one in replicas]),
            "time/seconds": self.seconds,
        }
        for agent in replicas[0].returns:
            means = [one.returns[agent].mean for one in replicas]
            values[f"evaluation/return/{agent}"] = torch.tensor(means)
        if result.score is not None:
            values["evaluation/score"] = torch.tensor([one.score for one in replicas])
        if result.gain is not None:
            values["evaluation/gain"] = torch.tensor([one.gain for one in replicas])
        self._score = result.score
        self.logger.log(self.step, values)

    # ------------------------------------------------------------- checkpoint
    def save(self, last: bool = False) -> bool:
        """Write a checkpoint of all replicas; whether it could be written.

        A full disk is told and survived; three times in a row, or at the end, it ends the run.
        """
        self._check()
        self.logger.flush()
        parts = self.division.joined(self._parts())
        return self.division.ranks.first(lambda: self._write(parts, last))

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds; tensors lead with the replicas or with their environments."""
        return {
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

    def _write(self, parts: dict[str, Any], last: bool) -> bool:
        reader = self.env.reader  # with which a policy reads this environment's own observations
        stored = {} if reader is None else {"reader": reader.to_dict()}
        manifest = {"spec": self.env.spec.to_dict(), "config": to_dict(self.config), **stored}
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

    def restore(self, parts: dict[str, Any] | None) -> None:
        """Continue from the parts of a checkpoint, which rank 0 has read."""
        parts = self.division.cut(parts)
        self.learner.load_state_dict(parts["learner"])
        before, now = parts["learner"].get("form", "autograd"), self.learner.form
        if before != now:
            self.logger.warn(
                f"updates were computed in the form {before!r} until here and now are in {now!r}: the run goes on, but "
                f"not bit for bit as it would have."
            )
        self.source.load_state_dict(parts["source"])
        self.collector.load_state_dict(parts["collector"])
        progress = parts["progress"]
        self.step, self.credit = progress["step"], progress["credit"]
        for name, total in self.returns.items():
            total.copy_(progress["returns"][name])
        self.graphs.forget()
        self._score, self._before = progress["score"], progress["seconds"]
        self._rate = (time.perf_counter(), self.step)
