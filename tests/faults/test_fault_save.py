"""A save that is killed, or meets a full disk, at every point where it touches the disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fault_points import MANIFEST, Points, equal, full_disk, parts_of

from marl.runs import checkpoint
from marl.runs.checkpoint import SaveFailed, load, newest, remove_leftovers, save

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


def killed_everywhere(directory: Path, stride: int) -> list[dict]:
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "fault_kill_child.py"), str(directory), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_killed(rows: list[dict]) -> None:
    for row in rows:
        assert row["state"] in (2, 3), f"killed at point {row['point']} ({row['name']}): nothing good is left"
        assert row["again"], row
        kinds = {re.sub(r"\d{9}", "N", name) for name in row["names"]}
        assert kinds <= {"latest", "step_N", "step_N_2"}, row


@pytest.mark.fault
def test_kill_9_at_every_point_of_a_save(tmp_path: Path, seen: Callable) -> None:
    """Guard: seen failing with `_write` writing into the target directory itself (no rename), with the prune before
    the save, and with `remove_leftovers` doing nothing."""
    rows = killed_everywhere(tmp_path, 1)
    assert len(rows) >= 25 and {row["name"] for row in rows} == {
        "open", "write", "fsync", "os.mkdir", "os.rename", "os.remove", "os.rmdir"
    }  # fmt: skip
    check_killed(rows)
    assert {row["state"] for row in rows} == {2, 3}
    assert any(row["leftovers"] for row in rows)
    output = "at the resume: removed the unfinished " + next(row["leftovers"][0] for row in rows if row["leftovers"])
    seen("`kill -9` at every write point of a save", "SIGKILL at every operation on the disk", output, len(rows), -9)


def test_kill_9_at_some_points_of_a_save(tmp_path: Path) -> None:
    check_killed(killed_everywhere(tmp_path, 15))


# ------------------------------------------------------------------ a full disk
def fill_up_everywhere(directory: Path, stride: int, lasting: bool) -> tuple[int, str]:
    """Let a save meet a full disk at every `stride`-th point; returns how often the save failed, and the last words."""
    before = directory / "before"
    save(before, 10, parts_of(1), MANIFEST)
    save(before, 20, parts_of(2), MANIFEST)
    point, failures, output = 1 - stride, 0, ""
    while True:
        point += stride
        root = directory / str(point)
        shutil.copytree(before, root)
        points = Points(root, lambda count, at=point: count >= at if lasting else count == at, full_disk)
        try:
            with points:
                save(root, 30, parts_of(3), MANIFEST)
        except SaveFailed as error:
            failures, output = failures + 1, str(error)
            assert f"The checkpoint before it is kept: {newest(root)}" in str(error)
            assert re.search(r"needs \d+ MB, .* has \d+ MB free", str(error)), str(error)
        if points.count < point:
            return failures, output
        result = load(newest(root) or Path("none"))
        assert equal(result.parts, parts_of(result.step // 10)) and result.step in (20, 30)
        if not lasting:
            assert not any(name.startswith(".saving") for name in remove_leftovers(root)), points.names[-3:]
        assert equal(load(save(root, 40, parts_of(4), MANIFEST)).parts, parts_of(4))
        shutil.rmtree(root)


@pytest.mark.fault
@pytest.mark.parametrize("lasting", [False, True], ids=["one operation fails", "all later ones fail"])
def test_a_disk_that_fills_up_at_every_point(tmp_path: Path, lasting: bool, seen: Callable) -> None:
    """Guard: seen failing with `_write` not removing its temporary directory, and with an OSError let through."""
    failures, output = fill_up_everywhere(tmp_path, 1, lasting)
    assert failures >= 15
    seen("disk full at a checkpoint", "ENOSPC at every operation of a save", output, times=failures)


def test_a_disk_that_fills_up_at_some_points(tmp_path: Path) -> None:
    assert fill_up_everywhere(tmp_path, 6, lasting=True)[0] >= 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.fault
@pytest.mark.parametrize("told", [True, False], ids=["free space is known", "free space is wrong, as under a quota"])
def test_a_really_full_disk(small_disk: Path, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small_disk / "checkpoints"
    old = save(root, 10, {"replay": torch.zeros(200_000)}, MANIFEST)
    if not told:
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1 << 40))  # type: ignore[attr-defined]
    with pytest.raises(SaveFailed) as caught:
        save(root, 20, {"replay": torch.zeros(2_000_000)}, MANIFEST)
    assert "the disk is full: the checkpoint of step 20 needs 9 MB" in str(caught.value)
    if told:
        assert re.search(r"has [23] MB free", str(caught.value))
    assert str(old) in str(caught.value) and newest(root) == old
    assert sorted(path.name for path in root.iterdir()) == ["latest", old.name]
    assert torch.equal(load(old).parts["replay"], torch.zeros(200_000))
    save(root, 30, {"replay": torch.zeros(100_000)}, MANIFEST)


@pytest.mark.fault
def test_a_really_full_disk_for_logs(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from marl.runs.logs.logger import Logger

    filler = small_disk / "filler"
    with Logger(small_disk) as logger:
        logger.log(0, {"x": 0.0})
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        for step in range(1, 500):
            logger.log(step, {"x": float(step), "y": 1.0 / step})
        logger.flush()
        assert capsys.readouterr().err.count("warning: ") == 1
        filler.unlink()
        logger.log(500, {"x": 500.0})
    steps = [json.loads(line)["step"] for line in (small_disk / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(501))
