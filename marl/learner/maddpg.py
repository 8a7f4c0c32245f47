"""MADDPG with discrete messages and discrete or continuous moves: all agents of all replicas in one batched update.

Source: Lowe et al. 2017 (arXiv 1706.02275), Algorithm 1.
Differs from source: choices are categorical and sampled by Gumbel-max (numbers: continuous.py); the critic learns on
the executed one-hots; the actor loss differentiates through a relaxation of its own choice; received messages in
replayed observations are relabelled with their sender's current policy (Ahilan and Dayan 2020, arXiv 2010.01192).

Shape suffixes: S replicas, C critics, N agents, E environments, B batch, O observation, H heads, K choices,
A = H * K, D = N * (O + A).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.batch import Batch, BatchSource
from marl.data.collector import Memory
from marl.learner import losses, relaxation, spec_tensors
from marl.learner.bonuses import bonuses
from marl.learner.continuous import STREAMS, Numbers
from marl.learner.diagnostics.finite_gradients import FiniteGradients
from marl.learner.diagnostics.policy_metrics import gradient_norms, policy_metrics
from marl.learner.explicit.covered import covers
from marl.learner.explicit.kernels import select
from marl.learner.explicit.update import ExplicitUpdate
from marl.learner.interfaces import ActorLoss, UpdateShare
from marl.learner.leaving import next_values, team_targets
from marl.learner.moments import Moments
from marl.learner.networks.actor_critic import Actor, Critic, joint_rows
from marl.learner.networks.factored_critic import FactoredCritic
from marl.learner.pictures.networks import PictureActor, PictureCritic
from marl.learner.schedules import Schedules

_OF_UPDATES = ("target", "own", "others", "relabel", "conditional")  # streams whose draws are [..., B, H, K]
_NOISE = ("act", *_OF_UPDATES, "diagnose")
INNER_DRAWS = 10  # of the Rao-Blackwellised estimator


class MADDPG:
    """Actors, critics, their targets and optimisers.

    Args:
        spec: the environment.
        config: the learner's settings.
        seed: root seed.
        replicas: global indices of the replicas trained here.
        device: where everything lives.
        share: of every update, where several processes compute it together; None: all of it.

    Raises:
        UserError: `actor_lr_shares` names an agent that is not there, or differ between agents that share an actor.
    """

    actor_type, critic_type, population = Actor, Critic, 1
    # messages that learn otherwise than by an estimator of their sender's value (marl/learner/messages.py)
    otherwise_NH: Tensor | None = None  # bool, which heads
    scored = False  # by the score function

    def __init__(
        self,
        spec: EnvSpec,
        config: MADDPGConfig,
        seed: int,
        replicas: Sequence[int] = (0,),
        device: torch.device | str = "cpu",
        share: UpdateShare | None = None,
    ) -> None:
        self.spec, self.config, self.replicas = spec, config, tuple(replicas)
        self.device = torch.device(device)

        def stream(name: str) -> Stream:
            return Stream(seed, f"maddpg/{name}", replicas, device)

        norm, hidden, shared = config.layer_norm, config.hidden, config.share_actors
        critic = FactoredCritic if (factored := config.critic == "factored") else self.critic_type
        kinds = (PictureActor, PictureCritic) if spec.picture else (self.actor_type, critic)
        self.actor = kinds[0](spec, hidden, norm, stream("actor"), shared)
        critics, option = 1 + config.twin_critics, shared if factored else config.independent_critics
        self.critic = kinds[1](spec, hidden, norm, stream("critic"), critics, option)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.schedules = Schedules(config, self.device)
        sizes = {name: module.mlp.flat.shape[1] for name, module in (("critic", self.critic), ("actor", self.actor))}
        owners = {"critic": spec_tensors.owners(spec, factored and shared), "actor": spec_tensors.owners(spec, shared)}
        self.finite = FiniteGradients(sizes, owners, self.replicas, self.device, self.device.type == "cpu")
        self.frozen_G1 = spec_tensors.frozen_shares(spec, config, self.device)
        found_inf = None if self.finite.at_once else self.finite.broken
        self.moments = {
            "critic": Moments(self.critic.mlp.flat, self.schedules.critic_lr, found_inf),
            "actor": Moments(self.actor.mlp.flat, self.schedules.actor_lr, found_inf),
        }
        numbers = tuple(STREAMS.values()) if spec.continuous else ()
        self.noise = {name: stream(name) for name in (*_NOISE, *numbers)}
        if share is not None:
            self.noise |= {name: share.stream(self.noise[name]) for name in (*_OF_UPDATES, *numbers[1:])}
        self.numbers = Numbers(spec, config, self.noise, self.schedules.exploration) if numbers else None
        self.updates, self._share = 0, share
        self.actor_loss: ActorLoss | None = None
        self.head_mask = spec.head_mask.to(self.device)[:, None]  # [N, 1, H, K]
        self.sender_mask = self.head_mask[list(spec.senders)]
        self.team_NN, self.stored_team_NN = spec_tensors.team_rewards(spec, config, self.device)
        self.estimator_H = spec_tensors.estimators(spec, config)
        self._autograd = self._why_autograd()  # None: updates run by hand-written gradients (explicit/update.py)
        self._kernels: str | None = None  # of the explicit update, "numba" or "torch"; None: the best that there is
        self._explicit: ExplicitUpdate | None = None

    # ----------------------------------------------------------------- acting
    @torch.no_grad()
    def act(self, obs_SNEO: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sampled one-hots and numbers [S, N, E, H, K]; absent heads are zero."""
        return self.sampled(self.actor(obs_SNEO), "act", mask)

    def memory(self, envs: int) -> Memory | None:
        """Of the running episodes of `envs` environments per replica; None: these networks remember nothing."""
        return None

    def _gumbel(self, name: str, logits: Tensor) -> Tensor:
        return self.noise[name].gumbel(*logits.shape[1:])

    def _mask(self, mask: Tensor | None) -> Tensor:
        return self.head_mask if mask is None else self.head_mask & mask

    def sampled(self, logits: Tensor, name: str, mask: Tensor | None) -> Tensor:
        """One-hots [S, N, B, H, K] of allowed choices, drawn with the noise of a stream; and numbers."""
        onehot = relaxation.sample_onehot(logits, self._gumbel(name, logits), self._mask(mask))
        return onehot if self.numbers is None else onehot + self.numbers(logits, name)

    # --------------------------------------------------------------- learning
    def update(self, batch: Batch, progress: float = 0.0, measure: bool = False) -> dict[str, Tensor]:
        """One critic update and, every `actor_delay`-th time, one actor and target update.

        Args:
            batch: B transitions per replica; its observations are relabelled in place.
            progress: share of the run that is over, in [0, 1]; schedules follow it.
            measure: return the metrics (a little extra work), else an empty dict.

        Returns:
            Metrics: name -> [S] or [S, N].

        Raises:
            RunFailed: a gradient is NaN or infinite; it is not applied. Names the loss, the agent and the update. On a
                GPU, where this would wait, `check` raises it, and no step is applied until then.
        """
        self.schedules.follow(progress)
        actors_too = self.actors_next
        self.updates += 1
        self.finite.begin()
        if self._autograd is None:
            return self._explicit_at(batch.joint.shape[1]).update(batch, actors_too, measure)
        if self.config.communication_correction and self.spec.fixed_agents:
            self.relabel(batch)
        metrics = self.update_critic(batch, measure)
        if actors_too:
            metrics |= self.update_actor(batch, measure)
            self._follow()
        return metrics

    def _explicit_at(self, rows: int) -> ExplicitUpdate:
        """The explicit update for batches of so many rows."""
        explicit = self._explicit
        if explicit is None or explicit.rows != rows or self._kernels not in (None, explicit.form.form):
            self._explicit = explicit = ExplicitUpdate(self, rows, self._kernels)
        return explicit

    def update_many(self, source: BatchSource, rows: int, count: int, progress: float) -> None:
        """`count` times `update` from a fresh sample of `rows` transitions, to the bit, with less around it."""
        if self._autograd is None:
            self.schedules.follow(progress)
            self._explicit_at(rows).update_many(source, count)
            return
        for _ in range(count):
            self.update(source.sample(rows), progress)

    def add_actor_loss(self, loss: ActorLoss) -> None:
        """Let the actors learn from `loss` too, from the next update on; a learner takes one."""
        assert self.actor_loss is None, "the actors have a further loss already"
        self.actor_loss = loss

    def _why_autograd(self) -> str | None:
        """Why the explicit update does not cover this learner; None where it does."""
        averaged = "gradients are averaged over processes" if self._share is not None else None
        return covers(self.spec, self.config, self.device) or averaged

    def use(self, form: str, why: str = "asked for") -> None:
        """Let updates run in one form from now on; without this call the fastest is chosen that covers the settings.

        Args:
            form: "numba" or "torch": kernels of the explicit update; "autograd": the reference.
            why: the reason that `path` gives for autograd.

        Raises:
            ValueError: an unknown form, or one that does not cover this learner.
        """
        if form == "autograd":
            self._autograd = why
            return
        if form not in ("numba", "torch"):
            raise ValueError(f"form: expected 'numba', 'torch' or 'autograd', got {form!r}")
        if reason := self._why_autograd():
            raise ValueError(f"form: {form!r} does not cover this learner, since {reason}")
        self._autograd, self._kernels = None, form

    @property
    def form(self) -> str:
        """What the bits of an update depend on: "numba" or "torch" kernels of the explicit one, or "autograd"."""
        return "autograd" if self._autograd is not None else self._kernels or select().form

    @property
    def path(self) -> str:
        """Which update runs, in words: the explicit one with the form of its kernels, or autograd and why."""
        return f"explicit, {self.form} kernels" if self._autograd is None else f"autograd, since {self._autograd}"

    @property
    def actors_next(self) -> bool:
        """Whether the actors learn in the next update."""
        return (self.updates + 1) % self.config.actor_delay == 0

    def pattern(self) -> Hashable | None:
        """What the host decides of the next update by autograd; None: it takes part (as `BatchedEnv.pattern`)."""
        return (self.actors_next,) if self._share is None and self.actor_loss is None else None

    def replayed(self) -> None:
        """The device has replayed an update (a recorded CUDA graph) without a call of `update`: count it."""
        self.updates += 1

    def check(self) -> None:
        """Raise `RunFailed` where a gradient was not finite and could not be told at once; waits for the device."""
        self.finite.check()

    @torch.no_grad()
    def relabel(self, batch: Batch) -> None:
        """Replace received messages in `batch.obs` by ones that the senders would say now; reset slots stay zero.

        Only the observation that is acted on: the next one must keep the message that the critic's action names.
        """
        if not (routes := spec_tensors.corrected_routes(self.spec, self.config)):
            return
        senders, logits = self.spec.senders, self._speaking(batch)
        said = relaxation.sample_onehot(logits, self._gumbel("relabel", logits), self.sender_mask)
        said = said * ~batch.first[:, None, :, None, None]
        for r in routes:
            batch.obs[:, r.receiver, :, r.slot] = said[:, senders.index(r.sender), :, r.head, : r.size]

    def _speaking(self, batch: Batch) -> Tensor:
        """The senders' logits [S, n, B, H, K] at the observations of the step before."""
        return self.actor(batch.prev_obs, self.spec.senders)  # type: ignore[no-any-return]

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """y [S, N, B]: team or own reward plus the discounted value of sampled (or argmax) next actions."""
        logits, value = self._ahead(batch)
        if self.config.target_action == "sample":
            action = self.sampled(logits, "target", batch.next_mask)
        else:
            action = relaxation.greedy_onehot(logits, self._mask(batch.next_mask))
            action = action if self.numbers is None else action + self.numbers(logits, "target")
        next_q = next_values(batch, action.flatten(-2), value)
        reward = batch.reward if self.team_NN is None else torch.matmul(self.team_NN, batch.reward)
        return team_targets(self._returns(batch, reward, next_q), batch, self.critic)

    # What recurrent networks do otherwise (marl/learner/recurrent/maddpg.py): all that depends on earlier steps.
    def _ahead(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The target actors' logits at the next observation, and the target critics' values of joint rows there."""
        return self.target_actor(batch.next_obs), self.target_critic

    def _returns(self, batch: Batch, reward_SNB: Tensor, next_q_SCNB: Tensor) -> Tensor:
        """y [S, N, B] from the rewards and the values of what follows."""
        return losses.td_target(reward_SNB, batch.discount, next_q_SCNB)

    def _values(self, batch: Batch) -> Tensor:
        """The critics' values [S, C, N, B] of what was done."""
        return self.critic(batch.joint)  # type: ignore[no-any-return]

    def _logits(self, batch: Batch, obs_SNBO: Tensor | None = None) -> Tensor:
        """The actors' logits [S, N, B, H, K] at the batch's own observations, or at others in their place."""
        return self.actor(batch.obs if obs_SNBO is None else obs_SNBO)  # type: ignore[no-any-return]

    def _acting_logits(self, batch: Batch) -> Tensor:
        """The logits [S, N, B, H, K] that the actors learn through."""
        return self._logits(batch)

    def _own_action(self, batch: Batch, joint_SBD: Tensor) -> Callable[[Tensor], Tensor]:
        """The critics as a function of the own action, all else as in `joint_SBD`, the batch's or another."""
        return self.critic.own_action(joint_SBD)

    def looked_at(self, batch: Batch, rows: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Of a batch's first rows the logits [S, N, rows, H, K] and the value as a function of the own action."""
        first = batch.rows(slice(rows))
        return self._logits(first), self._own_action(first, first.joint)

    def update_critic(self, batch: Batch, measure: bool) -> dict[str, Tensor]:
        target_SNB = self.targets(batch)
        q_SCNB = self._values(batch)
        loss_SCN = losses.critic_loss(q_SCNB, target_SNB, batch.weight)
        norm_SG = self._step(loss_SCN.sum(), self.critic, self.moments["critic"].optimiser, "critic")
        if not measure:
            return {}
        return {
            "critic/loss": loss_SCN.detach().mean(1),
            "critic/q": q_SCNB.detach().mean((1, 3)),
            "critic/target": target_SNB.mean(-1),
            **gradient_norms("critic", norm_SG, loss_SCN.shape[1], self.spec.num_agents),
        }

    def update_actor(self, batch: Batch, measure: bool) -> dict[str, Tensor]:
        cfg, mask = self.config, self._mask(batch.mask)
        logits, joint = self._acting_logits(batch), batch.joint
        if cfg.other_actions == "current":
            action = self.sampled(logits.detach(), "others", batch.mask).flatten(-2)  # who is gone does nothing
            joint = joint_rows(batch.obs, action if batch.active is None else action * batch.active[..., None])
        conditional = None
        if "rao_blackwell" in self.estimator_H:
            conditional = self.noise["conditional"].uniform(INNER_DRAWS, *logits.shape[1:]).transpose(0, 1)
        value = self._own_action(batch, joint)
        value_SNB = losses.own_value(
            value if self.numbers is None else self.numbers.beside(value, logits),
            logits,
            self._gumbel("own", logits),
            self.estimator_H,
            self.schedules.temperature,
            mask,
            conditional,
            self.otherwise_NH,
            self.scored,
        )
        value_SN = losses.weighted_mean(value_SNB, batch.weight)
        outputs = mask if self.numbers is None else mask | self.numbers.mask
        penalty_SN = losses.logit_penalty(logits, outputs, batch.weight)
        bonus_SN = self._bonuses(batch, logits)
        loss_SN = cfg.logit_penalty * penalty_SN - value_SN - bonus_SN
        loss = loss_SN.sum()
        if self.actor_loss is not None:
            loss = loss + self.actor_loss.loss(self.schedules.temperature).sum()
        norm_SG = self._step(loss, self.actor, self.moments["actor"].optimiser, "actor")
        if not measure:
            return {}
        metrics = {"actor/loss": loss_SN.detach(), "actor/logits": penalty_SN.detach().sqrt()}
        metrics |= gradient_norms("actor", norm_SG, 1, self.spec.num_agents)
        return metrics | policy_metrics(self.spec, logits.detach(), mask)

    def _bonuses(self, batch: Batch, logits: Tensor) -> Tensor:
        """What actors are paid beside their values, of every agent [S, N]."""
        return bonuses(self, batch, logits)

    def _step(self, loss: Tensor, module: Actor | Critic, optimiser: torch.optim.Optimizer, name: str) -> Tensor:
        """Gradient, check, clip, Adam; returns the norm [S, G] before clipping."""
        flat_SGP = module.mlp.flat
        (gradient,) = torch.autograd.grad(loss, flat_SGP)
        if self._share is not None:
            gradient = self._share.mean(gradient)
        norm_SG: Tensor = torch.linalg.vector_norm(gradient, dim=2)
        self.finite.watch(name, norm_SG, self.updates)
        scale_SG = (self.config.max_grad_norm / (norm_SG + 1e-6)).clamp(max=1.0)
        flat_SGP.grad = gradient.mul_(scale_SG[..., None])
        frozen_G1 = self.frozen_G1 if module is self.actor else None
        before_SGP = flat_SGP if frozen_G1 is None else flat_SGP.detach().clone()
        optimiser.step()
        flat_SGP.grad = None
        if frozen_G1 is not None:
            flat_SGP.detach().lerp_(before_SGP, frozen_G1)
        return norm_SG

    @torch.no_grad()
    def _follow(self) -> None:
        for target, online in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
            target.mlp.flat.lerp_(online.mlp.flat, self.config.tau)

    # ------------------------------------------------------------------ state
    def _modules(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("actor", "critic", "target_actor", "target_critic")}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, streams and the update count as plain data."""
        return {
            "networks": {name: dict(module.state_dict()) for name, module in self._modules().items()},
            "actor_optimiser": self.moments["actor"].state_dict(),
            "critic_optimiser": self.moments["critic"].state_dict(),
            "noise": {name: stream.state_dict() for name, stream in self.noise.items()},
            "updates": self.updates,
            "form": self.form,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state["networks"][name])
        for name, moments in self.moments.items():
            moments.load_state_dict(state[f"{name}_optimiser"])
        for name, stream in self.noise.items():
            stream.load_state_dict(state["noise"][name])
        self.updates = state["updates"]
        self.finite.restart(self.updates)
