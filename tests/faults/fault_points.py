"""Every point of a save at which the disk is touched, counted, and made to fail or to kill the process.

Opening, making, renaming and deleting are seen through Python's audit events, before they happen; writes of file
contents and fsync, which have no events, through replacements. Production code knows nothing of this.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from marl.runs import durable

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
MANIFEST = {"spec": {"id": "simple_v3"}, "config": {"seed": 1}}


def parts_of(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    return {
        "policy": {"weight": torch.randn(20, 30, generator=generator)},
        "replay": {"rows": torch.randn(1000, 4, generator=generator)[: 100 * number], "cursor": number},
    }


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return (
        torch.equal(left["policy"]["weight"], right["policy"]["weight"])
        and torch.equal(left["replay"]["rows"], right["replay"]["rows"])
        and left["replay"]["cursor"] == right["replay"]["cursor"]
    )


class Points:
    """Counts disk operations below `root` and calls `act(name)` at the chosen ones.

    Args:
        root: operations elsewhere are not counted.
        chosen: which counts act.
        act: raises or kills; what it returns is ignored.
    """

    def __init__(self, root: Path, chosen: Callable[[int], bool], act: Callable[[str], Any]) -> None:
        self.root, self.chosen, self.act = str(root), chosen, act
        self.count, self.names, self.active = 0, [], False  # type: ignore[var-annotated]

    def reached(self, name: str) -> bool:
        """Count an operation; whether it is one of the chosen."""
        self.count += 1
        self.names.append(name)
        return self.chosen(self.count)

    def __enter__(self) -> Points:
        self._fsync, self._write = os.fsync, durable.HashingFile.write
        os.fsync = self._on_fsync  # type: ignore[assignment]
        points, write = self, self._write

        def on_write(file: durable.HashingFile, chunk: Any) -> int:
            if points.active and points.reached("write"):
                half = memoryview(chunk).cast("B")
                file._file.write(half[: len(half) // 2])
                file._file.flush()
                try:
                    points.act("write")
                except OSError as error:  # as the operating system gives it to the file
                    file.error = file.error or error
                    return len(half)
            return write(file, chunk)

        durable.HashingFile.write = on_write  # type: ignore[method-assign]
        global _current
        _current = self
        self.active = True
        return self

    def __exit__(self, *reason: object) -> None:
        self.active = False
        os.fsync, durable.HashingFile.write = self._fsync, self._write  # type: ignore[method-assign]

    def _on_fsync(self, handle: int) -> None:
        if self.active and self.reached("fsync"):
            self.act("fsync")
        self._fsync(handle)

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or event not in EVENTS:
            return
        path = str(arguments[0])
        if path.startswith(os.sep) and not path.startswith(self.root):
            return  # a relative path is one that rmtree deletes below a directory of ours
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return  # reading does no harm
        if self.reached(event):
            self.act(event)


_current: Points | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None and event in EVENTS:
        _current.on_event(event, arguments)


sys.addaudithook(_hook)


def full_disk(name: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
