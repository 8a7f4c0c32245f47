"""The small model: linear dynamics in closed form, an ensemble of networks for what is not linear and for the reward.

The joint-observation dynamics of most MPE tasks is exactly linear, so that least squares over all transitions seen
predicts whole episodes; kind "linear" imagines with it alone. "mlp" adds the pushes of bodies that touch, with radii
that are learned (marl/world_model/small/pushes.py), and networks for what is left. Rewards are distances from what
some entry names: least squares of products knows them from few episodes, and networks learn the rest.

No open loop is worse than a simpler one: `calibrate` compares copying the last observation, the linear dynamics, that
with pushes, and all of it with networks on held-out episodes, and imagination uses the simplest that is as good as any.

Shape suffixes: S replicas, M members, E environments, n rows, J predicted observation entries, U joint action,
N agents, Q inputs of the dynamics, F features, L levels of the dynamics.

Source: ensembles with a random member per step: Chua et al. 2018 (PETS, arXiv 1805.12114), Janner et al. 2019 (MBPO,
1906.08253).
Differs from source: members have no variance, since MPE is deterministic; what is linear is solved, not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model import losses
from marl.world_model.layers import Dense
from marl.world_model.layout import Layout
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.protocol import Prediction, raise_on_faults
from marl.world_model.sequences import Normaliser, Sequences, StepRows
from marl.world_model.small.closed_form import ClosedForm, with_one
from marl.world_model.small.pushes import padded
from marl.world_model.small.stays import Stays

WIDTH = 128  # of the networks' hidden layers
DECAY = 0.3  # of the networks' weights, as a share of the step size: there are few transitions to learn from
BEFORE = 0.1  # scale of the observation before the step among the rewards' inputs: seldom needed, and it costs data
COPY, LINEAR, PUSHES, NETWORKS = range(4)  # levels of the dynamics, each with all below it
GAIN = 0.95  # of the error of a simpler level, below which a level must be to be preferred
STARTS = 5  # frames of a held-out window from which levels are compared


@dataclass
class ObsState:
    """Where the small model believes that the environments are: at an observation."""

    obs: Tensor  # [S, n, J]

    def pick(self, index_Sn: Tensor) -> ObsState:
        s = torch.arange(len(index_Sn), device=index_Sn.device)[:, None]
        return ObsState(self.obs[s, index_Sn])

    def where(self, use_S: Tensor, other: ObsState) -> ObsState:
        """This state, and `other` in the replicas of `use_S`."""
        return ObsState(torch.where(use_S[:, None, None], other.obs, self.obs))


class SkipMLP(nn.Module):
    """A network beside a linear map of the same inputs, G members a replica; starts near zero."""

    def __init__(self, inputs: int, width: int, outputs: int, stream: Stream, groups: int) -> None:
        super().__init__()
        self.first = Dense(inputs, width, stream, groups)
        self.second = Dense(width, width, stream, groups)
        self.last = Dense(width, outputs, stream, groups, gain=0.1, bias=False)
        self.skip = Dense(inputs, outputs, stream, groups, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[S * G, n, in] to [S * G, n, out]."""
        hidden = F.silu(self.second(F.silu(self.first(x))))
        return self.last(hidden, self.skip(x))


class Networks(nn.Module):
    """Every member's networks."""

    def __init__(self, features: int, layout: Layout, members: int, dynamics: bool, stream: Stream) -> None:
        super().__init__()
        j, u, agents = layout.obs_size, layout.action_size, layout.spec.num_agents
        self.heads = SkipMLP(features + u + j, WIDTH, 2 * agents, stream, members)  # rewards, then discount logits
        self.residual = SkipMLP(features + u, WIDTH, j, stream, members) if dynamics else None


