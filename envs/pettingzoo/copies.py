"""Copies of one ParallelEnv, stepped one after another into shared arrays, their contract checked at every step."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from envs.errors import EnvFailure
from envs.pettingzoo.arrays import Arrays
from envs.pettingzoo.construct import close_env
from envs.pettingzoo.reader import Reader, nothing_allowed
from envs.pettingzoo.trials.seeded import differing
from envs.pettingzoo.values import (
    FLAGS,
    BadValue,
    check_agents,
    check_entries,
    check_flag,
    check_keys,
    check_known,
    check_reward,
    check_stays,
    number,
    raised,
    reset_result,
    step_result,
)
from envs.spec import EnvSpec
from envs.streams import name_key

_FLOATS = (float, int, np.float64, np.float32)


def episode_seed(seed: int, row: int, episode: int) -> int:
    """The 31-bit seed of an episode: a pure function of the root seed, the copy's global row and the episode."""
    return name_key(seed, f"episode/{row}/{episode}") & 0x7FFFFFFF


class Copies:
    """Copies of one environment, played in this process.

    Args:
        make: returns a new ParallelEnv.
        spec: its description.
        rows: the global index of every copy.
        arrays: where actions are read and results are written.
        first: an environment that was made already, for the first copy.
        close_envs: whether environments are closed when they are no longer needed.
        rebuild: make the environment anew for every episode.
    """

    def __init__(
        self,
        make: Callable[[], ParallelEnv],
        spec: EnvSpec,
        rows: Iterable[int],
        arrays: Arrays,
        first: ParallelEnv | None = None,
        close_envs: bool = True,
        rebuild: bool = False,
    ) -> None:
        self.spec = spec
        self.rows = list(rows)
        self.arrays = arrays
        self._envs = [first if k == 0 and first is not None else make() for k in range(len(self.rows))]
        self._make, self._close_envs, self._rebuild = make, close_envs, rebuild
        self._seed = 0
        self._names = spec.agent_names
        self._reader = Reader.of(spec, self._envs[0])
        self._index = self._reader.index
        bounds = self._reader.bounds()
        self._bounds = None if bounds is None else (bounds[0][:, None], bounds[1][:, None])  # [N, 1, O] each
        self._head_mask = spec.head_mask.numpy()
        self._reward = np.zeros((spec.num_agents, len(self.rows)))  # float64, before rounding to the arrays' dtype
        self._live: list[list[int]] = [[] for _ in self.rows]  # agents there to act now
        self._live_names: list[list[str]] = [[] for _ in self.rows]  # the same, in the environment's own order
        self._live_sets: list[set[str]] = [set() for _ in self.rows]
        self._nothing: list[int] = []  # agents of the present copy whose mask allows nothing
        self._seen: list[set[str]] = [set() for _ in self.rows]  # agents that appeared in the running episode

    # ---------------------------------------------------------------- the loop
    def reset(self, seed: int, episodes: Sequence[int], seeds: Sequence[int] | None = None) -> None:
        """Start the given episode of `seed` in every copy; `seeds` are for the environments in place of its own."""
        self._seed = seed
        self.arrays.done[:] = False
        for e, episode in enumerate(episodes):
            self._reset(e, episode, None if seeds is None else seeds[e])
        self._check_numbers(range(len(self.rows)), self.arrays.obs, None)

    def step(self) -> None:
        """Play `arrays.actions` in every copy; restart those whose episode ends."""
        arrays = self.arrays
        self._prepare()
        actions = self._decoded()
        for e in range(len(self.rows)):
            self._step(e, actions[e])
        self._publish()
        ended = np.flatnonzero(arrays.done[0]).tolist()
        for e in ended:
            self._reset(e, int(arrays.episode[0, e]) + 1)
        if ended:
            self._check_numbers(ended, arrays.obs, None)

    def replay(self, seed: int, episodes: Sequence[int], seeds: Sequence[int], actions: Sequence[np.ndarray]) -> bool:
        """Start the given episodes and play `actions[e]` [T, N, H] in each; whether none of them ended on the way."""
        self.reset(seed, episodes, seeds)
        for t in range(max((len(played) for played in actions), default=0)):
            self._prepare()
            going = [e for e in range(len(self.rows)) if t < len(actions[e])]
            for e in going:
                self.arrays.actions[:, e] = actions[e][t]
            decoded = self._decoded()
            for e in going:
                self._step(e, decoded[e])
                if self.arrays.done[0, e]:
                    return False
            self._publish(going)
        return True

    def unrepeatable(self, tried: bool = True, rebuild: bool = False) -> str:
        """See `BatchedEnv.unrepeatable`; on an instance of its own, where it is `tried` at all."""

        def one(arrays: Arrays) -> Copies:
            return Copies(self._make, self.spec, [0], arrays, None, self._close_envs, self._rebuild or rebuild)

        return differing(one, self.spec) if tried else ""

    def close(self) -> None:
        """Close the environments, all of them also where some raise."""
        if self._close_envs:
            for env in self._envs:
                close_env(env, self.spec.id)
        self._close_envs = False

    # ------------------------------------------------------------ one copy
    def _reset(self, e: int, episode: int, seed: int | None = None) -> None:
        arrays = self.arrays
        seed = episode_seed(self._seed, self.rows[e], episode) if seed is None else seed
        arrays.episode[0, e], arrays.seed[0, e], arrays.steps[0, e], arrays.busy[0, e] = episode, seed, 0, 1
        if self._rebuild:
            if self._close_envs:
                close_env(self._envs[e], self.spec.id)
            self._envs[e] = self._make()
        env = self._envs[e]
        try:
            result = env.reset(seed=seed)
        except Exception as error:
            raise self._raised(e, "reset", error, None) from error
        arrays.busy[0, e] = 0
        arrays.obs[:, e] = 0
        arrays.alive[:, e] = False
        self._nothing.clear()
        try:
            observations, infos = reset_result(result)
            check_agents(env, self._names)
            names = env.agents
            self._seen[e] = set(names)
            if self.spec.fixed_agents and len(names) != len(self._names):
                raise BadValue(f"expected {list(self._names)} in env.agents after the reset, got {names}")
            self._set_live(e, [n for n, name in enumerate(self._names) if name in self._seen[e]])
            self._check_keys(e, observations, self._live[e], "observation")
            for n in self._live[e]:
                self._read(e, n, observations, infos, arrays.obs, arrays.mask)
            self._check_waiting(infos, len(self._live[e]))
        except BadValue as fault:
            raise self._fault(e, fault, None) from None
        self._forbid_absent(e)

    def _step(self, e: int, actions: dict[str, Any]) -> None:
        arrays, env, live = self.arrays, self._envs[e], self._live[e]
        arrays.busy[0, e] = 1
        try:
            result = env.step(actions)
        except Exception as error:
            raise self._raised(e, "step", error, self._played(e)) from error
        arrays.busy[0, e] = 0
        self._nothing.clear()
        try:
            self._take(e, env, live, result)
        except BadValue as fault:
            raise self._fault(e, fault) from None

    def _take(self, e: int, env: ParallelEnv, live: list[int], result: Any) -> None:
        """What a step has returned, into the arrays."""
        arrays = self.arrays
        observations, rewards, terminations, truncations, infos = step_result(result)
        expected = self._live_sets[e]
        unchanged = env.agents == self._live_names[e]
        late = [] if unchanged else [name for name in env.agents if name not in self._seen[e]]
        if late:
            check_known(late, self._index)
            self._seen[e].update(late)
        joins = [self._index[name] for name in late]
        if type(observations) is not dict or observations.keys() != expected:
            self._check_keys(e, observations, sorted(live + joins), "observation")
        for values, field in ((rewards, "reward"), (terminations, "terminated"), (truncations, "truncated")):
            if type(values) is not dict or values.keys() != expected:
                self._check_keys(e, values, live, field, late)
        left = False
        for n in live:
            name = self._names[n]
            self._read(e, n, observations, infos, arrays.final_obs, arrays.final_mask)
            terminated, truncated = terminations[name], truncations[name]
            if type(terminated) not in FLAGS or type(truncated) not in FLAGS:
                self._refuse_flag(name, terminated, truncated)
            if terminated or truncated:
                arrays.terminated[n, e] = terminated
                arrays.truncated[n, e] = truncated
                left = True
            reward = rewards[name]
            self._reward[n, e] = reward if type(reward) in _FLOATS else self._number(name, reward)
        for n, name in zip(joins, late, strict=True):
            self._read(e, n, observations, infos, arrays.final_obs, arrays.final_mask)
            if name in rewards:  # it acts from the next step on, and may have been paid for coming
                self._reward[n, e] = self._number(name, rewards[name])
        if left or not unchanged:
            self._change_agents(e, joins)
        if self._nothing and not arrays.done[0, e]:
            self._check_waiting(infos, len(self._live[e]))

    def _change_agents(self, e: int, joins: list[int]) -> None:
        """Agents that ended leave, agents that appeared join; the episode ends when none remain."""
        arrays, env = self.arrays, self._envs[e]
        stays = [n for n in self._live[e] if not (arrays.terminated[n, e] or arrays.truncated[n, e])]
        live = sorted(stays + joins)
        if live or env.agents:
            after, expected = set(env.agents), {self._names[n] for n in live}
            for name in self._names:
                check_stays(name, name in expected, after, name in self._live_sets[e])
        if not live:
            arrays.done[0, e] = True
            return
        if self.spec.fixed_agents and len(live) != len(self._names):
            gone = [self._names[n] for n in self._live[e] if n not in live]
            raise BadValue(f"{gone} left before the others, but the environment was declared with fixed_agents")
        self._set_live(e, live)

    def _set_live(self, e: int, live: list[int]) -> None:
        self._live[e] = live
        self._live_names[e] = list(self._envs[e].agents)
        self._live_sets[e] = set(self._live_names[e])
        self.arrays.alive[:, e] = False
        self.arrays.alive[live, e] = True

    # ---------------------------------------------------- all copies at once
    def _prepare(self) -> None:
        arrays = self.arrays
        arrays.done[:] = False
        arrays.active[:] = arrays.alive
        arrays.terminated[:] = ~arrays.alive
        arrays.truncated[:] = False
        self._reward[:] = 0.0
        if not self.spec.fixed_agents:
            arrays.final_obs[:] = 0
        if self.spec.has_masks:
            arrays.final_mask[:] = False
            arrays.final_mask[:, :, :, 0] = self._head_mask[:, None, :, 0]

    def _publish(self, copies: Iterable[int] | None = None) -> None:
        """Check the numbers of this step, then copy them to where the next action is chosen from."""
        arrays = self.arrays
        played = range(len(self.rows)) if copies is None else list(copies)
        with np.errstate(over="ignore"):
            arrays.reward[:] = self._reward
        self._check_numbers(played, arrays.final_obs, arrays.reward)
        chosen = slice(None) if copies is None else played
        arrays.steps[0, chosen] += 1
        arrays.obs[:, chosen] = arrays.final_obs[:, chosen]
        arrays.mask[:, chosen] = arrays.final_mask[:, chosen]
        if not self.spec.fixed_agents:
            for e in played:
                if len(self._live[e]) < len(self._names):
                    arrays.obs[~arrays.alive[:, e], e] = 0
                    self._forbid_absent(e)

    def _forbid_absent(self, e: int) -> None:
        """An absent agent may choose 0 only, so that a critic sees a constant."""
        if self.spec.has_masks:
            absent = ~self.arrays.alive[:, e]
            self.arrays.mask[absent, e] = False
            self.arrays.mask[absent, e, :, 0] = self._head_mask[absent][:, :, 0]

    def _decoded(self, present: np.ndarray | None = None) -> list[dict[str, Any]]:
        """The PettingZoo actions of every copy, of the agents `present` [N, E] (those alive now): plain ints, which
        mpe2 cannot change in place as it does with arrays."""
        chosen = self._reader.actions(self.arrays.actions)
        acting = self._live if present is None else [np.flatnonzero(column).tolist() for column in present.T]
        return [{self._names[n]: chosen[n][e] for n in agents} for e, agents in enumerate(acting)]

    # ------------------------------------------------------------------ checks
    def _read(self, e: int, n: int, observations: Any, infos: Any, obs: np.ndarray, mask: np.ndarray) -> None:
        """Write agent n's observation, and its mask where the environment has masks."""
        name = self._names[n]
        given = self._reader.write(n, observations[name], infos, obs[n, e, : self.spec.agents[n].obs_size])
        if given is None and not self.spec.has_masks:
            return
        if not self.spec.has_masks:
            raise BadValue("an action mask, but none after the first reset", name, "info")
        if given is None:
            mask[n, e] = self._head_mask[n]
        elif not self._reader.write_mask(n, given, mask[n, e]) and name in self._envs[e].agents:
            self.arrays.waited[0, e] = True
            self._nothing.append(n)

    def _check_waiting(self, infos: Any, present: int) -> None:
        """Agents may wait for others that have a choice, or where the environment says whose turn it is."""
        for n in self._nothing:
            if len(self._nothing) == present and not self._reader.may_wait(n, infos, False):
                raise nothing_allowed(self._names[n])

    def _number(self, name: str, reward: Any) -> float:
        try:
            return number(reward)
        except BadValue as fault:
            raise BadValue(fault.text, name, "reward") from None

    def _refuse_flag(self, name: str, terminated: Any, truncated: Any) -> None:
        for value, field in ((terminated, "terminated"), (truncated, "truncated")):
            try:
                check_flag(value)
            except BadValue as fault:
                raise BadValue(fault.text, name, field) from None

    def _check_keys(self, e: int, values: Any, expected: list[int], field: str, optional: Sequence[str] = ()) -> None:
        check_keys(values, [self._names[n] for n in expected], field, optional)

    def _check_numbers(self, copies: Iterable[int], obs: np.ndarray, reward: np.ndarray | None) -> None:
        """Numbers are finite, observations within their spaces; all rows at once, since each alone would cost time.

        Spaces bind in the first episode of a copy only: a value that leaves its Box once in a while (a position that
        overshoots by a rounding) does not end a long run.
        """
        fine = bool(np.isfinite(obs).all()) and (reward is None or bool(np.isfinite(reward).all()))
        watched = self._bounds is not None and bool((self.arrays.episode[0] == 0).any())
        if fine and not (watched and self._outside(obs, reward is not None).any()):
            return
        for e in copies:
            there = self.arrays.alive[:, e] if reward is None else self.arrays.alive[:, e] | self.arrays.active[:, e]
            for n in np.flatnonzero(there):
                self._check_row(int(e), int(n), obs, reward)

    def _outside(self, obs: np.ndarray, stepped: bool) -> np.ndarray:
        """Bool [N, E, O]: entries of observations outside of their spaces, as float32."""
        assert self._bounds is not None
        low, high = self._bounds
        rounded = obs.astype(np.float32, copy=False)
        outside: np.ndarray = ((rounded < low) | (rounded > high)) & (self.arrays.episode[0] == 0)[:, None]
        if not self.spec.fixed_agents and outside.any():  # the zeros of absent agents belong to no space
            there = self.arrays.alive | self.arrays.active if stepped else self.arrays.alive
            outside &= there[:, :, None]
        return outside

    def _check_row(self, e: int, n: int, obs: np.ndarray, reward: np.ndarray | None) -> None:
        name, size, field = self._names[n], self.spec.agents[n].obs_size, "observation"
        low, high = self._reader.readers[n].bounds
        if self.arrays.episode[0, e] > 0:
            low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
        try:
            check_entries(obs[n, e, :size], low, high)
            field = "reward"
            if reward is not None:
                check_reward(reward[n, e])
        except BadValue as fault:
            raise self._fault(e, BadValue(fault.text, name, field), None if reward is None else ...) from None

    def _played(self, e: int) -> dict[str, Any]:
        chosen = self._decoded(self.arrays.active)[e]
        return {name: action.tolist() if isinstance(action, np.ndarray) else action for name, action in chosen.items()}

    def _fault(self, e: int, fault: BadValue, played: Any = ..., place: str = "", trace: str = "") -> EnvFailure:
        """A failure of copy e; `played` is ... for the actions in `arrays`, None for a fault at the reset."""
        return EnvFailure(
            f"{fault}{place}",
            env_id=self.spec.id,
            row=self.rows[e],
            seed=int(self.arrays.seed[0, e]),
            episode=int(self.arrays.episode[0, e]),
            step=int(self.arrays.steps[0, e]),
            actions=self._played(e) if played is ... else played,
            agent=fault.agent,
            field=fault.field,
            trace=trace,
        )

    def _raised(self, e: int, method: str, error: Exception, played: Any) -> EnvFailure:
        frames = traceback.extract_tb(error.__traceback__)
        at = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        trace = "".join(traceback.format_exception(error))
        return self._fault(e, raised(method, error), played, at, trace)
