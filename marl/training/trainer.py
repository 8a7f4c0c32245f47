"""The loop: rounds, and when they are recorded, evaluated and saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from marl.config.schema import Config
from marl.evaluate.results import Evaluation
from marl.evaluate.tables import fewer, unfinished
from marl.parallel.division import Division
from marl.play.policy import Policy
from marl.training.evaluator import Evaluator
from marl.training.journal import Journal
from marl.training.rounds import Rounds
from marl.training.saver import Saver
from marl.training.stop import StopRequest

Watch = Callable[[int, Evaluation, list[Policy]], None]
"""Is told of an evaluation during training: the step, what it gave, and the policies that this process evaluated."""


class Trainer:
    """Decides what is due after every round; its parts do it.

    Args:
        config: the run: its length, and the steps between records, evaluations and checkpoints.
        rounds: what trains.
        journal: what is recorded.
        evaluator: plays the current policies.
        saver: writes checkpoints.
        stop: polled once a round.
        division: which replicas this process trains, and who else is there.
        watch: called after every evaluation during training.
    """

    def __init__(
        self,
        config: Config,
        rounds: Rounds,
        journal: Journal,
        evaluator: Evaluator,
        saver: Saver,
        stop: StopRequest,
        division: Division,
        watch: Watch | None = None,
    ) -> None:
        self.config, self.rounds, self.journal, self.evaluator = config, rounds, journal, evaluator
        self.saver, self.stop, self.division, self._watch = saver, stop, division, watch
        self._told = False  # that evaluations play fewer episodes than was asked for
        self.began = 0  # the step at which this process took the run over
        self._resumed = False
        self._ended = False  # it was over there

    @property
    def step(self) -> int:
        """Environment steps of a replica."""
        return self.rounds.step

    def run(self) -> bool:
        """Train until the last step or until a stop is requested, save the last state; whether it was stopped.

        A new run evaluates before its first step, so that its learning curve starts at the start.
        """
        config, ranks = self.config, self.division.ranks
        if config.evaluation_every and not self._resumed:
            self._evaluate()
        if self._ended and self._evaluates_after(self.step - config.num_envs):
            self._evaluate()  # the run is longer now: it has an evaluation here as on its way
        saved = self.step if self.step else None
        while self.step < config.total_steps and not ranks.poll_stop(self.stop.requested):
            before = self.step
            self.round()
            self.journal.advance(min(self.step, config.total_steps))
            if self._evaluates_after(before):
                self.rounds.check()
                self._evaluate()
            if self.rounds.passes(before, config.checkpoint.every) and self.save():
                saved = self.step
        if saved != self.step:
            self.save(last=True)
        return ranks.any_rank(self.stop.requested)

    def round(self) -> None:
        """One round, recorded where a record is due."""
        every = self.config.logging.every
        due = self.rounds.passes(self.step, every)
        measured = self.rounds.run(every)
        if measured.diagnosis:
            self.journal.record(self.step, measured.diagnosis)
        if due:
            self._log(measured.metrics)

    def _evaluate(self) -> None:
        with self.journal.aside():
            result = self.evaluator.during_training()
        self.journal.evaluation(self.step, result)
        for text in unfinished(result):
            self.journal.logger.warn(text)
        shortened = fewer(result, "--evaluation.share")
        if shortened and not self._told:
            self._told = True
            self.journal.logger.say(f"Evaluations during training: {shortened}")
        if self._watch is not None:
            with self.journal.aside():
                self._watch(self.step, result, self.evaluator.policies())

    def _evaluates_after(self, before: int) -> bool:
        """Whether an evaluation on the way follows the round from step `before`; the final one is none of these."""
        return self.rounds.passes(before, self.config.evaluation_every) and self.step < self.config.total_steps

    def _log(self, metrics: dict[str, Tensor]) -> None:
        rounds = self.rounds
        rounds.check()
        metrics = {**metrics, **rounds.metrics()}
        self.journal.metrics(self.step, rounds.returns.take(), metrics, rounds.learner.updates)
        self.journal.warn_once(rounds.source.warnings())

    # ------------------------------------------------------------- checkpoint
    def save(self, last: bool = False) -> bool:
        """Write a checkpoint of all replicas; whether it could be written.

        A full disk is reported and survived; three times in a row, or at the end, it ends the run.
        """
        self.rounds.check()
        self.journal.logger.flush()
        parts = self.division.joined(self.parts())
        return self.division.ranks.broadcast(lambda: self.saver.write(self.step, parts, last))

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds; tensors lead with the replicas or with their environments."""
        parts = self.rounds.state_dict()
        progress = {**parts["progress"], **self.journal.state_dict()}
        if self.division.shared:  # every rank has measured its own rows of a batch
            progress["measured"] = self.division.record(progress["measured"])
        return {**parts, "progress": progress}

    def restore(self, parts: dict[str, Any] | None, new_episodes: bool = False, ended: bool = False) -> None:
        """Continue from the parts of a checkpoint, which rank 0 has read; see `Rounds.load_state_dict`.

        `ended`: the run was over there, by the length that it had.
        """
        parts = self.division.cut(parts)
        self.rounds.load_state_dict(parts, new_episodes)
        self.journal.load_state_dict(parts["progress"])
        self.began, self._resumed, self._ended = self.step, True, ended
        before, now = parts["learner"].get("form", "autograd"), self.rounds.learner.form
        if before != now:
            self.journal.logger.warn(
                f"updates were computed in the form {before!r} until here and now are in {now!r}: the run goes on, but "
                f"not bit for bit as it would have."
            )
