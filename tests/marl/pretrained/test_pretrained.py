"""The policies in the package: each plays as its row says, and a file that is not what was written is refused."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from whole_runs import whole

from benchmarks.pretrained import ACTOR_SETTINGS, FOLDER, ROOT, returns_of, written
from envs.commands import parse
from marl import Policy
from marl.communication import command as analysis_command
from marl.communication.command import main as analyse
from marl.communication.options import DEFAULTS, QUICK, Options
from marl.config.schema import MADDPGConfig
from marl.errors import UserError
from marl.evaluate import command as evaluate_command
from marl.evaluate.command import main as evaluate
from marl.play.rollout import play
from marl.pretrained import library

NAMES = library.names()
EPISODES = 64


def test_there_are_some() -> None:
    assert "simple_reference" in NAMES
    assert {entry.file for entry in library.entries().values()} == {path.name for path in FOLDER.glob("*.npy")}


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_plays_to_its_row(name: str) -> None:
    """In the first episodes of the row; four standard errors of so few, which random play misses by ten and more."""
    entry = library.read(name).entry
    row, played = entry.row, entry.played
    assert played.episodes == EPISODES and played.seed == row.episodes_seed
    policy = Policy.pretrained(name, entry.shape[0] - 1)
    assert policy.num_replicas == entry.shape[0]
    for side, returns in returns_of(policy, EPISODES, played.seed).items():
        assert returns.mean() == pytest.approx(played.returns[side][-1], rel=0.02, abs=0.02), side
        if row.mode == "greedy":
            error = returns.std(ddof=1) / np.sqrt(EPISODES)
            assert returns.mean() == pytest.approx(row.of_replicas[side][-1], abs=4 * error), side


@pytest.mark.parametrize("name", NAMES)
def test_replicas_are_told_apart(name: str) -> None:
    """By their parameters, and by their returns, so that the test above would fail for a file in another order; crypto
    pays whole numbers, in which two replicas can be equal, and there the checksum alone tells."""
    stored = library.read(name)
    assert len(np.unique(stored.flat_SGP.reshape(len(stored.flat_SGP), -1), axis=0)) == len(stored.flat_SGP)
    if name != "simple_crypto":
        returns = np.array(list(stored.entry.played.returns.values()))  # [sides, S]
        assert len(np.unique(returns, axis=1).T) == returns.shape[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_row_is_the_published_one(name: str) -> None:
    row = library.read(name).entry.row
    record = json.loads((ROOT / row.source).read_text())
    if "judged" in record:
        assert row.returns["all"] == record["judged"]["greedy"]["iqm"]
        assert row.interval == tuple(record["judged"]["greedy"]["interval"])
    else:
        assert row.returns == {
            side: pytest.approx(np.diagonal(np.array(record["returns"][side])[: row.replicas]).mean())
            for side in record["sides"]
        }
    assert (row.seed, row.replicas, row.steps) == (record["seed"], record["replicas"], record["steps"])


def test_wrong_parameters_miss_the_row() -> None:
    """Guard of the test above: the same file with its actors' inputs in another order."""
    stored = library.read("simple_reference")
    policy = Policy.pretrained("simple_reference")
    flat_GP = np.ascontiguousarray(stored.flat_SGP[0][:, ::-1])
    wrong = Policy(policy.spec, policy.config, torch.from_numpy(flat_GP))
    returns = play(policy.env_id, wrong, 16, stored.entry.played.seed, spec=policy.spec).returns.mean()
    assert returns < stored.entry.row.returns["all"] - 5


def test_every_setting_that_shapes_an_actor_is_kept() -> None:
    """What `marl.play.policy.Policy` reads of the learner's settings."""
    text = (ROOT / "marl" / "play" / "policy.py").read_text(encoding="utf-8")
    read = {name for name in vars(MADDPGConfig()) if f"learner.{name}" in text}
    assert read <= set(ACTOR_SETTINGS) and "frames" in ACTOR_SETTINGS


# ------------------------------------------------------------------ refusals
@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in (FOLDER / library.MANIFEST, FOLDER / "simple_reference.npy"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_a_damaged_file_is_refused(copy: Path) -> None:
    path = copy / "simple_reference.npy"
    assert library.read("simple_reference_v3", copy).name == "simple_reference"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"simple_reference\.npy is damaged.*Install the package again"):
        library.read("simple_reference", copy)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        library.read("simple_reference", copy)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2, "policies": {}}', '{"format": 1, "policies": {"simple": {}}}']
)
def test_a_damaged_list_is_refused(copy: Path, text: str) -> None:
    (copy / library.MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        library.read("simple_reference", copy)


def test_an_unknown_name_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"there are .*simple_reference.*Did you mean 'simple_reference'"):
        Policy.pretrained("simple_referense")
    with pytest.raises(UserError, match=r"replica must lie in \[0, \d\], got 99"):
        Policy.pretrained("simple_reference", 99)
    assert evaluate(["nothing_of_that_name", "--pretrained"]) == 2
    assert "there are " in capsys.readouterr().err
    assert evaluate(["--pretrained"]) == 2
    assert "simple_reference" in capsys.readouterr().err
    assert evaluate(["simple_reference", "--pretrained", "--checkpoint", "3"]) == 2


