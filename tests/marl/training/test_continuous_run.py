"""Whole runs with continuous moves: resumed exactly, evaluated, played by hand, analysed and filmed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whole_runs import assert_learned, assert_same, begun, resumed, whole

from envs.mpe.catalogue import parallel_env
from marl import Policy
from marl.communication.analysis import PlayerAnalysis, analyse_player
from marl.communication.gallery import pictures
from marl.communication.measures.information import Undefined
from marl.communication.verdict import describe, summary
from marl.errors import UserError
from marl.evaluate import evaluate
from marl.figures.film import film
from marl.play.rollout import play
from marl.scripted.base import NoOp, Random
from marl.scripted.by_name import scripted

ARGUMENTS = {"continuous_actions": True}
MOVING: dict[str, Any] = {"env": "simple_reference", "env_args": ARGUMENTS, "evaluation.final_episodes": 4}
KINDS = {
    "port": MOVING,
    "real, memory": {**MOVING, "backend": "pettingzoo", "maddpg.frames": 2, "maddpg.continuous": "gaussian"},
    "recurrent": {**MOVING, "maddpg.recurrent": True, "maddpg.window": 4, "maddpg.burn_in": 3},
    "box of one's own": {"env": "box_envs:Talkers", "backend": "pettingzoo", "maddpg.smoothing": 0.2,
                         "maddpg.twin_critics": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("continuous") / "run", {**MOVING, "total_steps": 160})


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "helpers"))
    settings = {**KINDS[name], "total_steps": 120}
    straight = whole(tmp_path / "straight", settings)
    resumed(begun(tmp_path / "broken", settings, rounds=19))
    assert_same(straight, tmp_path / "broken")
    assert_learned(straight)


def test_a_loop_of_ones_own_plays_what_the_evaluation_played(run: Path) -> None:
    policy = Policy.load(run)
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["score"] is None and "continuous_actions=True" in stored["anchors"]["reason"]
    env = parallel_env(policy.env_id, **policy.env_args)
    totals = []
    for i in range(4):
        observations, infos = env.reset(seed=1_000_000 + i)
        policy.reset(1)
        total = 0.0
        while env.agents:
            actions = policy(observations, infos)
            assert all(env.action_space(name).contains(action) for name, action in actions.items())
            observations, rewards, _, _, infos = env.step(actions)
            total += float(np.mean(list(rewards.values())))
        totals.append(total)
    assert np.mean(totals) == pytest.approx(stored["mean_return"], abs=1e-3)
    again = evaluate(policy, policy.env_id, episodes=4, seed=1_000_000, env_args=policy.env_args, backend="torch")
    assert np.isfinite(again.mean_return)


def test_sampling_moves_messages_and_a_gaussians_numbers(run: Path) -> None:
    seen = {name: np.zeros((64, 21), np.float32) for name in ("agent_0", "agent_1")}
    greedy, sampled = (Policy.load(run, greedy=greedy).act(seen)["agent_0"] for greedy in (True, False))
    assert greedy.shape == (64, 15) and np.array_equal(greedy[:, :5], sampled[:, :5])
    assert np.unique(sampled[:, 5:].argmax(1)).size > 1
    policy = Policy.load(run, greedy=False)
    object.__setattr__(policy.config.maddpg, "continuous", "gaussian")
    assert policy.act(seen)["agent_0"][:, 0].std() == pytest.approx(0.05 / 2, rel=0.4)  # half of it on [0, 1]


def test_messages_are_analysed_without_listening(run: Path) -> None:
    policy = Policy.load(run)
    result, material = analyse_player(
        policy, policy.env_id, policy.spec, episodes=8, env_args=policy.env_args, interventions=("shuffled",),
        per_channel=False, resampling=(20, 20),
    )  # fmt: skip
    result = replace(result, summary=summary(result))
    text = describe(result, "a run")
    assert "agent_0 -> agent_1, 10 symbols" in text and "shuffled" in text
    assert result.channels[0].influence == {} and isinstance(result.channels[0].instantaneous_coordination, Undefined)
    assert not any(name.startswith(("timeline", "field")) for name in pictures(policy, result, material, {}))
    assert PlayerAnalysis.from_json(json.loads(json.dumps(result.to_json()))).channels[0].influence == {}
    assert "Whether agent_1 listens is not measured: its moves are continuous" in text
    assert "does not listen" not in text


def test_settings_without_effect_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path / "run", {"maddpg.smoothing": 0.2, "maddpg.exploration": 0.5, "maddpg.share_actors": True}, rounds=2)
    told = "".join(capsys.readouterr())
    assert "maddpg.exploration, maddpg.smoothing has no effect: no action of simple_speaker_listener_v4" in told
    assert "maddpg.share_actors has no effect: no two of 'speaker_0', 'listener_0' have the same team" in told


def test_a_curriculum_that_nobody_raises_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path / "run", {"env": "simple_spread", "env_args": {"curriculum": True}}, rounds=2)
    assert "curriculum of simple_spread_v3 stays at its first stage" in "".join(capsys.readouterr())


def test_a_film_is_made(run: Path) -> None:
    policy = Policy.load(run)
    assert len(film(policy, policy.env_id, episodes=1, seed=0, env_args=policy.env_args, size=120)) > 25


def test_scripts_play_numbers_or_are_refused(run: Path) -> None:
    policy = Policy.load(run)
    common: dict[str, Any] = {"env_args": ARGUMENTS, "record": True, "spec": policy.spec}
    still = play("simple_reference", NoOp(policy.spec), 2, 0, **common)
    assert still.obs is not None and np.abs(still.obs["agent_0"][:, :, :2]).max() == 0  # velocities
    wild = play("simple_reference", Random(policy.spec), 2, 0, **common)
    assert wild.rows is not None and wild.actions is not None
    numbers = wild.rows[..., :5]
    assert -1 <= numbers.min() < -0.9 and 0.9 < numbers.max() <= 1
    assert len(np.unique(wild.actions[..., 1])) > 5 and not wild.actions[..., 0].any()
    with pytest.raises(UserError, match="'coast' makes discrete moves"):
        scripted("simple_reference", "coast", spec=policy.spec)


def test_weights_are_those_of_a_policy_with_numbers(run: Path) -> None:
    """Columns of a head's numbers are among the actors' outputs: another number, another action."""
    policy = Policy.load(run)
    layers = policy.layers("agent_0")
    seen = np.linspace(-1, 1, 21, dtype=np.float32)
    x = seen
    for k, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if k < len(layers) - 1:
            x = np.maximum(x / np.sqrt((x * x).mean() + 1e-5), 0)
    got = policy({"agent_0": seen, "agent_1": seen})["agent_0"]
    torch.testing.assert_close(torch.from_numpy(got[:5]), torch.from_numpy((np.tanh(x[:5]) + 1) / 2), atol=1e-4, rtol=0)
