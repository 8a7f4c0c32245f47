"""The current policies of a run in evaluation: during training and at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from envs.batched import BatchedEnv
from envs.ids import names_function
from marl.config.schema import Config
from marl.evaluate.helpers import Helpers
from marl.evaluate.results import Evaluation, ReplicaReturns
from marl.evaluate.returns import evaluate
from marl.learner.maddpg import MADDPG
from marl.parallel.division import Division
from marl.play.budget import Budget
from marl.play.policy import Policy
from marl.play.rollout import NO_LIMIT

_OFFSET = 10_000_000  # seeds of evaluations during training lie this far above those of the final one


class Evaluator:
    """Plays the greedy policies that a learner has now.

    Args:
        config: the run.
        env: the environments of the training, for their spec and how they are read.
        learner: whose actors play.
        division: which replicas this process trains and evaluates, and who else is there.
        make: builds the environment in place of its id; None: by its id.
    """

    def __init__(
        self,
        config: Config,
        env: BatchedEnv,
        learner: MADDPG,
        division: Division,
        make: Callable[..., Any] | None = None,
    ) -> None:
        self.make = make
        self._config, self._env, self._learner, self._division = config, env, learner, division

    def policies(self) -> list[Policy]:
        """The current greedy policies of the replicas that this process evaluates."""
        first = self._division.trained.start
        flat_SGP = self._learner.actor.mlp.flat
        spec, reader = self._env.spec, self._env.reader
        return [Policy(spec, self._config, flat_SGP[s - first], reader=reader) for s in self._division.evaluated]

    def evaluated(
        self,
        episodes: int,
        seed: int,
        backend: str,
        batch: int,
        helpers: Helpers | None = None,
        own: int | None = None,
        budget: Budget = NO_LIMIT,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """What `evaluate` returns for every replica's current policy.

        Args:
            episodes, seed, backend, batch: as for `evaluate`.
            helpers: processes that evaluate all but the first `own` of this process's replicas.
            own: None: this process evaluates all of its replicas itself.
            budget, progress: of this process, as for `evaluate`.
        """
        config = self._config

        def collect(results: list[ReplicaReturns]) -> list[ReplicaReturns]:
            return self._division.ranks.collected(results + (helpers.results() if helpers else []))

        return evaluate(
            self.policies()[:own],
            config.env,
            episodes=episodes,
            seed=seed,
            env_args=config.env_args,
            backend=backend,
            make=self.make,
            spec=self._env.spec.single() if names_function(config.env) else None,
            replicas=self._division.evaluated[:own],
            batch=batch,
            max_steps=config.evaluation.max_steps,
            budget=budget,
            progress=progress,
            collect=collect,
        )

    def during_training(self) -> Evaluation:
        """A greedy evaluation on seeds of its own; nothing of the training is touched.

        An environment of unknown cost is played for a share of the steps trained since the last evaluation, at least
        for one episode: a number that is the same whenever the run is repeated or resumed.
        """
        chosen, backend = self._config.evaluation, self._config.backend
        batch = chosen.episodes if backend == "torch" else 32
        trained = max(self._config.evaluation_every, self._config.num_envs)
        limited = self.cost_unknown and chosen.share > 0
        steps = max(int(trained * chosen.share), 1) * len(self._division.evaluated) if limited else 0
        budget = Budget(steps=steps)
        return self.evaluated(chosen.episodes, chosen.seed + _OFFSET, backend, batch, budget=budget)

    @property
    def cost_unknown(self) -> bool:
        """Whether an episode may take any time: in all environments but MPE's."""
        return self.make is not None or names_function(self._config.env)
