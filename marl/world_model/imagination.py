"""A batch source that mixes imagined transitions into the replay's.

The model learns from whole episodes of the replay's stream. Now and then it imagines short rollouts: they start at
posterior states of stored episodes, the first observation is real, the current actors act on their own (decoded)
observation with hard sampled actions, messages are copied to their slots by the spec's routes. How long they may be
is decided by the error on held-out episodes; the transitions on which the ensemble disagrees most are dropped. The
actors never see the model's state: execution stays decentralised, and a trained actor needs no model.

Shape suffixes: S replicas, N agents, E environments, B batch, R rollouts, K steps of a rollout, T frames, O
observation, A action, F joint observation, U joint action.

Source: Janner et al. 2019 (MBPO, arXiv 1906.08253) for short branched rollouts; Willemsen et al. 2021 (MAMBPO,
2108.05308) with central-critic agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import WorldModelConfig
from marl.data.batch import Batch, Transitions
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner import relaxation
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel
from marl.world_model.rollouts import joined, mixed, rollout_errors, rows_of
from marl.world_model.sequences import FrameStore
from marl.world_model.small.model import ObsState, SmallModel
from marl.world_model.starts import partners

RENEWALS = 4  # of the imagined transitions between two validations, which cost three times as much

Policy = Callable[[Tensor], Tensor]
"""Padded observations [S, N, B, O] to logits [S, N, B, H, K]."""


def make_model(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> WorldModel:
    """The model of `config.kind`, its initial weights drawn from `stream`, whose rows are the replicas."""
    if config.kind == "rssm":
        return DreamerModel(layout, config, gamma, stream)
    return SmallModel(layout, config, gamma, stream)


class ImaginationSource:
    """Replay, world model and imagined transitions as one batch source.

    Args:
        replay: where real transitions go.
        policy: the current actors.
        spec: agents, heads and routes.
        config: settings.
        num_envs: E, environments per replica.
        streams: "model" for initial weights, "training" for the model's samples, "imagination" for rollouts and
            batches; rows are the replicas.
        model: imagines; None: one of `config.kind`.

    Raises:
        UserError: the environment cannot be imagined (agents that leave, action masks).
    """

    def __init__(
        self,
        replay: Replay,
        policy: Policy,
        spec: EnvSpec,
        config: WorldModelConfig,
        num_envs: int,
        streams: dict[str, Stream],
        model: WorldModel | None = None,
    ) -> None:
        self.replay, self.policy, self.spec, self.config = replay, policy, spec, config
        self.num_envs = num_envs
        stream = streams["model"]
        device, replicas = stream.key_R.device, len(stream.key_R)
        self.layout = Layout(spec, device)
        self.model = make_model(self.layout, config, replay.gamma, stream) if model is None else model
        self._training, self._imagination = streams["training"], streams["imagination"]
        widths = (self.layout.full_size, self.layout.action_size, spec.num_agents)
        held_out = max(int(config.capacity * config.validation_share), 2 * num_envs)
        self.store = FrameStore(widths, replicas, num_envs, config.capacity, device)
        self.validation = FrameStore(widths, replicas, num_envs, held_out, device)
        self._episode_SE = torch.arange(num_envs, device=device).expand(replicas, -1) - num_envs
        self.span = spec.horizon + 1 if spec.horizon else 50  # frames that validation and starts are taken from
        self.window = config.window or -(-self.span // 2)
        size = config.size("starts") * config.rollout
        self.imagined = Replay(spec, size, size, self._imagination, replay.gamma)
        self._order_SX = torch.zeros(replicas, size, dtype=torch.int64, device=device)
        self._offset_S1 = torch.arange(replicas, device=device)[:, None] * size
        self.usable_S = torch.zeros(replicas, dtype=torch.int64, device=device)
        self.gate_S = torch.zeros(replicas, dtype=torch.int64, device=device)
        self.errors_SK = torch.full((replicas, config.rollout), float("inf"), device=device)
        self.reward_errors_SK = self.errors_SK.clone()
        self.steps, self._credit, self._since, self._renewals, self._filled = 0, 0.0, 0, 0, False
        self._head_mask = spec.head_mask.to(device)[:, None]  # [N, 1, H, K]

    # ---------------------------------------------------------------- storing
    @property
    def settled(self) -> bool:
        """No: the host decides when the model learns and imagines."""
        return False

    def add(self, transitions: Transitions) -> None:
        """Store one joint step; train the model, measure it and imagine anew where these are due."""
        self.replay.add(transitions)
        step = rows_of(self.layout, transitions)
        held_SE = self._held_out(step.first)
        self.store.add(step, ~held_SE)
        self.validation.add(step, held_SE)
        self.model.absorb(step, ~held_SE)
        self.steps += self.num_envs
        if self.steps < self.config.warmup_steps:
            return
        self._credit += self.num_envs * self.config.update_rate
        while self._credit >= 1.0:
            self._credit -= 1.0
            count = self.config.size("sequences")
            self.model.update(self.store.windows(self.window, count, self._training), self._training)
        self._since += self.num_envs
        if self._since >= self.config.refresh_every:
            self._since = 0
            self.model.check()
            if bool((self.validation.frames_S > 0).all()):  # else no episode has been held out yet: nothing is trusted
                if self._renewals % RENEWALS == 0:
                    self.validate()
                self._renewals += 1
                self.imagine()

    def _held_out(self, first_SE: Tensor) -> Tensor:
        """Bool [S, E]: the running episode is kept from training; every 1 / share-th episode is."""
        self._episode_SE = self._episode_SE + self.num_envs * first_SE
        share = self.config.validation_share
        return ((self._episode_SE + 1) * share).floor() > (self._episode_SE * share).floor()

    # --------------------------------------------------------------- validation
    @torch.no_grad()
    def validate(self) -> None:
        """Measure the errors after 1 .. K steps on held-out episodes and set how long rollouts may be."""
        seq = self.validation.windows(self.span, self.config.size("sequences"), self._training)
        self.errors_SK, self.reward_errors_SK = rollout_errors(
            self.model, seq, self.config.rollout, self.layout, self._training
        )
        good_SK = (self.errors_SK <= self.config.gate) & (self.reward_errors_SK <= self.config.reward_gate)
        self.gate_S = good_SK.long().cumprod(1).sum(1)

    # ---------------------------------------------------------------- imagining
    @torch.no_grad()
    def imagine(self) -> None:
        """Fill the imagined transitions with fresh rollouts of the current actors."""
        state, obs, prev_obs, first, alive = self._starts()
        steps, uncertainty, valid = [], [], []
        for k in range(self.config.rollout):
            action = self._act(obs)
            rows = self.layout.join_action(action)
            noise = self._imagination.uniform(self.config.size("starts"), self.model.noise_size)
            state, prediction = self.model.step(state, rows, noise)
            next_obs = self.layout.assemble(prediction.obs, rows)
            # the discount head's more probable outcome: exact targets wherever an episode goes on
            ended = (prediction.discount < 0.5 * self.replay.gamma).transpose(1, 2)
            reward = prediction.reward.transpose(1, 2)
            none = torch.zeros_like(ended)
            steps.append(Transitions(obs, prev_obs, first, action, reward, ended, none, next_obs))
            uncertainty.append(prediction.uncertainty)
            valid.append(alive & (k < self.gate_S[:, None]))
            alive = alive & ~ended.all(1)
            obs, prev_obs, first = next_obs, obs, torch.zeros_like(first)
        self.imagined.add(joined(steps))
        self._keep(torch.cat(uncertainty, 1), torch.cat(valid, 1))

    def _starts(self) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
        """States, observations, those before them, `first` and validity of R frames of stored episodes."""
        count = max(self.config.size("sequences"), -(-2 * self.config.size("starts") // self.span))
        seq = self.store.windows(self.span, count, self._imagination)
        states = self.model.observe(seq, self._imagination)
        open_SX = (seq.valid & ~seq.last).flatten(1, 2)
        order = self._imagination.uniform(open_SX.shape[1]) + ~open_SX
        index_SR = order.argsort(1)[:, : self.config.size("starts")]
        s = torch.arange(len(index_SR), device=index_SR.device)[:, None]
        first_SR, open_SR = seq.first.flatten(1, 2)[s, index_SR], open_SX.gather(1, index_SR)
        every = seq.obs.flatten(1, 2)
        obs, state = every[s, index_SR], states.pick(index_SR)
        before = every[s, (index_SR - seq.first.shape[2]).clamp(min=0)] * ~first_SR[..., None]
        if self.config.blend and isinstance(state, ObsState):
            obs, before = self._blended(obs, before, first_SR + 2 * open_SR)
            state = ObsState(obs[..., self.layout.dynamic_J])
        return state, self.layout.split(obs), self.layout.split(before), first_SR, open_SR

    def _blended(self, obs_SRF: Tensor, before_SRF: Tensor, kind_SR: Tensor) -> tuple[Tensor, Tensor]:
        """Every row moved towards a partner's, by a share of its own; messages stay."""
        count, entries = obs_SRF.shape[1], self.layout.dynamic_J
        order_SR = self._imagination.uniform(count).argsort(1)
        partner_SR = partners(obs_SRF[..., entries], kind_SR, order_SR)
        share_SR1 = self._imagination.uniform(count, 1)
        s = torch.arange(len(partner_SR), device=partner_SR.device)[:, None]

        def moved(rows_SRF: Tensor) -> Tensor:
            own = rows_SRF[..., entries]
            return rows_SRF.index_copy(2, entries, own + share_SR1 * (rows_SRF[s, partner_SR][..., entries] - own))

        return moved(obs_SRF), moved(before_SRF)

    def _act(self, obs_SNRO: Tensor) -> Tensor:
        """Hard one-hots [S, N, R, A] of the current actors, sampled."""
        logits = self.policy(obs_SNRO)
        noise = self._imagination.gumbel(*logits.shape[1:])
        return relaxation.sample_onehot(logits, noise, self._head_mask).flatten(-2)

    def _keep(self, uncertainty_SX: Tensor, valid_SX: Tensor) -> None:
        """Order the valid transitions by uncertainty; the first `usable_S` of a replica are drawn from."""
        self._order_SX = uncertainty_SX.masked_fill(~valid_SX, float("inf")).argsort(1)
        self.usable_S = (valid_SX.sum(1) * self.config.keep).floor().long()
        self._filled = True

    # ----------------------------------------------------------------- sampling
    def sample(self, batch_size: int) -> Batch:
        """B transitions per replica, the last `imagined_share` of them imagined where the gate allows any."""
        real = self.replay.sample(batch_size)
        count = round(batch_size * self.config.imagined_share)
        if not self._filled or count == 0:
            return real
        pick_SB = self._imagination.integers(self.usable_S[:, None], count)
        return mixed(real, self.imagined.gather(self._order_SX.gather(1, pick_SB) + self._offset_S1), self.usable_S > 0)

    def warnings(self) -> list[str]:
        """What the user should know of the model, with what to change; empty where all is well."""
        return self.model.warnings()

    def metrics(self) -> dict[str, Tensor]:
        """The replay's, and under world_model/: the model's losses, the gate, errors after 1 and K steps, each [S]."""
        metrics = {f"world_model/{name}": value for name, value in self.model.metrics().items()}
        metrics["world_model/rollout"] = self.gate_S.float()
        metrics["world_model/imagined"] = self.usable_S.float()
        for k in sorted({1, self.config.rollout}):
            metrics[f"world_model/rmse_{k}"] = self.errors_SK[:, k - 1]
            metrics[f"world_model/reward_rmse_{k}"] = self.reward_errors_SK[:, k - 1]
        return self.replay.metrics() | metrics

    # ------------------------------------------------------------------- state
    def state_dict(self) -> dict[str, Any]:
        """Replay, model, stored episodes, imagined transitions, counters and streams."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        tensors = {name: getattr(self, name) for name in self._TENSORS}
        counters = {name: getattr(self, name) for name in self._COUNTERS}
        return {"spec": self.spec.to_dict(), "kind": self.config.kind, **parts, **tensors, **counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit.

        Raises:
            UserError: the state is that of another environment or kind of model; names the differences.
        """
        differences = EnvSpec.from_dict(state["spec"]).differences(self.spec)
        if state["kind"] != self.config.kind:
            differences.append(f"wm.kind: expected {state['kind']!r}, got {self.config.kind!r}")
        if differences:
            lines = "".join(f"\n  {line}" for line in differences)
            raise UserError(
                f"the checkpoint's world model belongs to another environment or kind of model:{lines}\nResume with "
                "the environment and the configuration that it was trained with."
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in self._TENSORS:
            setattr(self, name, state[name].to(getattr(self, name).device))
        for name in self._COUNTERS:
            setattr(self, name, state[name])

    _TENSORS = ("_episode_SE", "_order_SX", "usable_S", "gate_S", "errors_SK", "reward_errors_SK")
    _COUNTERS = ("steps", "_credit", "_since", "_renewals", "_filled")

    def _parts(self) -> dict[str, Any]:
        return {
            "replay": self.replay,
            "model": self.model,
            "store": self.store,
            "validation": self.validation,
            "imagined": self.imagined,
            "training_stream": self._training,
            "imagination_stream": self._imagination,
        }
