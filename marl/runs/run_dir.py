"""The run directory: made, locked and described before any work, so that no run can harm another."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from marl.errors import UserError
from marl.runs.durable import replace_text
from marl.runs.versions import versions

CONFIG, VERSIONS, LOCK = "config.yaml", "versions.json", "run.lock"
_SCRIPT, _CHECKOUT = "marl-train", Path(__file__).resolve().parents[2]
_OURS = (CONFIG, VERSIONS, LOCK)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def starter() -> str:
    """What the user types before the flags of a run: a wheel has no run.py."""
    program = Path(sys.argv[0]).name
    return "python run.py" if program != _SCRIPT and (_CHECKOUT / "run.py").is_file() else _SCRIPT


def resume_command(directory: Path | str) -> str:
    """What the user types to continue the run (or the checkpoint) in `directory`."""
    return f"{starter()} --resume {shlex.quote(str(directory))}"


def default_name(env: str, seed: int, now: time.struct_time | None = None) -> Path:
    """runs/<env>/<date-time>_seed<seed>: where a run goes that was given no directory."""
    moment = time.strftime("%Y%m%d-%H%M%S", now or time.localtime())
    return Path("runs") / (re.sub(r"[^\w.-]+", "_", env) or "run") / f"{moment}_seed{seed}"


def fresh_default(env: str, seed: int) -> Path:
    """`default_name`, with a number behind it where a run of the same second has taken it."""
    path, count = default_name(env, seed), 1
    while path.exists():
        count += 1
        path = path.with_name(f"{default_name(env, seed).name}_{count}")
    return path


class RunDir:
    """One run's directory, locked while the context is open.

    The lock is the operating system's on the file run.lock (flock; filelock chooses it), so it ends with its process,
    however that ends, and a killed run can be resumed at once. The file says who holds it, for the message. A file
    that another machine left behind is refused even where nobody locks it: some network file systems keep locks to
    the machine that took them (NFS mounted with nolock or local_lock, Lustre with localflock), so that a living run
    there would not be seen. On a file system without any locks the file alone keeps others out; after a crash it is to
    be deleted by hand, which a note says. A read-only one is refused, since nothing could be written.

    Args:
        path: the directory; made with its parents where it is missing.
        resume: continue the run in it; without, it must be empty.
        note: called with what the user should know: a stale lock that was taken over, or that there are no locks.

    Raises:
        UserError: on entering: not writable, not empty without `resume`, absent with it, or in use by a living run.
            Nothing is written into a directory that is refused.
    """

    def __init__(self, path: Path, resume: bool = False, note: Callable[[str], None] = lambda text: None) -> None:
        self.path, self.resume, self._note = path, resume, note
        self._made: list[Path] = []
        # Whichever thread ends the run gives the lock back. Another kind of lock, filelock's answer to a file system
        # that has none, would not know the file of a run.
        self._lock = FileLock(path / LOCK, timeout=0, thread_local=False, fallback_to_soft=False)

    def __enter__(self) -> RunDir:
        if self.resume and not self.path.is_dir():
            raise UserError(f"--resume {self.path}: there is no such directory.")
        try:
            self._make()
            self._occupy()
        except OSError as error:
            self._unmake()
            raise UserError(_unwritable(self.path, error)) from error
        except UserError:
            self._unmake()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._give_back()
            if isinstance(error, UserError) and not self.resume and self._unused():
                for name in (CONFIG, VERSIONS):  # the mended command shall find the directory empty again
                    (self.path / name).unlink(missing_ok=True)
                self._unmake()

    def describe(self, config_yaml: str) -> None:
        """Write the fully resolved configuration and the versions; at a resume the versions go to another file.

        Args:
            config_yaml: `configure.to_yaml` of the configuration with `run_dir` unset: the file's own place says it,
                and `--config RUN/config.yaml` then repeats the run in a fresh directory.
        """
        name = VERSIONS if not self.resume else time.strftime("versions_resumed_%Y%m%d-%H%M%S.json")
        try:
            replace_text(self.path / CONFIG, config_yaml)
            replace_text(self.path / name, json.dumps(versions(), indent=1) + "\n")
        except OSError as error:
            raise UserError(_unwritable(self.path, error)) from error

    # ------------------------------------------------------------ steps of entering
    def _make(self) -> None:
        missing = [parent for parent in (self.path, *self.path.parents) if not parent.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self._made = missing
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")

    def _unmake(self) -> None:
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()  # only where it is empty

    def _occupy(self) -> None:
        """Take the lock, and look at the directory before and behind it: another run may start at the same time."""
        lock = self.path / LOCK
        was_there, holder = lock.exists(), _read_holder(lock)
        if not was_there and not self.resume:
            self._require_empty()  # before the lock's file is made: a directory that is refused stays as it is
        if holder is not None and holder["host"] != socket.gethostname():
            raise UserError(_unclear(self.path, holder))
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(_occupied(self.path, _read_holder(lock))) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if holder is not None:
                raise UserError(_unclear(self.path, holder)) from None
            self._note(f"the file system of {self.path} has no locks; after a crash delete {LOCK} to resume")
        try:
            if not self.resume:
                self._require_empty()
            lock.write_text(json.dumps(_identity()) + "\n")  # in place: the lock is on this very file
        except BaseException:
            if was_there:
                self._lock.release()
            else:
                self._give_back()
            raise
        if was_there:
            who = "an unreadable lock" if holder is None else f"the lock of process {holder['pid']}, which is dead,"
            self._note(f"{who} was found in {self.path} and taken over")

    def _give_back(self) -> None:
        """Remove the lock's file while it is locked, so that no other run can have taken it, then the lock."""
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)
        self._lock.release()

    def _require_empty(self) -> None:
        result = sorted(entry.name for entry in self.path.iterdir())
        if not result or (set(result) <= set(_OURS) and CONFIG not in result):
            return
        shown = ", ".join(result[:5]) + (", ..." if len(result) > 5 else "")
        mend = f"Continue that run with {resume_command(self.path)}, or choose" if CONFIG in result else "Choose"
        raise UserError(
            f"run directory {self.path} is not empty (it holds {shown}). "
            f"{mend} another directory with --run-dir. Nothing was changed."
        )

    def _unused(self) -> bool:
        return {entry.name for entry in self.path.iterdir()} <= set(_OURS)


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"run directory {path} cannot be written: {error.strerror or error}. "
        f"Choose another with --run-dir, or mend its permissions or its disk."
    )


# ------------------------------------------------------------------ the lock
def _identity() -> dict[str, Any]:
    """Who holds the lock, for the words of those who do not get it."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _read_holder(lock: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(lock.read_text())
        plain = type(holder["pid"]) is int and holder["pid"] > 0 and isinstance(holder["host"], str)
        return {"pid": holder["pid"], "host": holder["host"].split(" ")[0]} if plain else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _occupied(path: Path, holder: dict[str, Any] | None) -> str:
    who = "another process" if holder is None else f"process {holder['pid']}"
    return (
        f"run directory {path} is in use by {who} on this machine. "
        f"Choose another with --run-dir, or stop that run first. Nothing was changed."
    )


def _unclear(path: Path, holder: dict[str, Any]) -> str:
    return (
        f"run directory {path} is in use by process {holder['pid']} on {holder['host']}, which cannot be checked from "
        f"here. If that run has ended, delete {path / LOCK} and try again. Nothing was changed."
    )
