"""Other ways to learn what to say than by an estimator of the sender's own value: RIAL, DIAL, and telling one's intent.

They differ from MADDPG in one term of the actor loss, that of the message heads that somebody hears. Critics, moves,
the replay, the bonuses and the execution (one discrete symbol a step) are MADDPG's.

| class | what teaches a message head |
|---|---|
| RIAL | the score function of the sender's own value |
| DIAL | the gradient of the listener's actor loss, through the message that it hears |
| Intent | the sender's own next move or, where it only speaks, what it observes that there is to tell |

Sources: RIAL and DIAL, Foerster, Assael, de Freitas and Whiteson, "Learning to communicate with deep multi-agent
reinforcement learning", NeurIPS 2016 (arXiv 1605.06676), sections 5.1 and 5.2; intent, Kim, Park and Sung,
"Communication in multi-agent reinforcement learning: intention sharing", ICLR 2021. What differs stands at each class.

Shape suffixes: S replicas, N agents, B batch, O observation, H heads, K choices of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.conditions import require_messages
from envs.spec import EnvSpec, Route
from marl.config.schema import MADDPGConfig
from marl.data.batch import Batch
from marl.errors import UserError
from marl.learner import losses, relaxation
from marl.learner.interfaces import UpdateShare
from marl.learner.maddpg import MADDPG


class OtherMessages(MADDPG):
    """MADDPG whose heard messages learn otherwise; arguments and errors as there.

    Raises:
        UserError: no agent hears another, or the way to learn does not fit to those that do.
    """

    channel: str
    routes: tuple[Route, ...]  # whose messages learn otherwise

    def __init__(
        self,
        spec: EnvSpec,
        config: MADDPGConfig,
        seed: int,
        replicas: Sequence[int] = (0,),
        device: torch.device | str = "cpu",
        share: UpdateShare | None = None,
    ) -> None:
        require_messages(self.channel, spec)
        if spec.continuous:
            raise UserError(
                f"channel {self.channel} is made for discrete moves, and {spec.id} has continuous ones; leave out "
                f"--channel, or take one that changes what arrives, such as shuffled."
            )
        self.routes = self._fitting(spec, config)
        super().__init__(spec, config, seed, replicas, device, share)
        heard = torch.zeros(spec.num_agents, spec.num_heads, dtype=torch.bool)
        for route in self.routes:
            heard[route.sender, route.head] = True
        self.otherwise_NH = heard.to(self.device)

    def _fitting(self, spec: EnvSpec, config: MADDPGConfig) -> tuple[Route, ...]:
        """The routes whose messages learn otherwise."""
        return spec.routes

    def _why_autograd(self) -> str | None:
        return super()._why_autograd() or f"messages are learned by {self.channel}"


class RIAL(OtherMessages):
    """Messages are actions like any other: each learns by (Q - mean Q of the batch) grad log pi(message).

    Differs from source: the score function in place of Q-learning with its own network; the sender's central critic
    in place of one that sees its own observation; a replay, with received messages relabelled as the settings say,
    where the source has none; no recurrence.
    """

    channel, scored = "rial", True


class DIAL(OtherMessages):
    """Messages learn by what the listener's actor loss says of the message it hears, and by nothing else.

    In every actor update a sender's current policy says again what it said one step before; the listener acts on it,
    and the gradient of its loss flows through the slot into the sender, by the estimator of the settings (gumbel_st: a
    discrete symbol in training too; gumbel_soft: a soft one, as the source's real numbers). It flows from listeners of
    the sender's own team alone: what an opponent would like to hear is no reason to say it.

    Differs from source: a categorical symbol and its relaxation in place of real numbers with added noise and a
    threshold in execution; the listener's actor loss in place of its Q-learning loss, and the critic's own look at the
    slot gives no gradient, since a message is worth what is done upon it; a replay; no recurrence.
    """

    channel = "dial"

    def _fitting(self, spec: EnvSpec, config: MADDPGConfig) -> tuple[Route, ...]:
        routes = [route for route in spec.routes if route.exact and _together(spec, route)]
        if not routes or not spec.fixed_agents:
            raise UserError(
                f"channel dial: a gradient needs a listener of the sender's own team that hears exactly what was said "
                f"one step before, among agents that stay to the end, and {spec.id} has none; take another channel."
            )
        return tuple(routes)

    def _acting_logits(self, batch: Batch) -> Tensor:
        """The logits at what senders would say now, with the gradient from listeners to senders."""
        senders = self.spec.senders
        logits = self.actor(batch.prev_obs.clone(), senders)  # a sample's parts share memory, written to below
        noise = self._gumbel("relabel", logits)
        estimator = self.config.message_estimator or self.config.estimator
        said = relaxation.relax(estimator, logits, noise, self.schedules.temperature, self.sender_mask)
        exact = relaxation.sample_onehot(logits.detach(), noise, self.sender_mask)
        spoken = ~batch.first[:, None, :, None, None]
        said, exact = said * spoken, exact * spoken
        obs_SNBO = batch.obs.clone()
        for route in self.routes:
            symbol = slice(None), senders.index(route.sender), slice(None), route.head, slice(route.size)
            obs_SNBO[:, route.receiver, :, route.slot] = said[symbol]
            batch.obs[:, route.receiver, :, route.slot] = exact[symbol]  # the critics see the same message
        return self._logits(batch, obs_SNBO)


class Intent(OtherMessages):
    """Messages tell the sender's next move: symbol k is move k, the one that its policy makes when it is heard.

    A sender that only speaks tells what it observes that there is to tell (the route's declared meaning), symbol k the
    k-th possibility. Nobody is paid for it: the language is given, and listeners learn to use it.

    Differs from source: the first step of the plan alone, as a symbol, learned from the sender's own policy; there a
    vector that summarises an imagined trajectory.
    """

    channel = "intent"

    def _fitting(self, spec: EnvSpec, config: MADDPGConfig) -> tuple[Route, ...]:
        for route in spec.routes:
            sender, words = spec.agents[route.sender], ""
            move = _move(spec, route)
            if move is not None:
                count, words = sender.heads[move].size, "moves"
            elif route.meaning is not None and len(route.meaning) > 2:
                raise UserError(
                    f"channel intent: what {sender.name!r} of {spec.id} has to tell has {len(route.meaning) - 1} "
                    "attributes; expected one, whose k-th possibility symbol k stands for. Take another channel."
                )
            elif route.meaning is not None:
                count, words = route.meaning[1], "meanings"
            elif any(other.meaning for other in spec.routes if _head(other) == _head(route)):
                continue  # the same head tells another listener
            else:
                raise UserError(
                    f"channel intent: {sender.name!r} of {spec.id} makes no move, and what it has to tell is not "
                    f"declared; declare 'meaning' with its routes, or take another channel."
                )
            if count > route.size:
                raise UserError(
                    f"channel intent: {sender.name!r} of {spec.id} has {count} {words} to tell with {route.size} "
                    f"symbols; give it as many symbols, or take another channel."
                )
        return spec.routes

    def _bonuses(self, batch: Batch, logits: Tensor) -> Tensor:
        total_SN = super()._bonuses(batch, logits)
        first = {_head(route): route for route in reversed(self.routes) if route.meaning or _moves(self.spec, route)}
        spoken_SB = (~batch.first).to(logits.dtype)
        senders = self.spec.senders
        before = self.actor(batch.prev_obs, senders) if any(_moves(self.spec, r) for r in first.values()) else logits
        p = relaxation.probabilities(logits.detach(), self._mask(batch.mask))
        for (sender, head), route in sorted(first.items()):
            move = _move(self.spec, route)
            if move is not None:
                said_SBK, told_SBK = before[:, senders.index(sender), :, head], p[:, sender, :, move]
                weight_SB = spoken_SB if batch.active is None else spoken_SB * batch.active[:, sender]
            else:
                observed = batch.obs[:, sender, :, route.told]
                told_SBK = F.one_hot(observed.argmax(-1), logits.shape[-1]).to(logits.dtype)
                said_SBK = logits[:, sender, :, head]
                weight_SB = torch.ones_like(spoken_SB) if batch.active is None else batch.active[:, sender]
            choices_K = self.head_mask[sender, 0, head]
            loss_S1 = losses.telling_loss(said_SBK, choices_K, told_SBK, weight_SB)[:, None]
            total_SN = total_SN - F.pad(loss_S1, (sender, self.spec.num_agents - 1 - sender))
        return total_SN


LEARNERS: dict[str, type[MADDPG]] = {kind.channel: kind for kind in (RIAL, DIAL, Intent)}
"""The learner of a channel; of any other it is MADDPG."""


def _head(route: Route) -> tuple[int, int]:
    return route.sender, route.head


def _together(spec: EnvSpec, route: Route) -> bool:
    return any(route.sender in team and route.receiver in team for team in spec.teams)


def _move(spec: EnvSpec, route: Route) -> int | None:
    """The sender's first head that is no message; None where it only speaks."""
    heads = spec.agents[route.sender].heads
    return next((h for h, head in enumerate(heads) if not head.is_message), None)


def _moves(spec: EnvSpec, route: Route) -> bool:
    return _move(spec, route) is not None
