"""The rules of the environment contract, each with what a breach of it says; `envs.check` is their public face."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from envs.errors import UserError
from envs.pettingzoo.describe import describe_declared, horizon
from envs.pettingzoo.reader import Reader, nothing_allowed
from envs.pettingzoo.routes import check_routes, random_action
from envs.pettingzoo.values import COMMON, FLAGS, BadValue, number, reset_result, step_result
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
        if make is not None:
            self.compare(played[0], self.play(make(), seed), seed, "in another new environment")
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
        masks = self._observations(env, live, observations, infos, "reset")
        records = [self._record(live, observations)]
        for step in range(1, self.max_steps + 1):
            actions = {name: random_action(env.action_space(name), masks.get(name), rng) for name in live}
            sent = copy.deepcopy(actions)
            self._progress(seed, step)
            result = self._step(env, actions, step)
            self._unchanged(actions, sent)
            observations, rewards, terminations, truncations, infos = result
            late = [name for name in env.agents if name not in seen]
            self._known(late, step)
            self._keys(observations, set(live) | set(late), "observations", step)
            for values, field in ((rewards, "rewards"), (terminations, "terminations"), (truncations, "truncations")):
                self._keys(values, set(live), field, step, late)
            masks = self._observations(env, [*live, *late], observations, infos, f"step {step}")
            self._numbers(live, rewards, terminations, truncations, step)
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
            raise self.stop(
                "reset",
                f"reset(seed={seed}) raised {type(error).__name__}: {error}; expected (observations, infos). "
                "reset takes the keywords seed and options, and works at any time, also after an episode's end.",
            ) from error
        try:
            observations, infos = reset_result(result)
        except BadValue as fault:
            raise self.stop("reset", f"{fault}.") from None
        if list(env.possible_agents) != self.names:
            raise self.stop(
                "agent order",
                f"possible_agents changed from {self.names} to {list(env.possible_agents)} at a reset, expected the "
                "same agents in the same order always: assign it once, in __init__.",
            )
        agents = list(env.agents)
        self._known(agents, 0)
        if not agents:
            raise self.stop("no agents", "env.agents is empty after reset, expected the agents of the new episode.")
        self._keys(observations, set(agents), "observations", 0)
        return observations, infos

    def _step(self, env: ParallelEnv, actions: dict[str, Any], step: int) -> tuple[Any, ...]:
        try:
            result = env.step(actions)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise self.stop("step", f"step {step} of an episode raised {told}, after the actions {actions}.") from error
        try:
            return step_result(result)
        except BadValue as fault:
            raise self.stop("step", f"{fault}.") from None

    # -------------------------------------------------------------------- each value
    def _known(self, names: Sequence[str], step: int) -> None:
        for name in names:
            if name not in self.names:
                raise self.stop(
                    "unknown agent",
                    f"agent {name!r} appeared in env.agents at step {step}, expected only agents of possible_agents "
                    f"{self.names}: name every agent that can appear there, and let absent ones out of env.agents.",
                )

    def _keys(self, values: Any, expected: set[str], field: str, step: int, optional: Sequence[str] = ()) -> None:
        at = "reset" if step == 0 else f"step {step}"
        if not isinstance(values, dict):
            raise self.stop(field, f"{field} of {at} must be a dict over agents, got {type(values).__name__}.")
        missing = sorted(expected - values.keys())
        extra = sorted(str(name) for name in values.keys() - expected - set(optional) - COMMON)
        if missing or extra:
            fault = f"lacks {missing}" if missing else f"has the additional keys {extra}"
            raise self.stop(
                field,
                f"{field} of {at} {fault}: expected exactly the agents that acted, {sorted(expected)}. Return an entry "
                "for each of them, in the step in which it ends too, and none for agents that had left before.",
            )

    def _observations(
        self, env: ParallelEnv, agents: Sequence[str], observations: dict[str, Any], infos: Any, at: str
    ) -> dict[str, Any]:
        """Check observations, infos and masks; the masks, by agent."""
        if not isinstance(infos, dict) or any(not isinstance(infos.get(name, {}), dict) for name in agents):
            self.say("infos", f"infos of {at} must be a dict of dicts over agents, got {infos!r:.80}.")
            infos = {}
        masks: dict[str, Any] = {}
        nothing = []
        for name in agents:
            space, value, n = env.observation_space(name), observations[name], self.reader.index[name]
            row = np.zeros(self.reader.readers[n].size)
            try:
                mask = self.reader.write(n, value, infos, row)
            except BadValue as fault:
                raise self.stop("observation", f"observation of {name!r} at {at}: {fault}.") from None
            wrong = np.flatnonzero(~np.isfinite(row))
            if len(wrong):
                self.say(
                    "finite",
                    f"observation of {name!r} at {at} holds {row[wrong[0]]} in entry {wrong[0]}, expected finite "
                    "numbers: look for a division by zero or an empty mean.",
                )
            elif not space.contains(value):
                self.say(
                    "bounds",
                    f"observation of {name!r} at {at} is not an element of its space {space}: got "
                    f"{_range(row)}. Widen the bounds of the space, or clip.",
                )
            if mask is not None:
                masks[name] = mask
                if not self._allows(n, mask, at) and name in env.agents:
                    nothing.append(n)
        self._waiting(nothing, len(nothing) < len(agents), infos, at)
        return masks

    def _allows(self, n: int, mask: Any, at: str) -> bool:
        assert self.spec is not None
        rows = np.zeros((self.spec.num_heads, self.spec.head_size), dtype=bool)
        try:
            return self.reader.write_mask(n, mask, rows)
        except BadValue as fault:
            raise self.stop("mask", f"action mask of {self.names[n]!r} at {at}: {fault}.") from None

    def _waiting(self, nothing: Sequence[int], others_choose: bool, infos: Any, at: str) -> None:
        """Agents without a choice must be out of turn; where a reset leaves some without, agents take turns."""
        if nothing and others_choose and at == "reset":
            self.reader.turns = True
        for n in nothing:
            if not self.reader.may_wait(n, infos, others_choose):
                told = " (training reads such a mask as 'only action 0')"
                self.say("mask", nothing_allowed(self.names[n], f" at {at}").removesuffix(".") + f"{told}.")

    def _numbers(self, live: Sequence[str], rewards: Any, terminations: Any, truncations: Any, step: int) -> None:
        for name in live:
            try:
                reward = number(rewards[name])
            except BadValue:
                got = rewards[name]
                raise self.stop(
                    "reward type",
                    f"reward of {name!r} at step {step} must be a float, got {type(got).__name__} {got!r:.60}: "
                    "return float(reward).",
                ) from None
            if not np.isfinite(reward):
                self.say("finite", f"reward of {name!r} at step {step} is {reward}, expected a finite number.")
            for values, field in ((terminations, "termination"), (truncations, "truncation")):
                if type(values[name]) not in FLAGS:
                    raise self.stop(
                        f"{field} type",
                        f"{field} of {name!r} at step {step} must be a bool, got {type(values[name]).__name__} "
                        f"{values[name]!r:.60}: return bool(...).",
                    )

    def _agents(self, env: ParallelEnv, live: list[str], late: list[str], done: list[str], step: int) -> list[str]:
        """The agents of the next step."""
        after = list(env.agents)
        stay = [name for name in self.names if (name in live and name not in done) or name in late]
        lingering = [name for name in done if name in after]
        if lingering:
            raise self.stop(
                "done agents",
                f"{lingering} ended at step {step} but are still in env.agents, expected {stay}: remove agents there "
                "in the step in which their termination or truncation is True.",
            )
        vanished = [name for name in stay if name not in after]
        if vanished:
            raise self.stop(
                "vanished agents",
                f"{vanished} left env.agents at step {step} without an end, expected a termination or truncation that "
                "is True in the same step.",
            )
        back = [name for name in after if name not in stay]
        if back:
            raise self.stop("revived agents", f"{back} came back at step {step}, expected ended agents to stay away.")
        return stay

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
            row = np.zeros(self.reader.readers[self.reader.index[name]].size)
            mask = self.reader.readers[self.reader.index[name]].write(observations[name], row)
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


def _range(row: np.ndarray) -> str:
    return f"values from {row.min():g} to {row.max():g}"
