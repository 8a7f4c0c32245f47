"""What a search over settings draws: the settings of the learner, their values, and the flags that they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import envs
from envs.ids import names_function
from marl.cli.parse import parse
from marl.config.fields import settings
from marl.config.flags import split
from marl.config.resolve import Sources, read_file
from marl.config.schema import Config
from marl.errors import UserError


class Draws(Protocol):
    """What draws: an `optuna.Trial`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Drawn:
    """One setting of the search."""

    name: str
    """In records and studies: a flag of run.py, or "lr"."""
    values: tuple[float, float] | list[Any]
    """A pair: log-uniform between the two; a list: one of these."""
    meaning: str
    flags: tuple[str, ...] = ()
    """Those that get the value; none: `name` itself."""

    def draw(self, trial: Draws) -> Any:
        """This trial's value."""
        if isinstance(self.values, tuple):
            return trial.suggest_float(self.name, *self.values, log=True)
        return trial.suggest_categorical(self.name, self.values)

    def without(self, fixed: set[str]) -> Drawn | None:
        """The same for those of its flags that are not among `fixed`; None where all of them are."""
        left = tuple(flag for flag in self.flags or (self.name,) if flag not in fixed)
        return replace(self, flags=left) if left else None

    def where(self, taken: Callable[[list[str]], bool]) -> Drawn | None:
        """The same with those of its listed values whose words are taken; None where there is no choice."""
        if isinstance(self.values, tuple):
            return self
        values = [value for value in self.values if taken(self.words(value))]
        return replace(self, values=values) if len(values) > 1 else None

    def words(self, value: Any) -> list[str]:
        """The words of run.py's command line."""
        return [word for flag in self.flags or (self.name,) for word in (flag, *str(value).split())]


EVERY_TASK = (
    Drawn("lr", (1e-3, 1e-2), "step size of actors and critics", ("--maddpg.actor-lr", "--maddpg.critic-lr")),
    Drawn("--maddpg.gamma", [0.8, 0.9, 0.95], "discount"),
    Drawn("--maddpg.batch-size", [128, 256, 512], "transitions in an update"),
    Drawn("--maddpg.updates-per-step", [0.03125, 0.0625, 0.125, 0.25], "updates in an environment step"),
    Drawn("--maddpg.hidden", ["64 64", "128 128"], "hidden layers"),
    Drawn("--maddpg.team-reward", ["false", "true"], "the team's mean reward in place of the own one"),
    Drawn("--maddpg.share-actors", ["false", "true"], "one actor for agents that are interchangeable"),
    Drawn("--maddpg.logit-penalty", [1e-3, 1e-2], "weight of the squared logits"),
    Drawn("--num-envs", [8, 16, 32], "environments in lockstep"),
)
WITH_MESSAGES = (Drawn("--maddpg.signalling-bonus", [0.0, 0.1, 1.0], "weight of the senders' bonus"),)


def space(env: str, flags: Sequence[str], env_args: dict[str, Any]) -> list[Drawn]:
    """What is drawn for a task; what `flags` fix is left out, and so are values that the task's settings exclude.

    Args:
        env: as --env.
        flags: of run.py, the same in every trial; run.py takes them.
        env_args: keyword arguments of the environment, which may give it a channel.
    """
    backend = "pettingzoo" if names_function(env) else "torch"
    made = envs.make(env, num_envs=1, backend=backend, env_args=env_args)
    speaks = bool(made.spec.routes)
    made.close()
    fixed = _fixed(flags)
    free = [one.without(fixed) for one in (*EVERY_TASK, *(WITH_MESSAGES if speaks else ()))]
    allowed = [one.where(lambda words: _taken(["--env", env, *words, *flags])) for one in free if one is not None]
    return [one for one in allowed if one is not None]


def _fixed(flags: Sequence[str]) -> set[str]:
    """The flags of all settings that a command line sets, by itself or by the file of --config."""
    given = split(list(flags), Config, "run.py", "").given
    file = Sources()
    for path in given.get("config", []):
        read_file(Path(path), file)
    known = settings(Config)
    return {known[name].flag for name in {*given, *file.values} if name in known}


def _taken(words: list[str]) -> bool:
    """Whether run.py takes a command line."""
    try:
        parse(words)
    except UserError:
        return False
    return True
