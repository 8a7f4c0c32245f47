"""An environment without end: evaluations stop at a stated number of steps and say so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import strange_envs
from whole_runs import ENVS, config

from envs.pettingzoo.describe import describe
from marl import train
from marl.errors import UserError
from marl.evaluate.command import main
from marl.evaluate.returns import evaluate
from marl.play.rollout import play
from marl.scripted.base import NoOp


class Sometimes(strange_envs.Strange):
    """Every second episode ends after five steps, the others never."""

    def reset(self, seed=None, options=None):
        self.length = 5 if seed % 2 == 0 else 10**9
        return super().reset(seed)


def player(make):
    return NoOp(describe("strange", make()))


def test_the_rest_is_not_played_where_nothing_ends():
    played = play("strange", player(strange_envs.Endless), 100, 0, make=strange_envs.Endless, batch=4, max_steps=30)
    assert played.lengths.tolist() == [30] * 4 and played.unfinished == 4 and played.returns.shape == (4, 2)


def test_what_ends_counts_whole():
    played = play("strange", player(Sometimes), 7, 0, make=Sometimes, batch=3, max_steps=30, record=True)
    assert played.lengths.tolist() == [5, 30, 5, 30, 5, 30, 5] and played.unfinished == 3
    np.testing.assert_allclose(played.rewards.sum(0), played.returns)
    with pytest.raises(UserError, match="max_steps must be at least 1, got 0"):
        play("strange", player(Sometimes), 7, 0, make=Sometimes, max_steps=0)


def test_an_environments_own_longer_limit_goes_before_it():
    class Long(strange_envs.Strange):
        length = max_cycles = 50

    played = play("strange", player(Long), 3, 0, make=Long, max_steps=30)
    assert played.lengths.tolist() == [50] * 3 and not played.unfinished


def test_a_run_and_its_evaluation_end_and_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ENVS))
    settings = {
        "env": "strange_envs:Endless",
        "backend": "pettingzoo",
        "evaluation.max_steps": 20,
        "evaluation.final_episodes": 40,
        "evaluation.episodes": 40,
        "evaluation.every": 200,
        "evaluation.share": 0,
    }
    result = train(config(tmp_path / "run", settings))
    output = capsys.readouterr()
    words = "32 of 32 episodes had not ended after 20 steps and were stopped there"
    assert (
        f"warning: {words}" in output.out and f"warning: {words}" in output.err
    )  # at the end, and beside the training
    assert result.evaluation is not None and result.evaluation.replicas[0].unfinished == 32
    stored = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (stored["episodes"], stored["max_steps"], stored["replicas"][0]["unfinished"]) == (32, 20, 32)
    assert main([str(tmp_path / "run"), "--max-steps", "25", "--episodes", "3"]) == 0
    assert "3 of 3 episodes had not ended after 25 steps" in capsys.readouterr().out


def test_nothing_is_said_where_all_episodes_end():
    result = evaluate(player(strange_envs.Strange), "strange", episodes=3, make=strange_envs.Strange)
    assert result.replicas[0].unfinished is None and "max_steps" not in result.to_json()
