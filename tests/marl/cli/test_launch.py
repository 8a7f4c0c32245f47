"""marl/cli/launch.py and marl/training/devices.py: every way a run can end has its words and its exit code.

The training itself is a stand-in here: what counts is what the command line makes of its end.
"""

from __future__ import annotations

import os
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.errors import EnvFailure
from marl.cli import launch as cli
from marl.config.schema import Config
from marl.errors import RunFailed, UserError
from marl.parallel.ranks import Ranks
from marl.runs import checkpoint
from marl.training import devices
from marl.training.stop import StopRequest

Train = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    """run(train, *flags) -> (exit code, standard error), with `train` in place of the real training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])

    def go(train: Train, *flags: str) -> tuple[int, str]:
        module = types.ModuleType("marl.training.experiment")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "marl.training.experiment", module)
        argv = ["--env", "simple", "--run-dir", "out", "--device", "cpu", *flags]
        return cli.main(argv), capsys.readouterr().err

    return go


def raises(error: BaseException) -> Train:
    def train(
        config: Config, resume: Path | None, stop: StopRequest, ranks: Ranks, resume_environment: str, began: float
    ) -> None:
        Path(config.run_dir or "").mkdir(exist_ok=True)
        raise error

    return train


def test_done(run: Callable) -> None:
    seen: list[Config] = []

    def train(
        config: Config, resume: Path | None, stop: StopRequest, ranks: Ranks, resume_environment: str, began: float
    ) -> None:
        seen.append(config)
        assert resume is None and not stop.requested

    assert run(train) == (0, "")
    assert (seen[0].device, seen[0].run_dir) == ("cpu", "out")


def test_the_run_directory_is_decided_before_the_run(run: Callable) -> None:
    seen: list[Config] = []
    code = cli.main(["--help"])
    assert code == 0
    run(lambda config, **rest: seen.append(config), "--device", "auto", "--run-dir", "none")
    assert seen[0].device == "auto" and str(seen[0].run_dir).startswith("runs/simple/2")


@pytest.mark.parametrize(("started", "shown"), [("run.py", "python run.py"), ("/bin/marl-train", "marl-train")])
def test_help_shows_what_was_typed(
    started: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wheel has no run.py."""
    monkeypatch.setattr(sys, "argv", [started])
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: {shown} [-h]" in text and f"\n  {shown} --env simple_speaker_listener\n" in text
    assert ("run.py" in text) is (started == "run.py")


def test_warnings_come_first(run: Callable) -> None:
    code, err = run(lambda config, **rest: None, "--total-steps", "100")
    assert code == 0 and err.startswith("warning: total_steps 100 ends before the first update")


def test_user_error_is_two_without_a_traceback(run: Callable) -> None:
    assert run(raises(UserError("got 3; expected 4"))) == (2, "error: got 3; expected 4\n")
    code, err = run(raises(UserError("bad")), "--seed", "-1")
    assert code == 2 and "--seed: got -1" in err


def test_no_environment_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "simple_speaker_listener" in capsys.readouterr().err


def env_failure() -> EnvFailure:
    return EnvFailure("raised ValueError: boom", env_id="my:env", row=3, seed=9, episode=2, step=7, actions={"a": 1})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RunFailed("the gradient of agent_0 is NaN at step 5"), "the run failed: the gradient of agent_0 is NaN"),
        (env_failure(), "environment 'my:env' failed: raised ValueError: boom. Copy 3, episode 2"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError in test_launch.py, line "),
        (RuntimeError(), "(train): no message. Run it again with --debug"),
        (RuntimeError("long " * 1000), "[...]"),
    ],
)
def test_failures_are_one_with_the_directory_and_the_way_on(run: Callable, error: Exception, words: str) -> None:
    """Guard: seen failing with `_explain` not catching unexpected exceptions."""
    code, err = run(raises(error))
    assert code == 1 and words in err and "Traceback" not in err and len(err) < 900
    assert "Run directory: out. It holds no checkpoint yet, so there is nothing to resume." in err
    checkpoint.save(Path("out/checkpoints"), 5, {}, {})
    code, err = run(raises(error))
    assert code == 1 and "Run directory: out\nResume with: python run.py --resume out\n" in err


def test_debug_shows_the_traceback(run: Callable) -> None:
    code, err = run(raises(ZeroDivisionError("x")), "--debug")
    assert code == 1 and "Traceback (most recent call last)" in err and "the run failed: unexpected" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which "
                "3.00 GiB is free. Process 1 has 12.00 GiB memory in use."
            ),
            "out of GPU memory (Tried to allocate 20.00 GiB; total capacity of 15.00 GiB; 3.00 GiB is free)",
        ),
        (MemoryError(), "out of memory. Make it smaller"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to "
                         "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"),
            "out of memory (tried to allocate 4000000000000 bytes)",
        ),
    ],
)  # fmt: skip
def test_out_of_memory_is_the_users_with_options(run: Callable, error: Exception, words: str) -> None:
    code, err = run(raises(error))
    assert code == 2 and words in err and "--num-envs" in err and "--replay.capacity" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_the_resume_command(run: Callable, number: int, code: int) -> None:
    def train(
        config: Config, resume: Path | None, stop: StopRequest, ranks: Ranks, resume_environment: str, began: float
    ) -> None:
        os.kill(os.getpid(), number)
        assert stop.requested
        with stop.saving():
            checkpoint.save(Path("out/checkpoints"), 5, {}, {})

    got, err = run(train)
    assert got == code and "stopped. Run directory: out\nResume with: python run.py --resume out" in err


def test_ended_at_once(run: Callable) -> None:
    code, err = run(raises(KeyboardInterrupt()))
    assert code == 130 and "stopped at once. Run directory: out" in err


def test_stopped_before_it_began(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupted)
    assert cli.main([]) == 130
    assert "stopped before the run began" in capsys.readouterr().err


# ------------------------------------------------------------------ devices
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_without_a_gpu_is_refused_with_a_list(name: str) -> None:
    """Guard: seen failing with a fallback to the CPU in `choose_device`."""
    with pytest.raises(UserError, match=rf"{name}: there is no such device here .*Devices of this machine: cpu\."):
        devices.choose_device(name)
    assert devices.choose_device("auto") == torch.device("cpu")


def test_devices_of_a_machine_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    assert devices.choose_device("auto") == devices.choose_device("cuda") == torch.device("cuda", 0)
    assert devices.choose_device("cuda:1") == torch.device("cuda", 1)
    assert devices.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"cpu, cuda:0 \(Card 0\), cuda:1 \(Card 1\)"):
        devices.choose_device("cuda:2")
    with pytest.raises(UserError, match="got 'tpu'; expected auto, cpu, cuda or cuda:i"):
        devices.choose_device("tpu")


def test_a_breach_at_the_first_reset_is_the_inputs_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guard: seen with exit code 1 and "the run failed". Later ones are failures of a run that has begun."""
    (tmp_path / "whole_numbers.py").write_text(
        "from toy_envs import Toy\n"
        "class Whole(Toy):\n"
        "    def observe(self, name):\n"
        "        return super().observe(name).astype(int)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--env", "whole_numbers:Whole", "--backend", "pettingzoo", "--run-dir", str(tmp_path / "run")]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert "error: environment 'whole_numbers:Whole' failed: observation of agent 'a_0': expected dtype" in err
    assert "Nothing was trained. python -m envs.check looks closer." in err
