"""Any real PettingZoo ParallelEnv as a BatchedEnv, in this process or in worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pettingzoo import ParallelEnv
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.continuous import check_rows, choices_of, row_shape
from envs.errors import UserError
from envs.pettingzoo.arrays import Arrays
from envs.pettingzoo.construct import close_env, is_converted
from envs.pettingzoo.copies import Copies
from envs.pettingzoo.describe import Heads
from envs.pettingzoo.reader import Reader
from envs.pettingzoo.recipe import described_by, recipe_of
from envs.pettingzoo.trials.still import still
from envs.pettingzoo.workers import Workers
from envs.pictures import Small
from envs.spec import EnvSpec

__all__ = ["PettingZooEnv"]


class PettingZooEnv(BatchedEnv):
    """E copies of a PettingZoo ParallelEnv, each reset by itself when its episode ends.

    Episode k of the copy with global index r is reset with a 31-bit seed that is a pure function of (seed, r, k):
    a copy plays alike alone, among others, and in any worker.

    Agents that leave before the episode ends are absent from then on: `Step.active` is False, observation and reward
    are zeros, `terminated` is True, their actions are not sent. The episode ends when no agent remains. Nothing in
    PettingZoo tells beforehand whether agents can leave, so `spec.fixed_agents` is False (agents may leave) for every
    environment that is not of MPE, unless it is declared.

    `heads`, `routes`, `teams`, `fixed_agents` and `rebuild` may also stand in the environment's `metadata`.

    Attributes:
        converted: whether the environment is an AECEnv, played as a ParallelEnv.
        still: a warning where its pictures never change (envs/pettingzoo/trials/still.py).

    Args:
        env_id: an MPE id with or without its version, or `package.module:function` that returns a ParallelEnv (the
            current directory is importable).
        num_envs: E, the number of copies.
        device, dtype: of the tensors that are returned; float32 or float64.
        rows: the global index of every copy, E different integers; None: 0 to E - 1.
        workers: processes that the copies are spread over; 0: all in this process. Fast environments (MPE) are
            faster in this process; `make` must then be importable from its module.
        spec: the description to use instead of our own; its agents must have the environment's sizes.
        make: a function that returns a new ParallelEnv, instead of `env_id`.
        heads: {agent: [[name, size], ...]} splits the Discrete action of an agent into several choices whose sizes
            multiply to n (the first runs fastest: action = c_0 + n_0 * c_1), or names the entries of a MultiDiscrete.
            A head whose name begins with "message" is a message. Without it a Discrete is the head "move", and a
            MultiDiscrete the heads "choice_0", "choice_1", ... Of a Box they divide the entries: a message is a
            one-hot there, all other heads are numbers; without it all is the continuous head "move".
        routes: message slots as plain dicts, e.g. {"sender": "speaker_0", "head": "message", "receiver":
            "listener_0", "start": 8, "meaning": [0, 3]}: from entry 8 on, the listener's flattened observation holds
            the one-hot of what the speaker chose one step before (zeros after a reset); the first 3 entries of the
            speaker's observation are what there is to tell ([0, 3, 2]: one-hots of two attributes, of 3 and 2 values,
            side by side). `head` defaults to "message", `meaning` is optional. The environment is tried at once whether
            it does so; "exact": False for channels that are noisy or delayed, or hold a message, skips that.
        teams: [[agent, ...], ...] agents with a common interest; None: all are one team.
        fixed_agents: declares that no agent leaves before the others; None: as described above.
        rebuild: make the environment anew for every episode. For environments that carry something over from one
            episode to the next although they are reset with a seed (knights_archers_zombies_v11 does): without it a
            run with them cannot be resumed exactly. The setting `rebuild` of a run. `spec.rebuild` records it, so that
            evaluations play in the same way.
        worker_timeout: seconds that a worker may take for one step of all its copies before it counts as hung.
        pictures: how observations that are pictures are made small, where those of all agents are (`spec.picture`);
            None: they are flattened as they are.
        env_args: the environment's own arguments, whatever their names.
        more: further ones, for those whose names are not taken here.

    Raises:
        UserError: the environment cannot be made or used, or a declaration does not fit it.
        EnvFailure: while it is stepped, the environment raises, breaks its contract, dies or hangs.
    """

    def __init__(
        self,
        env_id: str | None = None,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: Sequence[int] | None = None,
        workers: int = 0,
        spec: EnvSpec | None = None,
        make: Callable[..., ParallelEnv] | None = None,
        *,
        heads: Heads | None = None,
        routes: Sequence[Mapping[str, Any]] | None = None,
        teams: Sequence[Sequence[str]] | None = None,
        fixed_agents: bool | None = None,
        rebuild: bool = False,
        worker_timeout: float = 60.0,
        pictures: Small | None = None,
        env_args: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.dtype = dtype
        self.rows = _rows(num_envs, rows)
        np_dtype = _numpy_dtype(dtype)
        if workers < 0 or worker_timeout <= 0:
            raise UserError(
                f"workers must be at least 0 and worker_timeout above 0, got {workers} and {worker_timeout}."
            )
        recipe = recipe_of(env_id, make, {**(env_args or {}), **more})
        declared = {"heads": heads, "routes": routes, "teams": teams, "fixed_agents": fixed_agents}
        self._is_mpe = recipe.is_mpe
        template = recipe()
        self.converted = is_converted(template)
        described, turns = described_by(recipe, template, spec, declared, pictures)
        self.still = still(described, template) if described.picture and spec is None else ""
        self.spec = replace(described, rebuild=described.rebuild or rebuild)
        recipe = replace(recipe, rebuild=self.spec.rebuild)
        self._reader = Reader.of(self.spec, template, turns)
        if workers:
            if not recipe.is_mpe:
                close_env(template, recipe.env_id)
            self._copies: Copies | Workers = Workers(recipe, self.spec, self.rows, np_dtype, workers, worker_timeout)
        else:
            arrays = Arrays.allocate(self.spec, num_envs, np_dtype)
            self._copies = recipe.copies(self.spec, self.rows, arrays, template)
        self._arrays = self._copies.arrays
        self._closed = False
        self._seed = 0
        self._started = False
        sizes = np.full((self.spec.num_agents, self.spec.num_heads), np.iinfo(np.int64).max)
        for n, agent in enumerate(self.spec.agents):
            sizes[n, : len(agent.heads)] = [head.size for head in agent.heads]
        self._sizes = sizes[:, None, :]
        self._has_choice = self.spec.head_mask.any(-1).numpy()[:, None, :]
        self._small = np.dtype(np.float64) if self.spec.continuous else np.min_scalar_type(self.spec.head_size)
        self._history: deque[np.ndarray] = deque()  # joint actions [N, E, ...] since the oldest running episode began

    @property
    def reader(self) -> Reader:
        self._reader.turns = self._reader.turns or bool(self._arrays.waited.any())
        return self._reader

    # ---------------------------------------------------------------- the loop
    def reset(self, seed: int | None = None) -> Tensor:
        return self._begin(self._seed if seed is None else int(seed), None)

    def reset_to(self, seeds: Sequence[int]) -> Tensor:
        """Start an episode in every copy with exactly these seeds [E] of the environment; obs [N, E, O].

        For evaluation, where episode i is reset with a known seed. Episodes that follow are seeded as after `reset`.
        """
        given = [int(seed) for seed in seeds]
        if len(given) != self.num_envs or any(not 0 <= seed < 2**63 for seed in given):
            raise UserError(f"reset_to takes {self.num_envs} seeds of at least 0, one a copy, got {given}.")
        return self._begin(self._seed, given)

    def _begin(self, seed: int, seeds: list[int] | None) -> Tensor:
        self._require_open()
        self._seed = seed
        self._copies.reset(seed, [0] * self.num_envs, seeds)
        self._history.clear()
        self._started = True
        return self._publish()

    def step(self, actions: Tensor) -> Step:
        self._require_open()
        if not self._started:
            raise UserError("call reset() before the first step().")
        arrays = self._arrays
        played = self._checked(actions)
        arrays.actions[:] = played
        self._history.append(played.astype(self._small))
        self._copies.step()
        longest = int(arrays.steps.max())
        while len(self._history) > longest:
            self._history.popleft()
        obs = self._publish()
        masks = self.spec.has_masks
        there = met = None
        if not self.spec.fixed_agents:  # `alive` is of the next episode where this one ended
            there = self._tensor(arrays.active)
            met = self._tensor(np.where(arrays.done, ~arrays.terminated, arrays.alive))
        return Step(
            obs=obs,
            final_obs=self._tensor(arrays.final_obs),
            reward=self._tensor(arrays.reward),
            terminated=self._tensor(arrays.terminated),
            truncated=self._tensor(arrays.truncated),
            active=there,
            final_active=met,
            mask=self.mask if masks else None,
            final_mask=self._tensor(arrays.final_mask) if masks else None,
            done=self._tensor(arrays.done[0]),
        )

    def close(self) -> None:
        """Stop the workers, close the environments; calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self._copies.close()

    def _publish(self) -> Tensor:
        if self.spec.has_masks:
            self.mask = self._tensor(self._arrays.mask)
        return self._tensor(self._arrays.obs)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    def _require_open(self) -> None:
        if self._closed:
            raise UserError("this environment is closed; make a new one.")

    def _checked(self, actions: Tensor) -> np.ndarray:
        """As `Arrays.actions`, with zeros for absent heads and agents; `UserError` for what cannot be played."""
        if self.spec.continuous:
            rows = actions.detach().cpu() if isinstance(actions, Tensor) else actions
            check_rows(self.spec, self.num_envs, rows, torch.from_numpy(self._arrays.alive))
            if self.spec.has_masks:
                self._check_allowed(choices_of(self.spec, rows).numpy() * self._choosing())
            return np.asarray(rows.numpy() * self._arrays.alive[:, :, None], np.float64)
        expected = (self.spec.num_agents, self.num_envs, self.spec.num_heads)
        usable = isinstance(actions, Tensor) and not actions.is_floating_point() and actions.dtype != torch.bool
        if not usable or tuple(actions.shape) != expected:
            self.check_actions(actions)  # raises
        choices: np.ndarray = actions.detach().cpu().numpy().astype(np.int64)
        choices = choices * self._choosing()
        wrong = (choices < 0) | (choices >= self._sizes)
        if wrong.any():
            n, e, h = np.argwhere(wrong)[0]
            head = self.spec.agents[n].heads[h]
            raise UserError(
                f"action of agent {self.spec.agent_names[n]!r}, head {head.name!r} must lie in "
                f"[0, {head.size - 1}], got {choices[n, e, h]} in copy {self.rows[e]}."
            )
        if self.spec.has_masks:
            self._check_allowed(choices)
        return choices

    def _choosing(self) -> np.ndarray:
        """Bool [N, E, H]: agents that are there, and their heads that are choices."""
        choosing: np.ndarray = self._has_choice & self._arrays.alive[:, :, None]
        return choosing

    def _check_allowed(self, choices: np.ndarray) -> None:
        """`UserError` where a mask forbids one of the choices [N, E, H], zeros for absent heads and agents."""
        allowed = np.take_along_axis(self._arrays.mask, choices[..., None], -1)[..., 0] | ~self._has_choice
        if not allowed.all():
            n, e, h = np.argwhere(~allowed)[0]
            head = self.spec.agents[n].heads[h]
            raise UserError(
                f"action {choices[n, e, h]} of agent {self.spec.agent_names[n]!r}, head {head.name!r}, in copy "
                f"{self.rows[e]} is forbidden by its action mask; expected one of "
                f"{np.flatnonzero(self._arrays.mask[n, e, h]).tolist()}."
            )

    # -------------------------------------------------------------- checkpoints
    def state_dict(self) -> dict[str, Any]:
        """The seed, the episode numbers, what was played in every running episode, and where that led.

        An environment cannot be copied in general; it is replayed. That is exact for every environment whose episode
        is a function of its seed and the actions.
        """
        arrays = self._arrays
        lengths = arrays.steps[0].tolist()
        history = np.array(self._history, dtype=arrays.actions.dtype).reshape(-1, *arrays.actions.shape)  # [T, N, E, H]
        played = np.zeros_like(history.transpose(2, 0, 1, 3))  # [E, T, N, H], zeros behind a row's own steps
        for e, length in enumerate(lengths):
            played[e, :length] = history[len(history) - length :, :, e]
        return {
            "seed": self._seed,
            "started": self._started,
            "rows": torch.tensor(self.rows),
            "episode": torch.from_numpy(arrays.episode[0].astype(np.int64)),
            "seeds": torch.from_numpy(arrays.seed[0].astype(np.int64)),
            "steps": torch.tensor(lengths),
            "actions": torch.from_numpy(played),
            "obs": torch.from_numpy(arrays.obs.swapaxes(0, 1).copy()),
            "alive": torch.from_numpy(arrays.alive.T.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replay the running episodes.

        Raises:
            UserError: the state is of other copies, or the environment is not a function of its seed.
        """
        self._require_rows(state)
        obs, actions = state["obs"].numpy().swapaxes(0, 1), state["actions"].numpy()
        shape = self.spec.num_agents, *row_shape(self.spec)
        if obs.shape != self._arrays.obs.shape or actions.shape[2:] != shape:
            raise UserError("the state is of an environment with other agents, heads or observations.")
        lengths = state["steps"].tolist()
        played = [actions[e, :length] for e, length in enumerate(lengths)]
        self._seed, self._started = int(state["seed"]), bool(state["started"])
        self._history.clear()
        self.mask = None
        if not self._started:
            return
        running = self._copies.replay(self._seed, state["episode"].tolist(), state["seeds"].tolist(), played)
        same = running and np.array_equal(self._arrays.alive, state["alive"].numpy().T)
        if not same or not np.array_equal(self._arrays.obs, obs):
            raise UserError(
                f"environment {self.spec.id!r} is not deterministic given its seed: replaying the running episodes "
                "led to other observations than the stored ones, so the run cannot be resumed exactly. Resume with "
                "--resume-environment fresh to begin new episodes instead; or draw every random number of the "
                "environment from the seed given to reset(seed=...) (python -m envs.check finds out whether it does), "
                "and start again; --rebuild mends one that carries something from one episode into the next."
            )
        longest = max(lengths)
        history = np.zeros((longest, shape[0], self.num_envs, *shape[1:]), self._small)
        for e, part in enumerate(played):
            history[longest - len(part) :, :, e] = part
        self._history.extend(history)
        self._publish()

    def renewed(self, state: dict[str, Any]) -> Tensor:
        self._require_rows(state)
        self._seed, self._started = int(state["seed"]), True
        self._history.clear()
        self._copies.reset(self._seed, (state["episode"] + 1).tolist())
        return self._publish()

    def _require_rows(self, state: dict[str, Any]) -> None:
        self._require_open()
        if state["rows"].tolist() != self.rows:
            raise UserError(f"the state is of the copies {state['rows'].tolist()}, expected {self.rows}.")

    def unrepeatable(self, rebuild: bool = False) -> str:
        return "" if self._is_mpe else self._copies.unrepeatable(rebuild=rebuild)


# ----------------------------------------------------------------- construction
def _rows(num_envs: int, rows: Sequence[int] | None) -> list[int]:
    if not isinstance(num_envs, int) or num_envs < 1:
        raise UserError(f"num_envs must be an integer of at least 1, got {num_envs!r}.")
    listed = list(range(num_envs)) if rows is None else [int(row) for row in rows]
    if len(listed) != num_envs or len(set(listed)) != num_envs:
        raise UserError(f"rows must be {num_envs} different integers, one a copy, got {listed}.")
    return listed


def _numpy_dtype(dtype: torch.dtype) -> Any:
    if dtype == torch.float32:
        return np.float32
    if dtype == torch.float64:
        return np.float64
    raise UserError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
