"""logger.py, event_file.py and guarded_file.py of marl/runs/logs: records that can be trusted, on any disk."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from marl.config.fields import flatten
from marl.config.schema import Config
from marl.errors import UserError
from marl.runs.logs import logger as module
from marl.runs.logs.logger import Logger, drop_after


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def events(run: Path):  # type: ignore[no-untyped-def]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    return EventAccumulator(str(run)).Reload()


def test_names_means_and_replicas(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.log(10, {"score": torch.tensor([1.0, 2.0, 6.0]), "loss": 0.5, "count": 3, "q": torch.tensor(2.0)})
        logger.log(20, {"score": torch.tensor([0.1]), "bad": float("nan"), "inf": torch.tensor([1.0, float("inf")])})
    assert lines(tmp_path) == [
        {"step": 10, "score": 3.0, "score/replica_0": 1.0, "score/replica_1": 2.0, "score/replica_2": 6.0,
         "loss": 0.5, "count": 3, "q": 2.0},
        {"step": 20, "score": pytest.approx(0.1), "bad": None, "inf": None, "inf/replica_0": 1.0,
         "inf/replica_1": None},
    ]  # fmt: skip
    result = events(tmp_path)
    assert set(result.Tags()["scalars"]) == set().union(*lines(tmp_path)) - {"step"}
    assert [(e.step, e.value) for e in result.Scalars("score/replica_2")] == [(10, 6.0)]


def test_floats_are_written_to_the_last_bit(tmp_path: Path) -> None:
    value = torch.tensor([1 / 3], dtype=torch.float32)
    with Logger(tmp_path, tensorboard=False) as logger:
        logger.log(1, {"x": value, "y": 1 / 3})
    assert lines(tmp_path)[0] == {"step": 1, "x": value.item(), "y": 1 / 3}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_files_appear_with_the_first_record(tmp_path: Path) -> None:
    with Logger(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Guard: seen failing without `drop_after`."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run in (whole, cut):
        run.mkdir()
        with Logger(run, tensorboard=False) as logger:
            for step in range(0, 100, 10):
                logger.log(step, {"x": step / 7})
    with open(cut / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 100, "x": 3')  # killed in the middle of a line
    with Logger(cut, tensorboard=False, resume_step=50) as logger:
        for step in range(60, 100, 10):
            logger.log(step, {"x": step / 7})
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_drop_after_keeps_what_it_cannot_judge(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    drop_after(path, 5)
    assert not path.exists()
    path.write_text('{"step": 1}\nnoise\n{"step": 9}\n{"step": 5}\n{"step"')
    drop_after(path, 5)
    assert path.read_text() == '{"step": 1}\nnoise\n{"step": 5}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_hides_what_a_resumed_run_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start, resume in ((0, None), (60, 50)):
        with Logger(tmp_path, resume_step=resume) as logger:
            for step in range(start, 100, 10):
                logger.log(step, {"x": float(step + (resume or 0))})
    steps = [(event.step, event.value) for event in events(tmp_path).Scalars("x")]
    assert steps == [(s, float(s)) for s in range(0, 60, 10)] + [(s, s + 50.0) for s in range(60, 100, 10)]


def test_hparams_and_records_share_one_file(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.hparams(flatten(Config()), ["score"])
        logger.log(5, {"score": 1.0})
    assert len([path for path in tmp_path.iterdir() if "tfevents" in path.name]) == 1
    result = events(tmp_path)
    data = result.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"maddpg.gamma" in data and b"maddpg.hidden" in data


# ------------------------------------------------------------------ full disks
class FullDisk:
    """Stands for an open file of which each write takes `room` bytes in all, then fails as a full disk does."""

    def __init__(self, file: io.FileIO, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_a_full_disk_warns_once_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guard: seen failing with `_cut` removed: a torn line stays in the file."""
    logger = Logger(tmp_path)
    logger.log(0, {"x": 0.5})
    assert logger._lines._file is not None and logger._events is not None
    disks = [FullDisk(file._file, 10) for file in (logger._lines, logger._events._file)]  # type: ignore[arg-type]
    logger._lines._file, logger._events._file._file = disks  # type: ignore[assignment]
    for step in (1, 2, 3):
        logger.log(step, {"x": 0.5})
    assert [line["step"] for line in lines(tmp_path)] == [0]
    logger.flush()
    output = capsys.readouterr().err
    assert output.count("warning") == 1 and "No space left on device" in output and "Training goes on" in output
    for disk in disks:
        disk.room = 10**6
    logger.log(4, {"x": 0.5})
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]
    logger.close()
    logger.close()
    assert [event.step for event in events(tmp_path).Scalars("x")] == [0, 1, 2, 3, 4]


def test_a_directory_that_is_gone_only_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logger(tmp_path / "gone") as logger:
        logger.log(0, {"x": 0.5})
    assert capsys.readouterr().err.count("warning") == 1


def test_memory_for_a_full_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from marl.runs.logs import guarded_file as guardedfile

    monkeypatch.setattr(guardedfile, "_MOST", 100)
    file = guardedfile.GuardedFile(tmp_path / "no" / "file", lambda path, error: None)
    for number in range(50):
        file.append(b"%09d\n" % number)
    (tmp_path / "no").mkdir()
    file.close()
    assert (tmp_path / "no" / "file").read_bytes() == b"".join(b"%09d\n" % number for number in range(40, 50))


def test_a_resume_that_cannot_cut_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')

    def fails(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", fails)
    with pytest.raises(UserError, match="cannot be cut back to step 5: No space"):
        Logger(tmp_path, resume_step=5)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


# ------------------------------------------------------------------ the terminal
class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_gain_loss_rate_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Logger(tmp_path, total_steps=1000) as logger:
        logger.advance(100, {"gain": 0.5})
        logger.advance(1000, {"loss": 0.25})
        logger.warn("careful")
    text = terminal.getvalue()
    for words in (
        "gain 0.5, loss 0.25, 0 to go",
        "steps/s",
        "1.00k/1.00k",
        "100%",
        "warning: careful\n",
    ):
        assert words in text


def test_without_a_terminal_a_plain_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with Logger(tmp_path, total_steps=10_000) as logger:
        for step in range(100, 10_001, 100):
            clock[0] += 1.0
            logger.advance(step, {"gain": step / 10_000, "loss": 0.1})
        logger.say("table")
    out, err = capsys.readouterr()
    assert out == "table\n"
    shown = err.splitlines()
    assert shown[0] == "step 3,000 of 10,000 (30%)  gain 0.3  loss 0.1  100 steps/s  7,000 steps to go, 70 s"
    assert len(shown) == 4 and shown[-1].startswith("step 10,000 of 10,000 (100%)")


def test_quiet_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logger(tmp_path, total_steps=10, progress=False) as logger:
        logger.advance(10, {"score": 1.0})
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_is_gone_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(sys, "stdout", Gone())
    with Logger(tmp_path, total_steps=10) as logger:
        logger.say("x")
        logger.warn("x")
        logger.advance(10, {"score": 1.0})
