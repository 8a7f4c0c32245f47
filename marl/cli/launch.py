"""The command line of training: from arguments to an exit code, and a readable word on every way a run can end.

0 done, 2 the user's input, 1 the run failed, 130 / 143 stopped by Ctrl-C / SIGTERM after saving.
"""

from __future__ import annotations

import contextlib
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from envs.errors import EnvFailure
from marl.cli.parse import Launch, parse
from marl.errors import RunFailed, UserError
from marl.parallel.ranks import Echo, Ranks, processes
from marl.runs.checkpoint import DIRECTORY, newest
from marl.runs.run_dir import fresh_default, resume_command
from marl.training.devices import choose_device
from marl.training.stop import StopRequest

DONE, FAILED, USER, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says and return the exit code.

    Args:
        argv: the arguments without the program's name; None: the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with processes() as ranks:
            launch = ranks.first(lambda: _launch(words))
            return _run(launch, ranks)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        _tell("stopped before the run began.")
        return INTERRUPTED
    except Exception as error:
        return _explain(error, None, debug)


def _launch(words: list[str]) -> Launch:
    """What is to be run, with its run directory decided."""
    launch = parse(words)
    choose_device(launch.config.device)  # refuses what is not there
    for warning in launch.warnings:
        _tell(f"warning: {warning}.")
    run_dir = launch.config.run_dir or str(fresh_default(launch.config.env, launch.config.seed))
    return replace(launch, config=replace(launch.config, run_dir=run_dir))


def _run(launch: Launch, ranks: Ranks) -> int:
    run_dir = Path(launch.config.run_dir or ".")
    stop = StopRequest()
    try:
        with stop:
            from marl.training.experiment import train  # here: --help and refusals need not wait for all of it

            train(launch.config, resume=launch.resume, stop=stop, ranks=ranks)
    except KeyboardInterrupt:
        _tell(f"stopped at once. {_afterwards(run_dir)}")
        return stop.exit_code
    except BaseException as error:
        return _explain(error, run_dir, launch.debug)
    if stop.requested:
        if ranks.is_first:
            _tell(f"stopped. {_afterwards(run_dir)}")
        return stop.exit_code
    return DONE


# ------------------------------------------------------------------ words
def _explain(error: BaseException, run_dir: Path | None, debug: bool) -> int:
    """Say what happened and return the exit code."""
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, Echo):
        return error.exit_code
    if debug:
        _tell("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, UserError):
        _tell(f"error: {error}")
        return USER
    after = "" if run_dir is None else f"\n{_afterwards(run_dir)}"
    memory = _memory_words(error)
    if memory:
        _tell(f"error: {memory}{after}")
        return USER
    if isinstance(error, RunFailed | EnvFailure):
        inside = getattr(error, "trace", "")
        _tell(f"the run failed: {error}{after}")
        if inside and debug:
            _tell(inside.rstrip())
        return FAILED
    _tell(f"the run failed: {_unexpected(error)}{after}")
    return FAILED


def _unexpected(error: BaseException) -> str:
    """A paragraph on an exception that nobody foresaw."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno} ({frames[-1].name})" if frames else ""
    words = " ".join(str(error).split())
    text = textwrap.shorten(words, 500) if words else "no message"
    return f"unexpected {type(error).__name__}{place}: {text}. Run it again with --debug for the full traceback."


def _memory_words(error: BaseException) -> str:
    """What to do when memory ran out; "" for any other error."""
    text = " ".join(str(error).split())
    on_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or "can't allocate memory" in text
    if not on_gpu and not on_cpu:
        return ""
    sizes = re.findall(r"[Tt]ried to allocate [\d.]+ \w+|total capacity of [\d.]+ \w+|[\d.]+ \w+ is free", text)
    needed = f" ({'; '.join(sizes)})" if sizes else ""
    where = "GPU memory" if on_gpu else "memory"
    return (
        f"out of {where}{needed}. Make it smaller with fewer replicas or environments (--num-replicas, --num-envs) or "
        f"a smaller replay (--replay.capacity) or batch (--maddpg.batch-size)."
    )


def _afterwards(run_dir: Path) -> str:
    """The run directory and how to go on."""
    if not run_dir.is_dir():
        return "Nothing was written."
    good = newest(run_dir / DIRECTORY)
    if good is None:
        return f"Run directory: {run_dir}. It holds no checkpoint yet, so there is nothing to resume."
    return f"Run directory: {run_dir}\nResume with: {resume_command(run_dir)}"


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone changes no exit code
        print(text, file=sys.stderr, flush=True)
