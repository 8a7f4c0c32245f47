"""Environments that break in the middle of a run: what the user reads, what is left, and that nothing is lost."""

from __future__ import annotations

import multiprocessing as mp
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from whole_runs import assert_same, state

from marl.runs import checkpoint

SETTINGS = {"env": "fault_envs:faulty", "checkpoint.every": 40, "backend": "pettingzoo"}
STEP = 33  # of a copy: environment step 132, behind the checkpoint of step 120


@pytest.fixture
def uninterrupted(tmp_path: Path, run_py: Callable) -> Path:
    """The same run without a fault."""
    run = tmp_path / "uninterrupted"
    assert run_py({**SETTINGS, "run_dir": run})[0] == 0
    return run


def broken(
    tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, kind: str, *flags: str
) -> tuple[Path, str]:
    """A run in which the environment fails; everything that holds for every such fault is checked here."""
    monkeypatch.setenv("FAULTS", f"{kind}:{STEP}")
    run = tmp_path / "run"
    code, _, err = run_py({**SETTINGS, "run_dir": run}, *flags)
    monkeypatch.delenv("FAULTS")
    assert code == 1
    words = r"environment .fault_envs:faulty. failed: .*reset with seed=\d+, step \d+; last actions: {.a_0."
    output = re.search(words, err)
    assert output, err
    assert f"Run directory: {run}\nResume with: python run.py --resume {run}" in err
    assert mp.active_children() == [], "no zombies"
    assert not (run / "run.lock").exists()
    result = checkpoint.newest(run / "checkpoints")
    assert result is not None and result.name == "step_000000120"
    assert state(run)["source"]["data"].isfinite().all(), "nothing of it entered the replay"
    return run, err


NUMBERS = {
    "nan_reward": "reward of agent 'a_1': is nan",
    "inf_reward": "reward of agent 'a_0': is inf",
    "nan_observation": "observation of agent 'a_1': entry 1 is nan",
    "inf_observation": "observation of agent 'a_0': entry 2 is -inf",
}
BREACHES = {
    "missing_reward": "reward of agent 'a_1': is missing",
    "missing_observation": "observation of agent 'a_0': is missing",
    "unknown_agent": "reward of agent 'a_7': was not expected",
    "wrong_shape": "observation of agent 'a_1'",
    "wrong_type": "observation of agent 'a_1'",
    "wrong_flag": "terminated of agent 'a_0': expected a bool, got float 0.5",
}


@pytest.mark.parametrize(
    "kind", [k if k == "nan_reward" else pytest.param(k, marks=pytest.mark.fault) for k in NUMBERS]
)
def test_numbers_that_are_none(
    kind: str, uninterrupted: Path, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Guard: seen failing without `Copies._check_numbers` (the run went on until a gradient was NaN)."""
    run, err = broken(tmp_path, run_py, monkeypatch, kind)
    assert NUMBERS[kind] in err
    assert run_py(None, "--resume", str(run))[0] == 0
    assert_same(run, uninterrupted)
    seen("NaN or inf from the environment", "returned by `step` in the middle of a run", err, code=1)


@pytest.mark.fault
@pytest.mark.parametrize("kind", BREACHES)
def test_breaches_of_the_contract(
    kind: str, uninterrupted: Path, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Guard: seen failing without `Copies._check_keys` (a KeyError for a missing key, nothing at all for one more)."""
    run, err = broken(tmp_path, run_py, monkeypatch, kind)
    assert BREACHES[kind] in err
    assert run_py(None, "--resume", str(run))[0] == 0
    assert_same(run, uninterrupted)
    seen("environment omits or adds an agent, wrong type or shape", "returned by `step`", err, code=1)


@pytest.mark.fault
def test_an_environment_that_raises(
    uninterrupted: Path, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """Guard: seen failing with `Copies._step` letting the exception through ("unexpected ZeroDivisionError")."""
    run, err = broken(tmp_path, run_py, monkeypatch, "raise")
    assert "step raised ZeroDivisionError: the sky fell (" in err and "fault_envs.py, line" in err
    assert run_py(None, "--resume", str(run))[0] == 0
    assert_same(run, uninterrupted)
    seen("environment raises in the middle of an episode", "`step` raises", err, code=1)


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["die", "hang", "raise"])
def test_workers(
    kind: str, uninterrupted: Path, tmp_path: Path, run_py: Callable, monkeypatch: pytest.MonkeyPatch, seen: Callable
) -> None:
    """A process of its own is killed, hangs, or raises. Guard: seen failing with `_call` not closing the pool."""
    flags = ("--workers", "2", "--env-args", "worker_timeout=2") if kind == "hang" else ("--workers", "2")
    run, err = broken(tmp_path, run_py, monkeypatch, kind, *flags)
    words = {"die": "died with exit code -9", "hang": "did not answer within 2 s", "raise": "the sky fell"}
    assert words[kind] in err
    if kind != "hang":  # its settings are others
        assert run_py(None, "--resume", str(run), "--workers", "0")[0] == 0
        assert_same(run, uninterrupted)
    fault = {"die": "worker process killed", "hang": "worker process hangs", "raise": "worker's environment raises"}
    seen(fault[kind], {"die": "SIGKILL", "hang": "`step` sleeps", "raise": "`step` raises"}[kind], err, code=1)
