"""The update of MADDPG with gradients written by hand: no autograd, no optimiser object, buffers made once.

It computes what `MADDPG.update` computes by autograd, from the same numbers of the same streams, and agrees with it but
for rounding; every gradient below is tested against autograd of losses.py. The learner's tensors stay where they
are: parameters, moments and counters are read and written in place, so a checkpoint does not tell which path made it.

Rows of the batch come last, [.., features, B]; every input has a last feature that is 1, whose weight is the bias.
Networks that wait for nothing run as one batch: target actors beside the senders that relabel, critics beside target
critics. Sums over features, choices and parameters are fused loops (marl/learner/kernels.py), products are torch.bmm.

Shape suffixes: S replicas, C critics, N agents, n some agents, X perceptrons, Y = X, or S where all of a replica share
their input, B batch, O observation, A = H * K action, D = N * (O + A), I inputs of a layer with the bias, W width,
V = W + 1, Z outputs of a layer (of all perceptrons of a replica where their input is shared), P parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from marl.config import MADDPGConfig
from marl.data.replay import Batch
from marl.learner import kernels, losses
from marl.learner.kernels import ESTIMATORS
from marl.learner.perceptrons import Backward, Layers, Pass

if TYPE_CHECKING:
    from marl.learner.maddpg import MADDPG


def covers(spec: EnvSpec, config: MADDPGConfig, device: torch.device) -> str | None:
    """None where the explicit update can do the work, else the reason why not."""
    if device.type != "cpu":
        return f"it is for a CPU, not for {device.type}"
    unknown = sorted({config.estimator, config.message_estimator or config.estimator} - set(ESTIMATORS))
    if unknown:
        return f"it has no gradient for the estimator {unknown[0]}"
    if config.other_actions != "replay":
        return "other_actions are current"
    if config.listening_bonus > 0 and spec.routes:
        return "there is a listening bonus"
    if not config.hidden:
        return "networks have no hidden layer"
    return None


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
        routes = [route for route in spec.routes if route.exact]
        correct = cfg.communication_correction and spec.fixed_agents and routes
        self.routes = routes if correct else []
        self.senders = list(spec.senders) if self.routes else []
        n, norm, form_ = len(self.senders), cfg.layer_norm, self.form
        D = N * (width + A)
        # parameters in the layout of the products
        group_N = learner.actor.group_N
        group_N = torch.arange(N) if group_N is None else group_N
        self.actors = Layers(learner.actor, (N, n, N), False, form_)  # targets, senders, all
        self.critics = Layers(learner.critic, (N,) * (2 * C), True, form_)  # critics, their targets
        self._groups = [bind(group_N), bind(group_N[self.senders])]
        self._critic_groups = [bind(torch.arange(c * N, (c + 1) * N)) for c in range(C)]
        sizes = learner.actor.mlp.sizes
        early = S * (N + n)
        across = [w.transpose(1, 2) for w in self.actors.weights]
        self.early_weights, self.actor_weights = [w[:early] for w in across], [w[early:] for w in across]
        self.critic_weights = [w.transpose(1, 2) for w in self.critics.weights]
        # inputs
        self.joint = torch.ones(2, S, D + 1, B)  # at this step and at the next
        self.early_in = torch.ones(early, width + 1, B)
        self.obs = torch.ones(S * N, width + 1, B)
        self.reward, self.discount = torch.zeros(S, N, B), torch.zeros(S, N, B)
        self.weight = torch.full((S, N, B), 1.0 / B)
        self.allowed = spec.head_mask.flatten(1)[..., None].expand(S, N, A, B).reshape(S * N, A, B).clone()
        said_mask = spec.head_mask[self.senders].flatten(1)[..., None].expand(S, n, A, B).reshape(-1, A, B)
        self.early_allowed = torch.cat([self.allowed, said_mask]).contiguous()
        # noise: every agent's numbers in the order of a stream, [B, A], told features first
        self.words = {count: bind(self._words(count)) for count in {N, n} if count}
        self.early_noise, self.noise = torch.zeros(early, A, B), torch.zeros(S * N, A, B)
        # passes
        self.early_pass = Pass(early, sizes, B, norm, form_)
        self.actor_pass = Pass(S * N, sizes, B, norm, form_)
        critic_sizes = learner.critic.mlp.sizes
        self.both_pass = Pass(2 * C * S * N, critic_sizes, B, norm, form_)
        self.critic_pass = Pass(C * S * N, critic_sizes, B, norm, form_, of=self.both_pass)
        self.own_pass = Pass(S * N, critic_sizes, B, norm, form_)
        self.critic_back = Backward(self.critic_pass, [w[: C * S * N] for w in self.critics.weights], True)
        self.own_back = Backward(self.own_pass, [w[: S * N] for w in self.critics.weights], False)
        self.actor_back = Backward(self.actor_pass, [w[early:] for w in self.actors.weights], True)
        W = critic_sizes[1]
        self.critic_grads = self.critics.like((N,) * C)
        self.critic_grads[1:] = self.critic_back.weights
        self.actor_grads = self.actors.like((N,))
        self.actor_grads[1:] = self.actor_back.weights
        self._critic_grads = [bind(g) for g in self.critic_grads]
        self._actor_grads = [bind(g) for g in self.actor_grads]
        # the first layer of the critics: products by set where twins see one input
        first_YZI, pre = self.critic_weights[0], self.both_pass.pre[0].view(2 * C, S, N * W, B)
        if C == 1:
            self.first_products = [(first_YZI, self.joint.view(2 * S, D + 1, B), pre.view(2 * S, N * W, B))]
        else:
            sets = first_YZI.unflatten(0, (2 * C, S))
            self.first_products = [(sets[k], self.joint[k // C], pre[k]) for k in range(2 * C)]
        grad = self.critic_back.grad[0].view(C, S, N * W, B).transpose(2, 3)
        into = self.critic_grads[0].unflatten(0, (C, S))
        self.first_gradients = [(self.joint[0], grad[c], into[c]) for c in range(C)]
        # an agent's own action: its rows of the first layer
        rows_SDZ = self.critics.weights[0][:S, N * width : D].unflatten(1, (N, A)).unflatten(3, (N, W))
        self.own_rows = rows_SDZ.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # a view [S, N, A, W]
        self.own_XAW = torch.zeros(S * N, A, W)
        self.base = torch.zeros(S * N, W, B) if "exact" in learner.estimator_H else None
        self.own_first = (first_YZI[:S], self.joint[0], self.own_pass.pre[0].view(S, N * W, B))
        self.old_action = self.joint[0, :, N * width : D].unflatten(1, (N, A))
        self.choice, self.diff, self.soft = (torch.zeros(S * N, A, B) for _ in range(3))
        self.values, self.grad_action, self.grad_logits = (torch.zeros(S * N, A, B) for _ in range(3))
        self.early_choice = torch.zeros(early, A, B)
        self.code_H = torch.tensor([ESTIMATORS.index(name) for name in learner.estimator_H])
        self.zero = torch.zeros_like(self.noise)
        bonus = sorted({(route.sender, route.head) for route in spec.routes}) if cfg.signalling_bonus > 0 else []
        size = spec.head_size
        self.bonuses = [(s, h * size, int(spec.head_mask[s, h].sum())) for s, h in bonus]
        self.K = size
        self._make_views()
        names = (
            "early_allowed", "early_noise", "early_choice", "allowed", "noise", "choice", "soft", "values",
            "grad_action", "grad_logits", "zero", "code_H",
        )  # fmt: skip
        self._b = {name: bind(getattr(self, name)) for name in names}
        self._b["logits"] = bind(self.actor_pass.last_XZB)
        self._b["early_logits"] = bind(self.early_pass.last_XZB)
        self._b["weight"] = bind(self.weight.view(S * N, B))
        self._flat_gradients = [torch.zeros_like(m.mlp.flat.detach()) for m in (learner.critic, learner.actor)]
        self._norms = [torch.zeros(g.shape[:2]) for g in self._flat_gradients]
        held = learner.held_G1
        whole = [torch.ones(g.shape[1]) for g in self._flat_gradients]
        self._shares = [bind(whole[0]), bind(whole[1] if held is None else 1.0 - held[:, 0])]

    def _make_views(self) -> None:
        """Views that every update needs, made once."""
        S, N, width, A, B, n = self.S, self.N, self.width, self.A, self.rows, len(self.senders)
        seen, cut = N * width, self.S * self.N
        joint, following = self.joint
        self.joint_SBD = joint[:, :-1].transpose(1, 2)
        self.obs_pair = (
            self.obs.view(S, N, width + 1, B)[:, :, :width], joint[:, :seen].unflatten(1, (N, width))
        )  # fmt: skip
        self.next_obs_SNOB = following[:, :seen].unflatten(1, (N, width))
        self.early_obs_SNOB = self.early_in[:cut].view(S, N, width + 1, B)[:, :, :width]
        self.prev_obs_SnOB = self.early_in[cut:].view(S, n, width + 1, B)[:, :, :width]
        self.next_action = following[:, seen:-1].unflatten(1, (N, A))
        self.early_action = self.early_choice[:cut].view(S, N, A, B)
        self.said_SnAB = self.early_choice[cut:].view(S, n, A, B)
        self.noise_parts = [x.view(S, -1) for x in (self.early_noise[:cut], self.early_noise[cut:], self.noise)]
        self.told = []  # of every route: symbol, its slot in the receiver's observation and in the joint row
        for route in self.routes:
            start, at = route.head * self.K, route.receiver * width + route.start
            symbol_SMB = self.said_SnAB[:, self.senders.index(route.sender), start : start + route.size]
            slot_SMB = self.obs.view(S, N, width + 1, B)[:, route.receiver, route.slot]
            self.told.append((route, symbol_SMB, slot_SMB, joint[:, at : at + route.size]))
        self.choice_SNAB, self.diff_SNAB = self.choice.view(S, N, A, B), self.diff.view(S, N, A, B)
        self.own_SNAW, self.own_XWA = self.own_XAW.view(S, N, A, -1), self.own_XAW.transpose(1, 2)
        self.own_weights = [w[:cut] for w in self.critic_weights]
        self.own_slope = torch.zeros(cut, 1, B)
        self.weight_X1B = self.weight.view(cut, 1, B)
        self.codes = self.code_H.tolist()
        self.exact_heads = [h for h, code in enumerate(self.codes) if code == 3]

    def __reduce__(self) -> Any:
        """A copy of the learner makes buffers of its own."""
        return type(None), ()

    def _words(self, count: int) -> Tensor:
        """Of the numbers of `count` agents in the order [n, A, B]; a stream counts them in the order [n, B, A]."""
        golden = 0x9E3779B97F4A7C15 - (1 << 64)
        order = torch.arange(1, count * self.rows * self.A + 1).view(count, self.rows, self.A)
        return golden * order.transpose(1, 2).flatten()

    def _gumbel(self, name: str, count: int, out_SR: Tensor) -> None:
        stream, form = self.learner.noise[name], self.form
        stream.counter += 1
        form.uniform(form.bind(stream.key_R), int(stream.counter), self.words[count], form.bind(out_SR))
        out_SR.log_().neg_().log_().neg_()

    # ---------------------------------------------------------------- Algorithm 1
    def update(self, batch: Batch, actors_too: bool, measure: bool) -> dict[str, Tensor]:
        """One update from `batch`, whose received messages are relabelled in place; metrics where they are measured."""
        learner, form, C, S, N = self.learner, self.form, self.C, self.S, self.N
        cfg, schedules = learner.config, learner.schedules
        self._load(batch)
        nets = (learner.actor, learner.target_actor, learner.critic, learner.target_critic)
        actor, target_actor, critic, target_critic = (form.bind(net.mlp.flat) for net in nets)
        self.actors.prepare(target_actor, self._groups[0], 0)
        if self.senders:
            self.actors.prepare(actor, self._groups[1], 1)
        for c, groups in enumerate(self._critic_groups):
            self.critics.prepare(critic, groups, c)
            self.critics.prepare(target_critic, groups, C + c)
        # next actions of the target actors, and what senders would say now
        torch.bmm(self.early_weights[0], self.early_in, out=self.early_pass.pre[0])
        self.early_pass.forward(self.early_weights)
        self._choose_early(batch)
        # y = r + discount min_c Q'_c; critic loss: sum of weight (q - y)^2, gradient 2 weight (q - y)
        for weight, x, out in self.first_products:
            torch.bmm(weight, x, out=out)
        q_CSNB, next_CSNB = self.both_pass.forward(self.critic_weights).view(2, C, S, N, self.rows)
        y_SNB = losses.td_target(self.reward, self.discount, next_CSNB.transpose(0, 1))
        error_CSNB = q_CSNB - y_SNB
        metrics = self._critic_metrics(q_CSNB, y_SNB, error_CSNB) if measure else {}
        self.critic_back(error_CSNB.mul_(self.weight).mul_(2.0).view(C * S * N, 1, self.rows))
        for x, grad, out in self.first_gradients:
            torch.bmm(x, grad, out=out)
        sets = [(groups, c) for c, groups in enumerate(self._critic_groups)]
        norm_SG = self._step(0, self.critics, self._critic_grads, sets, critic, float(schedules.critic_lr))
        if measure:
            metrics["critic/grad_norm"] = norm_SG.unflatten(1, (-1, N)).mean(1)
        if not actors_too:
            return metrics
        # actor loss: penalty - value of the own action - bonus, from the critic as it is now
        self.critics.prepare(critic, self._critic_groups[0], 0)
        self.actors.prepare(actor, self._groups[0], 2)
        torch.bmm(self.actor_weights[0], self.obs, out=self.actor_pass.pre[0])
        self.actor_pass.forward(self.actor_weights)
        temperature, signalling = float(schedules.temperature), float(schedules.signalling)
        self._own_action(temperature, measure)
        if measure:
            metrics |= self._actor_metrics(batch)
        b, number = self._b, form.number
        form.logit_gradient(
            b["grad_action"], b["values"], b["soft"], b["logits"], b["allowed"], b["weight"],
            number(cfg.logit_penalty), number(temperature), b["code_H"], b["grad_logits"],
        )  # fmt: skip
        for n, start, size in self.bonuses:
            k, weight = number(cfg.signalling_k), number(signalling)
            form.signal(b["logits"], N, n, start, size, k, weight, b["grad_logits"])
        grad = self.actor_back(self.grad_logits)
        torch.bmm(self.obs, grad.transpose(1, 2), out=self.actor_grads[0])
        sets = [(self._groups[0], 0)]
        norm_SG = self._step(1, self.actors, self._actor_grads, sets, actor, float(schedules.actor_lr))
        if measure and norm_SG.shape[1] == N:
            metrics["actor/grad_norm"] = norm_SG
        # targets follow
        form.follow(target_actor, actor, number(cfg.tau))
        form.follow(target_critic, critic, number(cfg.tau))
        return metrics

    def _load(self, batch: Batch) -> None:
        """The batch, features first."""
        S, N = self.S, self.N
        self.joint_SBD.copy_(batch.joint)
        self.obs_pair[0].copy_(self.obs_pair[1])
        self.next_obs_SNOB.copy_(batch.next_obs.transpose(2, 3))
        self.early_obs_SNOB.copy_(self.next_obs_SNOB)
        if self.senders:
            self.prev_obs_SnOB.copy_(batch.prev_obs.transpose(2, 3))
        team_NN = self.learner.team_NN
        if team_NN is None:
            self.reward.copy_(batch.reward)
        else:
            torch.matmul(team_NN, batch.reward, out=self.reward)
        self.discount.copy_(batch.discount)
        if batch.active is not None:
            torch.div(batch.active, batch.active.sum(-1, keepdim=True).clamp(min=1.0), out=self.weight)
        for mask, into in ((batch.mask, self.allowed), (batch.next_mask, self.early_allowed[: S * N])):
            if mask is not None:
                both = (mask & self.learner.head_mask).flatten(3).transpose(2, 3)
                into.unflatten(0, (S, N)).copy_(both)

    def _choose_early(self, batch: Batch) -> None:
        """Target actors' next actions into the next joint rows, senders' symbols into this step's observations."""
        b, n = self._b, len(self.senders)
        if self.learner.config.target_action == "sample":
            self._gumbel("target", self.N, self.noise_parts[0])
        if n:
            self._gumbel("relabel", n, self.noise_parts[1])
        self.form.choose(b["early_logits"], b["early_noise"], b["early_allowed"], self.K, b["early_choice"])
        if not self.learner.spec.fixed_agents:  # who is gone at the next step does nothing
            self.early_action.mul_((self.discount > 0)[:, :, None])
        self.next_action.copy_(self.early_action)
        if n:
            self.said_SnAB.mul_(~batch.first[:, None, None])
        for route, symbol_SMB, slot_SMB, joint_SMB in self.told:
            slot_SMB.copy_(symbol_SMB)
            joint_SMB.copy_(symbol_SMB)
            batch.obs[:, route.receiver, :, route.slot].copy_(symbol_SMB.transpose(1, 2))

    def _own_action(self, temperature: float, value_too: bool) -> None:
        """The gradient of the loss at every agent's own action; in exact heads the value of every choice.

        W1 [.., own, ..] = W1 joint + own rows (own - executed): one product for all agents and a small one for each.
        """
        b, form, run, exact = self._b, self.form, self.own_pass, self.exact_heads
        self._gumbel("own", self.N, self.noise_parts[2])
        form.choose(b["logits"], b["noise"], b["allowed"], self.K, b["choice"])
        self.own_SNAW.copy_(self.own_rows)
        torch.bmm(self.own_first[0], self.own_first[1], out=self.own_first[2])
        if exact and self.base is not None:
            self.base.copy_(run.pre[0])
            for h in exact:
                part = slice(h * self.K, (h + 1) * self.K)
                for a in range(part.start, part.stop):
                    torch.sub(self.choice_SNAB, self.old_action, out=self.diff_SNAB)
                    self.diff[:, part].sub_(self.choice[:, part])
                    self.diff[:, a].add_(1.0)
                    torch.baddbmm(self.base, self.own_XWA, self.diff, out=run.pre[0])
                    self.values[:, a].copy_(run.forward(self.own_weights)[:, 0])
            run.pre[0].copy_(self.base)
        number = form.number(temperature)
        form.soften(b["logits"], b["noise"], b["allowed"], number, b["code_H"], b["choice"], b["soft"])
        if len(exact) == len(self.codes) and not value_too:
            return
        torch.sub(self.choice_SNAB, self.old_action, out=self.diff_SNAB)
        run.pre[0].baddbmm_(self.own_XWA, self.diff)
        run.forward(self.own_weights)
        if len(exact) < len(self.codes):
            torch.neg(self.weight_X1B, out=self.own_slope)
            torch.bmm(self.own_XAW, self.own_back(self.own_slope), out=self.grad_action)

    def _step(
        self, which: int, layers: Layers, gradients: list[Any], sets: list[tuple[Any, int]], flat: Any, lr: float
    ) -> Tensor:
        """The flat gradient, check, clip, Adam; returns the norms [S, G] before clipping."""
        learner, form = self.learner, self.form
        name = ("critic", "actor")[which]
        module = getattr(learner, name)
        gradient, norm_SG = self._flat_gradients[which], self._norms[which]
        bound, norms = form.bind(gradient), form.bind(norm_SG)
        gradient.zero_()
        for groups, index in sets:
            layers.collect(gradients, bound, groups, index)
        form.norms(bound, norms)
        learner.finite.watch(name, norm_SG, learner.updates)
        state = getattr(learner, f"{name}_optimiser").state[module.mlp.flat]
        if not state:  # as torch.optim.Adam begins
            zeros = torch.zeros_like(module.mlp.flat.detach())
            state |= {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        state["step"] += 1
        t = int(state["step"])
        size, root = lr / (1 - 0.9**t), (1 - 0.999**t) ** -0.5
        number, share = form.number, self._shares[which]
        moments = form.bind(state["exp_avg"]), form.bind(state["exp_avg_sq"])
        form.adam(flat, bound, *moments, norms, number(learner.config.max_grad_norm), number(size), number(root), share)
        return norm_SG.clone()

    # ------------------------------------------------------------------ metrics
    def _critic_metrics(self, q_CSNB: Tensor, y_SNB: Tensor, error_CSNB: Tensor) -> dict[str, Tensor]:
        loss_SN = (error_CSNB.square() * self.weight).sum(-1).mean(0)
        return {"critic/loss": loss_SN, "critic/q": q_CSNB.mean((0, 3)), "critic/target": y_SNB.mean(-1)}

    def _actor_metrics(self, batch: Batch) -> dict[str, Tensor]:
        learner, S, N = self.learner, self.S, self.N
        cfg, mask = learner.config, learner._mask(batch.mask)
        logits = self.actor_pass.last_XZB.view(S, N, *learner.actor.heads, self.rows).permute(0, 1, 4, 2, 3)
        value_SN = (self.own_pass.last_XZB.view(S, N, self.rows) * self.weight).sum(-1)
        penalty_SN = losses.logit_penalty(logits, mask, batch.active)
        loss_SN = cfg.logit_penalty * penalty_SN - value_SN - learner._bonuses(batch, logits)
        metrics = {"actor/loss": loss_SN, "actor/logits": penalty_SN.sqrt()}
        return metrics | learner._policy_metrics(logits, mask)
