"""What the learner knows of an environment before its first step: agents, heads and who hears whom."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help reads specs' tables and need not wait for torch
    from torch import Tensor


@dataclass(frozen=True)
class Head:
    """One part of an agent's action: a categorical choice, or, where there are bounds, some real numbers."""

    name: str
    """"move", "message", or "choice_0", "choice_1", ... for the entries of a MultiDiscrete."""
    size: int
    """Number of choices, or of numbers."""
    low: tuple[float, ...] | None = None
    """Smallest value of each number in the environment; None: a categorical choice."""
    high: tuple[float, ...] | None = None
    """Largest value of each number."""

    @property
    def is_message(self) -> bool:
        return self.name.startswith("message")

    @property
    def continuous(self) -> bool:
        """Whether it is numbers and not a choice."""
        return self.low is not None


@dataclass(frozen=True)
class AgentSpec:
    """Sizes of one agent, without any padding."""

    name: str
    """As the environment calls it; an integer id as a string."""
    obs_size: int
    """Width of its flattened observation."""
    heads: tuple[Head, ...]
    """Its choices and numbers; all of them are made in every step."""
    multi_discrete: bool = False
    """PettingZoo action: an array of one choice a head, else one integer."""
    start: int = 0
    """`start` of a Discrete space: smallest PettingZoo action id."""
    box: bool = False
    """PettingZoo action: an array, each head's numbers or one-hot side by side."""
    picture: tuple[int, int, int] | None = None
    """(channels, height, width) of the picture that its observation is (envs/pictures.py); None: numbers."""

    @property
    def num_actions(self) -> int:
        """Number of joint choices of all categorical heads: the `n` of the PettingZoo `Discrete` space."""
        product = 1
        for head in self.heads:
            product *= 1 if head.continuous else head.size
        return product

    @property
    def space_size(self) -> int:
        """The `n` of the PettingZoo `Discrete` space, or the width of the Box."""
        return self.choices if self.box else self.num_actions

    @property
    def choices(self) -> int:
        """Number of choices (and numbers) of all heads together: the width of their one-hots side by side."""
        return sum(head.size for head in self.heads)


