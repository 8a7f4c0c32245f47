"""Runs under torchrun: stopped by a signal, and ended by the loss of a rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marl.runs.checkpoint import DIRECTORY, load, newest

ROOT = Path(__file__).parents[3]
FLAGS = [
    "--env", "simple_speaker_listener", "--num-replicas", "3", "--num-envs", "4", "--maddpg.batch-size", "16",
    "--maddpg.hidden", "8", "8", "--device", "cpu", "--evaluation.every", "0", "--logging.report", "false",
    "--logging.every", "100", "--logging.tensorboard", "false",
]  # fmt: skip


def torchrun(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "run.py", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=pipe, stderr=subprocess.STDOUT)


def until_saved(process: subprocess.Popen[str], run: Path) -> None:
    while newest(run / DIRECTORY) is None:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_is_stopped_and_resumed_by_one_process(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    process = torchrun(*FLAGS, "--total-steps", "1000000", "--checkpoint.every", "400", "--run-dir", str(run))
    until_saved(process, run)
    process.send_signal(number)
    out = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert out.count("Resume with: python run.py --resume") == 1 and 'File "run.py"' not in out
    good = newest(run / DIRECTORY)
    assert good is not None and not list((run / DIRECTORY).glob(".saving*")) and not (run / "run.lock").exists()
    step = load(good).step
    assert step % 400 != 0 or step > 400  # saved when it was asked to stop


@pytest.mark.fault
@pytest.mark.parametrize("local_rank", [0, 1])
def test_torchrun_ends_where_a_rank_is_killed(tmp_path: Path, local_rank: int) -> None:
    run = tmp_path / "run"
    process = torchrun(*FLAGS, "--total-steps", "1000000", "--checkpoint.every", "400", "--run-dir", str(run))
    until_saved(process, run)
    os.kill(_child(process.pid, local_rank), signal.SIGKILL)
    out = process.communicate(timeout=90)[0]
    assert process.returncode != 0 and "has lost another rank, which was killed" in out
    load(newest(run / DIRECTORY) or run)


def _child(parent: int, local_rank: int) -> int:
    """The process of a rank."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                ppid = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if ppid == parent and f"LOCAL_RANK={local_rank}".encode() in variables:
                return int(entry.name)
    raise AssertionError(f"torchrun {parent} has no rank {local_rank}")
