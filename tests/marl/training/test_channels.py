"""Whole runs under every kind of channel: exact resume, what the record says, and that gumbel is what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import assert_learned, assert_same, begun, config, resumed, whole

import envs
from envs.conditions import Conditioned
from marl import Policy
from marl.cli.parse import parse
from marl.communication.run_analysis import analyse_run
from marl.errors import UserError
from marl.evaluate.returns import evaluate
from marl.learner.maddpg import MADDPG
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks
from marl.play.rollout import play
from marl.report.run_page import report_html
from marl.runs.logs.records import read_run
from marl.training.experiment import _environment, _learner

RUNS: dict[str, dict[str, Any]] = {
    "noisy": {"env": "simple_reference", "channel": "noisy", "num_replicas": 2, "maddpg.frames": 2},
    "oracle": {"channel": "oracle", "backend": "pettingzoo"},
    "dial": {"env": "simple_reference", "channel": "dial"},
}


@pytest.mark.parametrize("name", RUNS)
def test_resume_is_exact_and_the_records_name_the_channel(tmp_path: Path, name: str) -> None:
    whole(tmp_path / "whole", RUNS[name])
    begun(tmp_path / "halves", RUNS[name])
    with pytest.raises(UserError, match=r"channel: '?\w+'? in the run, '?none'? wanted"):
        resumed(tmp_path / "halves", "--channel", "none")
    resumed(tmp_path / "halves")
    assert_same(tmp_path / "whole", tmp_path / "halves")
    assert_learned(tmp_path / "whole")
    said = "noisy:0.1" if name == "noisy" else name
    run = tmp_path / "whole"
    assert json.loads((run / "evaluation.json").read_text())["channel"] == said
    assert f"channel: {name}\n" in (run / "config.yaml").read_text()
    assert f"channel {said}" in report_html(read_run(run))
    policy = Policy.load(run)
    assert policy.channel == said and (policy.condition is None) == (name == "dial")


def test_gumbel_is_the_channel_as_it_is(tmp_path: Path) -> None:
    """Nothing is wrapped, no other learner, no word of it in the record."""
    chosen = config(tmp_path, {"env": "simple_reference"})
    division = Division.of(chosen, Ranks())
    env = _environment(chosen, None, division, [], False)
    assert chosen.channel == "gumbel" and type(env) is type(envs.make("simple_reference"))
    assert all(route.exact for route in env.spec.routes)
    learner, _ = _learner(chosen, env, division)
    assert type(learner) is MADDPG and learner.otherwise_NH is None and not learner.scored
    silent = config(tmp_path, {"env": "simple_reference", "channel": "none"})
    assert isinstance(_environment(silent, None, division, [], False), Conditioned)
    run = whole(tmp_path / "run")
    assert "channel" not in json.loads((run / "evaluation.json").read_text())
    assert Policy.load(run).condition is None


def test_the_final_evaluation_hears_through_the_channel(tmp_path: Path) -> None:
    """A run that learned in silence is judged in silence: like the same policy with its messages muted."""
    run = whole(tmp_path / "run", {"channel": "none", "evaluation.final_episodes": 20})
    judged = json.loads((run / "evaluation.json").read_text())["mean_return"]
    policy = Policy.load(run)
    assert evaluate(policy, policy.env_id, episodes=20, seed=1_000_000).mean_return == pytest.approx(judged)

    class Plain:
        """The same actors without a word of their channel."""

        reset, act = policy.reset, policy.act

    def mute(t: int, seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        listener = seen["listener_0"].copy()
        listener[:, 8:] = 0
        return {**seen, "listener_0": listener}

    muted = play(policy.env_id, Plain(), 20, 1_000_000, intervene=mute).returns
    assert muted.mean() == pytest.approx(judged, abs=1e-5)
    assert play(policy.env_id, Plain(), 20, 1_000_000).returns.mean() != pytest.approx(judged, abs=1e-5)
    result = analyse_run(run, episodes=10, interventions=("shuffled",), figures=False, formation=False)
    assert result.channel == "none" and result.text.startswith("Trained, played and measured with --channel none.")
    assert result.replicas[0].interventions[0].outcome.team_lost.mean == 0.0  # nothing arrives, nothing is lost


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--channel nnoe", "expected one of gumbel, none"),
        ("--channel shuffled --num-envs 1", "channel shuffled lets a message arrive in another environment"),
        ("--channel shuffled --distributed data", "among which channel shuffled shuffles"),
        ("--channel rial --maddpg.recurrent", "channel rial learns from single transitions"),
        ("--channel dial --world-model", "channel dial and world_model exclude each other"),
        ("--channel dial --maddpg.estimator exact", "channel dial needs an estimator that is a function of one sample"),
        ("--channel noisy --channel-noise 1.5", "channel-noise"),
        *(
            (
                f"--channel {name} --other-play",
                f"other_play and channel {name} exclude .* gumbel, rial, noisy or shuffled",
            )
            for name in ("none", "oracle", "self", "constant", "dial", "intent")
        ),
    ],
)
def test_wrong_names_and_combinations(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(["--env", "simple_reference", *words.split()])


@pytest.mark.parametrize("channel", ["gumbel", "rial", "noisy", "shuffled"])
def test_symbols_without_a_given_meaning_may_be_permuted(channel: str) -> None:
    parse(["--env", "simple_reference", "--channel", channel, "--other-play"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--channel-noise 0.3", "channel_noise 0.3 has no effect without --channel noisy"),
        ("--channel rial --maddpg.message-estimator exact", "maddpg.message_estimator has no effect on messages"),
    ],
)
def test_idle_settings_are_remarked(words: str, message: str) -> None:
    assert message in " ".join(parse(["--env", "simple_reference", *words.split()]).warnings)


def test_an_estimator_of_messages_needs_a_head(tmp_path: Path) -> None:
    """Guard: seen failing with the setting ignored without a word."""
    settings = {"env": "simple_speaker_listener", "maddpg.message_estimator": "exact"}
    words = (
        r"applies to no head of simple_speaker_listener_v4: head 0 is a message of speaker_0 and 'move' of listener_0"
    )
    with pytest.raises(UserError, match=words):
        whole(tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()
    whole(tmp_path / "dial", {**settings, "channel": "dial", "maddpg.message_estimator": "gumbel_soft"})
    whole(tmp_path / "two", {**settings, "env": "simple_reference"})


def test_settings_of_messages_that_nobody_hears_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guard: seen failing without a word."""
    settings = {"maddpg.signalling_bonus": 1.0, "maddpg.listening_bonus": 1.0, "total_steps": 20}
    whole(tmp_path / "run", {"env": "simple_spread", **settings})
    told = "maddpg.signalling_bonus, maddpg.listening_bonus teaches nobody to speak: no agent of simple_spread_v3 hears"
    assert f"warning: {told}" in capsys.readouterr().err
    whole(tmp_path / "heard", {"env": "simple_reference", **settings})
    assert "hears another" not in capsys.readouterr().err


@pytest.mark.parametrize(("env", "channel"), [("simple_spread", "rial"), ("simple_world_comm", "oracle")])
def test_a_task_that_cannot_have_the_channel_is_told_in_a_sentence(tmp_path: Path, env: str, channel: str) -> None:
    with pytest.raises(UserError, match=f"channel {channel}: .*{env}") as error:
        whole(tmp_path / "run", {"env": env, "channel": channel})
    assert str(error.value).count(". ") == 0
