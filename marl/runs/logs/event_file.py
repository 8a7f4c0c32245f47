"""A TensorBoard event file, written at once and in the caller's thread.

torch's SummaryWriter writes from a thread of its own, which a full disk ends with a traceback on the terminal; this
one passes every record through a `GuardedFile`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from marl.runs.logs.guarded_file import GuardedFile


class EventFile:
    """One event file in `directory`.

    Args:
        directory: TensorBoard's log directory.
        failed: told of every failed attempt to write.
        resume_step: TensorBoard hides what earlier event files of the directory hold after this step.
    """

    def __init__(
        self, directory: Path, failed: Callable[[Path, OSError], None], resume_step: int | None = None
    ) -> None:
        # imported here: it takes a second, which runs without TensorBoard need not wait for
        from tensorboard.compat.proto import event_pb2
        from torch.utils.tensorboard import summary

        self._proto, self._summary = event_pb2, summary
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
        self._file = GuardedFile(directory / name, failed)
        self._header: list[Any] = [event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")]
        if resume_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._header.append(event_pb2.Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write {name: number} at a step, all in one event."""
        proto = self._summary.Summary
        rows = [proto.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._add(proto(value=rows), step)

    def image(self, step: int, name: str, pixels_HWC: Tensor) -> None:
        """Write an image, uint8 [height, width, 3]."""
        self._add(self._summary.image(name, pixels_HWC.cpu().numpy(), dataformats="HWC"), step)

    def hparams(self, settings: dict[str, Any], metrics: Sequence[str]) -> None:
        """Write the settings into the same file (torch's add_hparams makes another directory).

        TensorBoard's table shows, beside them, the last value of each scalar named in `metrics`.
        """
        allowed = (bool, int, float, str)
        plain = {name: value if isinstance(value, allowed) else str(value) for name, value in settings.items()}
        for part in self._summary.hparams(plain, dict.fromkeys(metrics, 0.0)):
            self._add(part, None)

    def _add(self, summary: Any, step: int | None) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        events = [*self._header, self._proto.Event(wall_time=time.time(), step=step, summary=summary)]
        self._header = []
        buffer = BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        self._file.append(buffer.getvalue())

    def sync(self) -> None:
        """Force the file to the disk."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close."""
        self._file.close()
