"""What arrives in message slots where it is not what was said: conditions of a channel, and environments under one.

A condition changes the slots alone, in the observations that agents act on and learn from: agents, rewards and what is
said stay as they are. Right after a reset nothing was said and every slot holds zeros, under every condition.

Shape suffixes: N agents, E environments, O observation, H heads, M symbols of a slot, n heads of agents that speak.

Sources: a muted, a fixed, a random and a shuffled channel as ways to tell what messages are worth, Lowe, Foerster,
Boureau, Pineau and Dauphin, "On the pitfalls of measuring emergent communication", AAMAS 2019. There they disturb
trained agents, as in marl/communication/measures/interventions.py; here agents learn under them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from envs.batched import BatchedEnv, Step
from envs.continuous import choices_of
from envs.errors import UserError, did_you_mean
from envs.spec import EnvSpec, Route
from envs.streams import Stream

if TYPE_CHECKING:
    from envs.pettingzoo.reader import Reader

KINDS = {
    "none": "nothing: zeros",
    "oracle": "what there was to tell: the declared meaning, as the sender observed it when it spoke",
    "self": "what the receiver itself said one step before; nothing where it does not speak",
    "constant": "symbol 0",
    "shuffled": "what is heard at that time in another environment of the same replica",
    "noisy": "what was said, or with a given probability another symbol",
}


@dataclass(frozen=True)
class Condition:
    """What arrives. `noise` is the probability of `noisy` and 0 of all others.

    Raises:
        UserError: an unknown kind, or a probability outside [0, 1].
    """

    kind: str
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"unknown condition {self.kind!r}.{did_you_mean(self.kind, KINDS)} Expected one of {', '.join(KINDS)}."
            )
        if not 0 <= self.noise <= 1:
            raise UserError(f"the noise of a channel is a probability in [0, 1], got {self.noise}.")

    @property
    def needs_neighbours(self) -> bool:
        """Whether what arrives in one environment was said in another."""
        return self.kind == "shuffled"

    @classmethod
    def of(cls, channel: str, noise: float) -> Condition | None:
        """Of a run's settings; None where what is said arrives, however it was learned to be said."""
        return cls(channel, noise if channel == "noisy" else 0.0) if channel in KINDS else None

    def check(self, spec: EnvSpec) -> None:
        """Raise `UserError` where the agents of `spec` cannot be put under this condition."""
        require_messages(self.kind, spec)
        if self.kind == "oracle":
            if not any(route.meaning for route in spec.routes):
                raise UserError(
                    f"channel oracle: {spec.id} does not declare what its senders have to tell; declare 'meaning' with "
                    f"its routes, or take another channel."
                )
            for route in spec.routes:
                size = route.told.stop - route.told.start
                if size > route.size:
                    raise UserError(
                        f"channel oracle: what {spec.agent_names[route.sender]!r} has to tell takes "
                        f"{size} numbers, and the slot of {spec.agent_names[route.receiver]!r} holds "
                        f"{route.size}; give it as many symbols, or take another channel."
                    )


def require_messages(kind: str, spec: EnvSpec) -> None:
    """Raise `UserError` where no agent hears another."""
    if not spec.routes:
        raise UserError(
            f"channel {kind}: no agent of {spec.id} hears another, so there is no channel to change; take a task with "
            f"messages such as simple_reference, or leave out --channel."
        )


def another_symbol(symbol: Tensor, uniform: Tensor, noise: float, size: int) -> Tensor:
    """A symbol through a symmetric channel: with probability `noise` another one, all others equally likely.

    Args:
        symbol: int64, any shape; `size` stands for nothing and stays.
        uniform: numbers in (0, 1) that broadcast against it.
        noise: probability in (0, 1].
        size: number of symbols, at least 2.

    Source: the K-ary symmetric channel, Cover and Thomas, "Elements of information theory", section 7.2.
    """
    shift = (uniform * ((size - 1) / noise)).to(torch.int64).clamp_(max=size - 2).add_(1)
    hit = (uniform < noise) & (symbol < size)
    return torch.where(hit, (symbol + shift) % size, symbol)