@dataclass(frozen=True)
class Route:
    """A message slot: `receiver`'s observation holds the one-hot that `sender` chose one step before.

    Zeros stand in the slot right after a reset.
    """

    sender: int
    """Index of the agent that speaks."""
    head: int
    """Index of its message head."""
    receiver: int
    """Index of the agent that hears."""
    start: int
    """First entry of the slot in the receiver's observation."""
    size: int
    """Number of symbols."""
    exact: bool = True
    """False where noise, erasure, delay or a held message stand between the choice and the slot."""
    meaning: tuple[int, ...] | None = None
    """(start, size) in the *sender's* observation of what there is to tell; of several attributes, whose one-hots stand
    side by side, (start, number of values of each)."""

    @property
    def told(self) -> slice:
        """Entries of the sender's observation that say what there is to tell; none where that is not declared."""
        start, *sizes = self.meaning or (0, 0)
        return slice(start, start + sum(sizes))

    @property
    def slot(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class EnvSpec:
    """Agents in fixed order, their sizes, their channels and the horizon."""

    id: str
    """An MPE id with its version, or package.module:function."""
    agents: tuple[AgentSpec, ...]
    """In the order of every tensor's dimension N."""
    horizon: int | None = None
    """Steps after which every episode is truncated; None where unknown."""
    routes: tuple[Route, ...] = ()
    """Who hears whom, and where."""
    teams: tuple[tuple[int, ...], ...] = ()
    """Agents with a common interest; empty: all agents are one team."""
    has_masks: bool = False
    """Some agent's choices may be forbidden by an action mask."""
    fixed_agents: bool = True
    """False where agents may leave before the episode ends."""
    rebuild: bool = False
    """The environment is made anew for every episode, since it carries something over."""
    frames: int = 1
    """Observations in what an agent sees; more than one: `stacked`."""
    own_action: bool = False
    """An agent sees its own last action even where `frames` is 1: `stacked`."""

    def __post_init__(self) -> None:
        if not self.teams:
            object.__setattr__(self, "teams", (tuple(range(len(self.agents))),))

    # ------------------------------------------------------------------ sizes
    @property
    def num_agents(self) -> int:
        return len(self.agents)

    @property
    def agent_names(self) -> tuple[str, ...]:
        return tuple(agent.name for agent in self.agents)

    @property
    def obs_size(self) -> int:
        """O: the widest agent's observation."""
        return max(agent.obs_size for agent in self.agents)

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of the pictures that all agents observe; None: observations are numbers."""
        return self.agents[0].picture

    @property
    def num_heads(self) -> int:
        """H: the largest number of heads of an agent."""
        return max(len(agent.heads) for agent in self.agents)

    @property
    def head_size(self) -> int:
        """K: the largest head, in choices or numbers."""
        return max(head.size for agent in self.agents for head in agent.heads)

    @property
    def action_size(self) -> int:
        """A = H * K: one-hots (or numbers) of all heads side by side, each padded to the largest head."""
        return self.num_heads * self.head_size

    @cached_property
    def continuous(self) -> bool:
        """Whether some head is continuous. Actions then are rows [N, E, A] (envs/continuous.py)."""
        return any(head.continuous for agent in self.agents for head in agent.heads)

    @cached_property
    def head_mask(self) -> Tensor:
        """Bool [N, H, K]: True where agent n's head h has a choice k; a continuous head has none."""
        return self._entries(False)

    @cached_property
    def number_mask(self) -> Tensor:
        """Bool [N, H, K]: True where agent n's head h is continuous and has a number k."""
        return self._entries(True)

    def _entries(self, continuous: bool) -> Tensor:
        import torch

        mask = torch.zeros(self.num_agents, self.num_heads, self.head_size, dtype=torch.bool)
        for n, agent in enumerate(self.agents):
            for h, head in enumerate(agent.heads):
                mask[n, h, : head.size] = head.continuous == continuous
        return mask

    @cached_property
    def heard(self) -> tuple[tuple[int, slice], ...]:
        """(receiver, columns) of every message slot, in each of the observations that it sees."""
        results = []
        for route in self.routes:
            width = self.single().agents[route.receiver].obs_size
            for start in range(route.start, width * self.frames, width):
                results.append((route.receiver, slice(start, start + route.size)))
        return tuple(results)

    @cached_property
    def senders(self) -> tuple[int, ...]:
        """Agents that some route starts from, in order."""
        return tuple(sorted({route.sender for route in self.routes}))

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """For every agent the index of its kind: interchangeable agents share one.

        Those are agents of the same team, sizes and heads whose names are the same up to the last "_" ("walker_0",
        "walker_1") or, where they hold none, without the digits at their end ("walker0", "walker1"; "0", "1").
        """
        team_of = {agent: t for t, team in enumerate(self.teams) for agent in team}
        keys: list[tuple[Any, ...]] = []
        for n, agent in enumerate(self.agents):
            prefix = agent.name.rsplit("_", 1)[0] if "_" in agent.name else agent.name.rstrip("0123456789")
            keys.append((prefix, team_of.get(n), agent.obs_size, agent.heads))
        order = list(dict.fromkeys(keys))
        return tuple(order.index(key) for key in keys)

    # ----------------------------------------------------------------- frames
    @property
    def actions(self) -> int:
        """Own earlier actions in what an agent sees."""
        return max(self.frames - 1, int(self.own_action))

    def stacked(self, frames: int, own_action: bool = False) -> EnvSpec:
        """The spec with the last `frames` observations side by side, newest first, and the actions between them.

        With `own_action` at least the last action is among them. Slots of messages stay those of the newest
        observation. See `envs.history.Frames`.
        """
        wide = replace(self, frames=frames, own_action=own_action)
        agents = tuple(
            replace(agent, obs_size=agent.obs_size * frames + agent.choices * wide.actions) for agent in self.agents
        )
        return replace(wide, agents=agents)

    def single(self) -> EnvSpec:
        """The spec of the environment itself, whose agents see one observation."""
        agents = tuple(
            replace(agent, obs_size=(agent.obs_size - agent.choices * self.actions) // self.frames)
            for agent in self.agents
        )
        return replace(self, agents=agents, frames=1, own_action=False)

    def declaration(self) -> dict[str, Any]:
        """Heads, routes and fixed agents as an environment's metadata tells `envs.pettingzoo.PettingZooEnv` of them."""
        names = self.agent_names
        return {
            "heads": {agent.name: [[head.name, head.size] for head in agent.heads] for agent in self.agents},
            "routes": [
                {
                    "sender": names[route.sender],
                    "head": self.agents[route.sender].heads[route.head].name,
                    "receiver": names[route.receiver],
                    "start": route.start,
                    "exact": route.exact,
                    "meaning": None if route.meaning is None else list(route.meaning),
                }
                for route in self.routes
            ],
            "fixed_agents": self.fixed_agents,
        }

    # ------------------------------------------------------------- plain data
    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers: what a checkpoint stores."""
        plain = asdict(self)

        def listed(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: listed(entry) for key, entry in value.items()}
            return [listed(entry) for entry in value] if isinstance(value, tuple | list) else value

        whole: dict[str, Any] = listed(plain)
        return whole

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> EnvSpec:
        """Inverse of `to_dict`."""
        agents = tuple(
            AgentSpec(
                **{
                    **agent,
                    "heads": tuple(_head(**head) for head in agent["heads"]),
                    "picture": tuple(agent["picture"]) if agent.get("picture") else None,  # unknown to older versions
                }
            )
            for agent in plain["agents"]
        )
        routes = tuple(
            Route(**{**route, "meaning": None if route["meaning"] is None else tuple(route["meaning"])})
            for route in plain["routes"]
        )
        teams = tuple(tuple(team) for team in plain["teams"])
        return cls(**{**plain, "agents": agents, "routes": routes, "teams": teams})

    def differences(self, other: EnvSpec) -> list[str]:
        """Lines 'field: expected ..., got ...' for every way in which `other` differs; empty where equal."""
        lines = []
        for field in (
            "id",
            "horizon",
            "routes",
            "teams",
            "has_masks",
            "fixed_agents",
            "rebuild",
            "frames",
            "own_action",
        ):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                lines.append(f"{field}: expected {mine!r}, got {theirs!r}")
        if self.agent_names != other.agent_names:
            lines.append(f"agents: expected {list(self.agent_names)}, got {list(other.agent_names)}")
        for mine, theirs in zip(self.agents, other.agents, strict=False):
            if mine != theirs:
                lines.append(
                    f"{mine.name}: expected observation width {mine.obs_size} and heads "
                    f"{_words(mine.heads)}, got {theirs.obs_size} and {_words(theirs.heads)}"
                )
        return lines


def _head(name: str, size: int, low: list[float] | None = None, high: list[float] | None = None) -> Head:
    """A head from plain data."""
    return Head(name, size, None if low is None else tuple(low), None if high is None else tuple(high))


def _words(heads: tuple[Head, ...]) -> list[tuple[Any, ...]]:
    """Heads in a message."""
    return [(head.name, head.size, "continuous") if head.continuous else (head.name, head.size) for head in heads]
