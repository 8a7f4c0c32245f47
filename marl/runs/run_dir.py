"""The run directory: made, locked and described before any work, so that no run can harm another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from marl.errors import UserError
from marl.runs.durable import replace_text
from marl.runs.versions import versions

try:
    import fcntl
except ImportError:  # not a POSIX system: taking over a stale lock is then not guarded against a race
    fcntl = None  # type: ignore[assignment]

CONFIG, VERSIONS, LOCK = "config.yaml", "versions.json", "run.lock"
_OURS = (CONFIG, VERSIONS, LOCK)


def resume_command(directory: Path | str) -> str:
    """What the user types to continue the run (or the checkpoint) in `directory`."""
    program = Path(sys.argv[0]).name
    start = program if program == "marl-train" else "python run.py"
    return f"{start} --resume {shlex.quote(str(directory))}"


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
    """One run's directory, held under a lock while the context is open.

    Args:
        path: the directory; made with its parents where it is missing.
        resume: continue the run in it; without, it must be empty.
        note: told in a sentence what the user should know (a stale lock that was taken over).

    Raises:
        UserError: on entering: not writable, not empty without `resume`, absent with it, or in use by a living run.
            Nothing is written into a directory that is refused.
    """

    def __init__(self, path: Path, resume: bool = False, note: Callable[[str], None] = lambda text: None) -> None:
        self.path, self.resume, self._note = path, resume, note
        self._made: list[Path] = []

    def __enter__(self) -> RunDir:
        if self.resume and not self.path.is_dir():
            raise UserError(f"--resume {self.path}: there is no such directory.")
        try:
            self._make()
            with _guard(self.path):
                if not self.resume:
                    self._require_empty()
                self._lock()
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
            if _read_lock(self.path / LOCK) == _identity():
                (self.path / LOCK).unlink()
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

    def _require_empty(self) -> None:
        found = sorted(entry.name for entry in self.path.iterdir())
        if LOCK in found:
            holder = _read_lock(self.path / LOCK)
            if holder is not None and _alive(holder) is not False:
                raise UserError(_occupied(self.path, holder))
        if not found or (set(found) <= set(_OURS) and CONFIG not in found):
            return
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        mend = f"Continue that run with {resume_command(self.path)}, or choose" if CONFIG in found else "Choose"
        raise UserError(
            f"run directory {self.path} is not empty (it holds {shown}). "
            f"{mend} another directory with --run-dir. Nothing was changed."
        )

    def _lock(self) -> None:
        lock = self.path / LOCK
        if lock.exists():
            holder = _read_lock(lock)
            if holder is not None and _alive(holder) is not False:
                raise UserError(_occupied(self.path, holder))
            who = "an unreadable lock" if holder is None else f"the lock of process {holder['pid']}, which is dead,"
            self._note(f"{who} was found in {self.path} and taken over")
        replace_text(lock, json.dumps(_identity()) + "\n")

    def _unused(self) -> bool:
        return {entry.name for entry in self.path.iterdir()} <= set(_OURS)


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"run directory {path} cannot be written: {error.strerror or error}. "
        f"Choose another with --run-dir, or mend its permissions or its disk."
    )


# ------------------------------------------------------------------ the lock
@contextlib.contextmanager
def _guard(directory: Path) -> Iterator[None]:
    """Two processes that find the same stale lock take turns."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _identity() -> dict[str, Any]:
    """This process, told apart from any later one of the same number."""
    return {"pid": os.getpid(), "host": _host(), "start": _start_of(os.getpid())}


def _host() -> str:
    """Host name and process namespace: processes of one host that cannot see each other count as two hosts."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space}".strip()


def _start_of(pid: int) -> str | None:
    """When a process was started: boot and clock ticks since; "gone" where it has ended, None where unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return "gone" if Path("/proc/self/stat").exists() else None
    except (OSError, IndexError):
        return None
    return "gone" if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _alive(holder: dict[str, Any]) -> bool | None:
    """Whether the process of a lock still runs; None where that cannot be known (another host)."""
    if holder["host"] != _host():
        return None
    start = _start_of(holder["pid"])
    if start is not None:
        return start == holder["start"]
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_lock(lock: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(lock.read_text())
        plain = type(holder["pid"]) is int and holder["pid"] > 0 and isinstance(holder["host"], str)
        return holder if plain and "start" in holder else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _occupied(path: Path, holder: dict[str, Any]) -> str:
    host = holder["host"].split(" ")[0]
    if holder["host"] == _host():
        return (
            f"run directory {path} is in use by process {holder['pid']} on this machine. "
            f"Choose another with --run-dir, or stop that run first. Nothing was changed."
        )
    return (
        f"run directory {path} is in use by process {holder['pid']} on {host}, which cannot be checked from here. "
        f"If that run has ended, delete {path / LOCK} and try again. Nothing was changed."
    )