class SmallModel:
    """Kinds "linear" and "mlp" of the world model.

    Args:
        layout: how the environment's joint observation is laid out.
        config: settings.
        gamma: the learner's discount.
        stream: noise of the initial weights; its rows are the replicas.

    Raises:
        UserError: the environment has action masks.
    """

    noise_size = 1
    pairs = 0

    def __init__(self, layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> None:
        self.layout, self.config, self.gamma = layout, config, gamma
        self.updates_per_step = config.update_rate
        replicas, device = len(stream.key_R), stream.key_R.device
        self.remembers_S = torch.zeros(replicas, dtype=torch.bool, device=device)
        if layout.flags.choices:
            raise UserError(
                f"--wm.kind {config.kind}: {layout.spec.id!r} has action masks, which the small world model does not "
                "predict, since they are seldom a linear function of what is seen: train with --wm.kind auto or "
                "--wm.kind rssm, or without --world-model."
            )
        self.stays = Stays(layout.spec, layout.flags, replicas, device)
        self.solved = ClosedForm(layout, config.kind != "linear", replicas)
        self.obs_scale = Normaliser(replicas, layout.obs_size, device)
        dynamics = config.kind != "linear"
        self.networks = Networks(self.solved.features.size, layout, config.size("ensemble"), dynamics, stream)
        self.optimiser = ReplicaAdam(
            self.networks, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average, DECAY
        )
        self.averaged = self.optimiser.averaged
        self._levels = [COPY, LINEAR, *([PUSHES] if self.solved.pushing else []), *([NETWORKS] if dynamics else [])]
        self.level_S = torch.full((replicas,), self._levels[-1], device=device)  # of the dynamics that imagine
        self._highest = self._levels[-1]  # of these, on the host
        self._metrics: dict[str, Tensor] = {}

    @property
    def reward_scale(self) -> Normaliser:
        """Of the rewards."""
        return self.solved.reward_scale

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Add one joint step to the least-squares problems and the statistics."""
        self.stays.see(step)
        self.solved.absorb(step, mask_SE)
        self.obs_scale.add(step.next_obs[..., self.layout.dynamic_J], mask_SE)

    def _weight(self, level_S: Tensor) -> Tensor:
        """Of the closed form at every replica's level, [S, Q, J]."""
        full = self.solved.dynamics.weight_SPJ
        linear = padded(self.solved.linear.weight_SPJ, full.shape[1])
        copy = torch.eye(*full.shape[1:], dtype=full.dtype, device=full.device)
        level = level_S[:, None, None]
        return torch.where(level == COPY, copy, torch.where(level == LINEAR, linear, full))

    def _members(self, network: SkipMLP, *inputs_SnX: Tensor) -> Tensor:
        """Every member's output [S, M, n, ·] of the same inputs."""
        x = torch.cat(inputs_SnX, dim=2)[:, None].expand(-1, self.config.size("ensemble"), -1, -1)
        return network(x.flatten(0, 1)).unflatten(0, (-1, self.config.size("ensemble")))

    def _heads(self, networks: Networks, obs_SnJ: Tensor, action_SnU: Tensor, raw_SnF: Tensor) -> tuple[Tensor, Tensor]:
        """What the closed form leaves of the rewards, in its deviations, and discount logits, each [S, M, n, N]."""
        inputs = (self.solved.features.standard(raw_SnF), action_SnU, BEFORE * self.obs_scale.apply(obs_SnJ))
        reward, discount = self._members(networks.heads, *inputs).chunk(2, dim=3)
        return reward, discount

    # --------------------------------------------------------------- training
    def update(self, seq: Sequences, stream: Stream, pairs: Sequences | None = None) -> None:
        """One Adam step of all networks on the transitions of `seq`; now and then new solutions of what is linear."""
        self.stays.begin()
        self.solved.solve()
        self.optimiser.zero_grad()
        loss_S, self._metrics = self.loss(seq)
        loss_S.sum().backward()
        self._metrics["grad_norm"] = self.optimiser.step()

    def loss(self, seq: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the squared error of rewards and residuals, cross entropy of the discount, [S]; and each [S]."""
        rows = seq.obs[..., self.layout.dynamic_J]
        obs, after = rows[:, :-1].flatten(1, 2), rows[:, 1:].flatten(1, 2)
        action, reward, alive = (x[:, 1:].flatten(1, 2) for x in (seq.action, seq.reward, seq.alive))
        weight_Sn = seq.follows[:, 1:].flatten(1, 2).float()
        share_S1n = (weight_Sn / weight_Sn.sum(1, keepdim=True).clamp(min=1.0))[:, None]
        raw = self.solved.features.raw(after)
        predicted, logits = self._heads(self.networks, obs, action, raw)
        rest_reward = (reward - self._solved_rewards(after, raw)) / self._reward_rest_scale()
        error_SMnN = rest_reward[:, None] - predicted
        log_g = losses.bernoulli_log_prob((self.gamma * alive)[:, None].expand_as(logits), logits)
        wrong_SMnN = error_SMnN.detach() * (self._reward_rest_scale() / self.reward_scale.std_S1X)[:, None]
        squares_S = (wrong_SMnN.square().mean(3) * share_S1n).sum(2).mean(1)
        metrics = {"reward_r2": 1.0 - squares_S}
        total_SMn = 0.5 * error_SMnN.square().sum(3) - log_g.sum(3)
        if self.networks.residual is not None:
            rest = (after - self.solved.dynamics(self.solved.inputs(obs, action))) / self._rest_scale()
            guess = self._members(self.networks.residual, self.solved.features(obs), action)
            total_SMn = total_SMn + 0.5 * (rest[:, None] - guess).square().sum(3)
        loss_S = (total_SMn * share_S1n).sum((1, 2))
        relative = (self.solved.dynamics.residual_S1J / self.obs_scale.std_S1X).square().mean((1, 2)).sqrt()
        return loss_S, {**metrics, "loss": loss_S.detach(), "linear_rmse": relative}

    def _rest_scale(self) -> Tensor:
        """Deviation of the closed form's residual; at least a thousandth of the entry's own."""
        return torch.maximum(self.solved.dynamics.residual_S1J, 1e-3 * self.obs_scale.std_S1X)

    def _reward_rest_scale(self) -> Tensor:
        """Deviation of what the closed form leaves of the rewards, [S, 1, N]; at least a thousandth of their own."""
        return torch.maximum(self.solved.rewards.residual_S1J, 1e-3 * self.reward_scale.std_S1X)

    def _solved_rewards(self, after_SnJ: Tensor, raw_SnF: Tensor) -> Tensor:
        """Rewards by the closed form, [S, n, N]."""
        return self.reward_scale.invert(self.solved.paid_for(after_SnJ, raw_SnF))

    # -------------------------------------------------------------- imagining
    def observe(self, seq: Sequences, stream: Stream) -> ObsState:
        """The observations themselves, rows [S, T * B, J]: they hold all that this model remembers."""
        return ObsState(seq.obs[..., self.layout.dynamic_J].flatten(1, 2))

    def diagnose(self, seq: Sequences, stream: Stream) -> dict[str, Tensor]:
        """Nothing: there are no latents."""
        return {}

    def step(
        self, state: ObsState, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[ObsState, Prediction]:
        """One step of a member that `uniform_SnR` picks for every row; the mean of all members' rewards."""
        obs, networks = state.obs, self.averaged
        after, doubt_Sn = self._after(obs, action_SnU, uniform_SnR, self.level_S, self._highest, uncertain)
        raw = self.solved.features.raw(after)
        predicted, logits = self._heads(networks, obs, action_SnU, raw)
        predicted = predicted * self._reward_rest_scale()[:, None]
        reward = self._solved_rewards(after, raw) + predicted.mean(1)
        discount = torch.sigmoid(logits.detach()).mean(1)
        if uncertain:
            doubt_Sn = doubt_Sn + _variance(predicted.detach() / self.reward_scale.std_S1X[:, None])
        return ObsState(after), Prediction(after, reward, discount, doubt_Sn)

    def _after(
        self,
        obs_SnJ: Tensor,
        action_SnU: Tensor,
        uniform_SnR: Tensor,
        level_S: Tensor,
        highest: int,
        uncertain: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The next observation at every replica's level, and the members' disagreement [S, n] where it is asked for."""
        none_Sn = torch.zeros_like(obs_SnJ[..., 0])
        if highest == COPY:
            return obs_SnJ, none_Sn
        inputs = self.solved.inputs(obs_SnJ, action_SnU) if highest > LINEAR else with_one(obs_SnJ, action_SnU)
        after = torch.bmm(inputs, self._weight(level_S)[:, : inputs.shape[2]])
        residual = self.averaged.residual
        if residual is None or highest < NETWORKS:
            return after, none_Sn
        rest_SMnJ = self._members(residual, self.solved.features(obs_SnJ), action_SnU)
        rest_SMnJ = rest_SMnJ * (self._rest_scale() * (level_S == NETWORKS)[:, None, None])[:, None]
        member_Sn = (uniform_SnR[..., 0] * self.config.size("ensemble")).long()
        index = member_Sn[:, None, :, None].expand(-1, 1, -1, rest_SMnJ.shape[3])
        spread_Sn = _variance(rest_SMnJ.detach() / self.obs_scale.std_S1X[:, None]) if uncertain else none_Sn
        return after + rest_SMnJ.gather(1, index)[:, 0], spread_Sn

    # ------------------------------------------------------------ what to trust
    @torch.no_grad()
    def calibrate(self, seq: Sequences, stream: Stream) -> None:
        """Imagine from now on by the simplest level of the dynamics than which none is better on `seq`.

        Better is an open-loop error of less than `GAIN` of the other's, in deviations, over all steps from several
        frames to the end of each window. So linear dynamics that are worse than copying the last observation are never
        used, nor are pushes or networks that are worse than linear dynamics.
        """
        level_S, best_S = torch.zeros_like(self.level_S), None
        for level in self._levels:
            error_S = self._open_loop_error(seq, level, stream)
            if best_S is None:
                best_S = error_S
                continue
            better_S = error_S < GAIN * best_S
            level_S, best_S = torch.where(better_S, level, level_S), torch.where(better_S, error_S, best_S)
        self.level_S, self._highest = level_S, int(level_S.max())

    def _open_loop_error(self, seq: Sequences, level: int, stream: Stream) -> Tensor:
        """Of one level from `STARTS` frames of every window, in deviations, [S]; infinite where it is not finite."""
        rows_STBJ, (length, count) = seq.obs[..., self.layout.dynamic_J], seq.first.shape[1:]
        start_F = torch.arange(0, max(length - 1, 1), max((length - 1) // STARTS, 1), device=rows_STBJ.device)
        obs, going_Sn = rows_STBJ[:, start_F].flatten(1, 2), seq.valid[:, start_F].flatten(1, 2)
        level_S = torch.full_like(self.level_S, level)
        total_S, weight_S = torch.zeros_like(going_Sn[:, 0], dtype=obs.dtype), torch.zeros_like(obs[:, 0, 0])
        for k in range(1, length):
            frame_F = start_F + k
            inside_n = (frame_F < length).repeat_interleave(count)
            frame_F = frame_F.clamp(max=length - 1)
            going_Sn = going_Sn & inside_n & seq.follows[:, frame_F].flatten(1, 2)
            noise = stream.uniform(going_Sn.shape[1], self.noise_size) if level == NETWORKS else obs[..., :1]
            obs, _ = self._after(obs, seq.action[:, frame_F].flatten(1, 2), noise, level_S, level)
            off = (obs - rows_STBJ[:, frame_F].flatten(1, 2)) / self.obs_scale.std_S1X
            total_S = total_S + torch.where(going_Sn, off.square().mean(2), 0.0).sum(1)
            weight_S = weight_S + going_Sn.sum(1)
        return (total_S / weight_S).sqrt().nan_to_num(nan=float("inf"), posinf=float("inf"))

    def judged(self, length_S: Tensor) -> None:
        """It learns alike whatever may be imagined."""

    # ------------------------------------------------------------------ state
    def check(self) -> None:
        raise_on_faults(self.optimiser, self._metrics)
        if self.config.kind != "auto":
            self.stays.check(self.config.kind)

    def warnings(self) -> list[str]:
        return []

    def metrics(self) -> dict[str, Tensor]:
        return {**self._metrics, "level": self.level_S.float()}

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.solved.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "obs_scale": self.obs_scale.state_dict(),
            "level": self.level_S,
            **({"stays": self.stays.state_dict()} if self.layout.flags.agents else {}),
            "metrics": self._metrics,  # of the last update: the next record may come before another
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit.

        Raises:
            UserError: the state is of a version whose small model had fixed radii.
        """
        if "level" not in state:
            raise UserError(
                "the checkpoint's small world model is of an earlier version, whose pushes had fixed radii; expected "
                "one with learned radii. Train anew, or resume with the version that wrote the checkpoint."
            )
        self.solved.load_state_dict(state)
        self.optimiser.load_state_dict(state["optimiser"])
        self.obs_scale.load_state_dict(state["obs_scale"])
        if self.layout.flags.agents:
            self.stays.load_state_dict(state["stays"])
        device = self.obs_scale.mean_S1X.device
        self.level_S = state["level"].to(device)
        self._highest = int(self.level_S.max())
        self._metrics = {name: value.to(device) for name, value in state["metrics"].items()}


def _variance(predicted_SMnX: Tensor) -> Tensor:
    """Of the members, mean over the entries, [S, n]; Tensor.var takes nine times as long on a CPU."""
    apart = predicted_SMnX - predicted_SMnX.mean(1, keepdim=True)
    return apart.square().mean(3).sum(1) / (predicted_SMnX.shape[1] - 1)
