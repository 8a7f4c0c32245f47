"""Physics of MPE, once for all scenarios: bodies, the world's state, forces, integration.

Every tensor of the state has the environments as its *last* dimension (`[entity, component, E]`), so each operation
runs over contiguous memory, whatever the number of entities; only the finished observations are transposed.

Order inside one step, as `mpe2` has it: control and contact forces from the old positions; `pos += vel_old * dt`;
`vel = 0.75 * vel_old + force / mass * dt`; speed limit. An action therefore moves an agent one step later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

DT = 0.1  # time of one step
DAMPING = 0.25  # share of the velocity that is lost in a step
CONTACT_FORCE = 100.0  # force per unit of penetration
CONTACT_MARGIN = 1e-3  # width over which a contact sets in
_NO_DISTANCE = 1e-12  # below it a contact has no direction and hence no force (mpe2 divides by zero: nan)


@dataclass(frozen=True)
class Body:
    """Fixed properties of one agent or landmark."""

    name: str
    size: float = 0.05  # radius
    movable: bool = False
    collide: bool = False  # takes part in contact forces
    silent: bool = True  # has no message head
    accel: float = 5.0  # force of a move
    max_speed: float = float("inf")
    mass: float = 1.0


@dataclass
class World:
    """State of E environments. Tensors are only ever written in place, so views of them stay valid."""

    num_agents: int
    movers: tuple[int, int]  # [first, last) agents that can move
    pos: Tensor  # [entities, 2, E] agents first, then landmarks
    vel: Tensor  # [movers, 2, E]
    said: Tensor  # [speakers, M, E] one-hot of the last message; zeros right after a reset
    facts: dict[str, Tensor] = field(default_factory=dict)  # the scenario's own state, each [..., E]

    @property
    def agents(self) -> Tensor:
        """Positions of the agents, [agents, 2, E]."""
        return self.pos[: self.num_agents]

    @property
    def landmarks(self) -> Tensor:
        """Positions of the landmarks, [landmarks, 2, E]."""
        return self.pos[self.num_agents :]

    @property
    def moving(self) -> Tensor:
        """Positions of the agents that can move, [movers, 2, E]."""
        return self.pos[self.movers[0] : self.movers[1]]

    def tensors(self) -> dict[str, Tensor]:
        """All state by name: what a checkpoint holds."""
        return {"pos": self.pos, "vel": self.vel, "said": self.said, **self.facts}

    def rows(self, rows: slice) -> World:
        """The same world seen through a slice of its environments; writing to it writes here."""
        facts = {name: value[..., rows] for name, value in self.facts.items()}
        return World(
            self.num_agents, self.movers, self.pos[..., rows], self.vel[..., rows], self.said[..., rows], facts
        )

    def empty_like(self) -> World:
        """A world of the same shapes, not initialised."""
        facts = {name: torch.empty_like(value) for name, value in self.facts.items()}
        pos, vel, said = (torch.empty_like(value) for value in (self.pos, self.vel, self.said))
        return World(self.num_agents, self.movers, pos, vel, said, facts)


# ------------------------------------------------------------------ geometry
def squared_length(vector: Tensor) -> Tensor:
    """Squared Euclidean length of [..., 2, E] as [..., E]."""
    x, y = vector.unbind(-2)
    return torch.addcmul(x * x, y, y)


def length(vector: Tensor) -> Tensor:
    """Euclidean length of [..., 2, E] as [..., E]. (torch's own norm is slow over any but the last dimension.)"""
    return squared_length(vector).sqrt_()


def relative(to: Tensor, start: Tensor) -> Tensor:
    """Vectors from every `start` [A, 2, E] to every `to` [B, 2, E]: [A, B, 2, E]."""
    return to.unsqueeze(0) - start.unsqueeze(1)


def less(value: Tensor, bound: Tensor | float) -> Tensor:
    """1 where `value` < `bound`, else 0, in the type and shape of `value` (which `bound` must broadcast to)."""
    if torch.compiler.is_compiling():
        return (value < bound).to(value.dtype)
    # straight into numbers: on a CPU many times faster than by way of bool
    return torch.lt(value, bound, out=torch.empty_like(value))


def contiguous_range(flags: Sequence[bool]) -> tuple[int, int]:
    """[first, last) of the entries that are True; they must stand side by side."""
    chosen = [index for index, flag in enumerate(flags) if flag]
    if not chosen:
        return (0, 0)
    assert chosen == list(range(chosen[0], chosen[-1] + 1)), "agents of a kind must stand side by side"
    return (chosen[0], chosen[-1] + 1)


class Physics:
    """Forces and integration for a fixed set of bodies.

    Args:
        agents: the agents, in order; those that can move stand side by side.
        landmarks: the landmarks, in order.
        device, dtype: where and in which precision.
    """

    def __init__(
        self, agents: Sequence[Body], landmarks: Sequence[Body], device: torch.device, dtype: torch.dtype
    ) -> None:
        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device).view(-1, 1, 1)

        self.movers = contiguous_range([agent.movable for agent in agents])
        moving = agents[self.movers[0] : self.movers[1]]
        # a move's direction: none, left, right, down, up
        directions = [[0.0, -1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0, 1.0]]
        self.directions = torch.tensor(directions, dtype=dtype, device=device)
        self.gain = column([agent.accel / agent.mass * DT for agent in moving])  # velocity per move
        self.contact_gain = column([DT / agent.mass for agent in moving])  # velocity per force
        limits = [agent.max_speed for agent in moving]
        self.max_speed = column(limits)[..., 0] if any(limit != float("inf") for limit in limits) else None
        self._prepare_contacts(agents, landmarks, device, dtype)

    def _prepare_contacts(
        self, agents: Sequence[Body], landmarks: Sequence[Body], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Pairs (a, b), a < b, that collide; for every mover its pairs in the order of the other entity."""
        bodies = [*agents, *landmarks]
        pairs = [
            (a, b)
            for a in range(len(bodies))
            for b in range(a + 1, len(bodies))
            if bodies[a].collide and bodies[b].collide and (bodies[a].movable or bodies[b].movable)
        ]
        self.num_pairs = len(pairs)
        if not pairs:
            return
        own = [
            [(p, 1.0 if a == agent else -1.0) for p, (a, b) in enumerate(pairs) if agent in (a, b)]
            for agent in range(*self.movers)
        ]
        assert len({len(entries) for entries in own}) == 1, "either every mover collides or none does"
        self.per_mover = len(own[0])

        def index(values: Sequence[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64, device=device)

        self.first, self.second = index([a for a, _ in pairs]), index([b for _, b in pairs])
        reach = [bodies[a].size + bodies[b].size for a, b in pairs]
        self.reach = torch.tensor(reach, dtype=dtype, device=device).view(-1, 1)
        self.pair_of = index([p for entries in own for p, _ in entries])
        signs = [[sign for _, sign in entries] for entries in own]
        self.sign = torch.tensor(signs, dtype=dtype, device=device).view(len(own), self.per_mover, 1, 1)

    # -------------------------------------------------------------- one step
    def thrust(self, moves: Tensor) -> Tensor:
        """Unit vectors [movers, 2, E] of integer moves [movers, E]; on a CPU, `IndexError` for one out of range."""
        movers, envs = moves.shape
        return self.directions.index_select(1, moves.reshape(-1)).view(2, movers, envs).transpose(0, 1)

    def push(self, moves: Tensor) -> Tensor:
        """Vectors [movers, 2, E] of numbers [movers, E, 5] in [-1, 1] for none, left, right, down, up: right - left and
        up - down of the same on mpe2's scale of [0, 1]."""
        moves = moves.to(self.directions.dtype)
        return torch.stack((moves[..., 2] - moves[..., 1], moves[..., 4] - moves[..., 3]), 1).mul_(0.5)

    def contact_force(self, pos: Tensor) -> Tensor:
        """Sum of the contact forces on every mover, [movers, 2, E], from the positions [entities, 2, E].

        A pair at distance d pushes apart with 100 k log(1 + exp((reach - d) / k)), k = 1e-3. At the very same place
        there is no direction to push in and the force is zero.
        """
        delta = pos.index_select(0, self.first) - pos.index_select(0, self.second)
        distance = length(delta).clamp_(min=_NO_DISTANCE)
        # the threshold only avoids overflow: log(1 + exp(50)) is 50 in double precision
        depth = F.softplus((self.reach - distance).mul_(1 / CONTACT_MARGIN), threshold=50.0)
        force = delta * depth.mul_(CONTACT_MARGIN * CONTACT_FORCE).div_(distance).unsqueeze(1)
        on_mover = force.index_select(0, self.pair_of).view(*self.sign.shape[:2], 2, -1)
        return on_mover.mul_(self.sign).sum(1)

    def move(self, world: World, thrust: Tensor, pace: Tensor | None = None) -> None:
        """Advance positions and velocities by one step, in place.

        Args:
            thrust: [movers, 2, E] from `thrust`.
            pace: [movers, E] factor on acceleration and speed limit, None for 1.
        """
        vel = world.vel
        force = self.contact_force(world.pos) if self.num_pairs else None
        world.moving.add_(vel, alpha=DT)
        gain = self.gain if pace is None else self.gain * pace.unsqueeze(1)
        vel.mul_(1 - DAMPING).addcmul_(thrust, gain)
        if force is not None:
            vel.addcmul_(force, self.contact_gain)
        if self.max_speed is not None:
            limit = self.max_speed if pace is None else self.max_speed * pace
            vel.mul_((squared_length(vel).rsqrt_() * limit).clamp_(max=1.0).unsqueeze(1))
