"""Environments that are given as functions in Python: what a run draws, measures and advises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strange_envs import Speaks
from whole_runs import ENVS, config

import envs
from envs.pettingzoo.construct import is_importable
from marl import Policy, train
from marl.cli import main
from marl.errors import UserError
from marl.evaluate import evaluate
from marl.evaluate.__main__ import main as evaluation

REPORT = {"logging.report": True, "total_steps": 40}


class Drawn(Speaks):
    """Renders where it is asked to."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> np.ndarray | None:
        return np.full((8, 8, 3), 40 * self.t, np.uint8) if self.render_mode == "rgb_array" else None


class Silent(Drawn):
    """Nobody hears what is said."""

    metadata = {"name": "silent_v0"}  # noqa: RUF012


def ended(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any) -> tuple[Path, str]:
    run = tmp_path / "run"
    train(config(run, REPORT), make_env=make)
    return run, "".join(capsys.readouterr())


@pytest.mark.parametrize("make", [Drawn, Silent, lambda render_mode=None: Silent(render_mode)])
def test_a_film_of_a_function(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    """Guard: seen failing with "no film: ... there is no module"."""
    run, output = ended(tmp_path, capsys, make)
    assert "--gif film.gif" in output or "make=..." in output
    assert "warning: no film" not in output and "warning: no language" not in output, output
    assert (run / "episodes.gif").read_bytes().startswith(b"GIF")


def test_a_function_that_takes_no_render_mode_is_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = ended(tmp_path, capsys, lambda: Silent())
    assert "no film: test_make_env:" in output and "give its function a parameter render_mode=None" in output
    assert not (run / "episodes.gif").exists()


def test_the_advice_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guard: seen failing with commands that end in "there is no module"."""
    make = lambda render_mode=None: Drawn(render_mode)  # noqa: E731 - a function without a name
    run, output = ended(tmp_path, capsys, make)
    env = "test_make_env:test_the_advice_can_be_followed.<locals>.<lambda>"
    assert f"evaluate(Policy.load({str(run)!r}), {env!r}, make=...)" in output
    assert f"analyse_run({str(run)!r}, make=...)" in output and "python -m" not in output
    assert evaluate(Policy.load(str(run)), env, make=make, episodes=2).replicas
    assert main(["--resume", str(run)]) == 2
    output = capsys.readouterr().err
    assert (
        "was a function in Python, which no other command can import" in output
        and "make_env=... of marl.train" in output
    )


def test_a_function_that_commands_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_importable(Speaks) and is_importable(Drawn)
    assert not is_importable(lambda: Speaks()) and not is_importable(type("Speaks", (Speaks,), {}))
    monkeypatch.setattr(Drawn, "__module__", "__main__")
    assert not is_importable(Drawn)
    run, output = ended(tmp_path, capsys, Speaks)
    assert f"python -m marl.evaluate {run}" in output and f"python -m marl.communication {run}" in output
    assert "--gif" not in output, "it gives no pictures"


# ------------------------------------------------------------------ scripts
SCRIPT = """
import sys
sys.path.insert(0, {helpers!r})
from toy_envs import Toy
from whole_runs import config
from marl import train
print("from the first line", flush=True)
def work():
    train(config({run!r}, {{"workers": 2, "total_steps": 40}}), make_env=Toy)
"""


def script(tmp_path: Path, last: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.format(helpers=str(ENVS), run=str(tmp_path / "run")) + last)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["."] + [place for place in sys.path if place])}
    return subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, timeout=300)


def test_a_script_that_would_run_again_in_every_worker(tmp_path: Path) -> None:
    """Guard: seen failing with multiprocessing's own words, once a worker, and "died with exit code 1"."""
    done = script(tmp_path, "work()\n")
    assert done.returncode == 1
    output = f"UserError: every worker process runs {tmp_path / 'script.py'} again from its first line"
    assert done.stderr.count(output) == 1 and 'if __name__ == "__main__":' in done.stderr, done.stderr
    assert done.stderr.count("Traceback") == 1 and "bootstrapping" not in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_guarded_script_trains(tmp_path: Path) -> None:
    done = script(tmp_path, 'if __name__ == "__main__":\n    work()\n')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.filterwarnings("ignore")  # these packages warn of each other's future
def test_an_aec_environment_trains_and_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pettingzoo.classic.rps_v2")
    run = tmp_path / "run"
    flags = ["--env", "pettingzoo.classic.rps_v2:env", "--total-steps", "64", "--evaluation.final-episodes", "2"]
    assert main([*flags, "--run-dir", str(run), "--no-logging.report", "--device", "cpu"]) == 0
    output = "".join(capsys.readouterr())
    assert output.count("is an AECEnv: it is played by pettingzoo's aec_to_parallel, without loss") == 1
    assert "no function of its seed" not in output
    assert main(["--env", "pettingzoo.classic.tictactoe_v3:env", "--run-dir", str(tmp_path / "other")]) == 2
    assert "turn_based_aec_to_parallel(env)" in capsys.readouterr().err


OURS = ("env_id", "num_envs", "device", "backend", "dtype", "rows", "stagger", "workers", "spec", "make", "heads")
MORE = ("routes", "teams", "fixed_agents", "rebuild", "worker_timeout", "name", "seed", "steps", "policy")


def named_like_ours(**given: Any) -> Speaks:
    """An environment whose arguments have the names of this package's."""
    assert given == {name: f"own {name}" for name in (*OURS, *MORE)}, given
    return Speaks()


@pytest.mark.parametrize("by_id", [True, False])
def test_arguments_of_an_environment_are_its_own_whatever_their_names(tmp_path: Path, by_id: bool) -> None:
    """Guard: seen failing with "multiple values for argument 'num_envs'" and with `teams` taken for ours."""
    settings = {"env_args": {name: f"own {name}" for name in (*OURS, *MORE)}, "total_steps": 20}
    run = tmp_path / "run"
    if by_id:
        train(config(run, {**settings, "env": "test_make_env:named_like_ours", "backend": "pettingzoo"}))
        assert evaluation([str(run), "--episodes", "2", "--gif", str(tmp_path / "film.gif")]) == 2  # no render_mode
        assert evaluation([str(run), "--episodes", "2"]) == 0
    else:
        result = train(config(run, settings), make_env=named_like_ours)
        assert result.evaluation is not None and len(result.evaluation.replicas) == 1


def test_unknown_arguments_of_an_mpe_task_are_refused_whatever_their_names() -> None:
    for name in ("num_envs", "device", "env_id", "rows"):
        for backend in ("torch", "pettingzoo"):
            with pytest.raises(UserError, match=name):
                envs.make("simple_spread", backend=backend, env_args={name: 3})