class Slots:
    """What stands in the message slots of E environments under a condition.

    Args:
        spec: of the environment itself, whose agents see one observation.
        condition: what arrives.
        rows: global index of every environment; the noise of a row depends on it alone.
        group: environments of one replica, which lie side by side; only `shuffled` looks from one to another. One that
            is alone hears nothing.
        device, dtype: of observations.
        seed: of the noise.

    Raises:
        UserError: the condition does not fit to the agents.
    """

    def __init__(
        self,
        spec: EnvSpec,
        condition: Condition,
        rows: Sequence[int],
        group: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        condition.check(spec)
        self.spec, self.condition, self.group = spec, condition, group
        self._rows, self._device = list(rows), device
        self._own_heads = [_own_head(spec, route) for route in spec.routes]
        said = sorted({(route.sender, route.head) for route in spec.routes})
        self._place = {pair: k for k, pair in enumerate(said)}  # all who hear a symbol hear the same noise
        # what there was to tell in every environment, route by route; zeros where nothing is declared
        told = sum(route.size for route in spec.routes) if condition.kind == "oracle" else 0
        self._told_EM = torch.zeros(len(self._rows), told, device=device, dtype=dtype)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Noise from its beginning."""
        self.seed = seed
        self._noise = Stream(seed, "channel/noise", self._rows, self._device)

    # ------------------------------------------------------------------ the slots
    def begin(self, obs_NEO: Tensor) -> Tensor:
        """Observations at the start of episodes, with empty slots."""
        self.remember(obs_NEO)
        return self.written(obs_NEO, [obs_NEO.new_zeros(()) for _ in self.spec.routes])

    def arriving(self, actions: Tensor, obs_NEO: Tensor) -> list[Tensor]:
        """What stands in the slot of each route, [E, M], one step after `actions` (as `BatchedEnv.step` takes them) led
        to `obs_NEO`."""
        actions_NEH = choices_of(self.spec, actions)
        kind, routes = self.condition.kind, self.spec.routes
        uniform_En = self._noise.uniform(len(self._place)) if self.condition.noise > 0 else None
        results, first = [], 0
        for k, route in enumerate(routes):
            heard_EM = obs_NEO[route.receiver, :, route.slot]
            if kind == "oracle":
                new_EM = self._told_EM[:, first : first + route.size].clone()
                first += route.size
            elif kind == "self" and self._own_heads[k] is not None:
                own_E = actions_NEH[route.receiver, :, self._own_heads[k]].to(heard_EM.device, torch.int64)
                new_EM = one_hot(own_E, route.size).to(heard_EM.dtype)
            elif kind == "constant":
                new_EM = torch.zeros_like(heard_EM)
                new_EM[:, 0] = 1.0
            elif kind == "shuffled" and self.group > 1:
                new_EM = heard_EM.unflatten(0, (-1, self.group)).roll(1, dims=1).flatten(0, 1)
            elif kind == "noisy" and uniform_En is not None and route.size > 1:
                place = self._place[route.sender, route.head]
                new_EM = _through_noise(heard_EM, uniform_En[:, place], self.condition.noise)
            elif kind == "noisy":
                new_EM = heard_EM
            else:
                new_EM = torch.zeros_like(heard_EM)
            results.append(new_EM)
        return results

    def written(self, obs_NEO: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """A copy of observations with this in the slots; of each route [E, M], or what broadcasts to it."""
        changed_NEO = obs_NEO.clone()
        for route, new_EM in zip(self.spec.routes, slots, strict=True):
            if not self.spec.fixed_agents:  # whoever is not there sees zeros alone
                new_EM = new_EM * (obs_NEO[route.receiver] != 0).any(-1, keepdim=True)
            changed_NEO[route.receiver, :, route.slot] = new_EM
        return changed_NEO

    def remember(self, obs_NEO: Tensor) -> None:
        """What senders observe now is what they tell in the next step; in place."""
        if self._told_EM.shape[1] == 0:
            return
        parts = []
        for route in self.spec.routes:
            told = obs_NEO[route.sender, :, route.told]
            parts.append(pad(told, (0, route.size - told.shape[1])))
        self._told_EM.copy_(torch.cat(parts, dim=1))

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "noise": self._noise.state_dict(), "told": self._told_EM.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restart(state["seed"])
        self._noise.load_state_dict(state["noise"])
        self._told_EM.copy_(state["told"])


class Conditioned(BatchedEnv):
    """The environments of `env`, whose agents hear what a condition lets arrive.

    No route of its spec is exact any more: what a sender would say now is not what is heard, so that the learner does
    not relabel received messages with it, and a world model predicts them.

    Args:
        env: environments with messages, whose agents see one observation.
        condition: what arrives.
        rows: global index of every environment.
        group: environments of one replica, which lie side by side.

    Raises:
        UserError: the condition does not fit to the agents, or `shuffled` has one environment in a replica.
    """

    def __init__(self, env: BatchedEnv, condition: Condition, rows: Sequence[int], group: int) -> None:
        if condition.needs_neighbours and group < 2:
            raise UserError(
                "channel shuffled: what is heard comes from another environment of the same replica, and there is one "
                "alone; expected num_envs of at least 2."
            )
        self._slots = Slots(env.spec, condition, rows, group, env.device, env.dtype)
        self.env = env
        self.spec = replace(env.spec, routes=tuple(replace(route, exact=False) for route in env.spec.routes))
        self.num_envs, self.device, self.dtype = env.num_envs, env.device, env.dtype

    @property
    def reader(self) -> Reader | None:
        return self.env.reader

    def reset(self, seed: int | None = None) -> Tensor:
        self._slots.restart(self._slots.seed if seed is None else seed)
        obs_NEO = self._slots.begin(self.env.reset(seed))
        self.mask = self.env.mask
        return obs_NEO

    def step(self, actions: Tensor) -> Step:
        step, slots = self.env.step(actions), self._slots
        heard = slots.arriving(actions, step.final_obs)
        going_on_E1 = ~step.ended[:, None]
        slots.remember(step.obs)
        return replace(
            step,
            obs=slots.written(step.obs, [new_EM * going_on_E1 for new_EM in heard]),
            final_obs=slots.written(step.final_obs, heard),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict(), "channel": self._slots.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        self._slots.load_state_dict(state["channel"])

    def renewed(self, state: dict[str, Any]) -> Tensor:
        self._slots.load_state_dict(state["channel"])
        obs_NEO = self._slots.begin(self.env.renewed(state["env"]))
        self.mask = self.env.mask
        return obs_NEO

    def unrepeatable(self, rebuild: bool = False) -> str:
        return self.env.unrepeatable(rebuild)

    def pattern(self) -> Hashable | None:
        return self.env.pattern()

    def replayed(self) -> None:
        self.env.replayed()

    def close(self) -> None:
        self.env.close()


def _own_head(spec: EnvSpec, route: Route) -> int | None:
    """The receiver's message head that stands where the sender's does among its own; None: it does not speak so."""
    theirs, mine = (
        [h for h, head in enumerate(spec.agents[n].heads) if head.is_message] for n in (route.sender, route.receiver)
    )
    place = theirs.index(route.head) if route.head in theirs else 0
    fits = place < len(mine) and spec.agents[route.receiver].heads[mine[place]].size <= route.size
    return mine[place] if fits else None


def _through_noise(heard_EM: Tensor, uniform_E: Tensor, noise: float) -> Tensor:
    """One-hots or zeros [E, M] through `another_symbol`; zeros stay."""
    size = heard_EM.shape[1]
    spoken_E1 = heard_EM.amax(1, keepdim=True) > 0
    symbol_E = another_symbol(heard_EM.argmax(1), uniform_E, noise, size)
    return one_hot(symbol_E, size).to(heard_EM.dtype) * spoken_E1
