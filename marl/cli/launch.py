"""The command line of training: from arguments to an exit code, and a readable word on every way a run can end.

0 done, 2 the user's input, 1 the run failed, 130 / 143 stopped by Ctrl-C / SIGTERM after saving.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from envs.commands import DONE, INTERRUPTED, explain, say
from marl.cli.parse import Launch, parse
from marl.parallel.ranks import Echo, Ranks, processes
from marl.runs.checkpoint import DIRECTORY, newest
from marl.runs.run_dir import fresh_default, resume_command
from marl.training.devices import choose_device
from marl.training.stop import StopRequest

_SMALLER = (
    "Make it smaller with fewer replicas or environments (--num-replicas, --num-envs) or a smaller replay "
    "(--replay.capacity) or batch (--maddpg.batch-size)."
)


def main(argv: Sequence[str] | None = None, began: float | None = None) -> int:
    """Train as the command line says and return the exit code.

    Args:
        argv: the arguments without the program's name; None: the process's own.
        began: `time.perf_counter` when the command began; None: now.
    """
    began = time.perf_counter() if began is None else began
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with processes() as ranks:
            launch = ranks.broadcast(lambda: _launch(words))
            return _run(launch, ranks, began)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        say("stopped before the run began.")
        return INTERRUPTED
    except Exception as error:
        return _explain(error, None, debug)


def _launch(words: list[str]) -> Launch:
    """What is to be run, with its run directory decided."""
    launch = parse(words)
    choose_device(launch.config.device)  # refuses what is not there
    for warning in launch.warnings:
        say(f"warning: {warning}.")
    run_dir = launch.config.run_dir or str(fresh_default(launch.config.env, launch.config.seed))
    return replace(launch, config=replace(launch.config, run_dir=run_dir))


def _run(launch: Launch, ranks: Ranks, began: float) -> int:
    run_dir = Path(launch.config.run_dir or ".")
    stop = StopRequest()
    try:
        with stop:
            from marl.training.experiment import train  # here: --help and refusals need not wait for all of it

            train(
                launch.config,
                resume=launch.resume,
                resume_environment=launch.resume_environment,
                stop=stop,
                ranks=ranks,
                began=began,
            )
    except KeyboardInterrupt:
        say(f"stopped at once. {_afterwards(run_dir)}")
        return stop.exit_code
    except SystemExit:
        raise
    except BaseException as error:
        return _explain(error, run_dir, launch.debug)
    if stop.requested:
        if ranks.is_first:
            say(f"stopped. {_afterwards(run_dir)}")
        return stop.exit_code
    return DONE


# ------------------------------------------------------------------ words
def _explain(error: BaseException, run_dir: Path | None, debug: bool) -> int:
    """Say what happened and return the exit code."""
    if isinstance(error, Echo):
        return error.exit_code

    def after() -> str:
        return "" if run_dir is None else _afterwards(run_dir)

    return explain(error, failed="the run failed", after=after, smaller=_SMALLER, debug=debug)


def _afterwards(run_dir: Path) -> str:
    """The run directory and how to go on."""
    if not run_dir.is_dir():
        return "Nothing was written."
    good = newest(run_dir / DIRECTORY)
    if good is None:
        return f"Run directory: {run_dir}. It holds no checkpoint yet, so there is nothing to resume."
    return f"Run directory: {run_dir}\nResume with: {resume_command(run_dir)}"
