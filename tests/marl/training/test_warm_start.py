"""`--from RUN`: a new run that starts from the weights of an old one."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import ENVS, assert_same, begun, config, resumed, state, whole

from marl import train
from marl.cli.parse import parse
from marl.errors import UserError
from marl.runs.logs.records import read_run
from marl.training import warm_start
from marl.training.experiment import RunResult

SLOW = {"maddpg.warmup_steps": 10_000, "total_steps": 8}  # no update: the weights stay as they were taken


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("old") / "run", {"num_replicas": 2})


def networks(run: Path) -> dict[str, torch.Tensor]:
    return {name: one["mlp.flat"] for name, one in state(run)["learner"]["networks"].items()}


def started(run: Path, old: Path, **settings: Any) -> RunResult:
    return train(config(run, {**SLOW, "num_replicas": 2, "from_run": str(old), **settings}))


def test_everything(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guard: seen failing with the targets left as drawn."""
    run = tmp_path / "run"
    result = started(run, old, seed=8, **{"maddpg.gamma": 0.5, "num_envs": 2})
    mine, theirs = networks(run), networks(old)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert result.step == 8 and state(run)["step"] == 8 and state(run)["learner"]["updates"] == 0
    assert not state(run)["learner"]["actor_optimiser"]["state"]
    assert read_run(run).config.from_run == str(old) and read_run(run).config.maddpg.gamma == 0.5
    record = json.loads((run / "started_from.json").read_text())
    learner = hashlib.sha256((old / "checkpoints" / "step_000000092" / "learner.pt").read_bytes()).hexdigest()
    assert record == {
        "run": str(old), "checkpoint": "step_000000092", "step": 92, "parts": "all", "sha256": learner,
        "env": "simple_speaker_listener",
    }  # fmt: skip
    output = "".join(capsys.readouterr())
    assert f"The actors and critics of {old}/checkpoints/step_000000092 are the start." in output


def test_a_full_disk_is_told(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: seen failing with the error of the operating system itself."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(warm_start, "replace_text", full)
    with pytest.raises(UserError, match=r"started_from.json cannot be written: No space left on device. Nothing was"):
        started(tmp_path / "run", old)
    assert not (tmp_path / "run").exists()


def test_actors_alone(old: Path, tmp_path: Path) -> None:
    started(tmp_path / "run", old, from_parts="actors")
    whole(tmp_path / "drawn", {**SLOW, "num_replicas": 2})
    mine, theirs, drawn = (networks(run) for run in (tmp_path / "run", old, tmp_path / "drawn"))
    assert torch.equal(mine["actor"], theirs["actor"]) and torch.equal(mine["target_actor"], theirs["actor"])
    assert not torch.equal(drawn["actor"], theirs["actor"])
    for name in ("critic", "target_critic"):
        assert torch.equal(mine[name], drawn[name]) and not torch.equal(mine[name], theirs[name])


def test_replicas(old: Path, tmp_path: Path) -> None:
    """One of each, or all of the only one."""
    started(tmp_path / "one", old, num_replicas=1)
    assert torch.equal(networks(tmp_path / "one")["actor"], networks(old)["actor"][:1])
    started(tmp_path / "three", tmp_path / "one", num_replicas=3)
    assert torch.equal(networks(tmp_path / "three")["actor"], networks(old)["actor"][:1].expand(3, -1, -1))


def test_a_run_that_starts_from_another_is_resumed_exactly(old: Path, tmp_path: Path) -> None:
    """The old run may be gone by then. Guard: seen failing with the old weights looked for again at the resume."""
    shutil.copytree(old, tmp_path / "old")
    settings = {"num_replicas": 2, "from_run": str(tmp_path / "old")}
    whole(tmp_path / "whole", settings)
    begun(tmp_path / "halves", settings, rounds=30)
    shutil.rmtree(tmp_path / "old")
    resumed(tmp_path / "halves")
    assert_same(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize(
    ("settings", "row", "mend"),
    [
        ({"maddpg.hidden": (8, 16)}, "maddpg.hidden (8, 8) (8, 16)", "Make them the same."),
        ({"maddpg.twin_critics": True}, "maddpg.twin_critics False True", "with --from-parts actors."),
        ({"maddpg.frames": 2}, "observations at a time 1 2", "Make them the same."),
        ({"num_replicas": 3}, "replicas 2 3", "Make them the same."),
        ({"env": "simple_spread"}, "agents, in order speaker_0, listener_0 agent_0, agent_1, agent_2", "the same."),
        (
            {"env": "speaker_listener_variant", "env_args": {"num_landmarks": 5}},
            "listener_0: observation size 11 15",
            "Make them the same.",
        ),
    ],
)
def test_other_sizes_are_refused_with_a_table(
    old: Path, tmp_path: Path, settings: dict[str, Any], row: str, mend: str
) -> None:
    with pytest.raises(UserError) as caught:
        started(tmp_path / "run", old, **settings)
    text = re.sub("  +", " ", str(caught.value))
    assert "have other sizes than those of this run:\n checkpoint this run\n" in text
    assert f"\n {row}\n" in text and text.endswith(mend)
    assert not (tmp_path / "run").exists()


def test_actors_fit_whatever_the_critics_are(old: Path, tmp_path: Path) -> None:
    started(tmp_path / "run", old, from_parts="actors", **{"maddpg.twin_critics": True})
    assert torch.equal(networks(tmp_path / "run")["actor"], networks(old)["actor"])


def test_another_environment_of_the_same_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ENVS))
    first = whole(tmp_path / "first", {**SLOW, "env": "toy_envs:Toy", "backend": "pettingzoo"})
    settings = {**SLOW, "env": "toy_envs:Unseeded", "backend": "pettingzoo", "from_run": str(first), "seed": 4}
    run = whole(tmp_path / "run", settings)
    assert torch.equal(networks(run)["actor"], networks(first)["actor"])
    assert json.loads((run / "started_from.json").read_text())["env"] == "toy_envs:Toy"


