"""Agents that are called by numbers, many agents, other versions, held messages: kinds that other packages bring."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import strange_envs
from gymnasium import spaces
from toy_envs import Talkers
from whole_runs import config

import envs
from envs.check.command import main
from envs.errors import UserError
from envs.pettingzoo.construct import from_callable, parallel_env
from envs.pettingzoo.env import PettingZooEnv
from envs.pettingzoo.named import Named
from marl import Policy, train
from marl.evaluate.returns import evaluate


class Numbered(strange_envs.Strange):
    """Agents 0 and 7, of which 7 is forbidden its first choice."""

    names = (0, 7)  # type: ignore[assignment]

    def see_space(self, name: Any) -> spaces.Space:
        return spaces.MultiDiscrete([3, 2])

    def see(self, name: Any) -> Any:
        return self.door, int(name == 7)

    def info(self, name: Any) -> dict[str, Any]:
        return {"action_mask": [name == 0, 1, 1]}

    def pay(self, name: Any, action: Any) -> float:
        assert name == 0 or action > 0, "forbidden"
        return super().pay(name, action)


class Mixed(Numbered):
    names = ("a", 0)  # type: ignore[assignment]


class Crowd(strange_envs.Strange):
    names = tuple(f"agent_{n}" for n in range(100))  # type: ignore[assignment]


class Dawdles(strange_envs.Strange):
    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        time.sleep(0.005)
        return super().step(actions)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_numbers_are_names_inside_and_ids_outside(here: None, tmp_path: Path) -> None:
    """Guard: seen refused as "must be different strings"."""
    assert envs.check(Numbered) == [] and envs.check(Numbered()) == []
    env = PettingZooEnv(make=Numbered, num_envs=2)
    assert env.spec.agent_names == ("0", "7")
    settings = {"env": "test_named:Numbered", "backend": "pettingzoo", "total_steps": 80}
    train(config(tmp_path / "run", settings))
    policy = Policy.load(tmp_path / "run")
    raw, returns = Numbered(), {0: 0.0, 7: 0.0}
    observations, infos = raw.reset(seed=4)
    while raw.agents:
        actions = policy(observations, infos)
        assert set(actions) == {0, 7}
        observations, rewards, _, _, infos = raw.step(actions)
        returns = {name: returns[name] + reward for name, reward in rewards.items()}
    played = evaluate(policy, "test_named:Numbered", episodes=1, seed=4, make=Numbered)
    assert {int(name): one.mean for name, one in played.returns.items()} == returns
    with pytest.raises(UserError, match="unknown agent"):
        policy({3: (0, 0)})


def test_declarations_may_name_agents_by_their_ids() -> None:
    class Told(Numbered):
        metadata = {**Numbered.metadata, "heads": {7: [["move", 3]]}, "teams": [[0], [7]]}  # noqa: RUF012

    env = PettingZooEnv(make=Told)
    assert env.spec.teams == ((0,), (1,)) and env.spec.agents[1].heads[0].name == "move"


def test_strings_and_numbers_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"different strings, or different integers, got \['a', 0\]"):
        PettingZooEnv(make=Mixed)
    assert not isinstance(from_callable(Crowd), Named) and isinstance(from_callable(Numbered), Named)


def test_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_games"
    package.mkdir()
    for name in ("__init__", "chase_v5", "flight_v1"):
        (package / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UserError, match=r"no module 'some_games.chase_v4'.*The installed version has some_games.chase_v5"
    ):
        parallel_env("some_games.chase_v4:parallel_env")
    with pytest.raises(UserError, match="Did you mean 'flight_v1'"):
        parallel_env("some_games.flights:parallel_env")
    with pytest.raises(UserError, match="Install it"):
        parallel_env("no_such_games.chase_v4:parallel_env")


def test_many_agents_are_a_summary(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test_named:Crowd", "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3 and "agent_0 ... agent_99 (100)" in out
    assert main(["test_named:Numbered", "--episodes", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_long_check_says_how_far_it_is(
    here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envs.check.contract._QUIET_SECONDS", 0.02)
    assert main(["test_named:Dawdles", "--episodes", "2"]) == 0
    captured = capsys.readouterr()
    assert "checking: 1 episodes played, step" in captured.err and "checking" not in captured.out
    assert envs.check(Dawdles) == [] and capsys.readouterr().err == ""


def test_a_message_that_is_held_is_pointed_to_exact_false() -> None:
    class Held(Talkers):
        """The first symbol stays in view, later ones are ignored."""

        def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
            if not hasattr(self, "held") or self.t == 0:
                self.held = dict(actions)
            return super().step({**actions, **self.held})

    with pytest.raises(UserError, match=r"exact: false where the channel is .* holds a message in view while later"):
        PettingZooEnv(
            make=Held,
            heads={"a_0": [["move", 2], ["message", 3]]},
            routes=[{"sender": "a_0", "receiver": "a_1", "start": 2}],
        )
