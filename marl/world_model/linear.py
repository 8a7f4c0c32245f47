"""The small model: linear dynamics in closed form, an ensemble of networks for what is not linear and for the reward.

The joint-observation dynamics of most MPE tasks is exactly linear, so that least squares over all transitions seen
predicts whole episodes; kind "linear" imagines with it alone, "mlp" adds networks for its residual. Rewards are
functions of distances, which squares and lengths of neighbouring entries make easy to express.

Shape suffixes: S replicas, M members, E environments, n rows, J predicted observation entries, U joint action,
N agents, P inputs of the linear part.

Source: ensembles with a random member per step: Chua et al. 2018 (PETS, arXiv 1805.12114), Janner et al. 2019 (MBPO,
1906.08253).
Differs from source: members have no variance, since MPE is deterministic; the linear part is solved, not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.streams import Stream
from marl.config import WorldModelConfig
from marl.world_model import losses
from marl.world_model.layers import Dense
from marl.world_model.layout import Layout
from marl.world_model.model import Prediction, raise_on_faults
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.sequences import Normaliser, Sequences, StepRows

WIDTH = 128  # of the networks' hidden layers
DECAY = 0.3  # of the networks' weights, as a share of the step size: there are few transitions to learn from
GROWTH = 1.02  # of the data, after which the linear part is solved anew


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


class Features:
    """Observations with squares and lengths of neighbouring entries of the same agent, standardised.

    Args:
        layout: which entry belongs to which agent.
        replicas: S.
    """

    LIMIT = 10.0  # deviations: features of an imagined observation far outside of what was seen are cut off

    def __init__(self, layout: Layout, replicas: int) -> None:
        device = layout.dynamic_J.device
        owner = [n for n, agent in enumerate(layout.spec.agents) for _ in range(agent.obs_size)]
        kept = layout.dynamic_J.tolist()
        pairs = [j for j in range(len(kept) - 1) if owner[kept[j]] == owner[kept[j + 1]] and kept[j + 1] == kept[j] + 1]
        self._pairs = torch.tensor(pairs, dtype=torch.int64, device=device)
        self.size = 2 * len(kept) + len(pairs)
        self.scale = Normaliser(replicas, self.size, device)

    def raw(self, obs_SnJ: Tensor) -> Tensor:
        squares = obs_SnJ.square()
        lengths = squares.index_select(2, self._pairs) + squares.index_select(2, self._pairs + 1)
        return torch.cat([obs_SnJ, squares, (lengths + 1e-8).sqrt()], dim=2)

    def __call__(self, obs_SnJ: Tensor) -> Tensor:
        """[S, n, J] to [S, n, size]."""
        return self.scale.apply(self.raw(obs_SnJ)).clamp(-self.LIMIT, self.LIMIT)


class LeastSquares:
    """x' = [x, a, 1] W by the normal equations of all transitions seen, in float64.

    Args:
        inputs: P, the constant among them.
        outputs: J.
        replicas: S.
        device: where the sums are kept.
    """

    CUT = 1e-11  # eigenvalues below this share of the largest belong to directions never seen: no weight there

    def __init__(self, inputs: int, outputs: int, replicas: int, device: torch.device | str) -> None:
        self.gram_SPP = torch.zeros(replicas, inputs, inputs, dtype=torch.float64, device=device)
        self.cross_SPJ = torch.zeros(replicas, inputs, outputs, dtype=torch.float64, device=device)
        self.squares_SJ = torch.zeros(replicas, outputs, dtype=torch.float64, device=device)
        self.count_S = torch.zeros(replicas, dtype=torch.float64, device=device)
        self.weight_SPJ = torch.zeros(replicas, inputs, outputs, device=device)
        self.residual_S1J = torch.ones(replicas, 1, outputs, device=device)

    def add(self, inputs_SEP: Tensor, outputs_SEJ: Tensor, weight_SE: Tensor) -> None:
        x, y = inputs_SEP.double(), outputs_SEJ.double()
        weighted = (x * weight_SE.double()[..., None]).transpose(1, 2)
        self.gram_SPP = self.gram_SPP + weighted @ x
        self.cross_SPJ = self.cross_SPJ + weighted @ y
        self.squares_SJ = self.squares_SJ + (y.square() * weight_SE.double()[..., None]).sum(1)
        self.count_S = self.count_S + weight_SE.double().sum(1)

    def solve(self) -> None:
        """Weights of least norm among the least-squares solutions, and the residual's root mean square."""
        values, vectors = torch.linalg.eigh(self.gram_SPP)
        usable = values > self.CUT * values[:, -1:]
        inverse = torch.where(usable, 1.0 / values.where(usable, 1.0), 0.0)
        weight = vectors @ (inverse[..., None] * (vectors.transpose(1, 2) @ self.cross_SPJ))
        explained = (weight * self.cross_SPJ).sum(1)
        rest = (self.squares_SJ - explained).clamp(min=0.0) / self.count_S.clamp(min=1.0)[:, None]
        self.weight_SPJ, self.residual_S1J = weight.float(), rest.sqrt().float()[:, None]

    def __call__(self, inputs_SnP: Tensor) -> Tensor:
        return torch.bmm(inputs_SnP, self.weight_SPJ)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, state[name].to(value.device))


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
        self.linear = LeastSquares(j + u + 1, j, replicas, device)
        self.features = Features(layout, replicas)
        self.obs_scale = Normaliser(replicas, j, device)
        self.reward_scale = Normaliser(replicas, agents, device)
        dynamics = config.kind == "mlp"
        self.networks = Networks(self.features.size, layout, config.ensemble, dynamics, stream)
        self.optimiser = ReplicaAdam(
            self.networks, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average, DECAY
        )
        self.averaged = self.optimiser.averaged
        self._absorbed, self._solved = 0, 0  # joint steps
        self._metrics: dict[str, Tensor] = {}

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Add one joint step to the least-squares problem and the statistics."""
        obs, after = step.obs[..., self.layout.dynamic_J], step.next_obs[..., self.layout.dynamic_J]
        self._absorbed += 1
        self.linear.add(self._inputs(obs, step.action), after, mask_SE)
        self.obs_scale.add(after, mask_SE)
        self.features.scale.add(self.features.raw(after), mask_SE)
        self.reward_scale.add(step.reward, mask_SE)

    @staticmethod
    def _inputs(obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
        return torch.cat([obs_SnJ, action_SnU, torch.ones_like(obs_SnJ[..., :1])], dim=2)

    def _members(self, network: SkipMLP, *inputs_SnX: Tensor) -> Tensor:
        """Every member's output [S, M, n, ·] of the same inputs."""
        x = torch.cat(inputs_SnX, dim=2)[:, None].expand(-1, self.config.ensemble, -1, -1)
        return network(x.flatten(0, 1)).unflatten(0, (-1, self.config.ensemble))

    def _heads(
        self, networks: Networks, obs_SnJ: Tensor, action_SnU: Tensor, after_SnJ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Standardised rewards and discount logits, each [S, M, n, N]."""
        inputs = (self.features(after_SnJ), action_SnU, self.obs_scale.apply(obs_SnJ))
        reward, discount = self._members(networks.heads, *inputs).chunk(2, dim=3)
        return reward, discount

    # --------------------------------------------------------------- training
    def update(self, seq: Sequences, stream: Stream) -> None:
        """One Adam step of all networks on the transitions of `seq`; now and then a new solution of the linear part."""
        if self._absorbed > GROWTH * self._solved:
            self._solved = self._absorbed
            self.linear.solve()
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
        told, logits = self._heads(self.networks, obs, action, after)
        error_SMnN = self.reward_scale.apply(reward)[:, None] - told
        log_g = losses.bernoulli_log_prob((self.gamma * alive)[:, None].expand_as(logits), logits)
        squares_S = (error_SMnN.detach().square().mean(3) * share_S1n).sum(2).mean(1)
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
            member_Sn = (uniform_SnR[..., 0] * self.config.ensemble).long()
            index = member_Sn[:, None, :, None].expand(-1, 1, -1, rest_SMnJ.shape[3])
            after = after + rest_SMnJ.gather(1, index)[:, 0]
            spread_Sn = (rest_SMnJ.detach() / self.obs_scale.std_S1X[:, None]).var(1).mean(2)
        told, logits = self._heads(networks, obs, action_SnU, after)
        reward = self.reward_scale.invert(told.mean(1))
        discount = torch.sigmoid(logits).mean(1)
        return ObsState(after), Prediction(after, reward, discount, spread_Sn + told.detach().var(1).mean(2))

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
