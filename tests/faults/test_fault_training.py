"""Training that cannot go on or must go on: gradients, disks, memory and devices, in whole runs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import assert_same, differences, records, state

from marl.learner.explicit.update import ExplicitUpdate
from marl.runs import checkpoint

EVERY = {"checkpoint.every": 40}


def finite(tree: Any) -> bool:
    if isinstance(tree, torch.Tensor):
        return not tree.is_floating_point() or bool(tree.isfinite().all())
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return all(finite(value) for value in values)


# ------------------------------------------------------------------ gradients
@pytest.mark.parametrize("which", ["critic", pytest.param("actor", marks=pytest.mark.fault)])
def test_a_gradient_that_is_nan(
    which: str, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Guard: seen failing without the check of the norms (NaN reached the parameters, the run went on)."""
    clean, run = tmp_path / "clean", tmp_path / "run"
    assert run_py({**EVERY, "run_dir": clean})[0] == 0
    before: list[torch.Tensor] = []
    step = ExplicitUpdate._step

    def poisoned(self: ExplicitUpdate, name: str) -> None:
        if name == which and self.learner.updates >= 40:
            flat = getattr(self.learner, which).mlp.flat
            before[:] = [flat, flat.detach().clone()]
            self.gradients[name][1][:] = float("nan")
        step(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(ExplicitUpdate, "_step", poisoned)
        code, _, err = run_py({**EVERY, "run_dir": run})
    assert code == 1
    assert f"the gradient of the {which} loss of agent 'speaker_0' (replica 0) is not finite at update 4" in err
    assert "at environment step " in err and f"Resume with: python run.py --resume {run}" in err
    assert torch.equal(before[0], before[1]), "stopped before the step"
    result = checkpoint.newest(run / "checkpoints")
    assert result is not None and finite(checkpoint.load(result).parts)
    assert run_py(None, "--resume", str(run))[0] == 0
    assert_same(run, clean)
    seen("NaN gradient", f"the {which}'s gradient times NaN", err, code=1)


@pytest.mark.fault
def test_a_step_size_that_is_far_too_large(tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    """The real thing: parameters grow until a loss overflows."""
    run = tmp_path / "run"
    code, _, err = run_py(
        {"run_dir": run, "checkpoint.every": 24}, "--maddpg.critic-lr", "1e25", "--maddpg.no-layer-norm"
    )
    assert code == 1 and "is not finite at update" in err and "or --maddpg.critic-lr" in err
    seen("NaN gradient", "a step size of 1e25", err, code=1)


@pytest.mark.fault
def test_a_world_model_that_diverges(tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    run = tmp_path / "run"
    small = ["--wm.kind", "mlp", "--wm.warmup-steps", "60", "--wm.refresh-every", "24", "--wm.starts", "8"]
    settings = {**EVERY, "run_dir": run}
    code, _, err = run_py(settings, "--world-model", *small, "--wm.lr", "1e25", "--wm.lr-warmup", "0")
    assert code == 1 and "world model" in err and "--wm.lr" in err, err
    seen("NaN gradient", "a step size of 1e25 for the world model", err, code=1)


# ------------------------------------------------------------------ saves that fail
@pytest.mark.parametrize("failures", [2, 3])
def test_saves_that_fail(
    failures: int, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Twice in a row is told and survived, also if it comes again later; three times ends the run. The checkpoint
    before is whole either way.

    Guard: seen failing with a count that never ends the run.
    """
    clean, run = tmp_path / "clean", tmp_path / "run"
    assert run_py({**EVERY, "run_dir": clean})[0] == 0
    write, calls = checkpoint._write, [0]

    def full(*args: Any) -> Path:
        calls[0] += 1
        if calls[0] in ((2, 3, 5, 6) if failures == 2 else (2, 3, 4)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        code, _, err = run_py({**EVERY, "run_dir": run})
    warned = len(re.findall(r"warning: the disk is full: the checkpoint of step \d+ needs \d+ MB, .* has \d+ MB", err))
    expected = 4 if failures == 2 else 2
    assert warned == err.count("Training goes on.") == expected
    assert err.count("The checkpoint before it is kept") >= expected
    if failures == 3:
        assert code == 1 and "This was failure 3 in a row." in err
        assert state(run)["step"] == 40
        assert run_py(None, "--resume", str(run))[0] == 0
    assert code == (0 if failures == 2 else 1)
    assert_same(run, clean)
    injected = "two saves in a row fail, twice" if failures == 2 else "three saves in a row fail"
    seen("disk full at a checkpoint", injected, err, times=warned + (failures == 3), code=code)


def test_a_last_save_that_fails_is_no_success(
    tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Guard: seen failing with a save that counts as done although it failed: exit code 0, the trained policy lost."""
    run = tmp_path / "run"
    write = checkpoint._write

    def full(root: Path, step: int, *rest: Any) -> Path:
        if step == 240:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(root, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        code, _, err = run_py({**EVERY, "run_dir": run})
    assert code == 1 and "the disk is full: the checkpoint of step 240" in err and "Resume with" in err
    assert run_py(None, "--resume", str(run))[0] == 0 and state(run)["step"] == 240
    seen("disk full at a checkpoint", "the last save fails", err, code=1)


# ------------------------------------------------------------------ a disk that is really full
@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.fault
@pytest.mark.parametrize("freed", [True, False], ids=["freed in time", "stays full"])
def test_a_disk_that_fills_up_during_training(
    freed: bool, disk: Path, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Checkpoints and records together."""
    settings = {**EVERY, "env": "fault_envs:faulty", "backend": "pettingzoo", "logging.tensorboard": True}
    settings["logging.every"] = 4  # more than the last page of a file holds
    clean, run = tmp_path / "clean", disk / "run"
    assert run_py({**settings, "run_dir": clean})[0] == 0
    monkeypatch.setenv("FAULT_DISK", str(disk))
    monkeypatch.setenv("FAULTS", "fill:12,free:28" if freed else "fill:12")
    code, _, err = run_py({**settings, "run_dir": run})
    assert err.count("cannot be written (No space left on device). Training goes on") == 1
    assert "warning: the disk is full: the checkpoint of step 80 needs" in err
    monkeypatch.delenv("FAULTS")
    if not freed:
        assert code == 1 and "This was failure 3 in a row." in err
        assert f"Resume with: python run.py --resume {run}" in err
        assert finite(state(run)) and state(run)["step"] == 40
        (disk / "filler").unlink()
        code = run_py(None, "--resume", str(run))[0]
    assert code == 0
    assert_same(run, clean)
    seen("disk full during training", "a real file system of 8 MB is filled to the last byte", err, code=code)


@pytest.mark.fault
def test_a_disk_that_is_full_of_records_only(
    tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """metrics.jsonl is /dev/full until the run ends: one warning, and training goes on."""
    run = tmp_path / "run"
    run_py({"run_dir": tmp_path / "clean"})
    real = os.open, open

    def redirected(path: Any, *args: Any, **rest: Any) -> Any:
        return real[1]("/dev/full" if str(path).endswith("metrics.jsonl") else path, *args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr("marl.runs.logs.guarded_file.open", redirected, raising=False)
        code, _, err = run_py({"run_dir": run})
    assert code == 0 and err.count("warning: metrics.jsonl cannot be written (No space left on device)") == 1
    assert differences(state(run), state(tmp_path / "clean")) == []
    assert len(records(tmp_path / "clean")) > 10
    seen("disk full for logs only", "metrics.jsonl is /dev/full", err, code=0)


# ------------------------------------------------------------------ memory, devices
@pytest.mark.fault
def test_more_memory_than_there_is(tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    huge = ("--total-steps", "1000000000000", "--replay.capacity", "1000000000000")
    code, _, err = run_py({"run_dir": tmp_path / "run"}, *huge)
    assert code == 2 and "out of memory (" in err and "tried to allocate" in err.lower()
    assert "--num-envs" in err and "--replay.capacity" in err
    seen("out of memory", "a replay of petabytes", err, code=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there(device: str, tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    code, _, err = run_py({"run_dir": tmp_path / "run", "device": device})
    assert code == 2 and f"--device {device}: there is no such device here" in err
    assert "Devices of this machine: cpu." in err and not (tmp_path / "run").exists()
    seen("`--device cuda` without a GPU", f"--device {device}", err, code=2)


def test_records_are_whole_lines(tmp_path: Path, run_py: Callable) -> None:
    """What every test here relies on."""
    run_py({"run_dir": tmp_path / "run"})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line)["step"], int) for line in lines) and len(lines) > 10
    assert shutil.disk_usage(tmp_path).free > 0