def test_flags() -> None:
    for flags in (["--from", "runs/a"], ["--from=runs/a"], ["--from-run", "runs/a"]):
        launch = parse(["--env", "simple", *flags, "--from-parts", "actors"])
        assert (launch.config.from_run, launch.config.from_parts) == ("runs/a", "actors")
    assert "no effect without --from RUN" in " ".join(parse(["--env", "simple", "--from-parts", "actors"]).warnings)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; expected a run directory"):
        started(tmp_path / "run", tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recurrent", [False, True])
def test_frozen_agents_play_on_and_all_others_begin_anew(tmp_path: Path, recurrent: bool) -> None:
    """Through updates too. Guard: seen failing with the critics taken too, and with outputs of the last agent alone."""
    own = {"env": "simple_push", "maddpg.recurrent": recurrent, "maddpg.window": 4, "maddpg.burn_in": 2}
    first = whole(tmp_path / "old", {**own, **SLOW})
    frozen = {**own, "maddpg.actor_lr_shares": {"agent_0": 0.0}, "seed": 5}
    taken = {**frozen, "from_run": str(first), "from_parts": "frozen", "total_steps": 40}
    learned, loud = (
        whole(tmp_path / name, {**taken, "from_greedy": greedy}) for name, greedy in (("run", False), ("loud", True))
    )
    drawn = networks(whole(tmp_path / "drawn", {**frozen, **SLOW}))
    unmoved = networks(whole(tmp_path / "unmoved", {**taken, **SLOW}))
    theirs, mine, louder = networks(first), networks(learned), networks(loud)
    for name in ("actor", "target_actor"):
        assert torch.equal(mine[name][:, 1], theirs["actor"][:, 1]) and torch.equal(
            unmoved[name][:, 0], drawn[name][:, 0]
        )
    assert torch.equal(unmoved["critic"], drawn["critic"]) and state(learned)["learner"]["updates"] > 0
    assert not torch.equal(mine["actor"][:, 0], drawn["actor"][:, 0]), "the other one learns"
    outputs = (8 + 1) * 5  # of the last hidden layer and its bias, to five moves
    assert torch.equal(louder["actor"][:, 1, :-outputs], theirs["actor"][:, 1, :-outputs])
    assert torch.equal(louder["actor"][:, 1, -outputs:], theirs["actor"][:, 1, -outputs:] * 1e4)


def test_frozen_agents_are_named(old: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"and every agent learns; expected maddpg\.actor_lr_shares NAME=0"):
        started(tmp_path / "run", old, from_parts="frozen")


def test_numbers_of_frozen_agents_stay_as_they_are(tmp_path: Path) -> None:
    """A greedy one's choices are loud, its numbers are not. Guard: seen failing with every output made loud."""
    own = {**SLOW, "env": "simple_speaker_listener", "env_args": {"continuous_actions": True}}
    first = networks(whole(tmp_path / "old", own))["actor"]
    shares = {"maddpg.actor_lr_shares": {"speaker_0": 0.0, "listener_0": 0.0}}
    taken = {**shares, "from_run": str(tmp_path / "old"), "from_parts": "frozen", "from_greedy": True}
    mine = networks(whole(tmp_path / "run", {**own, **taken}))["actor"]
    assert torch.equal(mine[:, 1], first[:, 1]) and not torch.equal(mine[:, 0], first[:, 0])
