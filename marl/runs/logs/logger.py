"""The only writer and printer of a run: metrics.jsonl, TensorBoard, trackers, the progress bar and messages.

Names in metrics.jsonl and TensorBoard are the same. A value is a number, or a tensor [S] of one number a replica, which
is written as NAME (the mean over replicas) and, where S > 1, as NAME/replica_0, NAME/replica_1, ... A line of
metrics.jsonl is {"step": environment steps of a replica, NAME: number, ...}; NaN and infinities are null there. All
names but those that begin with "time/" are a function of configuration, seed, versions and device: a run that was
stopped and resumed has the same lines as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from marl.errors import UserError
from marl.runs.logs.event_file import EventFile
from marl.runs.logs.guarded_file import GuardedFile
from marl.runs.logs.trackers import Trackers

METRICS = "metrics.jsonl"
_QUIET_SECONDS = 30.0  # between progress lines where there is no terminal


class RunLog(Protocol):
    """What a run tells while it goes on; `Logger` writes it, `Silent` does not."""

    def log(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """One record at `step`."""

    def hparams(self, settings: dict[str, Any], metrics: Sequence[str]) -> None:
        """The settings, and the metrics that they are to be compared by."""

    def advance(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Progress, and what is shown beside it; a name that is not given keeps its value."""

    def trained(self) -> None:
        """Training is over: the progress ends before what follows."""

    def leave_out(self, seconds: float) -> None:
        """These seconds were no training: the rate that is shown does not count them."""

    def say(self, text: str) -> None:
        """A message."""

    def warn(self, text: str) -> None:
        """A warning."""

    def flush(self) -> None:
        """Every record to the disk."""

    def close(self) -> None:
        """The end."""


