"""The update of MADDPG with gradients written by hand: no autograd, no optimiser object, buffers made once.

It computes what `MADDPG.update` computes by autograd, from the same numbers of the same streams, and agrees with it but
for rounding; every gradient below is tested against autograd of losses.py. The learner's tensors stay where they
are: parameters, moments and counters are read and written in place, so a checkpoint does not tell which path made it.

Rows of the batch come last, [.., features, B]; every input has a last feature that is 1, whose weight is the bias.
Networks that wait for nothing run as one batch: target actors beside the senders that relabel, critics beside target
critics. Sums over features, choices and parameters are fused loops (kernels.py), products are torch.bmm.

Shape suffixes: S replicas, C critics, N agents, n some agents, X perceptrons, Y = X, or S where all of a replica share
their input, B batch, O observation, A = H * K action, D = N * (O + A), I inputs of a layer with the bias, W width,
V = W + 1, Z outputs of a layer (of all perceptrons of a replica where their input is shared), P parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from marl.data.batch import Batch, BatchSource
from marl.data.replay import Replay
from marl.learner.diagnostics.policy_metrics import gradient_norms
from marl.learner.explicit import kernels
from marl.learner.explicit.ahead import Ahead
from marl.learner.explicit.first_layer import FirstLayer
from marl.learner.explicit.frozen import Frozen
from marl.learner.explicit.kernels import ESTIMATORS
from marl.learner.explicit.leaving import Leaving
from marl.learner.explicit.measures import actor_metrics, critic_metrics
from marl.learner.explicit.numbers import ExplicitNumbers
from marl.learner.explicit.perceptrons import Backward, Layers, Pass
from marl.learner.interfaces import further_gradient
from marl.learner.networks.factored_critic import FactoredCritic
from marl.learner.population.members import picked, pooled
from marl.learner.spec_tensors import corrected_routes

if TYPE_CHECKING:
    from marl.learner.maddpg import MADDPG

LOSSES = ("critic", "actor")
# stored where not everybody acts, chooses or learns alike
PARTIAL = {"active", "next_active", "mask", "next_mask", "learns"}


class ExplicitUpdate:
    """The update of one learner at one batch size.

    Args:
        learner: read and written in place.
        rows: B.
        form: of the kernels, "numba" or "torch"; None: the best that there is.
    """

    def __init__(self, learner: MADDPG, rows: int, form: str | None = None) -> None:
        self.learner, self.rows = learner, rows
        self.form = kernels.select(form)
        spec, cfg, bind = learner.spec, learner.config, self.form.bind
        self.S, self.N, self.width, self.A = len(learner.replicas), spec.num_agents, spec.obs_size, spec.action_size
        self.C = learner.critic.num_critics
        S, N, width, A, C, B = self.S, self.N, self.width, self.A, self.C, rows
        correct = cfg.communication_correction and spec.fixed_agents
        self.routes = list(corrected_routes(spec, cfg)) if correct else []
        self.senders = list(spec.senders) if self.routes else []
        n, norm, form_ = len(self.senders), cfg.layer_norm, self.form
        D = N * (width + A)
        # parameters in the layout of the products
        group_N = learner.actor.group_N
        group_N = torch.arange(N) if group_N is None else group_N
        self.first_G = (group_N == torch.arange(int(group_N.max()) + 1)[:, None]).int().argmax(1)  # of each group
        self.actors = Layers(learner.actor, (N, n, N), False, form_)  # targets, senders, all
        factored = learner.critic if isinstance(learner.critic, FactoredCritic) else None
        joint = factored is None  # whether critics read one row
        self.critics = Layers(learner.critic, (N,) * (2 * C), joint, form_)  # critics, their targets
        targets, speaking, acting = (group_N, 0), (group_N[self.senders], 1), (group_N, 2)
        term_N = torch.arange(N) if factored is None else factored.term_N
        online = [(c * (int(term_N.max()) + 1) + term_N, c) for c in range(C)]
        self.plans = {  # what is made anew where a network's parameters have changed
            "target_actor": self.actors.plan([targets]),
            "actor": self.actors.plan([speaking, acting] if n else [acting]),
            "critic": self.critics.plan(online),
            "target_critic": self.critics.plan([(groups, C + c) for groups, c in online]),
        }
        sizes = learner.actor.mlp.sizes
        early, self.members = S * (N + n), learner.population
        across = [w.transpose(1, 2) for w in self.actors.weights]
        self.early_weights, self.actor_weights = [w[:early] for w in across], [w[early:] for w in across]
        self.critic_weights = [w.transpose(1, 2) for w in self.critics.weights]
        # inputs
        self.joint = torch.ones(2, S, D + 1, B)  # at this step and at the next
        self.early_in = torch.ones(early, width + 1, self.members * B)  # at all rows of the population
        self.obs = torch.ones(S * N, width + 1, B)
        self.reward, self.discount = torch.zeros(S, N, B), torch.zeros(S, N, B)
        self.weight = torch.full((S, N, B), 1.0 / B)
        self.there = torch.ones(S, N, B)
        self.allowed = spec.head_mask.flatten(1)[..., None].expand(S, N, A, B).reshape(S * N, A, B).clone()
        said_mask = spec.head_mask[self.senders].flatten(1)[..., None].expand(S, n, A, B).reshape(-1, A, B)
        self.early_allowed = torch.cat([self.allowed, said_mask]).contiguous()
        self.first = torch.zeros(S, B)
        self.ahead = Ahead(learner, B, n, form_)
        # passes
        self.early_pass = Pass(early, sizes, self.members * B, norm, form_)
        self.early_logits = torch.zeros(early, A, B) if self.members > 1 else self.early_pass.last_XZB
        self.member_SnB = torch.zeros(S, N + n, B, dtype=torch.int64)  # who played the agents, then the senders
        self.actor_pass = Pass(S * N, sizes, B, norm, form_)
        critic_sizes = learner.critic.mlp.sizes
        self.both_pass = Pass(2 * C * S * N, critic_sizes, B, norm, form_)
        self.critic_pass = Pass(C * S * N, critic_sizes, B, norm, form_, of=self.both_pass)
        self.own_pass = Pass(S * N, critic_sizes, B, norm, form_)
        self.critic_grads = Layers(learner.critic, (N,) * C, joint, form_)
        self.actor_grads = Layers(learner.actor, (N,), False, form_)
        self.gradients = {
            "critic": (self.critic_grads.plan(online), self.critic_grads.bound, self.critics.bound),
            "actor": (self.actor_grads.plan([(group_N, 0)]), self.actor_grads.bound, self.actors.bound),
        }
        critics, actors = [w[: C * S * N] for w in self.critics.weights], [w[early:] for w in self.actors.weights]
        self.critic_back = Backward(self.critic_pass, critics, self.critic_grads.weights[1:])
        self.own_back = Backward(self.own_pass, [w[: S * N] for w in self.critics.weights], None)
        self.actor_back = Backward(self.actor_pass, actors, self.actor_grads.weights[1:])
        self.first_layer, W = FirstLayer(self), critic_sizes[1]
        self.own_XAW = torch.zeros(S * N, A, W)
        self.base = torch.zeros(S * N, W, B) if "exact" in learner.estimator_H else None
        self.choice, self.diff, self.soft = (torch.zeros(S * N, A, B) for _ in range(3))
        self.values, self.grad_action, self.grad_logits = (torch.zeros(S * N, A, B) for _ in range(3))
        self.early_choice, self.error = torch.zeros(early, A, B), torch.zeros(C, S, N, B)
        self.code_H = torch.tensor([ESTIMATORS.index(name) for name in learner.estimator_H])
        bonus = sorted({(route.sender, route.head) for route in spec.routes}) if cfg.signalling_bonus > 0 else []
        self.K = size = spec.head_size
        self.bonuses = [(s, h * size, int(spec.head_mask[s, h].sum())) for s, h in bonus]
        self._make_views()
        self.frozen, self.leaving = Frozen(self), Leaving(self)
        self.numbers = None if learner.numbers is None else ExplicitNumbers(self)
        names = (
            "early_allowed", "early_choice", "allowed", "choice", "soft", "values", "grad_action", "grad_logits",
            "diff", "code_H", "joint", "obs", "early_in", "reward", "discount", "first", "weight", "error",
            "route_table", "raw_reward",
        )  # fmt: skip
        self._b = {name: bind(getattr(self, name)) for name in names}
        self._b["logits"], self._b["later"] = bind(self.actor_pass.last_XZB), bind(self.leaving.later)
        self._b["early_logits"] = bind(self.early_logits)
        self._b["weight_XB"], self._b["there_XB"] = (bind(x.view(S * N, B)) for x in (self.weight, self.there))
        self._b["all_values"] = bind(self.all_values)
        self._flat_gradients = {name: torch.zeros_like(getattr(learner, name).mlp.flat.detach()) for name in LOSSES}
        self.norms = {name: torch.zeros(g.shape[:2]) for name, g in self._flat_gradients.items()}
        held, whole = learner.frozen_G1, [torch.ones(g.shape[1]) for g in self._flat_gradients.values()]
        shares = (whole[0], whole[1] if held is None else 1.0 - held[:, 0])
        self._step_args = {  # gradient, norms, share of the step that is taken
            name: (bind(self._flat_gradients[name]), bind(self.norms[name]), bind(share.contiguous()))
            for name, share in zip(LOSSES, shares, strict=True)
        }
        numbers = (cfg.max_grad_norm, cfg.tau, cfg.logit_penalty, cfg.signalling_k)
        self._limit, self._tau, self._penalty, self._k = map(form_.number, numbers)
        self.networks: dict[str, Any] = {}  # their parameters, bound
        self.moments: dict[str, Any] = {}

    def _make_views(self) -> None:
        """Views that every update needs, made once."""
        S, N, width, A, B, n = self.S, self.N, self.width, self.A, self.rows, len(self.senders)
        seen, cut = N * width, self.S * self.N
        joint, following = self.joint
        self.joint_SBD = joint[:, :-1].transpose(1, 2)
        self.obs_SNOB = self.obs.view(S, N, width + 1, B)[:, :, :width]
        self.joint_obs_SNOB = joint[:, :seen].unflatten(1, (N, width))
        self.next_obs_SNOB = following[:, :seen].unflatten(1, (N, width))
        self.early_obs_SNOB = self.early_in[:cut].view(S, N, width + 1, -1)[:, :, :width]
        self.prev_obs_SnOB = self.early_in[cut:].view(S, n, width + 1, self.members * B)[:, :, :width]
        rows = [(self.senders.index(r.sender), r.head * self.K, r.size, r.receiver, r.start) for r in self.routes]
        self.route_table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
        self.all_values = self.both_pass.last_XZB.view(2, self.C, S, N, B)
        self.critic_slope = self.error.view(self.C * cut, 1, B)
        self.own_SNAW, self.own_XWA = self.own_XAW.view(S, N, A, -1), self.own_XAW.transpose(1, 2)
        self.own_weights = [w[:cut] for w in self.critic_weights]
        self.own_slope = self.weight.view(cut, 1, B).neg()
        self.codes = self.code_H.tolist()
        self.exact_heads = [h for h, code in enumerate(self.codes) if code == 3]
        self.raw_reward = torch.zeros(S, N, B) if self.learner.team_NN is not None else self.reward

    def __reduce__(self) -> Any:
        """A copy of the learner makes buffers of its own."""
        return type(None), ()

    # ---------------------------------------------------------------- Algorithm 1
    def update(self, batch: Batch, actors_too: bool, measure: bool) -> dict[str, Tensor]:
        """One update from `batch`, whose received messages are relabelled in place; metrics where they are measured."""
        self._begin()
        self.ahead.draw(1, int(actors_too))
        self._load(batch)
        metrics = self._update(0, 0 if actors_too else None, batch if measure else None)
        for route in self.routes:
            heard = self.obs_SNOB[:, route.receiver, route.start : route.start + route.size]
            batch.obs[:, route.receiver, :, route.slot].copy_(heard.transpose(1, 2))
        return metrics

    def update_many(self, source: BatchSource, count: int) -> None:
        """`count` updates from samples of `source`: the bits of as many calls of `update`, drawn together."""
        learner, delay = self.learner, self.learner.config.actor_delay
        replay = source if isinstance(source, Replay) else None
        while count:
            part = min(count, self.ahead.most)
            count -= part
            turns = [k for k in range(part) if (learner.updates + 1 + k) % delay == 0]
            index_USB = replay.ahead(self.rows, part) if replay is not None else None
            self._begin()
            self.ahead.draw(part, len(turns))
            store = None if replay is None or index_USB is None else self._store(replay, index_USB)
            for u in range(part):
                learner.updates += 1
                learner.finite.begin()
                if replay is None or index_USB is None:
                    self._load(source.sample(self.rows))
                elif store is not None:
                    self._gather(store, u)
                else:
                    self._load(replay.at(index_USB[u]))
                self._update(u, turns.index(u) if u in turns else None, None)

    def _begin(self) -> None:
        """Weights of the products from the parameters, which anybody may have written since the last update."""
        learner, form = self.learner, self.form
        for name, plan in self.plans.items():
            self.networks[name] = flat = form.bind(getattr(learner, name).mlp.flat)
            form.prepare(flat, plan, (self.critics if "critic" in name else self.actors).bound)
        for name, moments in learner.moments.items():
            self.moments[name] = form.bind(moments.mean_SGP), form.bind(moments.square_SGP)
        schedules = learner.schedules
        self._lr = {"critic": float(schedules.critic_lr), "actor": float(schedules.actor_lr)}
        self._heat, self._signalling = (form.number(float(x)) for x in (schedules.temperature, schedules.signalling))

    def _update(self, u: int, own: int | None, measured: Batch | None) -> dict[str, Tensor]:
        """The update from what is loaded and the noise drawn u-th; actors learn with the `own`-th noise, None: not."""
        form, b, N = self.form, self._b, self.N
        networks, heat = self.networks, self._heat
        # next actions of the target actors, and what senders would say now
        torch.bmm(self.early_weights[0], self.early_in, out=self.early_pass.pre[0])
        self.early_pass.forward(self.early_weights)
        if self.members > 1:
            self._pick()
        form.choose(b["early_logits"], self.ahead.early[u], b["early_allowed"], self.K, b["early_choice"])
        if self.numbers is not None:
            self.numbers.next()
        absent = not self.learner.spec.fixed_agents
        form.relabel(b["early_choice"], b["later"], b["first"], absent, b["route_table"], b["joint"], b["obs"])
        self.frozen.put()
        # y = r + discount min_c Q'_c; critic loss: sum of weight (q - y)^2, gradient 2 weight (q - y)
        self.first_layer.forward()
        self.both_pass.forward(self.critic_weights)
        self.first_layer.add_up(self.all_values)
        self.leaving.put()
        form.error(b["all_values"], b["reward"], b["discount"], b["weight"], b["error"])
        metrics = {} if measured is None else critic_metrics(self)
        self.first_layer.add_up(self.error)
        self.critic_back(self.critic_slope)
        self.first_layer.backward()
        self._step("critic")
        if measured is not None:
            metrics |= gradient_norms("critic", self.norms["critic"], self.C, N)
        if own is None:
            return metrics
        # actor loss: penalty - value of the own action - bonus, from the critic as it is now
        torch.bmm(self.actor_weights[0], self.obs, out=self.actor_pass.pre[0])
        self.actor_pass.forward(self.actor_weights)
        self._own_action(self.ahead.own[own], heat, measured is not None)
        if measured is not None:
            metrics |= actor_metrics(self, measured)
        form.logit_gradient(
            b["grad_action"], b["values"], b["soft"], b["logits"], b["allowed"], b["weight_XB"],
            self._penalty, heat, b["code_H"], b["grad_logits"],
        )  # fmt: skip
        if self.numbers is not None:
            self.numbers.gradient()
        for n, start, size in self.bonuses:
            form.signal(b["logits"], b["there_XB"], N, n, start, size, self._k, self._signalling, b["grad_logits"])
        grad = self.actor_back(self.grad_logits)
        torch.bmm(self.obs, grad.transpose(1, 2), out=self.actor_grads.weights[0])
        if (further_SGP := further_gradient(self.learner)) is not None:
            self.actor_grads.add(further_SGP, self.first_G)
        self._step("actor")
        if measured is not None:
            metrics |= gradient_norms("actor", self.norms["actor"], 1, N)
        for name, layers in (("actor", self.actors), ("critic", self.critics)):
            target = f"target_{name}"
            form.follow(networks[target], networks[name], self._tau, self.plans[target], layers.bound)
        return metrics

    def _store(self, replay: Replay, index_USB: Tensor) -> tuple[Any, Any, Any] | None:
        """Rows, positions of every batch, and where the fields begin in a row, for `_gather`; None: it cannot."""
        at, bind = replay.columns, self.form.bind
        if self.form.gather is None or at.keys() & PARTIAL:
            return None
        starts = [at[name] for name in ("prev_obs", "first", "reward", "discount", "next_obs")]
        return bind(replay.data_SCD), bind(index_USB), bind(torch.tensor(starts))

    def _gather(self, store: tuple[Any, Any, Any], u: int) -> None:
        """`_load` the u-th batch straight from the store, where no agent is ever absent and no choice forbidden."""
        b, (data_SCD, index_USB, starts) = self._b, store
        self.form.gather(
            data_SCD, index_USB[u], starts, b["joint"], b["obs"], b["early_in"], b["raw_reward"], b["discount"],
            b["first"],
        )  # fmt: skip
        self._share_reward()

    def _share_reward(self) -> None:
        if self.learner.team_NN is not None:
            torch.matmul(self.learner.team_NN, self.raw_reward, out=self.reward)

    def _load(self, batch: Batch) -> None:
        """The batch, features first."""
        S, N = self.S, self.N
        self.joint_SBD.copy_(batch.joint)
        self.obs_SNOB.copy_(self.joint_obs_SNOB)
        self.next_obs_SNOB.copy_(batch.next_obs.transpose(2, 3))
        self.early_obs_SNOB.copy_(pooled(self.next_obs_SNOB, self.members))
        if self.senders:
            self.prev_obs_SnOB.copy_(pooled(batch.prev_obs.transpose(2, 3), self.members))
        if batch.member is not None:
            self.member_SnB[:, :N].copy_(batch.member)
            self.member_SnB[:, N:].copy_(batch.member[:, self.senders])
        self.raw_reward.copy_(batch.reward)
        self._share_reward()
        self.discount.copy_(batch.discount)
        self.first.copy_(batch.first)
        self.frozen.load(batch)
        self.leaving.load(batch)
        if batch.active is not None:
            self.there.copy_(batch.active)
        counted = batch.weight
        if counted is not None:
            torch.div(counted, counted.sum(-1, keepdim=True).clamp(min=1.0), out=self.weight)
            torch.neg(self.weight.view(S * N, 1, self.rows), out=self.own_slope)
        for mask, into in ((batch.mask, self.allowed), (batch.next_mask, self.early_allowed[: S * N])):
            if mask is not None:
                both = (mask & self.learner.head_mask).flatten(3).transpose(2, 3)
                into.unflatten(0, (S, N)).copy_(both)

    def _pick(self) -> None:
        """Of what every member would do and say, that of the one who played."""
        S, N, said = self.S, self.N, self.early_pass.last_XZB
        for part, who in ((slice(S * N), self.member_SnB[:, :N]), (slice(S * N, None), self.member_SnB[:, N:])):
            if who.shape[1]:
                every = said[part].unflatten(0, (S, -1))
                self.early_logits[part] = picked(every, who, self.members).flatten(0, 1)

    def _own_action(self, noise: Any, heat: Any, value_too: bool) -> None:
        """The gradient of the loss at every agent's own action; in exact heads the value of every choice.

        W1 [.., own, ..] = W1 joint + own rows (own - executed): one product for all agents and a small one for each.
        """
        b, form, run, exact, numbers = self._b, self.form, self.own_pass, self.exact_heads, self.numbers
        form.choose(b["logits"], noise, b["allowed"], self.K, b["choice"])
        if numbers is not None:
            numbers.draw()
            numbers.put()
        self.own_SNAW.copy_(self.first_layer.own_rows)
        self.first_layer.own()
        if exact and self.base is not None:
            self.base.copy_(run.pre[0])
            for h in exact:
                part = slice(h * self.K, (h + 1) * self.K)
                for a in range(part.start, part.stop):
                    form.differ(b["choice"], b["joint"], b["diff"])
                    self.diff[:, part].sub_(self.choice[:, part])
                    self.diff[:, a].add_(1.0)
                    torch.baddbmm(self.base, self.own_XWA, self.diff, out=run.pre[0])
                    self.values[:, a].copy_(run.forward(self.own_weights)[:, 0])
            run.pre[0].copy_(self.base)
        form.soften(b["logits"], noise, b["allowed"], heat, b["code_H"], b["choice"], b["soft"])
        pathwise = len(exact) < len(self.codes) or numbers is not None
        if not pathwise and not value_too:
            return
        if numbers is not None:
            numbers.put()
        form.differ(b["choice"], b["joint"], b["diff"])
        torch.baddbmm(run.pre[0], self.own_XWA, self.diff, out=run.pre[0])
        run.forward(self.own_weights)
        if pathwise:
            torch.bmm(self.own_XAW, self.own_back(self.own_slope), out=self.grad_action)

    def _step(self, name: str) -> None:
        """Gradient, check, clip, Adam; the norms [S, G] before clipping stay in `norms`."""
        learner, number = self.learner, self.form.number
        moments = learner.moments[name]
        t = int(moments.step) + 1
        size, root = self._lr[name] / (1 - 0.9**t), (1 - 0.999**t) ** -0.5
        gradient, norms, share = self._step_args[name]
        plan, made, memory = self.gradients[name]
        if not self.form.step(
            self.networks[name], gradient, *self.moments[name], norms, self._limit, number(size), number(root), share,
            plan, made, self.plans[name], memory,
        ):  # fmt: skip
            learner.finite.watch(name, self.norms[name], learner.updates)
        moments.step += 1
