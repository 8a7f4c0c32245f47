"""Faults: the user's, which the user can mend, and failures, such as the environment's own while it is stepped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A fault of the user's input: says what was got, what was expected and how to mend it.

    The command line prints the message without a traceback and exits with code 2.
    """


def did_you_mean(got: str, known: Iterable[str], most: int = 3) -> str:
    """A sentence that names the close matches of `got` among `known`, or '' where there are none."""
    close = difflib.get_close_matches(got, list(known), n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


class Failure(Exception):
    """What ends a command without being the user's fault; the command line prints it and exits with code 1."""


class EnvFailure(Failure):
    """An environment broke its contract, raised, died or hung while it was stepped: nothing the learner can mend.

    Args:
        problem: what happened, in a sentence, without the final stop.
        env_id: the environment's id.
        row: global index of the environment copy.
        seed: the seed of its running episode, as given to the environment's `reset`.
        episode: how many episodes the copy had finished.
        step: how many steps of the running episode had been played; the failing one is not counted.
        actions: the last joint action {agent: PettingZoo action}; None where the fault came at the reset.
        agent: whom the fault concerns; None: all.
        field: which of the returned values is at fault ("observation", "reward", ...); None: none of them.
        trace: the traceback inside the environment as text; "" where there is none.
    """

    def __init__(
        self,
        problem: str,
        *,
        env_id: str,
        row: int,
        seed: int,
        episode: int,
        step: int,
        actions: dict[str, Any] | None,
        agent: str | None = None,
        field: str | None = None,
        trace: str = "",
    ) -> None:
        self.problem = problem
        self.env_id = env_id
        self.row = row
        self.seed = seed
        self.episode = episode
        self.step = step
        self.actions = actions
        self.agent = agent
        self.field = field
        self.trace = trace
        played = "none yet (the fault came at the reset)" if actions is None else repr(actions)
        super().__init__(
            f"environment {env_id!r} failed: {problem}. "
            f"Copy {row}, episode {episode}, reset with seed={seed}, step {step}; last actions: {played}."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _failure, (vars(self),)


def _failure(fields: dict[str, Any]) -> EnvFailure:
    """Rebuilds a failure that comes from a worker process."""
    return EnvFailure(**fields)
