"""The small model: linear dynamics in closed form, an ensemble of networks for what is not linear and for the reward.

The joint-observation dynamics of most MPE tasks is exactly linear, so that least squares over all transitions seen
predicts whole episodes; kind "linear" imagines with it alone. "mlp" adds the pushes of bodies that touch, in closed
form too (marl/world_model/small/regression.py), and networks for what is left. Rewards are
distances from what some entry names: least squares of products knows them from few episodes, and networks learn the
rest.

Shape suffixes: S replicas, M members, E environments, n rows, J predicted observation entries, U joint action,
N agents, P inputs of the linear part.

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
from marl.world_model import losses
from marl.world_model.layers import Dense
from marl.world_model.layout import Layout
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.protocol import Prediction, raise_on_faults
from marl.world_model.sequences import Normaliser, Sequences, StepRows
from marl.world_model.small.regression import Features, LeastSquares, Ridge

WIDTH = 128  # of the networks' hidden layers
DECAY = 0.3  # of the networks' weights, as a share of the step size: there are few transitions to learn from
BEFORE = 0.1  # scale of the observation before the step among the rewards' inputs: seldom needed, and it costs data
GROWTH = 1.02  # of the data, after which what is linear is solved anew
FARTHEST = 10.0  # deviations from the mean, to which the rewards' closed form is cut


@dataclass
class ObsState:
    """Where the small model believes that the environments are: at an observation."""

    obs: Tensor  # [S, n, J]

    def pick(self, index_Sn: Tensor) -> ObsState:
        s = torch.arange(len(index_Sn), device=index_Sn.device)[:, None]
        return ObsState(self.obs[s, index_Sn])


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

    def __init__(self, layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> None:
        self.layout, self.config, self.gamma = layout, config, gamma
        replicas, device = len(stream.key_R), stream.key_R.device
        agents, j, u = layout.spec.num_agents, layout.obs_size, layout.action_size
        self.features = Features(layout, replicas)
        inputs, pushes = j + u + 1, self.features.contacts_size
        self._touching = config.kind == "mlp" and pushes > 0
        self.linear: LeastSquares = (
            Ridge(inputs + pushes, j, replicas, device, inputs)
            if self._touching
            else LeastSquares(inputs, j, replicas, device)
        )
        self.rewards = Ridge(self.features.reward_size, agents, replicas, device)
        self.obs_scale = Normaliser(replicas, j, device)
        self.reward_scale = Normaliser(replicas, agents, device)
        dynamics = config.kind == "mlp"
        self.networks = Networks(self.features.size, layout, config.size("ensemble"), dynamics, stream)
        self.optimiser = ReplicaAdam(
            self.networks, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average, DECAY
        )
        self.averaged = self.optimiser.averaged
        self._absorbed, self._solved = 0, 0  # joint steps
        self._metrics: dict[str, Tensor] = {}

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Add one joint step to the least-squares problems and the statistics."""
        obs, after = step.obs[..., self.layout.dynamic_J], step.next_obs[..., self.layout.dynamic_J]
        self._absorbed += 1
        self.linear.add(self._inputs(obs, step.action), after, mask_SE)
        self.rewards.add(self.features.rewards(after), step.reward, mask_SE)
        self.obs_scale.add(after, mask_SE)
        self.features.scale.add(self.features.raw(after), mask_SE)
        self.reward_scale.add(step.reward, mask_SE)

    def _inputs(self, obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
        parts = [obs_SnJ, action_SnU, torch.ones_like(obs_SnJ[..., :1])]
        return torch.cat([*parts, self.features.contacts(obs_SnJ)] if self._touching else parts, dim=2)

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
    def update(self, seq: Sequences, stream: Stream) -> None:
        """One Adam step of all networks on the transitions of `seq`; now and then new solutions of what is linear."""
        if self._absorbed > GROWTH * self._solved:
            self._solved = self._absorbed
            self.linear.solve()
            self.rewards.solve()
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
        predicted, logits = self._heads(self.networks, obs, action, after)
        rest_reward = (reward - self._solved_rewards(after)) / self._reward_rest_scale()
        error_SMnN = rest_reward[:, None] - predicted
        log_g = losses.bernoulli_log_prob((self.gamma * alive)[:, None].expand_as(logits), logits)
        wrong_SMnN = error_SMnN.detach() * (self._reward_rest_scale() / self.reward_scale.std_S1X)[:, None]
        squares_S = (wrong_SMnN.square().mean(3) * share_S1n).sum(2).mean(1)
        metrics = {"reward_r2": 1.0 - squares_S}
        total_SMn = 0.5 * error_SMnN.square().sum(3) - log_g.sum(3)
        if self.networks.residual is not None:
            rest = (after - self.linear(self._inputs(obs, action))) / self._rest_scale()
            guess = self._members(self.networks.residual, self.features(obs), action)
            total_SMn = total_SMn + 0.5 * (rest[:, None] - guess).square().sum(3)
        loss_S = (total_SMn * share_S1n).sum((1, 2))
        relative = (self.linear.residual_S1J / self.obs_scale.std_S1X).square().mean((1, 2)).sqrt()
        return loss_S, {**metrics, "loss": loss_S.detach(), "linear_rmse": relative}

    def _rest_scale(self) -> Tensor:
        """Deviation of the linear part's residual; at least a thousandth of the entry's own."""
        return torch.maximum(self.linear.residual_S1J, 1e-3 * self.obs_scale.std_S1X)

    def _reward_rest_scale(self) -> Tensor:
        """Deviation of what the closed form leaves of the rewards, [S, 1, N]; at least a thousandth of their own."""
        return torch.maximum(self.rewards.residual_S1J, 1e-3 * self.reward_scale.std_S1X)

    def _solved_rewards(self, after_SnJ: Tensor) -> Tensor:
        """Rewards by the closed form, [S, n, N]."""
        predicted = self.reward_scale.apply(self.rewards(self.features.rewards(after_SnJ)))
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
        after = self.linear(self._inputs(obs, action_SnU))
        spread_Sn = torch.zeros_like(obs[..., 0])
        if networks.residual is not None:
            rest_SMnJ = self._members(networks.residual, self.features(obs), action_SnU)
            rest_SMnJ = rest_SMnJ * self._rest_scale()[:, None]
            member_Sn = (uniform_SnR[..., 0] * self.config.size("ensemble")).long()
            index = member_Sn[:, None, :, None].expand(-1, 1, -1, rest_SMnJ.shape[3])
            after = after + rest_SMnJ.gather(1, index)[:, 0]
            spread_Sn = _variance(rest_SMnJ.detach() / self.obs_scale.std_S1X[:, None])
        predicted, logits = self._heads(networks, obs, action_SnU, after)
        predicted = predicted * self._reward_rest_scale()[:, None]
        reward = self._solved_rewards(after) + predicted.mean(1)
        discount = torch.sigmoid(logits).mean(1)
        doubt_Sn = _variance(predicted.detach() / self.reward_scale.std_S1X[:, None])
        return ObsState(after), Prediction(after, reward, discount, spread_Sn + doubt_Sn)

    # ------------------------------------------------------------------ state
    def check(self) -> None:
        raise_on_faults(self.optimiser, self._metrics)

    def warnings(self) -> list[str]:
        return []

    def metrics(self) -> dict[str, Tensor]:
        return self._metrics

    def _parts(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser,
            "linear": self.linear,
            "rewards": self.rewards,
            "features": self.features.scale,
            "obs_scale": self.obs_scale,
            "reward_scale": self.reward_scale,
        }

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        # metrics of the last update: the next record may come before another
        return {**parts, "absorbed": self._absorbed, "solved": self._solved, "metrics": self._metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._absorbed, self._solved = state["absorbed"], state["solved"]
        device = self.obs_scale.mean_S1X.device
        self._metrics = {name: value.to(device) for name, value in state["metrics"].items()}


def _variance(predicted_SMnX: Tensor) -> Tensor:
    """Of the members, mean over the entries, [S, n]; Tensor.var takes nine times as long on a CPU."""
    apart = predicted_SMnX - predicted_SMnX.mean(1, keepdim=True)
    return apart.square().mean(3).sum(1) / (predicted_SMnX.shape[1] - 1)
