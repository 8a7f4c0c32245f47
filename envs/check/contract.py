"""The rules of the environment contract, each with what a breach of it says; `envs.check` is their public face."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from envs.errors import UserError
from envs.pettingzoo.describe import describe_declared, horizon
from envs.pettingzoo.reader import Reader, nothing_allowed
from envs.pettingzoo.trials.routes import check_routes, random_action, valid
from envs.pettingzoo.values import (
    RESET,
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

Record = dict[tuple[str, str], Any]  # (field, agent) to what one step returned, observations as digests


_USED = "in the same environment, after other episodes"
_STARTS, _SECONDS = 24, 10.0  # episodes of which the start is tried behind others, and the time to begin them in
_QUIET_SECONDS = 10.0  # between two lines on how far the check is


class Stop(Exception):
    """A breach after which nothing more can be asked."""


class Contract:
    """Plays episodes of one environment and collects the first breach of every kind.

    Args:
        max_steps: steps within which an episode must end; an environment's own longer time limit goes before it.
        rebuild: play every episode in a new environment, where there is a function that makes them.
        tell: is given a line on how far the check is, every ten seconds.

    Attributes:
        breaches: kind to text: what, expected, got, how to mend it.
        steps: length of every episode that was played to its end.
        spec: sizes and heads; None until the spaces were read.
    """

    def __init__(self, max_steps: int, rebuild: bool = False, tell: Callable[[str], None] | None = None) -> None:
        self.rebuild, self._tell, self._told = rebuild, tell, time.monotonic()
        self.breaches: dict[str, str] = {}
        self.max_steps = max_steps
        self.steps: list[int] = []
        self.spec: EnvSpec | None = None

    def say(self, kind: str, text: str) -> None:
        self.breaches.setdefault(kind, text)

    def stop(self, kind: str, text: str) -> Stop:
        self.say(kind, text)
        return Stop()

    @contextlib.contextmanager
    def at(self, step: int, goes_on: str = "") -> Iterator[None]:
        """Takes a `BadValue` as a breach, in the words of a run; the check ends with it, or `goes_on` as that kind."""
        try:
            yield
        except BadValue as fault:
            self.say(goes_on or "end", f"at {f'step {step}' if step else 'the reset'}: {fault}.")
            if not goes_on:
                raise Stop from None

    # ------------------------------------------------------------------ whole runs
    def run(self, env: ParallelEnv, make: Callable[[], ParallelEnv] | None, episodes: int, seed: int) -> None:
        """Play `episodes` with the seeds seed, seed + 1, ..., and some again; `make` gives a second environment."""
        with contextlib.suppress(Stop):
            self._run(env, make, episodes, seed)

    def _run(self, env: ParallelEnv, make: Callable[[], ParallelEnv] | None, episodes: int, seed: int) -> None:
        self._describe(env)
        assert self.spec is not None
        self.max_steps = max(self.max_steps, horizon(env) or 0)

        def used() -> ParallelEnv:
            return make() if self.spec is not None and self.spec.rebuild and make is not None else env

        played = [self.play(used(), seed + k) for k in range(episodes)]
        other = None if make is None else make()
        if other is not None:
            self.compare(played[0], self.play(other, seed), seed, "in another new environment")
        self.play(used(), seed, abandon=3)  # a reset must work in the middle of an episode too
        new = not self.breaches
        for k in (0, *range(episodes - 1, 0, -1)):  # behind others than before
            self.compare(played[k], self.play(used(), seed + k), seed + k, _USED)
        self._try_starts(used, seed + episodes)
        if new and make is not None and _USED in self.breaches.get("determinism", ""):
            self.breaches["determinism"] += (
                " Another new environment played the same episode: something is carried from one episode into the "
                "next. Where that cannot be mended, rebuild (--rebuild here and in training) makes it anew for each."
            )
        try:
            check_routes(self.spec, env)
        except UserError as error:
            self.say("routes", str(error))
        if other is not None:  # one that is the user's own stays open
            self._close(other)

    def _close(self, env: ParallelEnv) -> None:
        try:
            env.close()
        except Exception as error:
            self.say(
                "close",
                f"{raised('close', error)}, expected it to work after any step: a run closes every environment that "
                "it is done with, goes on with a warning, and what the environment holds stays open.",
            )

    def _try_starts(self, used: Callable[[], ParallelEnv], first: int) -> None:
        """Starts of many episodes, then the same in another order: what is carried over may show in a few only."""
        until, starts = time.monotonic() + _SECONDS, []
        for seed in range(first, first + _STARTS):
            starts.append((seed, self.play(used(), seed, abandon=3)))
            if time.monotonic() > until:
                break
        for seed, before in reversed(starts[:-1]):
            self.compare(before, self.play(used(), seed, abandon=3), seed, _USED)

    def _describe(self, env: ParallelEnv) -> None:
        try:
            spec = describe_declared(type(env.unwrapped).__name__, env)
            self.spec = replace(spec, rebuild=spec.rebuild or self.rebuild)
        except UserError as error:
            raise self.stop("spaces", str(error)) from None
        self.names = list(env.possible_agents)
        for name in self.names:
            for method in ("observation_space", "action_space"):
                if getattr(env, method)(name) is not getattr(env, method)(name):
                    self.say(
                        "space identity",
                        f"{method}({name!r}) returns another object at every call, expected always the same one: make "
                        "the spaces once, in __init__, and return these.",
                    )
        self.reader = Reader.of(self.spec, env)

    def compare(self, first: list[Record], second: list[Record], seed: int, where: str) -> None:
        """Same seed and same actions must give the same episode, to its end."""
        mend = "Draw every random number from a generator that reset(seed=...) seeds, and put all state back there."
        for step, (one, two) in enumerate(zip(first, second, strict=False)):
            for key in [*one, *(key for key in two if key not in one)]:
                got, again = one.get(key, "nothing"), two.get(key, "nothing")
                if got != again:
                    values = "" if isinstance(got, bytes) or isinstance(again, bytes) else f" ({got}, then {again})"
                    when = "after the reset" if step == 0 else f"after step {step}"
                    self.say(
                        "determinism",
                        f"the same seed ({seed}) and actions gave another {key[0]} of {key[1]!r} {when}{values}, "
                        f"{where}: expected the same episode. {mend}",
                    )
                    return
        if len(first) != len(second):
            self.say(
                "determinism",
                f"the same seed ({seed}) and actions gave episodes of {len(first) - 1} and {len(second) - 1} steps, "
                f"{where}: expected the same episode. {mend}",
            )

    # ----------------------------------------------------------------- one episode
    def play(self, env: ParallelEnv, seed: int, abandon: int = 0) -> list[Record]:
        """One episode with actions that depend on the seed alone; what it returned, step by step.

        `abandon` is the step after which it is left unfinished; 0: never.
        """
        rng = np.random.default_rng(seed)
        observations, infos = self._reset(env, seed)
        # PettingZoo's own test compares env.agents as a set: its order may change from reset to reset.
        live = [name for name in self.names if name in env.agents]
        seen = set(live)
        masks = self._observations(env, live, observations, infos, 0)
        records = [self._record(live, observations)]
        for step in range(1, self.max_steps + 1):
            actions = {name: self._action(env, name, masks.get(name), rng) for name in live}
            sent = copy.deepcopy(actions)
            self._progress(seed, step)
            with self.at(step):
                observations, rewards, terminations, truncations, infos = self._step(env, actions)
                self._unchanged(actions, sent)
                late = [name for name in env.agents if name not in seen]
                check_known(late, self.names)
                there = [name for name in self.names if name in live or name in late]
                check_keys(observations, there, "observation")
                for values, field in ((rewards, "reward"), (terminations, "terminated"), (truncations, "truncated")):
                    check_keys(values, live, field, late)
            masks = self._observations(env, there, observations, infos, step)
            self._numbers(live, rewards, terminations, truncations, step)
            self._rewards([name for name in late if name in rewards], rewards, step)
            records.append(self._record(live, observations, rewards, terminations, truncations))
            done = [name for name in live if terminations[name] or truncations[name]]
            live = self._agents(env, live, late, done, step)
            seen.update(late)
            if step == abandon:
                return records
            if not live:
                self.steps.append(step)
                return records
        raise self.stop(
            "endless",
            f"an episode with random actions did not end within {self.max_steps} steps, expected an end: set a time "
            "limit that makes every truncation True, or let it play longer (max_steps=..., --max-steps).",
        )

    def _progress(self, seed: int, step: int) -> None:
        if self._tell is not None and time.monotonic() - self._told > _QUIET_SECONDS:
            self._told = time.monotonic()
            self._tell(f"checking: {len(self.steps)} episodes played, step {step} of the one with seed {seed} ...")

    def _reset(self, env: ParallelEnv, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            result = env.reset(seed=seed)
        except Exception as error:
            raise self.stop("reset", f"{raised('reset', error)}, with seed={seed}. {RESET}") from error
        with self.at(0):
            observations, infos = reset_result(result)
            check_agents(env, self.names)
            check_keys(observations, [name for name in self.names if name in env.agents], "observation")
        return observations, infos

    def _step(self, env: ParallelEnv, actions: dict[str, Any]) -> tuple[Any, ...]:
        try:
            result = env.step(actions)
        except Exception as error:
            fault = raised("step", error)
            raise BadValue(f"{fault.text}, after the actions {actions}") from error
        return step_result(result)

    # -------------------------------------------------------------------- each value
    def _observations(
        self, env: ParallelEnv, agents: Sequence[str], observations: dict[str, Any], infos: Any, step: int
    ) -> dict[str, Any]:
        """Check observations, infos and masks; the masks, by agent."""
        assert self.spec is not None
        masks: dict[str, Any] = {}
        nothing = []
        rows_HK = np.zeros((self.spec.num_heads, self.spec.head_size), dtype=bool)
        for name in agents:
            n = self.reader.index[name]
            row = np.zeros(self.reader.readers[n].size, np.float32)
            with self.at(step):
                mask = self.reader.write(n, observations[name], infos, row)
            with self.at(step, "observations"):
                self._of(name, "observation", check_entries, row, *self.reader.readers[n].bounds)
            if mask is not None:
                masks[name] = mask
                with self.at(step):
                    allows = self.reader.write_mask(n, mask, rows_HK)
                if not allows and name in env.agents:
                    nothing.append(n)
        others_choose = len(nothing) < len(agents)
        if nothing and others_choose and step == 0:
            self.reader.turns = True  # where a reset leaves some without a choice, agents take turns
        for n in nothing:
            if not self.reader.may_wait(n, infos, others_choose):
                fault = nothing_allowed(self.names[n])
                read = " (training reads such a mask as 'only action 0')" if others_choose else ""
                with self.at(step, "masks"):
                    raise BadValue(f"{fault.text}{read}", fault.agent, fault.field)
        return masks

    def _numbers(self, live: Sequence[str], rewards: Any, terminations: Any, truncations: Any, step: int) -> None:
        self._rewards(live, rewards, step)
        for name in live:
            with self.at(step):
                self._of(name, "terminated", check_flag, terminations[name])
                self._of(name, "truncated", check_flag, truncations[name])

    def _rewards(self, agents: Sequence[str], rewards: Any, step: int) -> None:
        for name in agents:
            with self.at(step):
                reward = self._of(name, "reward", number, rewards[name])
            with self.at(step, "rewards"), np.errstate(over="ignore"):
                self._of(name, "reward", check_reward, np.float32(reward))

    def _of(self, name: str, field: str, rule: Callable[..., Any], *values: Any) -> Any:
        """What a rule for single values says, of an agent and field."""
        try:
            return rule(*values)
        except BadValue as fault:
            raise BadValue(fault.text, name, field) from None

    def _agents(self, env: ParallelEnv, live: list[str], late: list[str], done: list[str], step: int) -> list[str]:
        """The agents of the next step."""
        stay = [name for name in self.names if (name in live and name not in done) or name in late]
        with self.at(step):
            for name in self.names:
                check_stays(name, name in stay, env.agents, name in live)
        return stay

    def _action(self, env: ParallelEnv, name: str, mask: Any, rng: np.random.Generator) -> Any:
        assert self.spec is not None
        action = random_action(env.action_space(name), mask, rng)
        return valid(self.spec.agents[self.names.index(name)], action)

    def _unchanged(self, actions: Any, sent: Any) -> None:
        if not _same(actions, sent):
            self.say(
                "mutated actions",
                f"step changed the actions it was given, from {sent} to {actions}, expected them untouched: copy "
                "before computing in place (a //= b changes the caller's array).",
            )

    def _record(self, live: Sequence[str], observations: Any, *ends: Any) -> Record:
        """`ends`: rewards, terminations and truncations, which a reset has not."""
        record: Record = {}
        for name in live:
            n = self.reader.index[name]
            row = np.zeros(self.reader.readers[n].size)
            mask = self.reader.write(n, observations[name], None, row)
            digest = hashlib.blake2b(row.tobytes(), digest_size=16)
            digest.update(b"" if mask is None else np.asarray(mask).tobytes())
            record["observation", name] = digest.digest()
            for field, values in zip(("reward", "termination", "truncation"), ends, strict=False):
                record[field, name] = float(values[name])
        return record


def _same(one: Any, two: Any) -> bool:
    """Equality of nested dicts, tuples, arrays and numbers; nan equals nan."""
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return bool(one == two) or (one != one and two != two)
