"""MPE: E environments of one scenario as tensors on one device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.continuous import row_shape
from envs.errors import UserError
from envs.mpe import transfer
from envs.mpe.core import World
from envs.mpe.draws import Draws
from envs.mpe.episodes import Episodes
from envs.mpe.game import Game
from envs.mpe.scenario import Scenario

_NUMBERS = (torch.float32, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


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
        self.num_envs, self.dtype, self.device = num_envs, dtype, usable_device(device)
        self._stagger = bool(stagger)
        self._game = Game(scenario, num_envs, self.device, dtype)
        self.spec = self._game.spec
        most = max(scenario.reset_draws, scenario.step_draws, 1)
        self._draws = Draws(self.spec.id, _global_rows(rows, num_envs), most, self.device, dtype)
        self._episodes = Episodes(num_envs, scenario.horizon, scenario.can_terminate, self.device)
        self._check_next = True
        self._play: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]] = self._advance
        self.reset(0)

    @property
    def scenario(self) -> Scenario:
        """What is played."""
        return self._game.scenario

    @property
    def world(self) -> World:
        """The state of all environments."""
        return self._game.world

    # ---------------------------------------------------------------- episodes
    def reset(self, seed: int | None = None) -> Tensor:
        """Start every environment's episode 0 of `seed` (None: of the seed given before, else 0); obs [N, E, O]."""
        draws, episodes = self._draws, self._episodes
        draws.restart(draws.seed if seed is None else int(seed), draws.rows)
        episodes.number_E.zero_()
        ages = draws.rows % self.scenario.horizon if self._stagger else np.zeros_like(draws.rows)
        episodes.set_ages(ages)
        self._check_next = True
        self._game.start(self.world, draws.episode(episodes.number_E, self.scenario.reset_draws))
        if self._stagger:
            self.scenario.set_ages(self.world, torch.as_tensor(ages, device=self.device))
        return self.observe()

    def observe(self) -> Tensor:
        """Observations [N, E, O] of the present state."""
        obs_NEO = self._game.empty_obs()
        self._game.observe_into(obs_NEO, self.world)
        return obs_NEO

    # -------------------------------------------------------------------- step
    def compile(self) -> None:
        """Fuse the many small operations of a step with torch.compile, from the next step on.

        That step then takes some ten seconds and needs a C++ compiler (Triton on a GPU). Numbers agree with those of
        the plain step up to rounding.
        """
        self._play = torch.compile(self._advance, fullgraph=True, dynamic=False)

    def step(self, actions: Tensor) -> Step:
        """Play integer actions [N, E, H], or rows [N, E, A] where moves are continuous; entries of absent heads are
        ignored."""
        actions = self._usable(actions)
        on_host = self.device.type == "cpu"  # where indices check integers and nothing checks numbers
        if self.spec.continuous if on_host else self._check_next:
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
        return self._episodes.due(), self.curriculum_stage

    def replayed(self) -> None:
        """The device has replayed a step of the present `pattern`: count it."""
        self._episodes.replayed()

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of every row, no resets: rewards, observations, rows that reached their goal. No host, no sync."""
        draws, count = self._draws, self.scenario.step_draws
        if not count:
            return self._game.advance(actions, None)
        uniform = draws.step(count)
        draws.steps += 1
        return self._game.advance(actions, uniform)

    def _finish_by_schedule(self, reward_NE: Tensor, obs_NEO: Tensor) -> Step:
        """Restart the rows that the host knows to be at their horizon."""
        game, number_E, draws = self._game, self._episodes.number_E, self.scenario.reset_draws
        ended = self._episodes.end_scheduled()
        shape = reward_NE.shape
        terminated_NE = torch.zeros(shape, dtype=torch.bool, device=self.device)
        truncated_NE = torch.zeros(shape, dtype=torch.bool, device=self.device)
        done_E = torch.zeros(shape[1], dtype=torch.bool, device=self.device)
        if not ended:
            return Step(obs_NEO, obs_NEO, reward_NE, terminated_NE, truncated_NE, done=done_E)
        everything = ended == ((0, self.num_envs, 1),)
        next_NEO = game.empty_obs() if everything else obs_NEO.clone()
        for span in ended:
            rows, part = slice(*span), game.part(span)
            game.start(part, self._draws.episode(number_E[rows], draws, rows))
            game.observe_into(next_NEO[:, rows], part)
            truncated_NE[:, rows].fill_(True)
            done_E[rows].fill_(True)
        return Step(next_NEO, obs_NEO, reward_NE, terminated_NE, truncated_NE, done=done_E)

    def _finish_by_mask(self, reward_NE: Tensor, obs_NEO: Tensor, success_E: Tensor) -> Step:
        """Restart rows whose end only the device knows: every row draws a new episode, a mask decides who takes it."""
        truncated_E, terminated_E = self._episodes.end_reached(success_E)
        done_E = truncated_E | terminated_E
        fresh = self.world.empty_like()
        self._game.start(fresh, self._draws.episode(self._episodes.number_E, self.scenario.reset_draws))
        drawn = fresh.tensors()
        for name, kept in self.world.tensors().items():
            kept.copy_(torch.where(done_E, drawn[name], kept))
        next_NEO = self.observe()
        terminated_NE, truncated_NE = (flag_E.repeat(len(reward_NE), 1) for flag_E in (terminated_E, truncated_E))
        return Step(next_NEO, obs_NEO, reward_NE, terminated_NE, truncated_NE, done=done_E)

    def _usable(self, actions: Tensor) -> Tensor:
        """Actions of the right shape, type and device, else `UserError`; their values are not looked at."""
        expected = (self.spec.num_agents, self.num_envs, *row_shape(self.spec))
        kinds = _NUMBERS if self.spec.continuous else _INTEGERS
        if not isinstance(actions, Tensor) or actions.dtype not in kinds or tuple(actions.shape) != expected:
            self.check_actions(actions)
        if actions.device != self.device:
            raise UserError(f"actions must be on {self.device}, where the environments are, got {actions.device}.")
        return actions if actions.dtype in (torch.int64, torch.int32, *_NUMBERS) else actions.long()

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
        self._episodes.set_age(index, transfer.load(self._row(index), self.scenario, parallel_env))

    def store_pettingzoo(self, index: int, parallel_env: Any) -> None:
        """Copy row `index` into a live `mpe2` environment (`reset` it first), so that it can be drawn or played on."""
        transfer.store(self._row(index), self.scenario, parallel_env, int(self._episodes.ages()[index]))

    def _row(self, index: int) -> World:
        if not 0 <= index < self.num_envs:
            raise UserError(f"there are environments 0 to {self.num_envs - 1}, got {index}.")
        return self.world.rows(slice(index, index + 1))

    def state_dict(self) -> dict[str, Any]:
        """Seed, rows, ages, episodes and every state tensor (copies), rows first."""
        return {
            "id": self.spec.id,
            "seed": self._draws.seed,
            "steps": int(self._draws.steps),
            "curriculum_stage": self.curriculum_stage,
            "rows": torch.from_numpy(self._draws.rows.copy()),
            "ages": torch.from_numpy(self._episodes.ages().copy()),
            "episodes": self._episodes.number_E.clone(),
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
        self._draws.restart(int(state["seed"]), state["rows"].cpu().numpy().copy(), state["steps"])
        self.scenario.set_curriculum_stage(state["curriculum_stage"])
        self._episodes.set_ages(state["ages"].cpu().numpy())
        self._episodes.number_E.copy_(state["episodes"])
        for name, value in given.items():
            mine[name].copy_(value)


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
