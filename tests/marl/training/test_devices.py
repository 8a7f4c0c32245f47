"""How many threads a run takes; the device itself is tested in test_cli.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from marl.training import devices


@pytest.mark.parametrize(
    ("asked", "sizes", "expected"),
    [
        (0, (2, 1024, 64), 1),  # one replica: a second thread made an update slower
        (0, (20, 256, 64), 2),  # ten: half again as fast
        (0, (20, 512, 128), 4),  # as many as there are
        (0, (20, 512, 128, 2), 2),  # two processes share them
        (0, (1, 1, 1), 1),
        (3, (1, 1, 1), 3),
    ],
)
def test_threads_follow_the_work_and_stop_at_the_cores(
    asked: int, sizes: tuple[int, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert devices.choose_threads(asked, *sizes) == expected


FAULTS = """
import resource, torch
from marl.training.devices import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        x = torch.ones(1 << 20)
        y = x + 1
        del x, y
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), min(faults() for _ in range(3)))  # the kernel may have taken back a page at any time
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_used_again_without_faults() -> None:
    output, faults = map(int, subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split())
    if output:  # not on another C library
        assert faults < 1000  # 20 x 2 x 1024 pages otherwise


def test_convolutions_repeat_and_do_not_round(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, usual in (("deterministic", False), ("allow_tf32", True)):
        monkeypatch.setattr(torch.backends.cudnn, name, usual)
    devices.repeat_convolutions()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32
