"""Environments made by hypothesis: what PettingZoo allows of spaces, masks and agents, and one breach at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st
from pettingzoo import ParallelEnv

BOX = spaces.Box(-1, 1, (2,), np.float32)


@dataclass(frozen=True)
class Plan:
    """What an environment is made of."""

    names: tuple[str, ...]
    seen: tuple[spaces.Space, ...]  # by agent
    done: tuple[spaces.Space, ...]  # actions, by agent
    masks: str = "none"  # none, seen (in the observation) or told (in the infos)
    deaths: dict[str, int] = field(default_factory=dict)  # the step in which an agent ends
    births: dict[str, int] = field(default_factory=dict)  # the step in which it comes
    welcome: float = 0.0  # paid to an agent in the step in which it comes
    length: int = 5
    metadata: dict[str, Any] = field(default_factory=dict)
    breach: str = ""


def sample(space: spaces.Space, rng: np.random.Generator) -> Any:
    """An element; `space.sample` draws from a state of its own."""
    if isinstance(space, spaces.Box):
        if space.dtype.kind == "f":
            low, high = np.maximum(space.low, -9), np.minimum(space.high, 9)
            return rng.uniform(low, high).astype(space.dtype)
        return rng.integers(space.low, space.high, endpoint=True).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return int(space.start + rng.integers(space.n))
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, space.shape).astype(space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec).astype(space.dtype)
    if isinstance(space, spaces.Tuple):
        return tuple(sample(part, rng) for part in space.spaces)
    return {key: sample(part, rng) for key, part in space.spaces.items()}


class Generated(ParallelEnv):
    """Plays a plan; an agent is paid for its actions by weights that change from step to step."""

    render_mode = None

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.metadata = {"name": "generated_v0", **plan.metadata}
        self.possible_agents = list(plan.names)
        self.agents: list[str] = []
        self.acts = dict(zip(plan.names, plan.done, strict=True))
        self.sees = dict(zip(plan.names, plan.seen, strict=True))
        self.shown = {name: self._shown(name) for name in plan.names}

    def _choices(self, name: str) -> int:
        space = self.acts[name]
        return int(space.n) if isinstance(space, spaces.Discrete) else int(np.sum(space.nvec))

    def _shown(self, name: str) -> spaces.Space:
        if self.plan.masks != "seen":
            return self.sees[name]
        return spaces.Dict(
            {"observation": self.sees[name], "action_mask": spaces.Box(0, 1, (self._choices(name),), np.int8)}
        )

    def observation_space(self, agent: str) -> spaces.Space:
        return self.shown[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.acts[agent]

    def _mask(self, name: str) -> np.ndarray:
        """Every second choice of a single head, everything of several."""
        mask = np.ones(self._choices(name), np.int8)
        if isinstance(self.acts[name], spaces.Discrete) and not self.plan.metadata:
            mask[(self.t + 1) % 2 :: 2] = len(mask) < 2
        return mask[:-1] if self.plan.breach == "mask length" and self.t == 1 and len(mask) > 1 else mask

    def _see(self, name: str) -> Any:
        value = sample(self.sees[name], self.rng)
        if self.t == 1 and name == self.plan.names[0]:
            value = SPOILED.get(self.plan.breach, lambda value: value)(value)
        return {"observation": value, "action_mask": self._mask(name)} if self.plan.masks == "seen" else value

    def _tell(self, name: str) -> Any:
        if self.plan.breach == "info" and self.t == 1:
            return "fine"
        return {"action_mask": self._mask(name)} if self.plan.masks == "told" else {}

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        if self.plan.breach == "reset raises":
            raise ValueError("no level")
        self.rng = np.random.default_rng(seed)
        self.t = 0
        self.agents = [name for name in self.possible_agents if name not in self.plan.births]
        seen = {name: self._see(name) for name in self.agents}
        return seen if self.plan.breach == "old reset" else (seen, {name: self._tell(name) for name in self.agents})

    def step(self, actions: dict[str, Any]) -> Any:
        self.t += 1
        acting, plan = self.agents, self.plan
        weights = self.rng.normal(size=len(plan.names))
        come = [name for name in plan.names if plan.births.get(name) == self.t]
        over = self.t >= plan.length
        come = [] if over else come
        paid: dict[str, Any] = {
            name: float(weights[plan.names.index(name)] * np.sum(actions[name])) for name in acting
        } | {name: plan.welcome for name in come if plan.welcome}
        ended = {name: plan.deaths.get(name) == self.t for name in acting}
        cut = dict.fromkeys(acting, over)
        seen = {name: self._see(name) for name in acting + come}
        infos = {name: self._tell(name) for name in acting + come}
        self.agents = [name for name in acting if not (ended[name] or cut[name])] + come
        result = [seen, paid, ended, cut, infos]
        if self.t == 1 and plan.breach in RESULTS:
            RESULTS[plan.breach](result, plan.names[0], self)
        return tuple(result[:4]) if plan.breach == "four values" else tuple(result)


# ------------------------------------------------------------------- breaches
SPOILED: dict[str, Callable[[np.ndarray], Any]] = {  # what the first agent, with `BOX`, sees after the first step
    "dtype": lambda value: value.astype(np.float64),
    "list": lambda value: value.tolist(),
    "shape": lambda value: value[None],
    "nan": lambda value: value * np.float32(np.nan),
    "bounds": lambda value: value * 0 - 3,
}
RESULTS: dict[str, Callable[[list, str, Generated], Any]] = {  # changes of what the first step returns
    "no observation": lambda result, name, env: result[0].pop(name),
    "a stranger": lambda result, name, env: result[0].update(nobody=1),
    "no reward": lambda result, name, env: result[1].pop(name),
    "reward": lambda result, name, env: result[1].update({name: None}),
    "large reward": lambda result, name, env: result[1].update({name: 1e300}),
    "flag": lambda result, name, env: result[2].update({name: 0}),
    "no truncations": lambda result, name, env: result[3].clear(),
    "unlisted": lambda result, name, env: env.agents.append("nobody"),
    "vanished": lambda result, name, env: env.agents.remove(name),
    "lingers": lambda result, name, env: result[2].update({name: True}),
}
DECLARED = {
    "heads": {"heads": {"a": [["move", 2], ["message", 2]]}},
    "unknown head": {"heads": {"z": [["move", 2]]}},
    "route outside": {"routes": [{"sender": "a", "head": "message", "receiver": "b", "start": 9}]},
    "false route": {"routes": [{"sender": "a", "head": "message", "receiver": "b", "start": 0}]},
}
BREACHES = [*SPOILED, *RESULTS, *DECLARED, "mask length", "info", "old reset", "reset raises", "four values"]


def broken(breach: str) -> Plan:
    """The plain environment of two agents with one breach."""
    metadata: dict[str, Any] = {}
    if breach in DECLARED:
        metadata = {"heads": {"a": [["move", 2], ["message", 3]]}, **DECLARED[breach]}
    masks = "told" if breach == "mask length" else "none"
    return Plan(("a", "b"), (BOX, BOX if breach != "false route" else spaces.Box(-1, 1, (4,), np.float32)),
                (spaces.Discrete(6), spaces.Discrete(3)), masks, metadata=metadata, breach=breach)  # fmt: skip


# ----------------------------------------------------------------- strategies
_SIZES = st.integers(1, 3)
_LEAVES = st.one_of(
    st.builds(lambda n, m: spaces.Box(-1, 1, (n, m) if m > 1 else (n,), np.float32), _SIZES, _SIZES),
    st.builds(lambda n: spaces.Box(0.5, np.inf, (n,), np.float64), _SIZES),
    st.builds(lambda n: spaces.Box(0, 255, (n, 2, 3), np.uint8), _SIZES),
    st.builds(lambda n: spaces.Box(-4, 7, (n,), np.int16), _SIZES),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), _SIZES, st.integers(-2, 3)),
    st.builds(spaces.MultiBinary, _SIZES),
    st.builds(spaces.MultiDiscrete, st.lists(_SIZES, min_size=1, max_size=3)),
)
_SPACES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(spaces.Tuple),
        st.dictionaries(st.sampled_from(["z", "near", "1", "the rest"]), inner, min_size=1, max_size=2).map(
            spaces.Dict
        ),
    ),
    max_leaves=4,
)
_ACTIONS = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 4), st.integers(-1, 5)),
    st.builds(spaces.MultiDiscrete, st.lists(_SIZES, min_size=1, max_size=2)),
)
_NAMES = st.lists(
    st.sampled_from(["a", "b_1", "left arm", "right/№1", "ß", "0", "__x"]), min_size=1, max_size=3, unique=True
)


@st.composite
def plans(draw: Any) -> Plan:
    """Environments that keep the contract."""
    names = tuple(draw(_NAMES))
    length = draw(st.integers(1, 6))
    leaves = st.dictionaries(st.sampled_from(names), st.integers(1, length), max_size=len(names))
    comes = draw(st.dictionaries(st.sampled_from(names[1:]), st.integers(1, 3), max_size=1)) if len(names) > 1 else {}
    deaths = {name: step for name, step in draw(leaves).items() if step > comes.get(name, 0)}
    deaths.pop(names[0], None)  # somebody stays until those that are late have come
    return Plan(
        names,
        tuple(draw(_SPACES) for _ in names),
        tuple(draw(_ACTIONS) for _ in names),
        draw(st.sampled_from(["none", "seen", "told"])),
        deaths,
        comes,
        draw(st.sampled_from([0.0, 2.5])),
        length,
    )