class Silent:
    """The log of all ranks but the first: writes and prints nothing."""

    def log(self, step: int, values: Mapping[str, float | Tensor]) -> None: ...
    def hparams(self, settings: dict[str, Any], metrics: Sequence[str]) -> None: ...
    def advance(self, step: int, values: Mapping[str, float] | None = None) -> None: ...
    def trained(self) -> None: ...
    def leave_out(self, seconds: float) -> None: ...
    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Logger:
    """Writes what a run has to tell.

    Args:
        run_dir: the run directory; files appear there with the first record.
        total_steps: environment steps of a replica in the whole run; None: no progress is shown.
        tensorboard: write event files.
        progress: show a bar on a terminal, else a plain line now and then.
        trackers: names of further places for records (marl/runs/logs/trackers.py).
        resume_step: the step of the checkpoint that the run continues from; later records are dropped. The trainer
            must have logged everything of a step before it saves that step's checkpoint.
        ended: the run was over at `resume_step`; the record of its final evaluation is dropped too.

    Raises:
        UserError: at a resume, when metrics.jsonl cannot be rewritten.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_steps: int | None = None,
        tensorboard: bool = True,
        progress: bool = True,
        trackers: Sequence[str] = (),
        resume_step: int | None = None,
        ended: bool = False,
    ) -> None:
        self._warned = False
        if resume_step is not None:
            drop_after(run_dir / METRICS, resume_step, ended)
        self._lines = GuardedFile(run_dir / METRICS, self._cannot_write)
        self._events = EventFile(run_dir, self._cannot_write, resume_step) if tensorboard else None
        self._trackers = Trackers(trackers, run_dir, resume_step is not None, self.warn, self.say)
        self._progress = _Progress(total_steps, resume_step or 0) if progress and total_steps else None

    # ------------------------------------------------------------ records
    def log(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Write one record; tensors [S] (or 0-d) of any device are fetched in one transfer."""
        numbers = _numbers(values)
        record = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._lines.append(json.dumps({"step": step, **record}, allow_nan=False).encode() + b"\n")
        if self._events is not None:
            self._events.scalars(step, numbers)
        self._trackers.log(step, numbers)

    def hparams(self, settings: dict[str, Any], metrics: Sequence[str]) -> None:
        """Put the settings (`settings.flatten`) into the trackers, and with the last values of `metrics` into
        TensorBoard's hyperparameters."""
        if self._events is not None:
            self._events.hparams(settings, metrics)
        self._trackers.settings(settings)

    # ------------------------------------------------------------ the terminal
    def advance(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Move the progress on and show `values` beside it; a name that is not given keeps its value."""
        if self._progress is not None:
            self._progress.advance(step, values or {})

    def trained(self) -> None:
        """End the bar, or show the last line of progress: what follows is no training."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def leave_out(self, seconds: float) -> None:
        """Seconds that are not counted in the rate and in the time left."""
        if self._progress is not None:
            self._progress.leave_out(seconds)

    def say(self, text: str) -> None:
        """Print a message or a table to standard output, above the bar."""
        print_above(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Print a warning to standard error, above the bar."""
        print_above(f"warning: {text}", sys.stderr)

    # ------------------------------------------------------------ the end
    def flush(self) -> None:
        """Force every record to the disk; the trainer calls this before it saves a checkpoint."""
        self._lines.sync()
        if self._events is not None:
            self._events.sync()

    def close(self) -> None:
        """Flush, close the files and end the bar; calling it twice is harmless."""
        self.trained()
        self._lines.close()
        if self._events is not None:
            self._events.close()
        self._trackers.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cannot_write(self, path: Path, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self.warn(
                f"{path.name} cannot be written ({error.strerror or error}). Training goes on; records wait in memory "
                f"until there is space."
            )


def _numbers(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """{name: number} with the mean and the single replicas of tensors; one transfer from the device."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    fetched: list[float] = []
    if tensors:
        fetched = torch.cat([value.detach().reshape(-1).to(torch.float64) for value in tensors.values()]).tolist()
    numbers: dict[str, float] = {}
    start = 0
    for name, value in values.items():
        if not isinstance(value, Tensor):
            numbers[name] = value if type(value) is int else float(value)
            continue
        assert value.dim() <= 1 and value.numel() > 0, f"{name}: expected a number or a tensor [S]"
        own = fetched[start : start + value.numel()]
        start += value.numel()
        numbers[name] = math.fsum(own) / len(own) if all(map(math.isfinite, own)) else sum(own) / len(own)
        if len(own) > 1:
            numbers |= {f"{name}/replica_{s}": number for s, number in enumerate(own)}
    return numbers


def drop_after(path: Path, step: int, ended: bool = False) -> None:
    """Remove the lines of metrics.jsonl that are later than `step`, and a last line that was cut off.

    Args:
        path: the file; nothing happens where there is none.
        step: of the checkpoint that the run continues from.
        ended: training was over there: what is left is the final evaluation, whose record goes too.

    Raises:
        UserError: the file cannot be rewritten.
    """
    if not path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(path, "rb") as old, open(temporary, "wb") as new:
            new.writelines(line for line in old if line.endswith(b"\n") and not _later(line, step, ended))
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be cut back to step {step}: {error.strerror or error}.") from error


def _later(line: bytes, step: int, ended: bool) -> bool:
    try:
        record = json.loads(line)
        return record["step"] > step or (ended and record["step"] == step and "evaluation/return" in record)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # not ours to judge: kept


# ------------------------------------------------------------------ progress
class _Progress:
    """A bar on a terminal; elsewhere a plain line every half minute."""

    def __init__(self, total: int, start: int) -> None:
        self._total, self._start, self._step = total, start, start
        self._shown: dict[str, float] = {}
        self._began = self._reported = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, unit=" steps", unit_scale=True, dynamic_ncols=True, mininterval=0.3,
                file=sys.stderr,
            )  # fmt: skip

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        self._shown |= values
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join([*self._words(), f"{self._total - step:,} to go"]), refresh=False)
            self._bar.update(step - self._step)
        self._step = step
        if self._bar is None and time.monotonic() - self._reported >= _QUIET_SECONDS:
            self._report_progress()

    def leave_out(self, seconds: float) -> None:
        self._began += seconds
        if self._bar is not None:
            self._bar.start_t += seconds
            self._bar.last_print_t += seconds

    def _report_progress(self) -> None:
        self._reported = time.monotonic()
        rate = (self._step - self._start) / max(self._reported - self._began, 1e-9)  # of the training alone
        to_go = self._total - self._step
        left = f"{to_go:,} steps to go" + (f", {to_go / rate:.0f} s" if rate > 0 else "")
        done = f"step {self._step:,} of {self._total:,} ({self._step / self._total:.0%})"
        print_above("  ".join([done, *self._words(), f"{rate:,.0f} steps/s", left]), sys.stderr)

    def _words(self) -> list[str]:
        return [f"{name} {value:.3g}" for name, value in self._shown.items()]

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._step > self._start:
            self._report_progress()


def print_above(text: str, stream: TextIO) -> None:
    """Print above the bar; a terminal that is gone ends no run."""
    try:
        tqdm.write(text, file=stream)
        stream.flush()
    except (OSError, ValueError):
        pass
