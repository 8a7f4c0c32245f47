"""An append-only file of records that a full disk cannot break and that cannot break the run."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_MOST = 64 << 20  # bytes that wait in memory for a disk


class GuardedFile:
    """Appends whole records; what cannot be written waits in memory and is tried again with the next record.

    Args:
        path: made, or appended to, with the first record.
        failed: told of every failed attempt.
    """

    def __init__(self, path: Path, failed: Callable[[Path, OSError], None]) -> None:
        self.path, self._failed = path, failed
        self._file: BinaryIO | None = None
        self._good = 0  # bytes up to the end of the last whole record
        self._waiting: deque[bytes] = deque()

    def append(self, record: bytes) -> None:
        """Write a record, after those that wait."""
        self._waiting.append(record)
        while sum(map(len, self._waiting)) > _MOST:
            self._waiting.popleft()
        self._write()

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - held until close
                self._good = self._file.tell()
            while self._waiting:
                rest = memoryview(self._waiting[0])
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._good += len(self._waiting.popleft())
        except OSError as error:
            self._cut()
            self._failed(self.path, error)

    def _cut(self) -> None:
        """Take back a part of a record."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(self._good)

    def sync(self) -> None:
        """Try what waits once more and force the file to the disk."""
        if self._waiting:
            self._write()
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failed(self.path, error)

    def close(self) -> None:
        """Sync and close; a later record opens the file again."""
        self.sync()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
