"""Returns with the luck of their episodes taken off."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import judgement
from benchmarks.judgement import judge, long_mean
from marl.evaluate import anchors
from marl.play.rollout import play
from marl.scripted.by_name import scripted

ENV = "simple_spread"


def test_the_script_itself_is_worth_its_long_mean_whatever_the_episodes():
    mean, error = long_mean(ENV)
    for seed in (3, 4):
        result = judge([scripted(ENV, "coast")], ENV, 20, seed, backend="torch")
        assert result.returns == pytest.approx([mean]) and result.played[0] != pytest.approx(mean, abs=1e-3)
        assert result.interval == pytest.approx((mean, mean), abs=3 * error)


def test_luck_is_the_difference_to_the_script_in_the_same_episodes():
    players = [scripted(ENV, "fixed"), scripted(ENV, "noop")]
    result = judge(players, ENV, 30, 11)
    own, script = (play(ENV, player, 30, 11).returns.mean() for player in (players[0], scripted(ENV, "coast")))
    assert result.returns[0] == pytest.approx(own - script + long_mean(ENV)[0])
    assert result.played[0] == pytest.approx(own) and result.script == "coast"
    assert result.scores == tuple(anchors.score(ENV, value) for value in result.returns)
    low, high = result.interval
    assert low < result.iqm < high


def test_changed_environments_keep_their_luck():
    result = judge([scripted(ENV, "noop")], ENV, 5, 1, env_args={"max_cycles": 3})
    assert result.script is None and result.returns == result.played and result.score is None


def test_every_long_mean_is_near_the_shorter_one_that_was_played_in_mpe2():
    """Of other episodes in the real environment: within four standard errors of both."""
    from marl.scripted.measured import MEASURED

    for env in judgement.TASKS:
        mean, error = long_mean(env)
        other, other_error = MEASURED[env]["coast"]["all"]
        assert abs(mean - other) < 4 * np.hypot(error, other_error)
