"""marl/runs/run_dir.py and marl/runs/durable.py: one run a directory, refused before anything is written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marl.errors import UserError
from marl.runs import run_dir as rundir
from marl.runs.durable import replace_text
from marl.runs.run_dir import LOCK, RunDir, default_name, fresh_default, resume_command


def refused(path: Path, resume: bool = False) -> str:
    with pytest.raises(UserError) as caught, RunDir(path, resume=resume):
        pytest.fail("entered")
    return str(caught.value)


def listing(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_default_name_is_a_file_name_for_every_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moment = time.strptime("2026-01-02 03:04:05", "%Y-%m-%d %H:%M:%S")
    assert default_name("simple_spread", 7, moment) == Path("runs/simple_spread/20260102-030405_seed7")
    assert default_name("my.mod:make", 7, moment) == Path("runs/my.mod_make/20260102-030405_seed7")
    assert default_name("../x/..", 0, moment).parts[:2] == ("runs", ".._x_..")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rundir.time, "localtime", lambda: moment)
    first = fresh_default("simple", 1)
    first.mkdir(parents=True)
    assert fresh_default("simple", 1).name == first.name + "_2"


def test_describes_the_run_and_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    with RunDir(path) as run:
        assert (path / LOCK).exists()
        run.describe("seed: 1\n")
    assert sorted(listing(path)) == ["config.yaml", "versions.json"]
    assert json.loads((path / "versions.json").read_text())["python"].startswith("3.")
    with RunDir(path, resume=True) as run:
        run.describe("seed: 2\n")
    assert (path / "config.yaml").read_text() == "seed: 2\n"
    assert sum(name.startswith("versions_resumed_") for name in listing(path)) == 1


def test_a_directory_that_is_not_empty_is_refused_and_untouched(tmp_path: Path) -> None:
    """Guard: seen failing with `_require_empty` returning at once."""
    (tmp_path / "thesis.tex").write_text("years of work")
    text = refused(tmp_path)
    assert "is not empty (it holds thesis.tex). Choose another directory with --run-dir. Nothing was changed." in text
    assert listing(tmp_path) == {"thesis.tex": b"years of work"}
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert f"Continue that run with {resume_command(tmp_path)}" in refused(tmp_path)


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    with RunDir(tmp_path):
        pass
    with RunDir(tmp_path):
        pass


def test_resume_needs_the_directory(tmp_path: Path) -> None:
    assert "there is no such directory" in refused(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        assert "cannot be written" in refused(path)
    assert listing(tmp_path) == {"file": b""}


def test_a_full_disk_at_the_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "cannot be written: No space left on device" in refused(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fault_of_the_user_after_the_start_leaves_the_directory_free(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError, match="bad argument"), RunDir(path) as run:
        run.describe("seed: 1\n")
        raise UserError("bad argument")
    assert not path.exists()
    with pytest.raises(UserError, match="bad argument"), RunDir(path) as run:
        run.describe("seed: 1\n")
        (path / "metrics.jsonl").write_text("{}\n")
        raise UserError("bad argument")
    assert "metrics.jsonl" in listing(path) and "config.yaml" in listing(path), "work is never removed"


# ------------------------------------------------------------------ the lock
HOLDS = """
import sys, time
from pathlib import Path
from marl.runs.run_dir import RunDir
with RunDir(Path(sys.argv[1]), resume=True):
    print("locked", flush=True)
    time.sleep(600)
"""


def lock_of(pid: int, **changes: object) -> str:
    """The content of a lock's file, as this version writes it; the former one added `start`."""
    return json.dumps({"pid": pid, "host": socket.gethostname()} | changes)


@contextlib.contextmanager
def running(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the run directory."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_living_run_is_not_disturbed(tmp_path: Path) -> None:
    """Guard: seen failing with `_occupy` ignoring `Timeout`."""
    with RunDir(tmp_path):
        held = listing(tmp_path)
        for resume in (False, True):
            assert f"is in use by process {os.getpid()} on this machine" in refused(tmp_path, resume)
        assert listing(tmp_path) == held and (tmp_path / LOCK).exists()


def test_the_run_of_another_process_is_not_disturbed(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        for resume in (False, True):
            assert f"is in use by process {process.pid} on this machine" in refused(tmp_path, resume)


def test_a_killed_run_can_be_resumed_at_once(tmp_path: Path) -> None:
    """The process is a zombie then: nobody has waited for it."""
    notes: list[str] = []
    with running(tmp_path) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with RunDir(tmp_path, resume=True, note=notes.append):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert len(notes) == 1 and f"process {process.pid}, which is dead" in notes[0]
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("start", [{}, {"start": "boot 123"}])
def test_a_lock_that_nobody_holds_is_taken_over_with_a_note(tmp_path: Path, start: dict[str, str]) -> None:
    """Also where a later process has the number of the one that left it: this one."""
    notes: list[str] = []
    (tmp_path / LOCK).write_text(lock_of(os.getpid(), **start))
    with RunDir(tmp_path, resume=True, note=notes.append):
        pass
    assert len(notes) == 1 and f"process {os.getpid()}, which is dead" in notes[0]


def test_one_of_two_runs_that_start_at_the_same_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has started and ended between a run's look at the directory and its lock."""
    acquire = rundir.FileLock.acquire

    def late(lock: object) -> object:
        (tmp_path / "config.yaml").write_text("seed: 1\n")
        return acquire(lock)

    monkeypatch.setattr(rundir.FileLock, "acquire", late)
    assert "is not empty (it holds config.yaml" in refused(tmp_path)
    assert listing(tmp_path) == {"config.yaml": b"seed: 1\n"}


@pytest.mark.parametrize("host", ["cluster-17", "cluster-17 pid:[1]"])
def test_the_lock_of_another_machine_cannot_be_judged(tmp_path: Path, host: str) -> None:
    (tmp_path / LOCK).write_text(lock_of(1, host=host))
    text = refused(tmp_path, resume=True)
    assert "process 1 on cluster-17" in text and f"delete {tmp_path / LOCK}" in text
    assert (tmp_path / LOCK).read_text() == lock_of(1, host=host)


def test_a_file_system_without_locks_is_used_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(lock: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(rundir.FileLock, "acquire", none)
    notes: list[str] = []
    with RunDir(tmp_path, note=notes.append):
        text = refused(tmp_path, resume=True)
        assert f"process {os.getpid()} on " in text and f"delete {tmp_path / LOCK}" in text
    assert len(notes) == 1 and "has no locks" in notes[0] and not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": -1, "host": "", "start": ""}', "\0", '{"pid": 1}'])
def test_an_unreadable_lock_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    notes: list[str] = []
    with RunDir(tmp_path, resume=True, note=notes.append):
        pass
    assert "unreadable lock" in notes[0]


def test_resume_command_is_ready_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert resume_command("a b") == "python run.py --resume 'a b'"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/marl-train"])
    assert resume_command("a") == "marl-train --resume a"


def test_a_wheel_names_no_script_that_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever command the user is told by."""
    monkeypatch.setattr(rundir, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["/site-packages/marl/report/__main__.py"])
    assert resume_command("a") == "marl-train --resume a"


def test_replace_text_leaves_the_old_content_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")

    def fails(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new")
    assert listing(tmp_path) == {"file": b"old"}
