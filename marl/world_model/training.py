"""The world model's training in a run: on which episodes, and how many updates a step of the environments earns."""

from __future__ import annotations

from typing import Any

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.protocol import WorldModel
from marl.world_model.sequences import Episodes, StepRows


class ModelTraining:
    """The model, the episodes that it learns from, and the budget of its updates.

    Args:
        model: trained in place.
        episodes: where steps are stored.
        window: frames of a training sequence.
        config: the budget, and the sequences of an update.
        stream: of all that is drawn; its rows are the replicas.
    """

    def __init__(
        self, model: WorldModel, episodes: Episodes, window: int, config: WorldModelConfig, stream: Stream
    ) -> None:
        self.model, self.episodes = model, episodes
        self._window, self._config, self._stream = window, config, stream
        self.steps = 0  # of the environments of a replica
        self._credit = 0.0  # updates that are due

    @property
    def begun(self) -> bool:
        """Whether the steps before the first update are over."""
        return self.steps >= self._config.warmup_steps

    def add(self, step: StepRows) -> None:
        """Store one joint step, and train the model as much as it earns."""
        self.model.absorb(step, self.episodes.add(step))
        envs = step.first.shape[1]
        self.steps += envs
        if not self.begun:
            return
        self._credit += envs * self.model.updates_per_step
        count = self._config.size("sequences")
        while self._credit >= 1.0:
            self._credit -= 1.0
            seq = self.episodes.training.windows(self._window, count, self._stream)
            wanted = self.model.pairs
            pairs = self.episodes.training.windows(2, wanted, self._stream) if wanted else None
            self.model.update(seq, self._stream, pairs)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            **self.episodes.state_dict(),
            "training_stream": self._stream.state_dict(),
            "steps": self.steps,
            "_credit": self._credit,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.episodes.load_state_dict(state)
        self._stream.load_state_dict(state["training_stream"])
        self.steps, self._credit = state["steps"], state["_credit"]
