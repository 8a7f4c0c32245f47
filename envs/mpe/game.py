"""One scenario's world in E rows: what actions do to it, and what agents see of it. Knows no episodes and no chance.

Shape suffixes: N agents, E environments (rows), O observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from envs.mpe.catalogue import NUM_MOVES
from envs.mpe.core import Physics, World
from envs.mpe.scenario import Scenario
from envs.mpe.schedule import Span

_CACHE_LINE = 64  # bytes
_LONG_ROW = 2048  # bytes


class Game:
    """State and physics of a scenario.

    Args:
        scenario: what is played; it is prepared here.
        count: E.
        device, dtype: of the state.
    """

    def __init__(self, scenario: Scenario, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.scenario, self.spec = scenario, scenario.spec()
        self._continuous = self.spec.continuous  # here: a compiled step cannot ask for it
        self.physics = Physics(scenario.agents, scenario.landmarks, device, dtype)
        scenario.prepare(device, dtype)
        movers, (first, last) = self.physics.movers, scenario.speakers()
        head = int(first < last and scenario.agents[first].movable)  # the move, if any, comes first
        self._message_heads = slice(head, head + scenario.message_length)
        self._message_entries = slice(head * self.spec.head_size, head * self.spec.head_size + scenario.num_symbols)
        assert len({agent.movable for agent in scenario.agents[first:last]}) <= 1, "speakers all move or none does"

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(*shape, count, device=device, dtype=dtype)

        self.world = World(
            num_agents=len(scenario.agents),
            movers=movers,
            pos=zeros(len(scenario.agents) + len(scenario.landmarks), 2),
            vel=zeros(movers[1] - movers[0], 2),
            said=zeros(last - first, scenario.num_symbols * scenario.message_length),
            facts={name: zeros(*shape, dtype=kind or dtype) for name, (shape, kind) in scenario.facts.items()},
        )
        self._parts: dict[Span, World] = {}

    def part(self, span: Span) -> World:
        """The world seen through some of its rows."""
        if span not in self._parts:
            self._parts[span] = self.world.rows(slice(*span))
        return self._parts[span]

    def start(self, world: World, uniform: Tensor) -> None:
        """Start a new episode in every row of `world`, from numbers in (0, 1) [scenario.reset_draws, rows]."""
        world.vel.zero_()
        world.said.zero_()
        self.scenario.reset(world, uniform)

    def advance(self, actions: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of every row, no resets, no host, no sync.

        Args:
            actions: integers [N, E, H]; where moves are continuous, rows [N, E, A].
            uniform: numbers in (0, 1) [scenario.step_draws, E]; None where a step draws none.

        Returns:
            Rewards [N, E], observations [N, E, O], and bool [E], rows that reached their goal; None where none can.
        """
        scenario, world = self.scenario, self.world
        movers, speakers = self.physics.movers, scenario.speakers()
        if self._continuous:
            thrust = self.physics.push(actions[movers[0] : movers[1], :, :NUM_MOVES])
        else:
            thrust = self.physics.thrust(actions[movers[0] : movers[1], :, 0])
        if speakers[1] and self._continuous:
            said = actions[speakers[0] : speakers[1], :, self._message_entries].argmax(-1, keepdim=True)
            scenario.speak(world, said.transpose(1, 2))
        elif speakers[1]:
            said = actions[speakers[0] : speakers[1], :, self._message_heads]
            scenario.speak(world, said.transpose(1, 2))
        if movers[1]:
            self.physics.move(world, thrust, scenario.pace(world))
        if uniform is not None:
            scenario.after_move(world, uniform)
        seen = scenario.relate(world)
        reward_NE = scenario.reward(world, seen).expand(self.spec.num_agents, -1).contiguous()
        obs_NEO = self.empty_obs()
        self.observe_into(obs_NEO, world, seen)
        return reward_NE, obs_NEO, scenario.terminal(world, seen) if scenario.can_terminate else None

    def empty_obs(self) -> Tensor:
        """Memory for observations [N, E, O] of all rows."""
        pos = self.world.pos
        return pos.new_empty(self.spec.num_agents, pos.shape[-1], self.spec.obs_size)

    def observe_into(self, obs_NEO: Tensor, world: World, seen: Any = None) -> None:
        """Write the observations of `world` into `obs_NEO`, zeros behind every agent's own width."""
        seen = self.scenario.relate(world) if seen is None else seen
        first = 0
        for pieces in self.scenario.observe(world, seen):
            group = side_by_side(pieces)
            agents, width, _ = group.shape
            block = obs_NEO[first : first + agents]
            block[..., :width].copy_(group.transpose(1, 2))
            if width < self.spec.obs_size:
                block[..., width:].zero_()
            first += agents


def side_by_side(pieces: Sequence[Tensor]) -> Tensor:
    """Join [agents, width_i, e] along the widths, ready to be transposed.

    On a CPU long rows of the result lie an odd number of cache lines apart: rows a power of two apart would fall into
    the same few sets of the cache, and transposing them would be up to five times slower.
    """
    if len(pieces) == 1:
        return pieces[0]
    agents, _, envs = pieces[0].shape
    size = pieces[0].element_size()
    if envs * size < _LONG_ROW or pieces[0].device.type != "cpu" or torch.compiler.is_compiling():
        return torch.cat(tuple(pieces), 1)
    per_line = _CACHE_LINE // size
    stride = ((envs + per_line - 1) // per_line | 1) * per_line
    joined = pieces[0].new_empty(agents, sum(piece.shape[1] for piece in pieces), stride)[..., :envs]
    return torch.cat(tuple(pieces), 1, out=joined)
