"""Real runs of run.py that are stopped from outside: signals, kill -9, a terminal or a pipe that goes away."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import flags_of
from whole_runs import BASE, assert_same

from marl import train
from marl.cli.parse import parse
from marl.runs import checkpoint

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
STRIDE = 251  # of the points at which a run is killed
SETTINGS = {"total_steps": 3000, "checkpoint.every": 200, "logging.tensorboard": True}
PATHS = os.pathsep.join(map(str, (REPOSITORY, HERE, HERE.parent / "helpers")))


def whole(run: Path, settings: dict[str, Any]) -> Path:
    """A run from start to end by the same command line, which reads configs/ too."""
    return train(parse(flags_of({**BASE, **settings, "run_dir": run})).config).run_dir


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never stopped."""
    return whole(tmp_path_factory.mktemp("clean") / "run", SETTINGS)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(settings, **Popen's arguments): run.py in a session of its own, ended with the test whatever happens."""
    children: list[subprocess.Popen[str]] = []

    def go(settings: dict[str, Any], environment: dict[str, str] | None = None, **rest: Any) -> subprocess.Popen[str]:
        own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS} | (environment or {})
        command = [sys.executable, str(REPOSITORY / "run.py"), *flags_of({**BASE, **settings})]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True} | rest
        children.append(subprocess.Popen(command, text=True, env=own, **streams))
        return children[-1]

    yield go
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def wait_for_checkpoint(run: Path, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while checkpoint.newest(run / "checkpoints") is None:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_until_it_hangs(child: subprocess.Popen[str]) -> None:
    """The child sleeps: it has used no processor time for half a second and is not waiting for a processor."""
    before, end = None, time.monotonic() + 120
    while True:
        assert child.poll() is None and time.monotonic() < end
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        state, spent = fields[0], fields[11:13]
        if state == "S" and spent == before:
            return
        before = spent
        time.sleep(0.5)


def group_is_gone(child: subprocess.Popen[str]) -> bool:
    """No process of the child's session is left."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.fault
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_signals(
    number: int, code: int, clean: Path, tmp_path: Path, start: Callable, run_py: Callable, seen: Callable
) -> None:
    """The real training; see test_fault_process.py for the guard."""
    run = tmp_path / "run"
    child = start({**SETTINGS, "run_dir": run})
    wait_for_checkpoint(run, child)
    child.send_signal(number)
    _, err = child.communicate(timeout=200)
    assert child.returncode == code and "Traceback" not in err
    if number != signal.SIGKILL:
        assert f"stopped. Run directory: {run}\nResume with: python run.py --resume {run}" in err
        assert not (run / "run.lock").exists()
    again, out, _ = run_py(None, "--resume", str(run))
    assert again == 0 and ("the lock of process" in out) == (number == signal.SIGKILL)
    assert_same(run, clean)
    name = {signal.SIGINT: "Ctrl-C once", signal.SIGTERM: "SIGTERM", signal.SIGKILL: "`kill -9` in training"}
    injected = f"{signal.Signals(number).name} after the first checkpoint"
    seen(name[signal.Signals(number)], injected, err or out, code=code)


@pytest.mark.fault
def test_ctrl_c_twice_in_a_step_that_hangs(tmp_path: Path, start: Callable, run_py: Callable, seen: Callable) -> None:
    settings = {"env": "fault_envs:faulty", "backend": "pettingzoo", "checkpoint.every": 40}
    clean, run = whole(tmp_path / "clean", settings), tmp_path / "run"
    child = start({**settings, "run_dir": run}, {"FAULTS": "hang:33"})
    wait_for_checkpoint(run, child)
    wait_until_it_hangs(child)
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=200)
    assert child.returncode == 130 and "stopped at once" in err and "Resume with" in err and "Traceback" not in err
    assert run_py(None, "--resume", str(run))[0] == 0
    assert_same(run, clean)
    seen("Ctrl-C twice", "SIGINT twice while `step` hangs", err, code=130)


@pytest.mark.fault
def test_ctrl_c_reaches_workers_too(tmp_path: Path, start: Callable, run_py: Callable, seen: Callable) -> None:
    """A terminal sends it to the whole group; nobody prints a traceback and nobody is left."""
    settings = {"env": "fault_envs:faulty", "backend": "pettingzoo", "checkpoint.every": 200, "total_steps": 3000}
    clean, run = whole(tmp_path / "clean", settings), tmp_path / "run"
    child = start({**settings, "workers": 2, "run_dir": run})
    wait_for_checkpoint(run, child)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=200)
    assert child.returncode == 130 and "stopped. Run directory" in err and "Traceback" not in err
    assert group_is_gone(child)
    assert run_py(None, "--resume", str(run), "--workers", "0")[0] == 0
    assert_same(run, clean)
    seen("Ctrl-C once", "SIGINT to a run with two workers", err, code=130)


@pytest.mark.fault
def test_a_terminal_that_is_gone(
    clean: Path, tmp_path: Path, start: Callable, run_py: Callable, seen: Callable
) -> None:
    """The run's terminal is closed: SIGHUP, and every later write to it fails."""
    run = tmp_path / "run"
    mine, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": take_terminal}
    child = start({**SETTINGS, "run_dir": run, "logging.progress": True}, **streams)
    os.close(theirs)
    wait_for_checkpoint(run, child)
    os.close(mine)
    child.wait(timeout=200)
    assert child.returncode == 128 + signal.SIGHUP
    assert run_py(None, "--resume", str(run), "--no-logging.progress")[0] == 0
    assert_same(run, clean)
    seen("terminal gone", "the pseudo-terminal of a run is closed", "nothing: there is no terminal", code=129)


@pytest.mark.fault
@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_a_pipe_that_is_closed(which: str, clean: Path, tmp_path: Path, start: Callable, seen: Callable) -> None:
    """`run.py | head`: the run goes on to its end, with its exit code."""
    run = tmp_path / "run"
    child = start({**SETTINGS, "run_dir": run})
    getattr(child, which).close()
    other = child.stderr if which == "stdout" else child.stdout
    output = other.read()
    assert child.wait(timeout=200) == 0, output
    assert "Traceback" not in output and "BrokenPipeError" not in output and "Exception ignored" not in output
    assert_same(run, clean)
    seen("closed pipe", f"nobody reads {which}", output or "nothing", code=0)


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_kill_9_wherever_a_run_touches_the_disk(tmp_path: Path, seen: Callable) -> None:
    """Saves, records, the run directory, the final evaluation."""
    environment = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "fault_kill_run.py"), str(tmp_path), str(STRIDE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) > 5 and all(row["killed"] == -9 for row in rows)
    for row in rows:
        assert row["same"] or (row["nothing"] and row["resumed"] == 2), row
    assert sum(row["same"] for row in rows) > 3
    injected = f"at every {STRIDE}st operation on the disk, from the first to the last"
    seen("`kill -9` in training", injected, "at the resume: the lock of a dead process was taken over", len(rows), -9)


@pytest.mark.fault
def test_hash_seeds_change_nothing(clean: Path, tmp_path: Path, start: Callable, seen: Callable) -> None:
    for seed in ("1", "2"):
        child = start({**SETTINGS, "run_dir": tmp_path / seed}, {"PYTHONHASHSEED": seed})
        assert child.communicate()[0] and child.returncode == 0
        assert_same(tmp_path / seed, clean)
    seen("`PYTHONHASHSEED` varied", "1 and 2", "identical records and parameters", times=2, code=0)
