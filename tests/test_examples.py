"""The examples run as their headers say, only shorter."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.check.command import main as check
from examples import own_metric
from examples.own_environment import CALLER, DOORS, LENGTH, WALKERS, Corridor, make
from marl import Policy, train, tuned
from marl.cli.parse import parse

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--logging.progress", "false", "--evaluation.episodes", "32", "--evaluation.final-episodes", "32"]


def test_the_environment_keeps_the_contract() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "envs.check", "examples.own_environment:make"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "keeps the contract" in done.stdout


def test_the_environment_trains_by_its_command(tmp_path: Path) -> None:
    command = ["run.py", "--env", "examples.own_environment:make", "--total-steps", "320", "--run-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *command, *QUICK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(evaluation["replicas"][0]["return"]) >= {CALLER, *WALKERS}
    assert (tmp_path / "communication.json").exists()  # heads and routes in the metadata were understood


def test_masks_and_leaving_by_hand() -> None:
    env = make()
    _, infos = env.reset(seed=0)
    while env.agents:
        before = {walker: env._cell[walker] for walker in env.agents[1:]}
        for walker, cell in before.items():
            assert infos[walker]["action_mask"].tolist() == [cell > 0, 1, cell < 4]
        goes = {walker: int(np.sign(DOORS[env._door] - cell)) + 1 for walker, cell in before.items()}
        acted = env.agents
        observations, rewards, terminated, truncated, infos = env.step({CALLER: 1, **goes})
        assert set(observations) == set(rewards) == set(terminated) == set(truncated) == set(acted)
        for walker in before:
            assert (rewards[walker] == 1) == terminated[walker] == (walker not in env.agents)
    assert env._time <= 4 and not any(truncated.values())  # nobody is further than four cells from a door


def test_time_runs_out_as_a_truncation() -> None:
    env = Corridor()
    env.reset(seed=0)
    env._cell = dict.fromkeys(WALKERS, 1)  # no door
    for _ in range(LENGTH):
        *_, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 1))
    assert not any(terminated.values()) and all(truncated.values()) and not env.agents


def test_the_learner_sees_masks_and_messages() -> None:
    env = envs.make("examples.own_environment:make", num_envs=4, backend="pettingzoo")
    env.reset(seed=0)
    assert env.spec.has_masks and not env.spec.fixed_agents
    assert len(env.spec.routes) == 2
    env.close()


def test_the_tutorials_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page has it: it keeps the contract, a run tries its channel, and by hand it pays what the page says."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (tmp_path / "doors.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert check(["doors:make"]) == 0
    doors = importlib.import_module("doors")
    env = doors.make()
    observations, _ = env.reset(seed=3)
    total = 0.0
    while env.agents:  # a guide that says the door and a guest that goes where it is told
        actions = {name: int(observations[name].argmax()) for name in env.agents}
        observations, rewards, *_ = env.step(actions)
        total += rewards["guest"]
    assert total in (doors.LENGTH - 1, doors.LENGTH)  # blind in the first step alone
    words = ["--env", "doors:make", "--total-steps", "320", "--run-dir", "run", "--maddpg.signalling-bonus", "0.5"]
    config = parse([*words, "--logging.report", "false", *QUICK]).config
    routes = Policy.load(train(config, make_env=doors.make).run_dir).spec.routes
    assert [(route.sender, route.receiver, route.start, route.meaning) for route in routes] == [(0, 1, 0, (0, 3))]


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([[5, 0, 0], [0, 3, 0], [0, 0, 9]], 1.0),
        ([[2, 2, 2], [1, 1, 1], [4, 4, 4]], 1 / 3),
        ([[3, 1, 0], [0, 0, 0], [0, 0, 2]], 7 / 8),  # a goal that never came up does not count
    ],
)
def test_purity_by_hand(counts: list[list[int]], wanted: float) -> None:
    assert own_metric.purity(np.array(counts)) == pytest.approx(wanted)


def test_the_metric_plays_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = {"evaluation": {"final_episodes": 4}, "logging": {"report": False}}
    run = train(tuned("simple_speaker_listener", total_steps=320, run_dir=str(tmp_path / "run"), **short)).run_dir
    counts = own_metric.count_messages(Policy.load(run, greedy=True), episodes=6)
    assert counts.sum() == 6 * 25
    assert 1 / 3 <= own_metric.purity(counts) <= 1
    own_metric.main([str(run), "--episodes", "2"])
    assert "purity" in capsys.readouterr().out
