"""Plain data: what a checkpoint may hold, so that loading one can never run code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ATOMS = (type(None), bool, int, float, str)


class NotPlain(TypeError):
    """A value that a checkpoint must not hold; the message names its place and type."""


def plain(value: Any, place: str, narrow: bool = True) -> Any:
    """`value` with tensors detached and every dict and list rebuilt from exact built-in types.

    Tensors keep their storage where it holds nothing else; a view into a larger storage is narrowed first, because
    `torch.save` writes whole storages.

    Args:
        value: None, bool, int, float, str, Tensor, or lists, tuples and dicts of those; dict keys are str or int.
        place: what `value` is called in messages, as "learner.optimiser".
        narrow: False leaves views as they are: for data that was read, not for data to be saved.

    Raises:
        NotPlain: anything else, numpy scalars and arrays included; names the place.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind in (Tensor, torch.nn.Parameter):
        return _narrow(value.detach(), place) if narrow else value.detach()
    if kind in (list, tuple):
        return kind(plain(entry, f"{place}[{index}]", narrow) for index, entry in enumerate(value))
    if isinstance(value, dict) and kind.__name__ in ("dict", "OrderedDict"):
        for key in value:
            if type(key) not in (str, int):
                raise NotPlain(f"{place} has a key {key!r} of type {type(key).__name__}; expected str or int.")
        return {key: plain(entry, f"{place}.{key}", narrow) for key, entry in value.items()}
    raise NotPlain(
        f"{place} is a {kind.__module__}.{kind.__qualname__}; "
        f"expected None, bool, int, float, str, Tensor, or lists, tuples and dicts of those."
    )


def _narrow(tensor: Tensor, place: str) -> Tensor:
    """A dense tensor whose storage holds its own elements only; copies only where it must."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise NotPlain(f"{place} is a {tensor.layout} tensor; expected a dense one.")
    if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() and tensor.is_contiguous():
        return tensor
    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in _NUMPY_DTYPES:
        return torch.from_numpy(tensor.numpy())  # a storage of its own over the same memory
    return tensor.clone(memory_format=torch.contiguous_format)


_NUMPY_DTYPES = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.float32, torch.float64,
})  # fmt: skip


def num_bytes(value: Any) -> int:
    """Bytes of all tensors in plain data, plus a rough allowance for everything else."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() + 512
    if isinstance(value, list | tuple):
        return 16 + sum(num_bytes(entry) for entry in value)
    if isinstance(value, dict):
        return 16 + sum(16 + len(str(key)) + num_bytes(entry) for key, entry in value.items())
    return 32 + len(value) if isinstance(value, str) else 32
