"""Work on the device that is recorded once and then replayed, as CUDA graphs; elsewhere the same work is just done.

A training round of small networks is several hundred short kernels, and a host needs longer to launch them than a GPU
to run them. A CUDA graph launches all of them at once. It repeats exactly the recorded kernels on the same memory, so
recorded work

- writes whatever outlives it in place, and returns nothing;
- never asks for a number on the device (`.item()`, `bool(tensor)`, shapes that depend on values, copies to the host);
- lets the host decide nothing but what its key tells: the same key, the same kernels;
- takes numbers that change from tensors (marl/learner/schedules.py), random ones from counters on the device
  (envs/streams.py).

What the host itself counts beside the work (steps of an episode, updates) happens while it is recorded, and must be
made good by the caller after a replay: that is what `replayed` is for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch

from marl.errors import RunFailed

Work = Callable[[], None]
WARM_UP = 3  # rounds of every kind that run as usual before it is recorded: they fill caches and choose kernels


class Recorder(Protocol):
    """How work is recorded."""

    def warm(self, work: Work) -> None:
        """Do the work as usual, where it will be recorded."""

    def record(self, work: Work) -> Work:
        """Call `work` without any effect on the device's memory; the work that is returned has it, at every call."""


class CudaRecorder:
    """CUDA graphs on one device; all of them share their memory, since none leaves anything in it for another."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Work) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        replay: Work = graph.replay
        return replay


class Graphs:
    """Recorded work by its key.

    Args:
        recorder: records; None: every call just does the work.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._calls: dict[Hashable, int] = {}
        self._replays: dict[Hashable, Work] = {}

    @classmethod
    def on(cls, device: torch.device, wanted: bool = True) -> Graphs:
        """CUDA graphs on a GPU where they are wanted; anywhere else nothing is recorded."""
        return cls(CudaRecorder(device) if wanted and device.type == "cuda" else None)

    def __len__(self) -> int:
        """Graphs that have been recorded."""
        return len(self._replays)

    def run(self, key: Hashable | None, work: Work, replayed: Work) -> None:
        """Do `work`: as usual the first times, then by replaying its record.

        Args:
            key: what tells this kind of work from others; None: it can not be recorded.
            work: see above. It must be the same for the same key; what it refers to is kept.
            replayed: does after a replay what `work` does on the host.

        Raises:
            RunFailed: the work could not be recorded.
        """
        if self._recorder is None or key is None:
            work()
            return
        replay = self._replays.get(key)
        if replay is not None:
            replay()
            replayed()
            return
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= WARM_UP:
            self._recorder.warm(work)
            return
        try:
            self._replays[key] = self._recorder.record(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise RunFailed(
                f"a part of the training round ({key}) could not be recorded as a CUDA graph: {words[0][:300]} "
                f"Train with --no-graphs, which launches every kernel by itself."
            ) from error
        self._replays[key]()

    def forget(self) -> None:
        """Drop all records: tensors that they write to have been replaced."""
        self._calls.clear()
        self._replays.clear()
