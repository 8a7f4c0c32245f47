"""Kills a run at points where it touches the disk, resumes it and compares the end; prints a JSON line a point.

Run by test_fault_stop.py: python fault_kill_run.py DIRECTORY STRIDE. One process imports everything and forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from conftest import flags_of
from fault_points import Points, kill
from whole_runs import BASE, differences, records, state

from marl.cli import launch as cli
from marl.evaluate import returns as evaluate  # noqa: F401 - once, before the forks
from marl.play import policy  # noqa: F401 - once, before the forks
from marl.training import (
    experiment,  # noqa: F401 - once, before the forks
    trainer,  # noqa: F401 - once, before the forks
)

SETTINGS = {**BASE, "checkpoint.every": 40, "evaluation.every": 80, "evaluation.episodes": 2, "num_replicas": 2}


def forked(log: Path, *arguments: str, die_at: int | None = None) -> tuple[int, str]:
    """(exit code, the point's name) of the command line in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open(log, "a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            if die_at is None:
                code = cli.main(list(arguments))
            else:

                def act(name: str) -> None:
                    os.write(writer, name.encode())
                    kill(name)

                with Points(log.parent, lambda count: count == die_at, act):
                    code = cli.main(list(arguments))
            output.flush()
        os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    name = os.read(reader, 100).decode()
    os.close(reader)
    return os.waitstatus_to_exitcode(status), name


def main(directory: Path, stride: int) -> None:
    whole = directory / "whole" / "run"
    whole.parent.mkdir()
    code, _ = forked(whole.parent / "log", *flags_of({**SETTINGS, "run_dir": whole}))
    assert code == 0
    point = 1 - stride
    while True:
        point += stride
        run = directory / str(point) / "run"
        run.parent.mkdir()
        log = run.parent / "log"
        code, name = forked(log, *flags_of({**SETTINGS, "run_dir": run}), die_at=point)
        if code == 0:
            return
        again, _ = forked(log, "--resume", str(run))
        words = ("holds no checkpoint", "is no run directory", "does not exist")
        nothing = any(sentence in log.read_text() for sentence in words)
        same = again == 0 and not differences([state(run), records(run)], [state(whole), records(whole)])
        row = {"point": point, "name": name, "killed": code, "resumed": again, "nothing": nothing, "same": same}
        print(json.dumps({**row, "told": "" if same or nothing else log.read_text()[-2000:]}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
