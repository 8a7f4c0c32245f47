"""Environment copies spread over worker processes: one message per step and worker, results in shared memory."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing as mp
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any, Protocol

import numpy as np
import torch

from envs.batched import decode_actions
from envs.errors import EnvFailure, UserError
from envs.pettingzoo.arrays import Arrays
from envs.pettingzoo.copies import Copies
from envs.spec import EnvSpec

_IS_WORKER = 71  # exit code of a worker that would have run the whole script again
_START_SECONDS = 120.0  # importing torch and the environment on a loaded machine


class Recipe(Protocol):
    """Makes copies in any process; has to be picklable."""

    def copies(self, spec: EnvSpec, rows: Sequence[int], arrays: Arrays) -> Copies: ...


def end_if_importing() -> None:
    """End this process where it is a worker that is still importing the user's script.

    A spawned process imports the script that started it, and whatever is not under `if __name__ == "__main__":` runs
    again in it, here a whole training. Its parent reads the exit code (`Workers`).
    """
    if getattr(mp.current_process(), "_inheriting", False):  # as multiprocessing tells it by itself
        os._exit(_IS_WORKER)


class Workers:
    """The interface of `Copies`, with the copies in other processes.

    Processes are spawned, so that no lock, thread or random state of this one is inherited. A worker that dies or
    does not answer within `timeout` seconds fails the whole pool: every other worker is stopped, then `EnvFailure`
    names the copy that was being stepped.

    Args:
        recipe: makes the copies of one worker; pickled.
        spec: the environment's description.
        rows: the global index of every copy.
        dtype: of observations and rewards.
        workers: number of processes, at most one a copy.
        timeout: seconds to wait for a step or a reset of all copies of a worker.
    """

    def __init__(
        self, recipe: Recipe, spec: EnvSpec, rows: Sequence[int], dtype: Any, workers: int, timeout: float
    ) -> None:
        end_if_importing()
        context = mp.get_context("spawn")
        bounds = np.linspace(0, len(rows), min(workers, len(rows)) + 1).astype(int).tolist()
        self.spec, self.rows, self._timeout = spec, list(rows), timeout
        self._spans = list(itertools.pairwise(bounds))
        self._links: list[Connection] = []
        self._processes: list[Any] = []
        memory: list[Any] = []

        def shared(size: int) -> Any:
            memory.append(context.RawArray(ctypes.c_char, size))  # unlinked from the start: nothing to clean up
            return memory[0]

        self.arrays = Arrays.allocate(spec, len(rows), dtype, shared)
        try:
            with _interrupts_held():
                for start, stop in self._spans:
                    self._start(context, (recipe, spec, self.rows, np.dtype(dtype).str, memory[0], start, stop))
            self._collect(_START_SECONDS + timeout)
        except BaseException:
            self.close()
            raise

    def _start(self, context: SpawnContext, arguments: tuple[Any, ...]) -> None:
        mine, theirs = context.Pipe()
        self._links.append(mine)
        process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        try:
            process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise UserError(
                f"the environment cannot be sent to worker processes: {error}. Give a function defined at the top "
                "level of a module (not a lambda or a local function), or use workers=0."
            ) from error
        self._processes.append(process)
        theirs.close()  # so that the worker's death closes the pipe

    # ---------------------------------------------------------------- commands
    def reset(self, seed: int, episodes: Sequence[int], seeds: Sequence[int] | None = None) -> None:
        """See `Copies.reset`."""
        given = [None if seeds is None else list(seeds)[start:stop] for start, stop in self._spans]
        parts = [list(episodes)[start:stop] for start, stop in self._spans]
        self._call("reset", [(seed, part, own) for part, own in zip(parts, given, strict=True)])

    def step(self) -> None:
        """See `Copies.step`."""
        self._call("step", [()] * len(self._spans))

    def replay(self, seed: int, episodes: Sequence[int], seeds: Sequence[int], actions: Sequence[np.ndarray]) -> bool:
        """See `Copies.replay`; may take as long as all replayed steps together."""
        longest = max((len(played) for played in actions), default=0)
        parts = [slice(start, stop) for start, stop in self._spans]
        arguments = [(seed, list(episodes)[own], list(seeds)[own], list(actions)[own]) for own in parts]
        return all(self._call("replay", arguments, self._timeout * (1 + longest)))

    def unrepeatable(self, tried: bool = True, rebuild: bool = False) -> str:
        """See `Copies.unrepeatable`; the first worker tries."""
        return "".join(self._call("unrepeatable", [(tried and w == 0, rebuild) for w in range(len(self._spans))]))

    def _call(self, method: str, arguments: list[Any], timeout: float | None = None) -> list[Any]:
        if not self._processes:
            raise UserError("this environment is closed; make a new one.")
        try:
            for w, link in enumerate(self._links):
                try:
                    link.send((method, arguments[w]))
                except OSError:
                    raise self._lost(w, "died") from None
            return self._collect(timeout or self._timeout)
        except BaseException:  # a failure, or Ctrl-C with answers still on their way: the pool cannot go on
            self.close()
            raise

    def _collect(self, timeout: float) -> list[Any]:
        """One answer of every worker."""
        deadline = time.monotonic() + timeout
        answers = []
        for w, link in enumerate(self._links):
            try:
                if not link.poll(max(0.0, deadline - time.monotonic())):
                    raise self._lost(w, f"did not answer within {timeout:g} s")
                ok, answer = link.recv()
            except (EOFError, OSError):
                raise self._lost(w, "died") from None
            if not ok:
                raise answer
            answers.append(answer)
        return answers

    def _lost(self, w: int, what: str) -> EnvFailure | UserError:
        """The failure of a worker that died or hangs, with the copy that it was stepping."""
        start, stop = self._spans[w]
        process = self._processes[w]
        process.join(0.5 if what == "died" else 0)
        if process.exitcode == _IS_WORKER:
            script = getattr(sys.modules["__main__"], "__file__", None) or "the script"
            return UserError(
                f"every worker process runs {script} again from its first line, because what it does does not stand "
                f'under `if __name__ == "__main__":`. Put it there (or into a function that is called there), or use '
                f"workers=0."
            )
        code = f" with exit code {process.exitcode}" if process.exitcode is not None else ""
        busy = np.flatnonzero(self.arrays.busy[0, start:stop])
        e = start + (int(busy[0]) if len(busy) else 0)
        copies = "" if len(busy) else f" (one of the copies {self.rows[start]} to {self.rows[stop - 1]})"
        return EnvFailure(
            f"its worker process {process.pid} {what}{code}{copies}",
            env_id=self.spec.id,
            row=self.rows[e],
            seed=int(self.arrays.seed[0, e]),
            episode=int(self.arrays.episode[0, e]),
            step=int(self.arrays.steps[0, e]),
            actions=_last_actions(self.spec, self.arrays, e),
        )

    def close(self) -> None:
        """Stop and reap every worker; at most about two seconds for those that do not listen."""
        for link in self._links:
            with contextlib.suppress(OSError, ValueError):
                link.send(("close", ()))
            link.close()
        deadline = time.monotonic() + 1.0
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            if process.is_alive():
                process.kill()
        for process in self._processes:
            process.join(1.0)
        self._links, self._processes = [], []


def _last_actions(spec: EnvSpec, arrays: Arrays, e: int) -> dict[str, Any]:
    """The last joint action of copy e, {agent: PettingZoo action}, read without the worker's help."""
    ids = decode_actions(spec, torch.from_numpy(arrays.actions[:, e : e + 1].copy()))
    return {name: ids[name][0].tolist() for n, name in enumerate(spec.agent_names) if arrays.active[n, e]}


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches the whole process group: a worker must not print a traceback while it is still importing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    link: Connection,
    recipe: Recipe,
    spec: EnvSpec,
    rows: list[int],
    dtype: str,
    memory: Any,
    start: int,
    stop: int,
) -> None:
    """A worker: makes its copies, then answers one command after another until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    torch.set_num_threads(1)
    arrays = Arrays.allocate(spec, len(rows), np.dtype(dtype), lambda size: memory).part(start, stop)
    copies: Copies | None = None
    with contextlib.suppress(EOFError, OSError):  # the parent is gone: nothing to tell, nobody to tell it to
        try:
            copies = recipe.copies(spec, rows[start:stop], arrays)
            link.send((True, None))
            while True:
                method, arguments = link.recv()
                if method == "close":
                    break
                link.send((True, getattr(copies, method)(*arguments)))
        except (EnvFailure, UserError) as error:
            link.send((False, error))
        except EOFError:
            pass
    if copies is not None:
        copies.close()
