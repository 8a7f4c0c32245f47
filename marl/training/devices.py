"""Which device a run computes on: what was asked for, or a refusal; never silently another. And how many threads."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings

import torch

from marl.errors import UserError

_NUMBERS_PER_THREAD = 1 << 17
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h; 32 MiB is the largest mmap threshold it takes


def choose_device(name: str) -> torch.device:
    """The device that `name` means: "cpu", "cuda" (the first GPU), "cuda:i", or "auto" (a GPU where there is one).

    Raises:
        UserError: no such device here; lists those that there are, and why there is no GPU.
    """
    count, reason = _gpus()
    if name == "cpu" or (name == "auto" and count == 0):
        return torch.device("cpu")
    if name in ("auto", "cuda") and count:
        return torch.device("cuda", 0)
    kind, _, index = name.partition(":")
    if kind == "cuda" and index.isdecimal() and int(index) < count:
        return torch.device("cuda", int(index))
    if kind != "cuda":
        raise UserError(f"device: got {name!r}; expected auto, cpu, cuda or cuda:i.")
    here = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))]
    because = f" ({reason})" if reason else ""
    raise UserError(
        f"--device {name}: there is no such device here{because}. Devices of this machine: {', '.join(here)}. "
        f"Choose one of them, or --device auto."
    )


def choose_threads(asked: int, networks: int, batch_size: int, width: int, processes: int = 1) -> int:
    """CPU threads for torch: `asked`, or where that is 0 one for every 2^17 numbers of the widest hidden layer.

    A thread that gets less costs more to wake than it computes.
    Never more than the cores that this process may use.

    Args:
        asked: config.threads.
        networks: agents of all replicas of this process.
        batch_size, width: sizes of one hidden layer in an update.
        processes: that share the cores.
    """
    if asked:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(networks * batch_size * width // _NUMBERS_PER_THREAD, cores // processes), 1)


def repeat_convolutions() -> None:
    """Let cuDNN repeat its results to the bit, in full single precision, as the products of matrices here are."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed blocks for the next update; whether it could be reason (glibc on Linux).

    Hidden layers of many replicas are megabytes each. By default every one is returned to the system and faulted in
    again page by page, a fifth of the time of such an update.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 << 20)) and bool(mallopt(_M_TRIM_THRESHOLD, 1 << 30))


def _gpus() -> tuple[int, str]:
    """(number of GPUs that torch can use, why there is none)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return count, ""
    if torch.version.cuda is None and torch.version.hip is None:
        return 0, f"torch {torch.__version__} was built without CUDA"
    reason = str(caught[0].message).split(". ")[0] if caught else "torch finds no GPU or no driver"
    return 0, reason