@pytest.mark.parametrize("command", ["evaluate", "communication", "listen", "export"])
@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("simple_reference", "add --pretrained (in Python: Policy.pretrained('simple_reference'))"),
        ("no/such/run", "error: no/such/run does not exist; expected a run directory"),
    ],
)
def test_a_name_without_the_flag_is_answered_with_it(
    command: str, run: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A newcomer's first slip, in every command that has the flag."""
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"marl.{command}.command").main
    assert main([run, *(["--out", "x"] if command == "export" else [])]) == 2
    assert says in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_the_row_is_refused(tmp_path: Path) -> None:
    run = whole(tmp_path / "run", {"env": "simple_reference", "total_steps": 40})
    with pytest.raises(UserError, match="is not the run of the row"):
        written(run, 3, tmp_path)
    assert not (tmp_path / library.MANIFEST).exists()


# ------------------------------------------------------------------ commands
def test_the_evaluation_names_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    words = ["simple_reference", "--pretrained", "--episodes", "4", "--replica", "1", "--json", str(file)]
    assert evaluate(words) == 0
    text = capsys.readouterr().out
    assert "pretrained simple_reference" in text and "published: return -7." in text
    assert json.loads(file.read_text())["replicas"][0]["replica"] == 1


def test_a_first_look_is_quick() -> None:
    """One replica and few episodes where nothing is said, for pretrained policies alone; all can be said otherwise."""
    task, run, every = ["simple_reference", "--pretrained"], ["runs/x"], ["0", "1", "2"]
    for words, episodes, replicas in (
        (task, 200, (0,)),
        (run, 1000, ()),
        ([*task, "--episodes", "1000", "--replica", *every], 1000, (0, 1, 2)),
        ([*run, "--episodes", "7"], 7, ()),
    ):
        asked = parse(evaluate_command.CommandLine, "", words)
        assert (asked.number_of_episodes(), asked.replicas()) == (episodes, replicas)
    for words, sizes in (
        (task, (QUICK.episodes, QUICK.interventions, (0,))),
        (run, (Options().episodes, DEFAULTS, None)),
        ([*task, "--episodes", "9", "--replicas", "1", "2"], (9, QUICK.interventions, (1, 2))),
        ([*task, "--interventions", "uniform", "noise:0.2"], (QUICK.episodes, ("uniform", "noise:0.2"), (0,))),
    ):
        assert tuple(parse(analysis_command.CommandLine, "", words).sizes().values()) == sizes


def test_the_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for main in (evaluate, analyse):
        assert main(["--help"]) == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert f"default: {Options().episodes}, with --pretrained {QUICK.episodes}" in text
        assert "default: all, with --pretrained the first" in text
    assert f"Default: {' '.join(DEFAULTS)}, with --pretrained {' '.join(QUICK.interventions)}." in text


def test_the_quick_forms_play_what_they_say(tmp_path: Path) -> None:
    """Both commands as a newcomer types them, but for the port in place of the real environment, and still quicker."""
    file, port = tmp_path / "result.json", ["simple_reference", "--pretrained", "--backend", "torch"]
    assert evaluate([*port, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["episodes"] == 200 and [one["replica"] for one in found["replicas"]] == [0]
    assert analyse([*port, "--out", str(tmp_path), "--no-figures", "--episodes", "20"]) == 0
    found = json.loads((tmp_path / "communication.json").read_text())
    assert [one["replica"] for one in found["replicas"]] == [0] and "cross_play" not in found
    names = [channel["name"] for channel in found["replicas"][0]["interventions"]]
    assert names[:2] == ["mute", "shuffled"] and all(name.startswith("shuffled: ") for name in names[2:])


def test_the_analysis_writes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--episodes", "20", "--replicas", "0", "--interventions", "mute", "--no-figures", "--backend", "torch"]
    assert analyse(["--pretrained", "simple_reference", "--out", str(tmp_path / "out"), *few]) == 0
    assert json.loads((tmp_path / "out" / "communication.json").read_text())["run"] == "pretrained simple_reference"
    assert analyse(["--pretrained", "nothing", "--out", str(tmp_path / "other"), *few]) == 2
    assert not (tmp_path / "other").exists()
    assert analyse(["somewhere", "--out", str(tmp_path / "other"), *few]) == 2
    assert "--out goes with --pretrained" in capsys.readouterr().err
