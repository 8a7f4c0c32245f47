"""Whole runs on pictures: resumed to the bit, played as they were evaluated, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_envs import Thirds, thirds
from whole_runs import assert_learned, assert_same, begun, config, resumed, whole

from marl import Policy, train
from marl.errors import UserError
from marl.evaluate import evaluate
from marl.export.actors import actors
from marl.training.memory import parts

PICTURES: dict[str, Any] = {
    "env": "picture_envs:thirds",
    "backend": "pettingzoo",
    "picture_side": 20,
    "picture_colour": True,
    "maddpg.frames": 2,
    "maddpg.n_step": 2,
    "maddpg.twin_critics": True,
    "maddpg.diagnostics_every": 10,
    "total_steps": 160,
    "evaluation.final_episodes": 4,
    "logging.report": True,
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "helpers"))


def test_a_run_resumes_to_the_bit_and_plays_what_it_evaluated(tmp_path: Path) -> None:
    run = whole(tmp_path / "whole", PICTURES)
    assert_learned(run)
    begun(tmp_path / "part", PICTURES)
    resumed(tmp_path / "part")
    assert_same(run, tmp_path / "part")
    policy, stored = Policy.load(run), json.loads((run / "evaluation.json").read_text())
    assert policy.spec.picture == (3, 20, 20)
    again = evaluate(policy, policy.env_id, episodes=4, seed=1_000_000)
    assert again.mean_return == pytest.approx(stored["mean_return"])
    env, totals = thirds(), []
    for i in range(4):
        observations, _ = env.reset(seed=1_000_000 + i)
        policy.reset(1)
        totals.append(0.0)
        while env.agents:
            observations, rewards, *_ = env.step(policy(observations))
            totals[-1] += float(np.mean(list(rewards.values())))
    assert np.mean(totals) == pytest.approx(stored["mean_return"])
    with pytest.raises(UserError, match="look at pictures cannot be exported"):
        actors(policy)


def test_flattened_they_are_rows_of_numbers(tmp_path: Path) -> None:
    flat = {**PICTURES, "flatten_pictures": True, "maddpg.frames": 1, "logging.report": False, "total_steps": 8}
    policy = Policy.load(whole(tmp_path / "flat", flat))
    assert policy.spec.picture is None and policy.spec.obs_size == 24 * 30 * 3


def test_memory_and_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recurrent has no convolutions"):
        train(config(tmp_path / "run", {**PICTURES, "maddpg.recurrent": True, "maddpg.frames": 1}))


def test_parts_in_memory_are_those_that_are_allocated() -> None:
    from envs.pettingzoo.env import PettingZooEnv
    from envs.pictures import Small
    from envs.streams import Stream
    from marl.data.pictures import PictureReplay
    from marl.learner.maddpg import MADDPG

    chosen, spec = config(Path("none"), PICTURES), PettingZooEnv(make=Thirds, pictures=Small(20, True)).spec.stacked(2)
    sizes = {name.split(" (")[0]: size for name, size in parts(chosen, spec, 2).items()}
    learner, kept = MADDPG(spec, chosen.maddpg, 0, range(2)), chosen.total_steps + chosen.num_envs
    replay = PictureReplay(spec, kept, chosen.num_envs, Stream(0, "replay", range(2)), 0.9)
    assert sizes["replay"] == replay.data_SCD.nbytes + replay.pixels_SCD.nbytes
    assert sizes["networks"] == 5 * (learner.actor.mlp.flat.nbytes + learner.critic.mlp.flat.nbytes)
