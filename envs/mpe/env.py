"""MPE: E environments of one scenario as tensors on one device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.errors import UserError
from envs.mpe import transfer
from envs.mpe.core import Physics, World
from envs.mpe.scenario import Scenario
from envs.mpe.schedule import Schedule, Span
from envs.streams import mix, name_key, uniform_from

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_CACHE_LINE = 64  # bytes
_LONG_ROW = 2048  # bytes
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # odd increment between the words of one draw (SplitMix64)


class MPE(BatchedEnv):
    """Batched MPE, equal to `mpe2` step for step, with automatic reset.

    All random numbers are a pure function of (seed, global row, episode of that row, index of the draw), so what a row
    plays does not depend on the rows beside it. `step` never waits for the device. Every tensor it returns is fresh:
    it may be kept.

    Args:
        scenario: what is played.
        num_envs: E, at least 1.
        device, dtype: where, and float32 or float64.
        rows: global index of every environment, int [E]; default 0 .. E - 1.
        stagger: row r starts r mod horizon steps into its (then shorter) first episode, so that not all rows end in
            the same step.

    Raises:
        UserError: on bad values; from `step` on actions of a wrong shape, type or range. The range is checked in every
            step on a CPU, at the first step after a reset elsewhere (it costs a synchronisation).
    """

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: Sequence[int] | Tensor | None = None,
        stagger: bool = False,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise UserError(f"num_envs must be an integer of at least 1, got {num_envs!r}.")
        if dtype not in (torch.float32, torch.float64):
            raise UserError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
        self.scenario, self.num_envs, self.dtype, self.stagger = scenario, num_envs, dtype, bool(stagger)
        self.device = usable_device(device)
        self.spec = scenario.spec()
        self._rows = _global_rows(rows, num_envs)
        self._allocate()
        self._seed = 0
        self._check_next = True
        self._play: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]] = self._advance
        self.reset(0)

    def _allocate(self) -> None:
        """Make the physics, the constants and the state tensors."""
        scenario, count = self.scenario, self.num_envs
        self.physics = Physics(scenario.agents, scenario.landmarks, self.device, self.dtype)
        scenario.prepare(self.device, self.dtype)
        self._movers, self._speakers = self.physics.movers, scenario.speakers()
        first, last = self._speakers
        head = int(first < last and scenario.agents[first].movable)  # the move, if any, comes first
        self._message_heads = slice(head, head + scenario.message_length)
        assert len({agent.movable for agent in scenario.agents[first:last]}) <= 1, "speakers all move or none does"

        def zeros(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
            return torch.zeros(*shape, count, device=self.device, dtype=dtype or self.dtype)

        self.world = World(
            num_agents=len(scenario.agents),
            movers=self._movers,
            pos=zeros(len(scenario.agents) + len(scenario.landmarks), 2),
            vel=zeros(self._movers[1] - self._movers[0], 2),
            said=zeros(last - first, scenario.num_symbols * scenario.message_length),
            facts={name: zeros(*shape, dtype=dtype) for name, (shape, dtype) in scenario.facts.items()},
        )
        self._episode_E = torch.zeros(count, dtype=torch.int64, device=self.device)
        self._age_E = torch.zeros(count, dtype=torch.int64, device=self.device)  # only where episodes can terminate
        self._steps = torch.zeros((), dtype=torch.int64, device=self.device)  # since `reset`
        most = max(scenario.reset_draws, scenario.step_draws, 1)
        self._index_D1 = _GOLDEN * torch.arange(1, most + 1, device=self.device).unsqueeze(1)
        self._views: dict[Span, World] = {}

    # ---------------------------------------------------------------- episodes
    def reset(self, seed: int | None = None) -> Tensor:
        """Start every environment's episode 0 of `seed` (None: of the seed given before, else 0); obs [N, E, O]."""
        if seed is not None:
            self._seed = int(seed)
        self._set_keys()
        self._episode_E.zero_()
        self._steps.zero_()
        ages = self._rows % self.scenario.horizon if self.stagger else np.zeros(self.num_envs, dtype=np.int64)
        self._set_ages(ages)
        self._check_next = True
        self._start(self.world, self._reset_key_E, self._episode_E)
        return self.observe()

    def _set_keys(self) -> None:
        row_E = torch.as_tensor(self._rows, device=self.device)
        self._reset_key_E, self._step_key_E = (
            mix(name_key(self._seed, f"{self.spec.id} {what}") + _GOLDEN * (row_E + 1)) for what in ("reset", "step")
        )

    def _set_ages(self, ages: np.ndarray) -> None:
        self._schedule = Schedule(self.scenario.horizon, ages)
        self._age_E.copy_(torch.as_tensor(ages))

    def _uniform(self, key_E: Tensor, counter: Tensor, count: int) -> Tensor:
        """Uniform numbers in (0, 1), [count, e], of keys [e] at `counter` ([e] or no dimension)."""
        start_E = mix(key_E + _GOLDEN * (counter + 1))
        return uniform_from(mix(start_E + self._index_D1[:count]), self.dtype)

    def _start(self, world: World, key_E: Tensor, episode_E: Tensor) -> None:
        """Start a new episode in every row of `world`."""
        world.vel.zero_()
        world.said.zero_()
        self.scenario.reset(world, self._uniform(key_E, episode_E, self.scenario.reset_draws))

    def observe(self) -> Tensor:
        """Observations [N, E, O] of the present state."""
        obs_NEO = self._empty_obs()
        self._observe_into(obs_NEO, self.world)
        return obs_NEO

    def _empty_obs(self) -> Tensor:
        shape = (self.spec.num_agents, self.num_envs, self.spec.obs_size)
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def _observe_into(self, obs_NEO: Tensor, world: World, seen: Any = None) -> None:
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

    # -------------------------------------------------------------------- step
    def compile(self) -> None:
        """Fuse the many small operations of a step with torch.compile, from the next step on.

        That step then takes some ten seconds and needs a C++ compiler (Triton on a GPU). Numbers agree with those of
        the plain step up to rounding.
        """
        self._play = torch.compile(self._advance, fullgraph=True, dynamic=False)

    def step(self, actions: Tensor) -> Step:
        """Play integer actions [N, E, H]; entries of absent heads are ignored."""
        actions = self._usable(actions)
        if self._check_next and self.device.type != "cpu":
            self.check_actions(actions)
        self._check_next = False
        try:
            reward_NE, obs_NEO, success_E = self._play(actions)
        except (IndexError, RuntimeError):  # torch's look-ups raise either for an index out of range
            self.check_actions(actions)  # says which agent and which range
            raise
        if success_E is None:
            return self._finish_by_schedule(reward_NE, obs_NEO)
        return self._finish_by_mask(reward_NE, obs_NEO, success_E)

    def pattern(self) -> Hashable | None:
        """The rows that end with the next step, as far as the host decides it, and the stage of the curriculum."""
        if self._check_next and self.device.type != "cpu":
            return None  # the actions will be read
        return () if self.scenario.can_terminate else self._schedule.due(), self.curriculum_stage

    def repeated(self) -> None:
        """The device has replayed a step of the present `pattern`: count it."""
        if not self.scenario.can_terminate:
            self._schedule.tick()

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of every row, no resets: rewards, observations, rows that reached their goal. No host, no sync."""
        scenario, world = self.scenario, self.world
        thrust = self.physics.thrust(actions[self._movers[0] : self._movers[1], :, 0])
        if self._speakers[1]:
            said = actions[self._speakers[0] : self._speakers[1], :, self._message_heads]
            scenario.speak(world, said.transpose(1, 2))
        if self._movers[1]:
            self.physics.move(world, thrust, scenario.pace(world))
        if scenario.step_draws:
            scenario.after_move(world, self._uniform(self._step_key_E, self._steps, scenario.step_draws))
            self._steps += 1
        seen = scenario.relate(world)
        reward_NE = scenario.reward(world, seen).expand(self.spec.num_agents, -1).contiguous()
        obs_NEO = self._empty_obs()
        self._observe_into(obs_NEO, world, seen)
        return reward_NE, obs_NEO, scenario.terminal(world, seen) if scenario.can_terminate else None

    def _finish_by_schedule(self, reward_NE: Tensor, obs_NEO: Tensor) -> Step:
        """Restart the rows that the host knows to be at their horizon."""
        ended = self._schedule.tick()
        shape = reward_NE.shape
        terminated_NE = torch.zeros(shape, dtype=torch.bool, device=self.device)
        truncated_NE = torch.zeros(shape, dtype=torch.bool, device=self.device)
        done_E = torch.zeros(shape[1], dtype=torch.bool, device=self.device)
        if not ended:
            return Step(obs_NEO, obs_NEO, reward_NE, terminated_NE, truncated_NE, done=done_E)
        everything = ended == ((0, self.num_envs, 1),)
        next_NEO = self._empty_obs() if everything else obs_NEO.clone()
        for span in ended:
            rows = slice(*span)
            if span not in self._views:
                self._views[span] = self.world.rows(rows)
            self._episode_E[rows].add_(1)
            self._start(self._views[span], self._reset_key_E[rows], self._episode_E[rows])
            self._observe_into(next_NEO[:, rows], self._views[span])
            truncated_NE[:, rows].fill_(True)
            done_E[rows].fill_(True)
        return Step(next_NEO, obs_NEO, reward_NE, terminated_NE, truncated_NE, done=done_E)

    def _finish_by_mask(self, reward_NE: Tensor, obs_NEO: Tensor, success_E: Tensor) -> Step:
        """Restart rows whose end only the device knows: every row draws a new episode, a mask decides who takes it."""
        self._age_E += 1
        truncated_E = self._age_E >= self.scenario.horizon
        terminated_E = success_E & ~truncated_E
        done_E = truncated_E | terminated_E
        fresh = self.world.empty_like()
        self._episode_E += done_E
        self._age_E *= ~done_E
        self._start(fresh, self._reset_key_E, self._episode_E)
        drawn = fresh.tensors()
        for name, kept in self.world.tensors().items():
            kept.copy_(torch.where(done_E, drawn[name], kept))
        next_NEO = self.observe()
        terminated_NE, truncated_NE = (flag_E.repeat(len(reward_NE), 1) for flag_E in (terminated_E, truncated_E))
        return Step(next_NEO, obs_NEO, reward_NE, terminated_NE, truncated_NE, done=done_E)

    def _usable(self, actions: Tensor) -> Tensor:
        """Actions of the right shape, type and device, else `UserError`; their values are not looked at."""
        expected = (self.spec.num_agents, self.num_envs, self.spec.num_heads)
        if not isinstance(actions, Tensor) or actions.dtype not in _INTEGERS or tuple(actions.shape) != expected:
            self.check_actions(actions)
        if actions.device != self.device:
            raise UserError(f"actions must be on {self.device}, where the environments are, got {actions.device}.")
        return actions if actions.dtype in (torch.int64, torch.int32) else actions.long()

    # ------------------------------------------------------------- curriculum
    @property
    def curriculum_stage(self) -> int:
        """Present stage of the curriculum, counted from 0."""
        return self.scenario.curriculum_stage

    def set_curriculum_stage(self, stage: int) -> None:
        """Jump to a stage, clamped to the range that there is. In simple_tag it takes effect at a row's next reset."""
        if not self.scenario.curriculum:
            raise UserError(f"{self.spec.id} has no stages: simple_spread and simple_tag have, with curriculum=True.")
        self.scenario.set_curriculum_stage(stage)

    # -------------------------------------------------------------- exchange
    def load_pettingzoo(self, index: int, parallel_env: Any) -> None:
        """Copy the world of a live `mpe2` environment into row `index`; `observe()` then shows it.

        Raises:
            UserError: no such row, or an environment that differs in agents, sizes, landmarks or horizon.
        """
        steps = transfer.load(self._row(index), self.scenario, parallel_env)
        if self.scenario.can_terminate:
            self._age_E[index] = steps
        else:
            self._schedule.set_age(index, steps)

    def store_pettingzoo(self, index: int, parallel_env: Any) -> None:
        """Copy row `index` into a live `mpe2` environment (`reset` it first), so that it can be drawn or played on."""
        transfer.store(self._row(index), self.scenario, parallel_env, int(self._ages()[index]))

    def _row(self, index: int) -> World:
        if not 0 <= index < self.num_envs:
            raise UserError(f"there are environments 0 to {self.num_envs - 1}, got {index}.")
        return self.world.rows(slice(index, index + 1))

    def _ages(self) -> np.ndarray:
        """Steps that every row has taken in its episode."""
        return self._age_E.cpu().numpy() if self.scenario.can_terminate else self._schedule.ages()

    def state_dict(self) -> dict[str, Any]:
        """Seed, rows, ages, episodes and every state tensor (copies), rows first."""
        return {
            "id": self.spec.id,
            "seed": self._seed,
            "steps": int(self._steps),
            "curriculum_stage": self.curriculum_stage,
            "rows": torch.from_numpy(self._rows.copy()),
            "ages": torch.from_numpy(self._ages().copy()),
            "episodes": self._episode_E.clone(),
            "world": {name: value.movedim(-1, 0).clone() for name, value in self.world.tensors().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` bit for bit.

        Raises:
            UserError: the state of another scenario, other arguments, number of environments or precision, or one
                with numbers that are not finite.
        """
        if state["id"] != self.spec.id:
            raise UserError(f"this is the state of {state['id']}, expected one of {self.spec.id}.")
        mine = self.world.tensors()
        given = {name: value.movedim(0, -1) for name, value in state["world"].items()}
        for name in sorted({*mine, *given}):
            expected, got = (
                f"{list(tensors[name].shape)} of {tensors[name].dtype}" if name in tensors else "missing"
                for tensors in (mine, given)
            )
            if got != expected:
                raise UserError(
                    f"state of {self.spec.id}: {name!r} is {got}, expected {expected}; "
                    f"build the environment with the same arguments, num_envs and dtype."
                )
            if not bool(torch.isfinite(given[name]).all()):
                raise UserError(f"state of {self.spec.id}: {name!r} holds numbers that are not finite.")
        self._seed, self._rows = int(state["seed"]), state["rows"].cpu().numpy().copy()
        self._set_keys()
        self._steps.fill_(state["steps"])
        self.scenario.set_curriculum_stage(state["curriculum_stage"])
        self._set_ages(state["ages"].cpu().numpy())
        self._episode_E.copy_(state["episodes"])
        for name, value in given.items():
            mine[name].copy_(value)


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


def usable_device(device: torch.device | str) -> torch.device:
    """The device with its index, or `UserError` where there is none such."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise UserError(f"device {str(device)!r} is not usable here: {str(error).splitlines()[0]}") from error


def _global_rows(rows: Sequence[int] | Tensor | None, num_envs: int) -> np.ndarray:
    """Global row numbers as int64 [E]."""
    if rows is None:
        return np.arange(num_envs, dtype=np.int64)
    array = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    if array.shape != (num_envs,) or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise UserError(f"rows must be {num_envs} integers of at least 0, one for every environment, got {rows!r}.")
    return array.astype(np.int64)
