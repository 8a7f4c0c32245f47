"""What a scenario is: its bodies, its reset, its rewards and its observations. One file each beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.errors import UserError
from envs.mpe.catalogue import build_spec, make_heads
from envs.mpe.core import Body, World, contiguous_range
from envs.spec import EnvSpec


class Scenario(ABC):
    """One task on the physics of `core`.

    A subclass sets `agents`, `landmarks`, `num_symbols` and `facts` in `__init__` and fills in `reset`, `reward` and
    `observe`. Leading dimension of what it gets and gives: bodies; last: `e` environments, all of them or a few.
    """

    id: ClassVar[str]
    agents: tuple[Body, ...]
    landmarks: tuple[Body, ...]
    num_symbols: int = 0  # size of the vocabulary of those agents that are not silent
    message_length: int = 1  # symbols that a speaker says in one step
    facts: dict[str, tuple[tuple[int, ...], torch.dtype | None]]  # own state: shape before e, type (None: as env)
    step_draws: int = 0  # uniform numbers that `after_move` needs in every step
    can_terminate: bool = False  # episodes may end before the horizon, by `terminal`
    num_stages: int = 1  # of the curriculum
    curriculum: bool = False  # whether the stage matters
    curriculum_stage: int = 0
    continuous_actions: bool = False  # moves are numbers; messages stay symbols

    def __init__(self, max_cycles: int) -> None:
        check_count("max_cycles", max_cycles)
        self.horizon = max_cycles
        self.facts = {}

    @property
    def reset_draws(self) -> int:
        """Uniform numbers that `reset` needs: by default two for every body."""
        return 2 * (len(self.agents) + len(self.landmarks))

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make the constants that the scenario computes with, where it computes."""
        self.eye = torch.eye(self.num_symbols, device=device, dtype=dtype)
        self.others = torch.tensor(others(len(self.agents)), dtype=torch.int64, device=device).view(-1)

    # -------------------------------------------------------------- episode
    @abstractmethod
    def reset(self, world: World, u: Tensor) -> None:
        """Start every episode in `world` from `u`, uniform in (0, 1), [reset_draws, e]. Velocities and messages are
        zero already."""

    def set_ages(self, world: World, ages: Tensor) -> None:  # noqa: B027 - most scenarios do not count steps
        """Let episodes that have just begun be `ages` steps old, int64 [e]: they end so much sooner."""

    def speak(self, world: World, symbols: Tensor) -> None:
        """Put the messages `symbols` [speakers, length, e] on the channel; on a CPU, `IndexError` for one out of
        range."""
        size = self.num_symbols
        for speaker, message in enumerate(symbols.unbind(0)):
            for position, symbol in enumerate(message.unbind(0)):
                said = world.said[speaker, position * size : (position + 1) * size]
                torch.index_select(self.eye, 1, symbol, out=said)

    def after_move(self, world: World, u: Tensor) -> None:  # noqa: B027 - most scenarios need none
        """What happens between the physics and the rewards; `u` is uniform in (0, 1), [step_draws, e]."""

    def relate(self, world: World) -> Any:
        """Geometry that rewards and observations share, computed once after every step and every reset."""
        return None

    @abstractmethod
    def reward(self, world: World, seen: Any) -> Tensor:
        """Rewards [agents, e], or [1, e] where all get the same; `seen` is what `relate` gave."""

    @abstractmethod
    def observe(self, world: World, seen: Any) -> list[tuple[Tensor, ...]]:
        """Observations of groups of agents, in order. Of each group the pieces that stand side by side, each
        [agents of the group, width of the piece, e]."""

    def of_others(self, values: Tensor) -> Tensor:
        """For every agent the entries of all other agents, in order: [A, ..., e] to [A, A - 1, ..., e]."""
        count = len(self.agents)
        return values.index_select(0, self.others).view(count, count - 1, *values.shape[1:])

    def to_others(self, agents: Tensor) -> Tensor:
        """Vectors from every agent to all others, in order: positions [A, 2, e] to [A, A - 1, 2, e]."""
        return self.of_others(agents) - agents.unsqueeze(1)

    def terminal(self, world: World, seen: Any) -> Tensor:
        """Bool [e]: the episode has reached its goal. Only asked where `can_terminate`."""
        raise AssertionError(f"{self.id} does not end before its horizon")

    def pace(self, world: World) -> Tensor | None:
        """Factor [movers, e] on acceleration and speed limit, None for 1."""
        return None

    def set_curriculum_stage(self, stage: int) -> None:
        """Jump to a stage of the curriculum, clamped to the range that there is."""
        self.curriculum_stage = max(0, min(int(stage), self.num_stages - 1))

    # ------------------------------------------------- exchange with mpe2
    def load(self, raw: Any, world: World) -> None:  # noqa: B027 - most scenarios need none
        """Copy the scenario's own state from mpe2's raw environment into `world`, a view of one row."""

    def store(self, raw: Any, world: World) -> None:  # noqa: B027 - most scenarios need none
        """Copy the scenario's own state from `world`, a view of one row, into mpe2's raw environment."""

    # ----------------------------------------------------------------- spec
    @property
    @abstractmethod
    def obs_sizes(self) -> list[int]:
        """Width of every agent's observation."""

    def spec(self) -> EnvSpec:
        """Agents, heads, routes, teams and horizon."""
        box = self.continuous_actions
        heads = [make_heads(agent.movable, agent.silent, self.num_symbols, box) for agent in self.agents]
        return build_spec(self.id, [agent.name for agent in self.agents], self.obs_sizes, heads, self.horizon, box)

    def speakers(self) -> tuple[int, int]:
        """[first, last) agents that can speak."""
        return contiguous_range([not agent.silent for agent in self.agents])


# ------------------------------------------------------------------ pieces that scenarios share
def place(positions: Tensor, u: Tensor, half_width: float = 1.0) -> None:
    """Put bodies [B, 2, e] uniformly into the square (-half_width, half_width)^2 from `u` [2 B, e]."""
    torch.sub(u.view(positions.shape), 0.5, out=positions)
    positions.mul_(2 * half_width)


def choose(u: Tensor, count: int) -> Tensor:
    """Integers in [0, count) from `u` uniform in (0, 1), same shape."""
    return (u * count).to(torch.int64)


def others(count: int) -> list[list[int]]:
    """For every one of `count` agents the others, in order."""
    return [[other for other in range(count) if other != agent] for agent in range(count)]


def check_count(name: str, value: Any, at_least: int = 1, at_most: int | None = None) -> None:
    """Raise `UserError` unless `value` is an integer that the port can serve."""
    bounds = f"at least {at_least}" if at_most is None else f"in [{at_least}, {at_most}]"
    good = isinstance(value, int) and not isinstance(value, bool) and value >= at_least
    if not good or (at_most is not None and value > at_most):
        raise UserError(f'{name} must be an integer {bounds} with backend="torch", got {value!r}.')


def check_ratio(name: str, value: Any) -> None:
    """Raise `UserError` unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must be a number in [0, 1], got {value!r}.")


def check_neighbors(name: str, value: Any) -> None:
    """Raise `UserError` unless `value` is None or a positive integer."""
    if value is not None:
        check_count(name, value)


def agents_named(base: str, count: int, **properties: Any) -> tuple[Body, ...]:
    """`count` agents "base_0", "base_1", ... that can move."""
    return tuple(Body(name=f"{base}_{index}", movable=True, **properties) for index in range(count))


def landmarks_named(base: str, count: int, **properties: Any) -> tuple[Body, ...]:
    """`count` landmarks."""
    return tuple(Body(name=f"{base} {index}", **properties) for index in range(count))
