"""Files that are on the disk, whole, when a call returns."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file and force it to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write or overwrite a small file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_bytes(temporary, text.encode())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Force names that were made, renamed or removed in a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class HashingFile:
    """What `torch.save` writes into: passes everything on to `file` and hashes it.

    Its `write` never raises, because torch's C++ writer ends the process where an exception leaves its destructor; the
    first error is kept for afterwards.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, chunk: Any) -> int:
        size = memoryview(chunk).nbytes
        if self.error is None:
            try:
                self._file.write(chunk)
                self._hash.update(chunk)
                self.size += size
            except OSError as error:
                self.error = error
        return size

    def finish(self) -> dict[str, Any]:
        """Force the file to the disk; its size and sha256.

        Raises:
            OSError: the first that a write met.
        """
        if self.error is not None:
            raise self.error
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"sha256": self._hash.hexdigest(), "bytes": self.size}

    def flush(self) -> None:
        """Nothing: `finish` flushes."""
