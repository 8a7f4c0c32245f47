"""A task learned to its goal, with the shipped configuration: `pytest -m slow`, about 90 seconds on one free core."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import seeds
from benchmarks.judgement import judge
from benchmarks.learning.training_runs import train_arm
from marl import Policy

ENV = "simple_speaker_listener"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_speaker_listener_is_learned_to_its_goal(tmp_path: Path) -> None:
    """Five replicas of a tuning seed: a gain of .95 (interquartile mean, the episodes' luck taken off), none astray."""
    flags = ["--logging.progress", "false", "--evaluation.every", "0", "--device", "cpu"]
    train_arm(ENV, flags, seeds.require(seeds.RUNS, "tuning", 77), 5, tmp_path / "run")
    players = [Policy.load(tmp_path / "run", replica) for replica in range(5)]
    result = judge(players, ENV, 1000, seeds.seeds(seeds.EPISODES, "tuning").first)
    assert result.gain is not None and result.gain >= 0.95, result.gains
    assert min(gain or 0 for gain in result.gains) >= 0.9, result.gains
