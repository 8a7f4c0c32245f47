"""Whole runs with recurrent networks: what comes after the training, and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import begun, config, whole

from envs.mpe.catalogue import parallel_env
from marl import Policy, train
from marl.errors import UserError
from marl.evaluate import evaluate
from marl.training.finish import _language

RECURRENT: dict[str, Any] = {"maddpg.recurrent": True, "maddpg.window": 4, "maddpg.burn_in": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {**RECURRENT, "evaluation.every": 120, "evaluation.episodes": 3, "evaluation.final_episodes": 4}
    return whole(tmp_path_factory.mktemp("recurrent") / "run", {**settings, "total_steps": 160})


def test_a_loop_of_ones_own_plays_what_the_evaluation_played(run: Path) -> None:
    policy = Policy.load(run)
    again = evaluate(policy, policy.env_id, episodes=4, seed=1_000_000, batch=4)
    stored = json.loads((run / "evaluation.json").read_text())
    assert again.mean_return == pytest.approx(stored["mean_return"])
    env = parallel_env(policy.env_id)
    totals = []
    for i in range(4):
        observations, infos = env.reset(seed=1_000_000 + i)
        policy.reset(1)
        total = 0.0
        while env.agents:
            observations, rewards, _, _, infos = env.step(policy(observations, infos))
            total += float(np.mean(list(rewards.values())))
        totals.append(total)
    assert np.mean(totals) == pytest.approx(stored["mean_return"])


def test_messages_of_a_run_are_analysed(run: Path) -> None:
    """With counterfactual messages, interventions and figures, which ask a player that remembers."""
    text = _language(run, config(run, RECURRENT), [0], None)
    assert "speaker_0 -> listener_0, 3 symbols" in text and "shuffled" in text


def test_what_was_not_corrected_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path / "one", RECURRENT, rounds=2)
    begun(tmp_path / "two", {**RECURRENT, "env": "simple_adversary"}, rounds=2)
    assert "".join(capsys.readouterr()).count("no communication correction") == 1


def test_weights_of_networks_without_memory_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"(?s)observations at a time +1 and the last action +1\n.*recurrent +True +False"
    ):
        train(config(tmp_path / "new", {"from_run": str(run)}))
    result = train(config(tmp_path / "own", {**RECURRENT, "from_run": str(run), "total_steps": 8}))
    assert result.step == 8
