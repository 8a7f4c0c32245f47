"""Several processes that train one run, started by torchrun: how they agree and how their parts come together.

The processes, called ranks, speak over gloo. In mode "replicas" each trains some of the replicas, whose random numbers
depend on their own indices alone, so that nothing is exchanged but records, evaluations and checkpoints. In mode "data"
(marl/parallel/data_mode.py) they share every replica. States are joined and cut along the first dimension of their
tensors, which is the replicas (or the rows of each replica); all else in a state is the same on every rank. A
checkpoint is therefore an ordinary one, which any number of ranks can resume. Only rank 0 touches the run directory.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from marl.errors import RunFailed, UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)
"""A rank that others wait for as long counts as lost; longer than any evaluation or save takes."""
_POLL_SECONDS = 0.2  # between two agreements on whether to stop
_FAULT = "fault"
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Lost(RunFailed):
    """Another rank is gone, or takes too long."""


class Echo(Exception):
    """Rank 0 met an error and tells it; this rank ends with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("rank 0 has told what happened")
        self.exit_code = exit_code


class Ranks:
    """The processes of one run. Without a group it is the only one, and every method does nothing or returns at once.

    Methods that say "all ranks" must be called by all of them in the same order.

    Args:
        store: keeps the words of a rank that failed; None: this process is alone.
        rank, size: this process's number and how many there are.
        local_rank, local_size: the same on this machine.
        timeout: for `Lost`.
    """

    def __init__(
        self,
        store: dist.Store | None = None,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._store, self._timeout = store, timeout
        self._device_group: Any = None  # NCCL's, made when it is first needed
        self._wait, self._rounds, self._asked = 1, 1, time.perf_counter()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's part of `count` things in a row; parts differ by at most one."""
        return self.shares(count)[self.rank]

    def shares(self, count: int) -> list[range]:
        """Every rank's part."""
        return [range(r * count // self.size, (r + 1) * count // self.size) for r in range(self.size)]

    def device(self, name: str) -> str:
        """The device of this rank where `name` was asked for: ranks of a machine take one GPU each."""
        if self.local_size == 1 or not (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
            return name
        return f"cuda:{self.local_rank}"

    # ------------------------------------------------------------------ faults
    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """What goes wrong inside is told to the other ranks, which then end as well."""
        try:
            yield
        except (Lost, Echo):
            raise
        except BaseException as error:
            if self._store is not None:
                with contextlib.suppress(RuntimeError):
                    words = " ".join(str(error).split()) or type(error).__name__
                    self._store.set(_FAULT, f"rank {self.rank} failed: {words}")
            raise

    @contextlib.contextmanager
    def _contact(self) -> Iterator[None]:
        """Around every exchange: a broken or silent connection becomes `Lost`."""
        try:
            yield
        except RuntimeError as error:
            raise Lost(self._why(str(error))) from error

    def _why(self, error: str) -> str:
        """The words that the failed rank left, else what is known."""
        deadline = time.monotonic() + 1.0
        while self._store is not None and time.monotonic() < deadline:
            try:
                if self._store.check([_FAULT]):
                    return f"{self._store.get(_FAULT).decode(errors='replace')} (this is rank {self.rank})"
            except RuntimeError:
                break  # the store is gone with the rank or the machine that kept it
            time.sleep(0.1)
        first = error.strip().splitlines()[0][:200] if error.strip() else "no message"
        return (
            f"rank {self.rank} of {self.size} has lost another rank, which was killed, ran out of memory, hangs for "
            f"more than {self._timeout.total_seconds():.0f} s, or sits on a machine that is gone ({first})"
        )

    # --------------------------------------------------------------- agreements
    def broadcast(self, work: Callable[[], T]) -> T:
        """All ranks: what `work` returns on rank 0, which alone does it; its errors end every rank.

        Raises:
            Echo: on the other ranks, where `work` raised on rank 0.
        """
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box = [work(), None]
            except BaseException as error:
                box[1] = _exit_code(error)
                with contextlib.suppress(Lost), self._contact():
                    dist.broadcast_object_list(box)
                raise
        with self._contact():
            dist.broadcast_object_list(box)
        if box[1] is not None:
            raise Echo(int(box[1]))
        result: T = box[0]
        return result

    def first_only(self, work: Callable[[], T]) -> T | None:
        """All ranks: what `work` returns, on rank 0; None elsewhere. Its errors end every rank, as in `first`."""
        kept: list[T] = []
        self.broadcast(lambda: kept.append(work()))
        return kept[0] if kept else None

    def any_rank(self, wanted: bool) -> bool:
        """All ranks: whether any of them wants to."""
        if self.size == 1:
            return wanted
        return self._largest(float(wanted))[0] > 0

    def poll_stop(self, wanted: bool) -> bool:
        """All ranks, once a round: whether any wants to, which is asked about every 0.2 s and else answered False."""
        if self.size == 1:
            return wanted
        self._wait -= 1
        if self._wait > 0:
            return False
        now = time.perf_counter()
        per_round = (now - self._asked) / self._rounds
        asked, slowest = self._largest(float(wanted), per_round)
        self._rounds = self._wait = max(1, min(1000, int(_POLL_SECONDS / max(slowest, 1e-9))))
        self._asked = time.perf_counter()
        return asked > 0

    def _largest(self, *numbers: float) -> list[float]:
        """All ranks: the largest of each number."""
        answer = torch.tensor(numbers, dtype=torch.float64)
        with self._contact():
            dist.all_reduce(answer, dist.ReduceOp.MAX)
        result: list[float] = answer.tolist()
        return result

    def collected(self, items: list[T]) -> list[T]:
        """All ranks: the plain items of all of them, in the order of the ranks."""
        if self.size == 1:
            return items
        result: list[Any] = [None] * self.size
        with self._contact():
            dist.all_gather_object(result, items)
        return [item for part in result for item in part]

    # ------------------------------------------------------------------ tensors
    def mean(self, x: Tensor) -> Tensor:
        """All ranks: the mean of their tensors, in place; over NCCL where they lie on GPUs."""
        if self.size > 1:
            with self._contact():
                dist.all_reduce(x, group=self._group(x.device))
            x /= self.size
        return x

    def rows(self, x: Tensor) -> Tensor:
        """All ranks: tensors [n, ...] of one shape, one behind another, [size * n, ...]."""
        if self.size == 1:
            return x
        whole = x.new_empty(self.size * len(x), *x.shape[1:])
        with self._contact():
            dist.all_gather(list(whole.chunk(self.size)), x.contiguous(), group=self._group(x.device))
        return whole

    def _group(self, device: torch.device) -> Any:
        if device.type != "cuda":
            return None
        if self._device_group is None:
            self._device_group = dist.new_group(backend="nccl", timeout=self._timeout)
        return self._device_group

    # ------------------------------------------------------------------- states
    def joined(self, state: Any) -> Any:
        """All ranks: on rank 0 the state of them all, tensors joined along the first dimension; elsewhere `state`.

        Where parts differ in further dimensions, the smaller are padded with zeros at the end.
        """
        if self.size == 1:
            return state
        own: list[Tensor] = []
        mapped(state, lambda x: own.append(x.detach().cpu().contiguous()))
        shapes: list[Any] = [None] * self.size
        with self._contact():
            dist.gather_object([tuple(x.shape) for x in own], shapes if self.is_first else None)
            if not self.is_first:
                for x in own:
                    dist.send(x, 0)
                return state
            parts = iter([_received(x, [of_rank[i] for of_rank in shapes]) for i, x in enumerate(own)])
        return mapped(state, lambda x: next(parts))

    def cut(self, state: Any, shares: Sequence[range], count: int) -> Any:
        """All ranks: every rank's `shares` of rank 0's state, in which tensors lead with `count` equal parts."""
        if self.size == 1:
            return state
        whole: list[Tensor] = []
        holes = None
        if self.is_first:
            holes = mapped(state, lambda x: _Placeholder(whole, x))
        box = [holes]
        with self._contact():
            dist.broadcast_object_list(box)
            if self.is_first:
                for x in whole:
                    for rank in range(1, self.size):
                        dist.send(part_of(x, shares[rank], count).cpu().contiguous(), rank)
                return part_of(state, shares[0], count)
            return mapped(box[0], lambda hole: hole.filled(shares[self.rank], count))


def _exit_code(error: BaseException) -> int:
    """With which the other ranks end."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)  # as Python itself takes it
    return 2 if isinstance(error, UserError) else 1


class _Placeholder:
    """Stands for a tensor that is sent by itself."""

    def __init__(self, tensors: list[Tensor], x: Tensor) -> None:
        tensors.append(x)
        self.shape, self.dtype = tuple(x.shape), x.dtype

    def filled(self, share: range, count: int) -> Tensor:
        x = torch.empty(self.shape[0] // count * len(share), *self.shape[1:], dtype=self.dtype)
        dist.recv(x, 0)
        return x


def _received(own: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
    """On rank 0 the tensors of all ranks, whose `shapes` are known, behind its own."""
    longest = [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes), strict=True)]
    whole = own.new_zeros(sum(shape[0] for shape in shapes), *longest)
    first = 0
    for rank, shape in enumerate(shapes):
        part = own
        if rank:
            part = own.new_empty(shape)
            dist.recv(part, rank)
        whole[(slice(first, first + shape[0]), *(slice(size) for size in shape[1:]))] = part
        first += shape[0]
    return whole


def mapped(state: Any, function: Callable[[Any], Any]) -> Any:
    """Plain data with `function` of every tensor that has dimensions (or of what stands for one)."""
    if isinstance(state, dict):
        return {key: mapped(value, function) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(mapped(value, function) for value in state)
    is_rows = isinstance(state, _Placeholder) or (isinstance(state, Tensor) and state.dim() > 0)
    return function(state) if is_rows else state


def part_of(state: Any, share: range, count: int) -> Any:
    """The `share` of a state whose tensors lead with `count` equal parts, as views."""

    def cut(x: Tensor) -> Tensor:
        size, rest = divmod(len(x), count)
        assert rest == 0, f"a tensor of a state has {len(x)} rows, which are not {count} equal parts"
        return x[share.start * size : share.stop * size]

    return mapped(state, cut)


@contextlib.contextmanager
def processes(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """The processes that torchrun started, or this one alone.

    Raises:
        Lost: they do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", 1)) if all(name in os.environ for name in _VARIABLES) else 1
    if size == 1:
        yield Ranks()
        return
    rank = int(os.environ["RANK"])
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("marl", store), rank=rank, world_size=size, timeout=timeout
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise Lost(f"rank {rank} of {size} does not find the others: {str(error).strip()[:300]}") from error
    local = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    try:
        yield Ranks(store, rank, size, *local, timeout)
    finally:
        dist.destroy_process_group()
