"""A CUDA graph without a GPU: records the operations of a function and runs them again on the same memory.

Like a graph it refuses what needs the host, has no effect while it records, bakes every Python number in, and runs no
line of Python when it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_HOST = (
    "_local_scalar_dense", "item", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "equal",
    "unique_consecutive", "is_nonzero", "index", "index_put", "index_put_", "_index_put_impl_", "lift_fresh",
    "bincount", "repeat_interleave", "set_", "resize_",
)  # fmt: skip
"""What reads numbers on the host, has a shape that depends on them, or copies from the host (a tensor made of numbers,
an index given as a list): a stream that is captured refuses all of it. Whole indexing by tensors is left out as well,
since boolean masks go the same way."""


class HostAsked(RuntimeError):
    """An operation that a CUDA graph cannot hold."""


class Tape(TorchDispatchMode):
    """Records operations while it is active; `Graphs(Tape.Recorder())` takes it for CUDA."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Callable[[], Any], list[torch.Tensor]]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # memory from before the tape: it, its contents
        self._own: set[int] = set()  # memory that the tape's operations made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in _HOST:
            raise HostAsked(f"operation not permitted when stream is capturing: {func}")
        inputs, changed = tensors((args, kwargs)), written(func, args, kwargs)
        for x in changed:
            self._keep(x)
        out = func(*args, **kwargs)
        places, made = {memory(x) for x in inputs}, tensors(out)
        fresh = [memory(x) not in places for x in made]
        self._own |= {memory(x) for x, new in zip(made, fresh, strict=True) if new}
        if changed or any(fresh):  # else a view: it shows the memory as it is at any time
            self._operations.append((partial(func, *args, **kwargs), made))
        return out

    def _keep(self, x: torch.Tensor) -> None:
        if memory(x) not in self._own and memory(x) not in self._before:
            bytes_of = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())
            self._before[memory(x)] = bytes_of, bytes_of.clone()

    def rewind(self) -> None:
        """Undo every effect on memory from before the tape."""
        for now, before in self._before.values():
            now.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """The recorded operations once more: inputs and outputs are the same memory."""
        for operation, made in self._operations:
            for x, again in zip(made, tensors(operation()), strict=True):
                if memory(x) != memory(again):
                    x.copy_(again)

    class Recorder:
        """Stands for marl.training.cuda_graphs.CudaRecorder."""

        def __init__(self) -> None:
            self.tapes: list[Tape] = []

        def warm(self, work: Callable[[], None]) -> None:
            work()

        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            tape = Tape()
            with tape:
                work()
            tape.rewind()
            self.tapes.append(tape)
            return tape.replay


def tensors(tree: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def memory(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an operation writes to."""
    result = []
    for k, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[k] if k < len(args) else kwargs.get(argument.name)
            result += tensors(value)
    return result
