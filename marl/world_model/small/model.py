"""The small model: linear dynamics in closed form, an ensemble of networks for what is not linear and for the reward.

The joint-observation dynamics of most MPE tasks is exactly linear, so that least squares over all transitions seen
predicts whole episodes; kind "linear" imagines with it alone. "mlp" adds the pushes of bodies that touch, with radii
that are learned (marl/world_model/small/pushes.py), and networks for what is left. Rewards are distances from what
some entry names: least squares of products knows them from few episodes, and networks learn the rest.

No open loop is worse than a simpler one: `calibrate` compares copying the last observation, the linear dynamics, that
with pushes, and all of it with networks on held-out episodes, and imagination uses the simplest that is as good as any.

Shape suffixes: S replicas, M members, E environments, n rows, J predicted observation entries, U joint action,
N agents, P inputs of the linear part, Q those and the pushes, L levels of the dynamics.

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
from marl.config.schema import WorldModelConfig
from marl.errors import UserError
from marl.world_model import losses
from marl.world_model.layers import Dense
from marl.world_model.layout import Layout
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.protocol import Prediction, raise_on_faults
from marl.world_model.sequences import Normaliser, Sequences, StepRows
from marl.world_model.small.pushes import Pushes, padded
from marl.world_model.small.regression import Features, LeastSquares, Ridge
from marl.world_model.small.sample import Sample

WIDTH = 128  # of the networks' hidden layers
DECAY = 0.3  # of the networks' weights, as a share of the step size: there are few transitions to learn from
BEFORE = 0.1  # scale of the observation before the step among the rewards' inputs: seldom needed, and it costs data
GROWTH = 1.02  # of the data, after which what is linear is solved anew
SEARCH_GROWTH = 1.5  # of the data, after which pushes are looked for anew
SAMPLE = 4096  # transitions in which they are looked for
COPY, LINEAR, PUSHES, NETWORKS = range(4)  # levels of the dynamics, each with all below it
GAIN = 0.95  # of the error of a simpler level, below which a level must be to be preferred
STARTS = 5  # frames of a held-out window from which levels are compared
FARTHEST = 10.0  # deviations from the mean, to which the rewards' closed form is cut


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
    """

    noise_size = 1
    pairs = 0

    def __init__(self, layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> None:
        self.layout, self.config, self.gamma = layout, config, gamma
        self.updates_per_step = config.update_rate
        replicas, device = len(stream.key_R), stream.key_R.device
        self.remembers_S = torch.zeros(replicas, dtype=torch.bool, device=device)
        agents, j, u = layout.spec.num_agents, layout.obs_size, layout.action_size
        self.features = Features(layout, replicas)
        inputs, pairs = j + u + 1, self.features.pairs_L
        self.linear = LeastSquares(inputs, j, replicas, device)
        self._pushing = config.kind != "linear" and len(pairs) > 0
        self._paid = len(pairs) > 0 and not self.features.multiply  # rewards may depend on who touches whom
        searched = self._pushing or self._paid
        self.pushes = Pushes(pairs, inputs, j, replicas, device) if searched else None
        self.sample = Sample(SAMPLE if searched else 0, (j, u, agents), replicas, device)
        self.rewards = Ridge(self.features.reward_size + self._paid * Pushes.MOST, agents, replicas, device)
        self.obs_scale = Normaliser(replicas, j, device)
        self.reward_scale = Normaliser(replicas, agents, device)
        dynamics = config.kind != "linear"
        self.networks = Networks(self.features.size, layout, config.size("ensemble"), dynamics, stream)
        self.optimiser = ReplicaAdam(
            self.networks, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average, DECAY
        )
        self.averaged = self.optimiser.averaged
        self._absorbed, self._solved, self._searched = 0, 0, 0  # joint steps
        self._levels = [COPY, LINEAR, *([PUSHES] if self._pushing else []), *([NETWORKS] if dynamics else [])]
        self.level_S = torch.full((replicas,), self._levels[-1], device=device)  # of the dynamics that imagine
        self._highest = self._levels[-1]  # of these, on the host
        self._metrics: dict[str, Tensor] = {}

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Add one joint step to the least-squares problems and the statistics."""
        obs, after = step.obs[..., self.layout.dynamic_J], step.next_obs[..., self.layout.dynamic_J]
        self._absorbed += 1
        self.linear.add(_with_one(obs, step.action), after, mask_SE)
        if self.pushes is not None:
            self.sample.add(obs, step.action, after, step.reward, mask_SE)
        self.rewards.add(self._paying(after), step.reward, mask_SE)
        self.obs_scale.add(after, mask_SE)
        self.features.scale.add(self.features.raw(after), mask_SE)
        self.reward_scale.add(step.reward, mask_SE)

    def _inputs(self, obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
        """Observation, action, one, and the pushes if there are any, [S, n, Q]."""
        inputs = _with_one(obs_SnJ, action_SnU)
        if not self._pushing:
            return inputs
        assert self.pushes is not None
        return torch.cat([inputs, self.pushes.features(obs_SnJ)], dim=2)

    def _paying(self, after_SnJ: Tensor) -> Tensor:
        """Inputs of the rewards' closed form."""
        if not self._paid:
            return self.features.rewards(after_SnJ)
        assert self.pushes is not None
        return torch.cat([self.features.rewards(after_SnJ), self.pushes.touching(after_SnJ)], dim=2)

    @property
    def closed(self) -> LeastSquares:
        """All of the dynamics in closed form, of `_inputs`."""
        return self.pushes.fitted if self._pushing and self.pushes is not None else self.linear

    def _weight(self, level_S: Tensor) -> Tensor:
        """Of the closed form at every replica's level, [S, Q, J]."""
        full = self.closed.weight_SPJ
        linear = padded(self.linear.weight_SPJ, full.shape[1])
        copy = torch.eye(*full.shape[1:], dtype=full.dtype, device=full.device)
        level = level_S[:, None, None]
        return torch.where(level == COPY, copy, torch.where(level == LINEAR, linear, full))

    def _members(self, network: SkipMLP, *inputs_SnX: Tensor) -> Tensor:
        """Every member's output [S, M, n, ·] of the same inputs."""
        x = torch.cat(inputs_SnX, dim=2)[:, None].expand(-1, self.config.size("ensemble"), -1, -1)
        return network(x.flatten(0, 1)).unflatten(0, (-1, self.config.size("ensemble")))

    def _heads(
        self, networks: Networks, obs_SnJ: Tensor, action_SnU: Tensor, after_SnJ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the closed form leaves of the rewards, in its deviations, and discount logits, each [S, M, n, N]."""
        inputs = (self.features(after_SnJ), action_SnU, BEFORE * self.obs_scale.apply(obs_SnJ))
        reward, discount = self._members(networks.heads, *inputs).chunk(2, dim=3)
        return reward, discount

    # --------------------------------------------------------------- training
    def update(self, seq: Sequences, stream: Stream, pairs: Sequences | None = None) -> None:
        """One Adam step of all networks on the transitions of `seq`; now and then new solutions of what is linear."""
        if self._absorbed > GROWTH * self._solved:
            self._solved = self._absorbed
            self.linear.solve()
            if self.pushes is not None and self._absorbed > SEARCH_GROWTH * self._searched:
                self._searched = self._absorbed
                self._search(self.pushes)
            self.rewards.solve()
        self.optimiser.zero_grad()
        loss_S, self._metrics = self.loss(seq)
        loss_S.sum().backward()
        self._metrics["grad_norm"] = self.optimiser.step()

    def _search(self, pushes: Pushes) -> None:
        """Look for pushes anew; rewards by whether they touch are then learned from the sample."""
        rows = self.sample.rows()
        pushes.fit(rows, self.linear)
        if self._paid:
            inputs, agents = self.rewards.cross_SPJ.shape[1:]
            self.rewards = Ridge(inputs, agents, len(rows.weight), rows.weight.device)
            self.rewards.add(self._paying(rows.after), rows.reward, rows.weight)

    def loss(self, seq: Sequences) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the squared error of rewards and residuals, cross entropy of the discount, [S]; and each [S]."""
        rows = seq.obs[..., self.layout.dynamic_J]
        obs, after = rows[:, :-1].flatten(1, 2), rows[:, 1:].flatten(1, 2)
        action, reward, alive = (x[:, 1:].flatten(1, 2) for x in (seq.action, seq.reward, seq.alive))
        weight_Sn = seq.follows[:, 1:].flatten(1, 2).float()
        share_S1n = (weight_Sn / weight_Sn.sum(1, keepdim=True).clamp(min=1.0))[:, None]
        predicted, logits = self._heads(self.networks, obs, action, after)
        rest_reward = (reward - self._solved_rewards(after)) / self._reward_rest_scale()
        error_SMnN = rest_reward[:, None] - predicted
        log_g = losses.bernoulli_log_prob((self.gamma * alive)[:, None].expand_as(logits), logits)
        wrong_SMnN = error_SMnN.detach() * (self._reward_rest_scale() / self.reward_scale.std_S1X)[:, None]
        squares_S = (wrong_SMnN.square().mean(3) * share_S1n).sum(2).mean(1)
        metrics = {"reward_r2": 1.0 - squares_S}
        total_SMn = 0.5 * error_SMnN.square().sum(3) - log_g.sum(3)
        if self.networks.residual is not None:
            rest = (after - self.closed(self._inputs(obs, action))) / self._rest_scale()
            guess = self._members(self.networks.residual, self.features(obs), action)
            total_SMn = total_SMn + 0.5 * (rest[:, None] - guess).square().sum(3)
        loss_S = (total_SMn * share_S1n).sum((1, 2))
        relative = (self.closed.residual_S1J / self.obs_scale.std_S1X).square().mean((1, 2)).sqrt()
        return loss_S, {**metrics, "loss": loss_S.detach(), "linear_rmse": relative}

    def _rest_scale(self) -> Tensor:
        """Deviation of the closed form's residual; at least a thousandth of the entry's own."""
        return torch.maximum(self.closed.residual_S1J, 1e-3 * self.obs_scale.std_S1X)

    def _reward_rest_scale(self) -> Tensor:
        """Deviation of what the closed form leaves of the rewards, [S, 1, N]; at least a thousandth of their own."""
        return torch.maximum(self.rewards.residual_S1J, 1e-3 * self.reward_scale.std_S1X)

    def _solved_rewards(self, after_SnJ: Tensor) -> Tensor:
        """Rewards by the closed form, [S, n, N]."""
        predicted = self.reward_scale.apply(self.rewards(self._paying(after_SnJ)))
        return self.reward_scale.invert(predicted.clamp(-FARTHEST, FARTHEST))

    # -------------------------------------------------------------- imagining
    def observe(self, seq: Sequences, stream: Stream) -> ObsState:
        """The observations themselves, rows [S, T * B, J]: they hold all that this model remembers."""
        return ObsState(seq.obs[..., self.layout.dynamic_J].flatten(1, 2))

    def diagnose(self, seq: Sequences, stream: Stream) -> dict[str, Tensor]:
        """Nothing: there are no latents."""
        return {}

    def step(self, state: ObsState, action_SnU: Tensor, uniform_SnR: Tensor) -> tuple[ObsState, Prediction]:
        """One step of a member that `uniform_SnR` picks for every row; the mean of all members' rewards."""
        obs, networks = state.obs, self.averaged
        after, spread_Sn = self._after(obs, action_SnU, uniform_SnR, self.level_S, self._highest)
        predicted, logits = self._heads(networks, obs, action_SnU, after)
        predicted = predicted * self._reward_rest_scale()[:, None]
        reward = self._solved_rewards(after) + predicted.mean(1)
        discount = torch.sigmoid(logits).mean(1)
        doubt_Sn = _variance(predicted.detach() / self.reward_scale.std_S1X[:, None])
        return ObsState(after), Prediction(after, reward, discount, spread_Sn + doubt_Sn)

    def _after(
        self, obs_SnJ: Tensor, action_SnU: Tensor, uniform_SnR: Tensor, level_S: Tensor, highest: int
    ) -> tuple[Tensor, Tensor]:
        """The next observation at every replica's level, and the members' disagreement [S, n]."""
        if highest == COPY:
            return obs_SnJ, torch.zeros_like(obs_SnJ[..., 0])
        inputs = self._inputs(obs_SnJ, action_SnU) if highest > LINEAR else _with_one(obs_SnJ, action_SnU)
        after = torch.bmm(inputs, self._weight(level_S)[:, : inputs.shape[2]])
        residual = self.averaged.residual
        if residual is None or highest < NETWORKS:
            return after, torch.zeros_like(obs_SnJ[..., 0])
        rest_SMnJ = self._members(residual, self.features(obs_SnJ), action_SnU)
        rest_SMnJ = rest_SMnJ * (self._rest_scale() * (level_S == NETWORKS)[:, None, None])[:, None]
        member_Sn = (uniform_SnR[..., 0] * self.config.size("ensemble")).long()
        index = member_Sn[:, None, :, None].expand(-1, 1, -1, rest_SMnJ.shape[3])
        spread_Sn = _variance(rest_SMnJ.detach() / self.obs_scale.std_S1X[:, None])
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

    def warnings(self) -> list[str]:
        return []

    def metrics(self) -> dict[str, Tensor]:
        return {**self._metrics, "level": self.level_S.float()}

    def _parts(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser,
            "linear": self.linear,
            "sample": self.sample,
            **({} if self.pushes is None else {"pushes": self.pushes}),
            "rewards": self.rewards,
            "features": self.features.scale,
            "obs_scale": self.obs_scale,
            "reward_scale": self.reward_scale,
        }

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counts = {"absorbed": self._absorbed, "solved": self._solved, "searched": self._searched}
        # metrics of the last update: the next record may come before another
        return {**parts, **counts, "level": self.level_S, "metrics": self._metrics}

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
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._absorbed, self._solved, self._searched = state["absorbed"], state["solved"], state["searched"]
        device = self.obs_scale.mean_S1X.device
        self.level_S = state["level"].to(device)
        self._highest = int(self.level_S.max())
        self._metrics = {name: value.to(device) for name, value in state["metrics"].items()}


def _with_one(obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
    return torch.cat([obs_SnJ, action_SnU, torch.ones_like(obs_SnJ[..., :1])], dim=2)


def _variance(predicted_SMnX: Tensor) -> Tensor:
    """Of the members, mean over the entries, [S, n]; Tensor.var takes nine times as long on a CPU."""
    apart = predicted_SMnX - predicted_SMnX.mean(1, keepdim=True)
    return apart.square().mean(3).sum(1) / (predicted_SMnX.shape[1] - 1)
