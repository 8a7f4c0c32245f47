"""A batch source that mixes imagined transitions into the replay's.

The model learns from whole episodes of the replay's stream (training.py). Now and then it imagines short rollouts of
the current actors (rollouts.py). How long they may be is decided by the error on held-out episodes (gate.py); the
transitions on which the ensemble disagrees most are dropped.

What envs/streams.py promises, that a replica trains alike alone and among others, does not hold here: work that no
replica needs is left out for all of them together (the loss through a model while all gates are closed, updates of a
solved reward head, blending), and with it draws from counters that replicas share.

Shape suffixes: S replicas, B batch, X imagined transitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import FEW, WorldModelConfig
from marl.data.batch import Batch, Transitions
from marl.data.pictures import PictureReplay
from marl.data.replay import Replay
from marl.errors import UserError
from marl.world_model.dreamer.agents import networks_of
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.dreamer.pictures import PictureFrames, PictureModel
from marl.world_model.imagination.choice import AutoModel
from marl.world_model.imagination.gate import Gate
from marl.world_model.imagination.rollouts import Imagined, Policy, Rollouts, mixed, rows_of
from marl.world_model.imagination.starts import Starts
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel
from marl.world_model.sequences import Episodes, FrameStore, Sequences
from marl.world_model.small.model import SmallModel
from marl.world_model.training import ModelTraining

RENEWALS = 4  # of the imagined transitions between two validations, which cost three times as much


def make_model(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> WorldModel:
    """The model of `config.kind`, its initial weights drawn from `stream`, whose rows are the replicas."""
    if config.kind == "auto":
        return AutoModel(layout, config, gamma, stream)
    if config.observation == "image":
        return PictureModel(layout, config, gamma, stream)
    if config.kind == "rssm":
        return DreamerModel(layout, config, gamma, stream, networks_of(layout, config, stream))
    return SmallModel(layout, config, gamma, stream)


def suited(config: WorldModelConfig, spec: EnvSpec) -> WorldModelConfig:
    """`config` as an environment's choices that may be forbidden want it: `auto` is rssm from the start, and no start
    lies between two states, as what is allowed there follows from neither. Nor does one of few starts, of which every
    entry has few values."""
    if config.size("starts") <= FEW:
        config = replace(config, blend=False)
    if not spec.has_masks:
        return config
    return replace(config, kind="rssm" if config.kind == "auto" else config.kind, blend=False)


class ImaginedRows:
    """The imagined transitions of every replica, of which the least uncertain are drawn.

    Args:
        spec: agents, heads and routes.
        size: X, transitions kept per replica.
        keep: share of the valid ones that may be drawn.
        gamma: the learner's discount.
        stream: of the draws; its rows are the replicas.
        team: as for `Replay`.
    """

    def __init__(
        self, spec: EnvSpec, size: int, keep: float, gamma: float, stream: Stream, team: Tensor | None = None
    ) -> None:
        kind = PictureReplay if spec.picture else Replay
        self.replay, self._keep, self._stream = kind(spec, size, size, stream, gamma, team=team), keep, stream
        replicas, device = len(stream.key_R), stream.key_R.device
        self._order_SX = torch.zeros(replicas, size, dtype=torch.int64, device=device)
        self._offset_S1 = torch.arange(replicas, device=device)[:, None] * size
        self.usable_S = torch.zeros(replicas, dtype=torch.int64, device=device)
        self.filled = False

    def fill(self, imagined: Imagined) -> None:
        """Replace all rows; order the valid ones by uncertainty: the first `usable_S` of a replica are drawn from."""
        self.replay.add(imagined.transitions)
        self._order_SX = imagined.uncertainty.masked_fill(~imagined.valid, float("inf")).argsort(1)
        self.usable_S = (imagined.valid.sum(1) * self._keep).floor().long()
        self.filled = True

    def sample(self, count: int) -> Batch:
        """`count` rows per replica; without meaning where `usable_S` is 0."""
        pick_SB = self._stream.integers(self.usable_S[:, None], count)
        return self.at(self._order_SX.gather(1, pick_SB))

    def at(self, index_SB: Tensor) -> Batch:
        """The rows of these numbers in [0, X)."""
        return self.replay.gather(index_SB + self._offset_S1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "imagined": self.replay.state_dict(),
            "_order_SX": self._order_SX,
            "usable_S": self.usable_S,
            "_filled": self.filled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["imagined"])
        device = self.usable_S.device
        self._order_SX, self.usable_S = state["_order_SX"].to(device), state["usable_S"].to(device)
        self.filled = state["_filled"]


class ImaginationSource:
    """Replay and imagined transitions as one batch source; decides when the model is measured and imagines anew.

    Args:
        replay: where real transitions go.
        training: the model and what it learns from.
        gate: how long rollouts may be.
        rollouts: imagines.
        imagined: what has been imagined.
        config: settings.
    """

    def __init__(
        self,
        replay: Replay,
        training: ModelTraining,
        gate: Gate,
        rollouts: Rollouts,
        imagined: ImaginedRows,
        config: WorldModelConfig,
    ) -> None:
        self.replay, self.training, self.gate, self.rollouts = replay, training, gate, rollouts
        self.imagined, self.config = imagined, config
        self._since = 0  # environment steps of a replica since rows were imagined
        self._renewals = 0

    @classmethod
    def of(
        cls,
        replay: Replay,
        policy: Policy,
        spec: EnvSpec,
        config: WorldModelConfig,
        num_envs: int,
        streams: dict[str, Stream],
        model: WorldModel | None = None,
        recall: Callable[[Sequences, Tensor], Tensor] | None = None,
    ) -> ImaginationSource:
        """Compose a source as `config` says.

        Args:
            replay: where real transitions go.
            policy: the current actors.
            spec: agents, heads and routes.
            config: settings, as `suited` has them.
            num_envs: E, environments per replica.
            streams: "model" for initial weights, "training" for the model's samples, "imagination" for rollouts and
                batches; rows are the replicas.
            model: imagines; None: one of `config.kind`.
            recall: as for `Starts`.

        Raises:
            UserError: the kind of model cannot imagine the environment.
        """
        config = suited(config, spec)
        device, replicas = streams["model"].key_R.device, len(streams["model"].key_R)
        trained, imagination = streams["training"], streams["imagination"]
        layout = Layout(spec, device)
        capacity, store = config.capacity, FrameStore
        if spec.picture:  # no more frames than the replay has; between two pictures there is none
            capacity, store = min(capacity, replay.capacity), PictureFrames
            config = replace(config, blend=False)
        if model is None:
            model = make_model(layout, config, replay.gamma, streams["model"])
        episodes = Episodes(layout.widths, replicas, num_envs, capacity, config.validation_share, device, store)
        span = spec.horizon + 1 if spec.horizon else 50  # frames that validation and starts are taken from
        gate = Gate(episodes.held_out, span, layout, config, trained)
        starts = Starts(episodes.training, span, model, gate, layout, config, imagination, recall)
        return cls(
            replay,
            ModelTraining(model, episodes, config.window or -(-span // 2), config, trained),
            gate,
            Rollouts(model, policy, starts, layout, config, replay.gamma, imagination),
            ImaginedRows(
                spec, config.size("starts") * config.rollout, config.keep, replay.gamma, imagination, replay.team_NN
            ),
            config,
        )

    @property
    def ready(self) -> bool:
        """No: the host decides when the model learns and imagines."""
        return False

    def add(self, transitions: Transitions) -> None:
        """Store one joint step; train the model, measure it and imagine anew where these are due."""
        self.replay.add(transitions)
        self.training.add(rows_of(self.rollouts.layout, transitions))
        if not self.training.begun:
            return
        self._since += transitions.first.shape[1]
        if self._since >= self.config.refresh_every:
            self._since = 0
            self.training.model.check()
            if self.gate.can_measure:  # else no episode has been held out yet: nothing is trusted
                self._renew()

    def _renew(self) -> None:
        if self._renewals % RENEWALS == 0:
            self.gate.measure(self.training.model)
        self._renewals += 1
        if self.config.imagined_share:
            self.imagine()

    def imagine(self) -> None:
        """Fill the imagined transitions with fresh rollouts of the current actors."""
        self.imagined.fill(self.rollouts.imagine(self.gate.length_S))

    def sample(self, batch_size: int) -> Batch:
        """B transitions per replica, the last `imagined_share` of them imagined where the gate allows any."""
        real = self.replay.sample(batch_size)
        count = round(batch_size * self.config.imagined_share)
        if not self.imagined.filled or count == 0:
            return real
        return mixed(real, self.imagined.sample(count), self.imagined.usable_S > 0)

    def interrupt(self) -> None:
        self.replay.interrupt()  # the model's frames know the first of an episode

    def warnings(self) -> list[str]:
        """What the user should know of the model, with what to change; empty where all is well."""
        return self.training.model.warnings()

    def metrics(self) -> dict[str, Tensor]:
        """The replay's, and under world_model/: the model's losses, the gate, errors after 1 and K steps, each [S]."""
        result = self.training.model.metrics() | self.gate.metrics() | {"imagined": self.imagined.usable_S.float()}
        return self.replay.metrics() | {f"world_model/{name}": value for name, value in result.items()}

    # ------------------------------------------------------------------- state
    def state_dict(self) -> dict[str, Any]:
        """What the parts hold, side by side under names of their own, so that their division may change."""
        return {
            "spec": self.rollouts.layout.spec.to_dict(),
            "kind": self.config.kind,
            "replay": self.replay.state_dict(),
            **self.training.state_dict(),
            **self.gate.state_dict(),
            **self.imagined.state_dict(),
            "imagination_stream": self.rollouts.stream.state_dict(),
            "_since": self._since,
            "_renewals": self._renewals,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit.

        Raises:
            UserError: the state is that of another environment or kind of model; names the differences.
        """
        differences = EnvSpec.from_dict(state["spec"]).differences(self.rollouts.layout.spec)
        if state["kind"] != self.config.kind:
            differences.append(f"wm.kind: expected {state['kind']!r}, got {self.config.kind!r}")
        if differences:
            lines = "".join(f"\n  {line}" for line in differences)
            raise UserError(
                f"the checkpoint's world model belongs to another environment or kind of model:{lines}\nResume with "
                "the environment and the configuration that it was trained with."
            )
        self.replay.load_state_dict(state["replay"])
        self.training.load_state_dict(state)
        self.gate.load_state_dict(state)
        self.imagined.load_state_dict(state)
        self.rollouts.stream.load_state_dict(state["imagination_stream"])
        self._since, self._renewals = state["_since"], state["_renewals"]
