"""Rounds of training: one joint step of every environment, and the updates that it earns.

Shape suffixes: S replicas, N agents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv
from envs.streams import Stream
from marl.config.schema import Config
from marl.data.batch import BatchSource
from marl.data.collector import Collector
from marl.data.partners import Partners
from marl.errors import RunFailed
from marl.learner.diagnostics.diagnose import diagnose
from marl.learner.maddpg import MADDPG
from marl.learner.population.maddpg import PopulationMADDPG
from marl.learner.population.pool import opponents_of
from marl.training.cuda_graphs import Graphs


class Returns:
    """Returns of the episodes that have ended since they were last asked for.

    Args:
        replicas: S.
        agents: N.
        device: where they are kept.
    """

    def __init__(self, replicas: int, agents: int, device: torch.device) -> None:
        self.sum_SN = torch.zeros(replicas, agents, device=device)
        self.count_S = torch.zeros(replicas, dtype=torch.int64, device=device)

    def add(self, returns_SN: Tensor, episodes_S: Tensor) -> None:
        """Sums over episodes that have ended, and their number; in place, so that it can be recorded."""
        self.sum_SN += returns_SN
        self.count_S += episodes_S

    def take(self) -> Tensor:
        """Their mean [S, N], NaN where no episode of a replica has ended; from now on counted anew."""
        mean_SN = self.sum_SN / self.count_S[:, None]
        self.sum_SN.zero_()
        self.count_S.zero_()
        return mean_SN

    def state_dict(self) -> dict[str, Tensor]:
        return {"sum": self.sum_SN, "count": self.count_S}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sum_SN.copy_(state["sum"])
        self.count_S.copy_(state["count"])


@dataclass(frozen=True)
class Measured:
    """What a round has to record; empty where nothing was due."""

    metrics: dict[str, Tensor] = field(default_factory=dict)  # of the last updates before the record
    diagnosis: dict[str, float | Tensor] = field(default_factory=dict)  # of the estimator in use


class Rounds:
    """Environments, learner and batch source, and the counters of what they have done.

    Args:
        config: the run.
        env: all replicas' environments, row s * E + e.
        learner: updated in place.
        source: where transitions go and batches come from.
    """

    def __init__(self, config: Config, env: BatchedEnv, learner: MADDPG, source: BatchSource) -> None:
        self.config, self.env, self.learner, self.source = config, env, learner, source
        replicas = len(learner.replicas)
        memory, partners = learner.memory(config.num_envs), None
        act = learner.act if memory is None else memory.act
        if isinstance(learner, PopulationMADDPG):
            stream = Stream(config.seed, "population", learner.replicas, env.device)
            partners = Partners(stream, learner.population, env.spec.num_agents, config.num_envs)
            act = partial(learner.act_as, partners.member_SNE)
        self.opponents = opponents_of(config, learner) if config.opponents.kind == "pool" else None
        self.collector = Collector(env, act, replicas, memory, partners, self.opponents)
        self.step = 0  # environment steps of a replica
        self.credit = 0.0  # updates that are due
        self.progress = 0.0  # share of the run that is over, at the last updates
        self.returns = Returns(replicas, env.spec.num_agents, env.device)
        self.measured: dict[str, Tensor] = {}  # what the next record will show
        self._shown: frozenset[int] | None = None  # numbers of the updates that it shows; None: not yet foreseen
        self.graphs = Graphs.on(env.device, config.graphs)

    def run(self, record_every: int = 0) -> Measured:
        """One round.

        Args:
            record_every: environment steps between two records; 0: nothing is recorded.

        Returns:
            After a round that passes a multiple of `record_every` the metrics of the last update before it and, where
            that moves no actors, of the last one that does; none where no update came since the record before.

        Raises:
            RunFailed: a gradient is not finite; names the environment step.
        """
        with self._located():
            config, learner = self.config, self.learner
            if self.opponents is not None and self._passed(config.snapshot_every):
                self.opponents.snapshot(self.step)
            if learner.numbers is not None:  # exploration follows the steps, also right after a resume
                learner.schedules.follow(min(self.step / config.total_steps, 1.0))
            self.graphs.run(self.step_kind(), self._collect, self.env.replayed)
            self.step += config.num_envs
            diagnosis = self._learn(record_every) if self._learns(self.step) else {}
            if not self.passes(self.step - config.num_envs, record_every):
                return Measured({}, diagnosis)
            metrics, self.measured, self._shown = self.measured, {}, None
            return Measured(metrics, diagnosis)

    def _learn(self, record_every: int) -> dict[str, float | Tensor]:
        """The updates that the round to this step earns; what it has diagnosed."""
        config, learner = self.config, self.learner
        shown = self._foreseen(record_every)
        updates, self.credit = self._earned(self.step, self.credit)
        self.progress = min(self.step / config.total_steps, 1.0)
        every, done = config.maddpg.diagnostics_every, learner.updates + updates
        diagnosed = every > 0 and learner.updates // every != done // every
        seen = shown | {done} if diagnosed else shown  # of these more is wanted than what they leave behind
        learner.schedules.follow(self.progress)  # now, so that no update does it while it is recorded
        diagnosis: dict[str, float | Tensor] = {}
        for number in sorted(number for number in seen if learner.updates < number <= done):
            self._updates(number - 1 - learner.updates)
            batch = self.source.sample(config.maddpg.batch_size)
            self.measured |= learner.update(batch, self.progress, number in shown)
            if diagnosed and number == done:
                diagnosis |= diagnose(learner, batch, self.progress, learner.noise["diagnose"])
        self._updates(done - learner.updates)
        return diagnosis

    def _learns(self, step: int) -> bool:
        """Whether the round to `step` earns updates, or a part of one."""
        settings = self.config.maddpg
        return step > max(settings.warmup_steps, settings.lead * self.config.num_envs)

    def _earned(self, step: int, credit: float) -> tuple[int, float]:
        """Updates that the round to `step` earns beside the credit so far, and the credit that is left."""
        if self._learns(step):
            credit += self.config.num_envs * self.config.maddpg.updates_per_step
        return int(credit), credit - int(credit)

    def _foreseen(self, record_every: int) -> frozenset[int]:
        """Numbers of the updates that the next record shows, whatever round they come in.

        They follow from step, credit and the updates so far, so that a resumed run measures the same ones.
        """
        if record_every <= 0:
            return frozenset()
        if self._shown is None:
            config, step, credit, last = self.config, self.step, self.credit, self.learner.updates
            while True:
                earned, credit = self._earned(step, credit)
                last += earned
                if self.passes(step - config.num_envs, record_every) or step >= config.total_steps:
                    break
                step += config.num_envs
            self._shown = frozenset({last, last - last % config.maddpg.actor_delay})
        return self._shown

    def passes(self, before: int, every: int) -> bool:
        """Whether the round from step `before` passes a multiple of `every` (0: never)."""
        return every > 0 and before // every != (before + self.config.num_envs) // every

    def _passed(self, every: int) -> bool:
        """Whether the round before this one has passed a multiple of `every`."""
        return self.step > 0 and self.passes(self.step - self.config.num_envs, every)

    def metrics(self) -> dict[str, Tensor]:
        """What batch source and opponents have to record: name -> [S] or [S, N]."""
        return {**self.source.metrics(), **({} if self.opponents is None else self.opponents.metrics())}

    def check(self) -> None:
        """Raise `RunFailed` where the device has met a fault since it was last asked; it is waited for."""
        with self._located():
            self.learner.check()

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Faults of the training inside name the step."""
        try:
            yield
        except RunFailed as error:
            raise RunFailed(f"at environment step {self.step}: {error}") from error

    # What can be recorded (marl/training/cuda_graphs.py), and what tells its kinds apart. None: the host takes part,
    # as in a real PettingZoo environment, a world model, between ranks, or while the replay's n-step window fills.
    def step_kind(self) -> Hashable | None:
        """Of the next collected step."""
        pattern = self.env.pattern()
        return None if pattern is None or not self.source.ready else ("step", pattern)

    def update_kind(self) -> Hashable | None:
        """Of the next update."""
        pattern = self.learner.pattern()
        return None if pattern is None or not self.source.ready else ("update", pattern)

    def _collect(self) -> None:
        """One joint step of every environment, stored."""
        transitions, (returns_SN, episodes_S) = self.collector.collect()
        self.source.add(transitions)
        self.returns.add(returns_SN, episodes_S)

    def _updates(self, count: int) -> None:
        """Updates of which nothing is measured."""
        learner = self.learner
        if learner.form != "autograd":
            learner.update_many(self.source, self.config.maddpg.batch_size, count, self.progress)
            return
        for _ in range(count):
            self.update()

    def update(self) -> None:
        """One of them by autograd, recorded and replayed where it can be."""
        self.graphs.run(self.update_kind(), self._update, self.learner.replayed)

    def _update(self) -> None:
        self.learner.update(self.source.sample(self.config.maddpg.batch_size), self.progress, False)

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """The parts of a checkpoint; tensors lead with the replicas or with their environments."""
        return {
            "policy": {"actor": self.learner.actor.mlp.flat.detach()},
            "learner": self.learner.state_dict(),
            "source": self.source.state_dict(),
            "collector": self.collector.state_dict(),
            "progress": {
                "step": self.step,
                "credit": self.credit,
                "returns": self.returns.state_dict(),
                "measured": dict(self.measured),
            },
        }

    def load_state_dict(self, parts: dict[str, Any], new_episodes: bool = False) -> None:
        """Continue bit for bit, where updates are computed in the form in which they were; or with new episodes in
        place of those that were running."""
        self.learner.load_state_dict(parts["learner"])
        self.source.load_state_dict(parts["source"])
        if new_episodes:
            self.source.interrupt()
            self.collector.begin_anew(parts["collector"])
        else:
            self.collector.load_state_dict(parts["collector"])
        progress = parts["progress"]
        self.step, self.credit = progress["step"], progress["credit"]
        self.returns.load_state_dict(progress["returns"])
        measured = progress.get("measured", {})  # none in older checkpoints
        self.measured, self._shown = {name: x.to(self.env.device) for name, x in measured.items()}, None
        self.graphs.forget()
