"""DreamerV2's world model over the joint observation: encoder, state space, decoders, losses and training.

Shape suffixes: S replicas, T frames, B sequences, n rows, J predicted observation entries, F all observation entries,
U joint action, N agents, L latents, C classes, M prior heads.

Source: Hafner et al. 2021 (DreamerV2, arXiv 2010.02193), equation 2 and algorithms 1 and 2.
Differs from source: one reward and one discount per agent; observations and rewards are standardised; the reward of
an episode's first frame, which no action led to, has no loss; the decoder predicts the change of the observation and
the reward head knows products (heads.py) and learns by itself (rewards.py), unless `wm.decoder` is "state".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model import losses
from marl.world_model.dreamer.flags import FlaggedState, FlagHeads, FlagReading, informed
from marl.world_model.dreamer.heads import ChangeDecoder, RewardHead, StateHead
from marl.world_model.dreamer.latents import disagreement, latent_summary
from marl.world_model.dreamer.rewards import Rewards
from marl.world_model.dreamer.rssm import RSSM, Observed, Sizes, State
from marl.world_model.flags import Flags
from marl.world_model.layers import MLP, Dense
from marl.world_model.layout import Layout
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.protocol import Prediction, raise_on_faults
from marl.world_model.sequences import Normaliser, Sequences, StepRows
from marl.world_model.small.closed_form import ClosedForm

LATE = 2000  # updates after which a poor reconstruction is no longer the start of training
COLLAPSED = 0.95  # R^2 of the reconstruction below which the posterior counts as collapsed


class Networks(nn.Module):
    """All parameters of the model, but for a reward head that learns by itself.

    Args:
        obs_size: J.
        action_size: U, and V behind it where there are flags.
        num_agents: N.
        config: sizes.
        stream: noise of the initial weights; its rows are the replicas.
        core: makes the state space.
        flags: V.
    """

    def __init__(
        self, obs_size: int, action_size: int, num_agents: int, config: WorldModelConfig, stream: Stream,
        core: Callable[..., RSSM] = RSSM, flags: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        width = config.size("hidden")
        hidden = [width] * config.layers
        sizes = Sizes(
            encoded=width,
            action=action_size,
            deter=config.size("deter"),
            latents=config.latents,
            classes=config.size("classes"),
            hidden=width,
            ensemble=config.size("ensemble"),
        )
        self.encoder: nn.Module = MLP((obs_size, *hidden), stream)
        self.rssm = core(sizes, stream, config.posterior)
        features = self.rssm.features
        self.decoder: nn.Module
        self.reward: nn.Module
        if config.decoder == "change":
            self.decoder = ChangeDecoder((features, *hidden, obs_size), action_size, stream)
            # what the state adds to a head that learns by itself: from latents, which tell few episodes apart, a map
            # learns those by heart, so that it is used only where it helps on others, and teaches the state nothing
            self.reward = Dense(features, num_agents, stream, gain=0.0)
        else:
            self.decoder = StateHead((features, *hidden, obs_size), stream)
            self.reward = StateHead((features, *hidden, num_agents), stream)
        self.discount: nn.Module = MLP((features, *hidden, num_agents), stream)
        self.flags = FlagHeads(features + obs_size + flags, hidden, flags, stream) if flags else None

    def encode(self, obs_SnJ: Tensor) -> Tensor:
        """Standardised observations to [S, n, W]."""
        return F.silu(self.encoder(obs_SnJ))


class ObsLayout(Protocol):
    """What the model must know of its observations."""

    spec: EnvSpec
    obs_size: int  # J
    action_size: int  # U
    dynamic_J: Any  # index of the predicted entries in a row of all entries


class DreamerModel:
    """The networks with their statistics and optimiser. Trains `networks`; observes and imagines by their average.

    Args:
        layout: how the environment's joint observation is laid out.
        config: settings.
        gamma: the learner's discount, in the discount head's label gamma (1 - terminated).
        stream: noise of the initial weights; its rows are the replicas.
        networks: all parameters; None: those for vectors and one state of all agents.
    """

    def __init__(
        self,
        layout: ObsLayout,
        config: WorldModelConfig,
        gamma: float,
        stream: Stream,
        networks: Networks | None = None,
    ) -> None:
        self.layout, self.config, self.gamma = layout, config, gamma
        self.updates_per_step = config.update_rate
        replicas, device = len(stream.key_R), stream.key_R.device
        self.remembers_S = torch.ones(replicas, dtype=torch.bool, device=device)
        num_agents = layout.spec.num_agents
        flags = Flags(layout.spec, device)
        flagged = networks is None and flags.size > 0
        actions = layout.action_size + (flags.size if flagged else 0)  # flags stand with the action that they allow
        if networks is None:
            assert config.factors == "joint", "agents.networks_of makes the networks of a state for every agent"
            networks = Networks(layout.obs_size, actions, num_agents, config, stream, flags=flags.size)
        self.networks = networks
        self.optimiser = ReplicaAdam(
            self.networks, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average
        )
        self.rewards: Rewards | None = None
        if config.decoder == "change":
            head = RewardHead(layout.obs_size + actions, num_agents, stream)
            solvable = config.solved_rewards and isinstance(layout, Layout)
            solved = ClosedForm(layout, False, replicas) if solvable else None  # type: ignore[arg-type]
            self.rewards = Rewards(head, solved, replicas, config)
        self.averaged = self.optimiser.averaged
        self.obs_scale = Normaliser(replicas, layout.obs_size, device)
        self.reward_scale = Normaliser(replicas, num_agents, device)
        self._flags = FlagReading(flags, layout.dynamic_J, gamma) if flagged else None
        self.noise_size = self.networks.rssm.noise_size
        self._metrics: dict[str, Tensor] = {}

    @property
    def pairs(self) -> int:
        """Windows of two frames that an update wants."""
        return 0 if self.rewards is None else self.rewards.frames

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Update means and deviations."""
        self.obs_scale.add(step.next_obs[..., self.layout.dynamic_J], mask_SE)
        self.reward_scale.add(step.reward, mask_SE)
        if self.rewards is not None and self.rewards.solved is not None:
            self.rewards.solved.absorb(step, mask_SE)

    # --------------------------------------------------------------- training
    def update(self, seq: Sequences, stream: Stream, pairs: Sequences | None = None) -> None:
        """One Adam step on the loss of `seq`, and those of a reward head that learns by itself.

        Args:
            seq: windows, all frames of a replica weighed alike.
            stream: of the latents' samples.
            pairs: `pairs` windows of two frames, drawn independently of one another, from which that head learns; None:
                it learns from the frames of `seq`, far more slowly.
        """
        self.optimiser.zero_grad()
        loss_S, metrics = self.loss(seq, stream)
        loss_S.sum().backward()
        self._metrics = {name: value.detach() for name, value in metrics.items()}
        self._metrics["grad_norm"] = self.optimiser.step()
        if self.rewards is not None:
            self._metrics["log_reward"] = self.rewards.update(*self._reward_rows(seq if pairs is None else pairs))

    def _reward_rows(self, seq: Sequences) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Observations, actions and rewards of all frames but a window's first, and which an action led to."""
        action = self._action(seq)[:, 1:].flatten(1, 2)
        seq = seq.select(slice(1, None))
        obs = self.obs_scale.apply(seq.obs[..., self.layout.dynamic_J].flatten(1, 2))
        reward = self.reward_scale.apply(seq.reward.flatten(1, 2))
        return obs, action, reward, seq.follows.flatten(1, 2)

    def _action(self, seq: Sequences) -> Tensor:
        """The action before each frame, with the flags that it was chosen by where there are any."""
        return seq.action if self._flags is None else informed(seq)

    def read(self, networks: Networks, seq: Sequences, stream: Stream) -> tuple[Tensor, Observed]:
        """Standardised observations [S, T, B, J] and what the state space of `networks` makes of them."""
        frames = seq.first.shape[1:]
        obs_SnJ = self.obs_scale.apply(seq.obs[..., self.layout.dynamic_J].flatten(1, 2))
        encoded = networks.encode(obs_SnJ).unflatten(1, frames)
        uniform = stream.uniform(*frames, self.noise_size)
        observed = networks.rssm.observe(encoded, self._action(seq), seq.first, uniform)
        return obs_SnJ.unflatten(1, frames), observed

    def loss(self, seq: Sequences, stream: Stream) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every replica [S], and its terms and diagnostics, each [S].

        Terms are log-likelihoods and KL per frame: sums over their entries, means over valid frames.
        """
        config, networks = self.config, self.networks
        obs, observed = self.read(networks, seq, stream)
        features = observed.state.flatten().features
        frames = seq.first.shape[1:]
        valid, follows = seq.valid.float(), seq.follows.float()
        rows, action = obs.flatten(1, 2), self._action(seq).flatten(1, 2)
        # a sequence's first frame may be in mid-episode, but what was before it is not at hand
        before = torch.cat([torch.zeros_like(obs[:, :1]), obs[:, :-1]], dim=1).flatten(1, 2)
        known = torch.cat([torch.zeros_like(follows[:, :1]), follows[:, 1:]], dim=1).flatten(1, 2)[..., None]
        mean = networks.decoder(features, before, action, known)
        if self._flags is not None:
            mean = self._flags.without_absent(mean, rows, seq)
        log_x = losses.gaussian_log_prob(rows, mean).unflatten(1, frames)
        label = self.gamma * seq.alive.flatten(1, 2)
        log_g = losses.bernoulli_log_prob(label, networks.discount(features)).sum(-1).unflatten(1, frames)
        kl_loss, kl, log_q = self._kl(observed, valid)
        terms = {
            "observation": (-config.nx, mean_over(log_x, valid)),
            "discount": (-config.ng, mean_over(log_g, follows)),
            "kl": (config.beta, mean_over(kl_loss, valid)),
        }
        if self._flags is not None and networks.flags is not None:
            log_f = self._flags.log_prob(networks.flags, features, rows, seq).unflatten(1, frames)
            terms["flags"] = (-config.ng, mean_over(log_f, known[..., 0].unflatten(1, frames)))
        reward = self.reward_scale.apply(seq.reward.flatten(1, 2))
        if self.rewards is None:
            log_r = losses.gaussian_log_prob(reward, networks.reward(features))
        else:
            own = self.rewards(rows, self.obs_scale.invert(rows), action)
            log_r = losses.relative_log_prob(reward, own + networks.reward(features.detach()))
        terms["reward"] = (-config.nr, mean_over(log_r.unflatten(1, frames), follows))
        members = self._ensemble_entropy(observed).unflatten(1, frames)
        terms["ensemble"] = (config.beta, mean_over(members, valid))
        loss_S = torch.stack([weight * value for weight, value in terms.values()]).sum(0)
        logged = ("observation", "reward", "discount", "flags")
        metrics = {f"log_{name}": terms[name][1] for name in logged if name in terms}
        metrics |= {"loss": loss_S, "kl": mean_over(kl, valid)}
        metrics["posterior_entropy"] = mean_over(losses.entropy(log_q), valid)
        # unit-variance likelihoods hold half the squared error, the rest is (X / 2) log(2 pi)
        width = obs.shape[-1]
        metrics["observation_r2"] = 1 + (2 * metrics["log_observation"] / width + losses.LOG_2PI)
        return loss_S, metrics

    def _kl(self, observed: Observed, valid_STB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and KL [S, T, B], and the posterior's log-probabilities."""
        config = self.config
        log_q = losses.unimix(observed.posterior, config.unimix)
        log_p = losses.unimix(observed.prior, config.unimix)
        nats = (config.free_prior, config.free_posterior, config.free_form, valid_STB)
        if config.kl == "balanced":
            return *losses.balanced_kl(log_q, log_p, config.alpha, *nats), log_q
        z = observed.state.z.unflatten(-1, log_q.shape[-2:])
        return *losses.sampled_kl(log_q, log_p, z, config.alpha, *nats), log_q

    def _ensemble_entropy(self, observed: Observed) -> Tensor:
        """Cross entropy of the posterior and the small prior heads, summed over these, [S, n]; trains them alone."""
        q_SnCL = torch.softmax(observed.posterior.detach(), dim=losses.CLASSES).flatten(1, 2)
        logits_SMnCL = self.networks.rssm.ensemble_logits(observed.state.h.flatten(1, 2))
        return -losses.categorical_log_prob(q_SnCL[:, None], torch.log_softmax(logits_SMnCL, dim=losses.CLASSES)).sum(1)

    # -------------------------------------------------------------- imagining
    @torch.no_grad()
    def calibrate(self, seq: Sequences, stream: Stream) -> None:
        """By what rewards are told; all else of the model imagines."""
        if self.rewards is not None:
            features = self.read(self.averaged, seq, stream)[1].state.features[:, 1:].flatten(1, 2)
            obs, action, reward, follows = self._reward_rows(seq)
            both = obs, self.obs_scale.invert(obs)
            self.rewards.choose(both, action, self.averaged.reward(features), reward, follows)

    @torch.no_grad()
    def observe(self, seq: Sequences, stream: Stream) -> State:
        """Posterior states after every frame, rows [S, T * B, ·]."""
        obs, observed = self.read(self.averaged, seq, stream)
        state = observed.state.flatten()
        state.obs = obs.flatten(1, 2)
        return state if self._flags is None else FlaggedState.of(state, seq.flags.flatten(1, 2))

    @torch.no_grad()
    def diagnose(self, seq: Sequences, stream: Stream) -> dict[str, Tensor]:
        """What the latents do, frame by frame, as `latent_summary` has it."""
        return latent_summary(self.read(self.averaged, seq, stream)[1], seq.valid)

    def step(
        self, state: State, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[State, Prediction]:
        """One step of the prior, decoded; uncertainty is the disagreement of the ensemble."""
        networks = self.averaged
        assert state.obs is not None, "a state that was observed or imagined by the model"
        before = state.flags if isinstance(state, FlaggedState) else None
        if before is not None:
            action_SnU = torch.cat([action_SnU, before], dim=-1)
        after = networks.rssm.imagine_step(state, action_SnU, uniform_SnR)
        features, follows = after.features, torch.ones_like(action_SnU[..., :1])
        seen = networks.decoder(features, state.obs, action_SnU, follows)
        discount = torch.sigmoid(networks.discount(features))
        flags = None
        if self._flags is not None and networks.flags is not None and before is not None:
            nothing = self.obs_scale.apply(torch.zeros_like(seen))
            flags, seen, discount = self._flags.settled(networks.flags, features, seen, nothing, discount, before)
        state = State(after.h, after.z, seen)
        obs = self.obs_scale.invert(seen)
        standardised = networks.reward(features)
        if self.rewards is not None:
            own = self.rewards(seen, obs, action_SnU)
            standardised = own + self.rewards.by_state_S[:, None, None] * standardised
        reward = self.reward_scale.invert(standardised)
        if self._flags is not None and before is not None:
            reward = self._flags.paid(reward, before)
        uncertainty = torch.zeros_like(action_SnU[..., 0])
        if uncertain:
            with torch.no_grad():
                uncertainty = disagreement(networks.rssm.ensemble_logits(state.h))
        if flags is not None:
            state = FlaggedState.of(state, flags)
        return state, Prediction(obs, reward, discount, uncertainty, flags)

    def judged(self, length_S: Tensor) -> None:
        """It learns alike whatever may be imagined."""

    # ------------------------------------------------------------------ state
    def check(self) -> None:
        raise_on_faults(self.optimiser, self._metrics)
        if self.rewards is not None:
            raise_on_faults(self.rewards.optimiser, self._metrics)

    def warnings(self) -> list[str]:
        """Posterior collapse: late in training the observation is still not reconstructed from the state."""
        if int(self.optimiser.updates) < LATE or not self._metrics:
            return []
        poor = [f"{r:.3f}" for r in self._metrics["observation_r2"].tolist() if r < COLLAPSED]
        if not poor:
            return []
        return [
            f"The world model reconstructs its observations with R^2 {', '.join(poor)} after "
            f"{int(self.optimiser.updates)} updates; expected at least {COLLAPSED}. Its latents carry too little "
            "(posterior collapse): raise --wm.nx, or lower --wm.beta or --wm.free-posterior."
        ]

    def metrics(self) -> dict[str, Tensor]:
        return self._metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser.state_dict(),
            **({} if self.rewards is None else self.rewards.state_dict()),
            "obs_scale": self.obs_scale.state_dict(),
            "reward_scale": self.reward_scale.state_dict(),
            "metrics": self._metrics,  # of the last update: the next record may come before another
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit.

        Raises:
            UserError: the state is of networks of other sizes, as of a version that knew one decoder only.
        """
        expected, found = self.optimiser.size, state["optimiser"]["parameters"].shape[1]
        if found != expected:
            raise UserError(
                f"the checkpoint's world model has {found:,} parameters, expected {expected:,}: it is of an "
                "earlier version. Train anew, or resume with the version that wrote the checkpoint."
            )
        self.optimiser.load_state_dict(state["optimiser"])
        if self.rewards is not None:
            self.rewards.load_state_dict(state)
        self.obs_scale.load_state_dict(state["obs_scale"])
        self.reward_scale.load_state_dict(state["reward_scale"])
        device = self.obs_scale.mean_S1X.device
        self._metrics = {name: value.to(device) for name, value in state["metrics"].items()}


def mean_over(x_STB: Tensor, weight_STB: Tensor) -> Tensor:
    """Mean over frames with weight 0 or 1, [S]; 0 where no frame counts."""
    return (x_STB * weight_STB).sum((1, 2)) / weight_STB.sum((1, 2)).clamp(min=1.0)
