"""Habits of environments that commands must cope with: few goals, few steps, many symbols, prints, an old reset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from strange_envs import OldReset, Speaks, Strange
from whole_runs import config

from envs.check import check
from envs.errors import EnvFailure, UserError
from marl import Policy, train
from marl.communication import Options
from marl.communication.run_analysis import analyse_run
from marl.evaluate import evaluate

REFUSED = (EnvFailure, UserError)
REPORT = {"logging.report": True, "total_steps": 40}


class OneGoal(Speaks):
    """There is nothing to tell."""

    def see(self, name: str) -> Any:
        return np.eye(3, dtype=np.float32)[1] if name == "left" else super().see(name)


class TwoSteps(Speaks):
    """A message is heard once."""

    length = 2


class ManySymbols(Speaks):
    """Twelve symbols for three doors."""

    metadata = {**Speaks.metadata, "heads": {"left": [["message", 12]]}}  # noqa: RUF012

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Box(0, 1, (3 if name == "left" else 15,), np.float32)

    def act_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(12 if name == "left" else 3)

    def heard(self) -> np.ndarray:
        return np.zeros(12, np.float32) if self.said is None else np.eye(12, dtype=np.float32)[self.said]


class Prints(Strange):
    """Talks on the terminal at every reset."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        print("resetting the world")
        return super().reset(seed)


class SpeaksOfOld(Speaks):
    """Observations only, in an environment that was trained on before it changed."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(seed)[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (OneGoal, "There was nothing to tell: the goal of left was the same in every episode."),
        (TwoSteps, "left -> right, 3 symbols"),
        (ManySymbols, "left -> right, 12 symbols"),
    ],
)
def test_languages_of_few_goals_short_episodes_and_many_symbols(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str
) -> None:
    assert check(make) == []
    train(config(tmp_path / "run", REPORT), make_env=make)
    output = "".join(capsys.readouterr())
    assert said in output and "warning: no language" not in output, output
    assert (tmp_path / "run" / "communication.json").exists()


def test_an_environment_may_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(Prints) == []
    train(config(tmp_path / "run", {"total_steps": 40}), make_env=Prints)
    output = "".join(capsys.readouterr())
    assert "resetting the world" in output and "Run directory" in output


def test_an_old_reset_is_named_by_every_command(tmp_path: Path) -> None:
    words = r"reset must return \(observations, infos\), got dict of observations only"
    assert len(check(OldReset)) == 1 and "reset must return (observations, infos)" in check(OldReset)[0]
    with pytest.raises(REFUSED, match=words):
        train(config(tmp_path / "run", {}), make_env=OldReset)

    run = train(config(tmp_path / "good", {"total_steps": 40}), make_env=Speaks).run_dir
    with pytest.raises(REFUSED, match=words):
        evaluate(Policy.load(run), "old", make=SpeaksOfOld, episodes=2)
    with pytest.raises(REFUSED, match=words):
        analyse_run(run, Options(episodes=4), make=SpeaksOfOld)
