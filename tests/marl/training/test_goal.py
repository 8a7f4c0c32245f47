"""A task learned to its goal, with the shipped configuration: `pytest -m slow`, about two minutes on one free core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from marl import train
from marl.cli.parse import parse


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_speaker_listener_is_learned_to_its_goal(tmp_path: Path) -> None:
    """The goal of the first command in its own words and with its own seeds: a gain of .95 on four of five."""
    gains = []
    for seed in range(5):
        flags = ["--env", "simple_speaker_listener", "--seed", str(seed), "--run-dir", str(tmp_path / f"run{seed}")]
        config = parse([*flags, "--evaluation.every", "0", "--device", "cpu"]).config
        result = train(replace(config, logging=replace(config.logging, progress=False, report=False)))
        assert result.evaluation is not None
        gains.append(result.evaluation.gain)
    assert sum(gain is not None and gain >= 0.95 for gain in gains) >= 4, gains
