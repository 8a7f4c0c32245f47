"""Which device a run computes on: what was asked for, or a refusal; never silently another."""

from __future__ import annotations

import warnings

import torch

from marl.errors import UserError


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


def _gpus() -> tuple[int, str]:
    """(number of GPUs that torch can use, why there is none)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return count, ""
    if torch.version.cuda is None and torch.version.hip is None:
        return 0, f"torch {torch.__version__} was built without CUDA"
    told = str(caught[0].message).split(". ")[0] if caught else "torch finds no GPU or no driver"
    return 0, told
