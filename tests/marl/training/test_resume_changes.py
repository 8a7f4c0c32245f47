"""What may change when a run is resumed, what may not, and what the run's files alone repeat."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from whole_runs import MANY_OPTIONS, MODEL, assert_same, begun, config, differences, records, resumed, state, whole

from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl import train
from marl.cli.launch import main
from marl.cli.parse import parse
from marl.data import replay
from marl.data.batch import Transitions
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.runs import resuming
from marl.runs.checkpoint import DIRECTORY, newest

EVERYTHING = {"env": "simple_reference", **MANY_OPTIONS}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped, for tests that only look at it."""
    return begun(tmp_path_factory.mktemp("stopped") / "run")


def test_free_settings_may_change(tmp_path: Path) -> None:
    """Evaluation, logging, checkpoints: the run still ends where the uninterrupted one does."""
    whole(tmp_path / "whole")
    begun(tmp_path / "halves")
    flags = ("--evaluation.every", "40", "--evaluation.episodes", "2", "--checkpoint.keep", "3", "--logging.every", "4")
    resumed(tmp_path / "halves", *flags)
    one, two = (state(tmp_path / name) for name in ("whole", "halves"))
    for name in ("source", "collector", "learner"):
        assert differences(one[name], two[name]) == []


def test_another_form_of_the_update_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path / "run")
    before = state(run)["learner"]["form"]
    assert before in ("numba", "torch")
    resumed(run, rounds=1)
    assert "computed in the form" not in capsys.readouterr().err
    monkeypatch.setattr(MADDPG, "form", property(lambda self: "other"))
    resumed(run, rounds=1)
    assert f"computed in the form {before!r} until here and now are in 'other'" in capsys.readouterr().err


def test_rows_of_another_version_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of this version's own, or of the machine, is none of another's.

    Guard: seen failing with the message for every fault.
    """
    run = begun(tmp_path / "run")
    widths = replay.row_widths
    monkeypatch.setattr(replay, "row_widths", lambda spec: {**widths(spec), "later": 1})
    with pytest.raises(RuntimeError, match="expanded size"):
        resumed(run)
    monkeypatch.setattr(resuming, "changed_versions", lambda saved: [f"commit was {saved['commit']} and is now newer"])
    with pytest.raises(
        UserError, match=r"checkpoints.step_\d+ does not fit this version.*\nResume .*: commit was .* is now newer"
    ):
        resumed(run)

    def full(*args: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Replay, "load_state_dict", full)
    with pytest.raises(RuntimeError, match="allocate"):
        resumed(run)


@pytest.mark.fault
def test_workers_may_change(tmp_path: Path) -> None:
    settings = {"backend": "pettingzoo", "num_replicas": 2, "num_envs": 2}
    whole(tmp_path / "whole", settings)
    for was, now in ((0, 2), (2, 0)):
        run = begun(tmp_path / f"{was} {now}", {**settings, "workers": was})
        resumed(run, "--workers", str(now))
        assert_same(tmp_path / "whole", run)


@pytest.mark.parametrize("steps", ["92", "241", "400"])
def test_the_length_may_change(tmp_path: Path, steps: str) -> None:
    """With a warning; the replay's size follows, and nothing that was stored is lost or made up.

    Guard: seen failing with a replay that takes its cursor over into one of another capacity: rows that were never
    written were drawn.
    """
    begun(tmp_path / "run")
    launch = parse(["--resume", str(tmp_path / "run"), "--total-steps", steps])
    assert any("total_steps changes from 240" in warning for warning in launch.warnings)
    result = resumed(tmp_path / "run", "--total-steps", steps)
    end = -(-int(steps) // 4) * 4
    assert result.step == end and result.evaluation is not None
    source = state(tmp_path / "run")["source"]
    assert source["size"] == end and source["data"].shape[1] == end


@pytest.mark.parametrize(("total", "longer"), [("240", "480"), ("241", "480")])
def test_the_length_of_a_finished_run_may_change(tmp_path: Path, total: str, longer: str) -> None:
    """The replay was full to the last row, or a row larger than what was trained.

    Guard: seen failing as above (241 to 480: the newest rows overwrote the oldest, and rows that nothing was ever
    written to were drawn).
    """
    run = whole(tmp_path / "run", {"total_steps": int(total)})
    short = state(run)["source"]
    end = resumed(run, "--total-steps", longer).step
    long = state(run)["source"]
    assert end == long["size"] == 480
    assert torch.equal(long["data"][:, : short["size"]], short["data"])


def test_a_finished_run_that_goes_on_records_what_a_longer_one_does(tmp_path: Path) -> None:
    """No schedule depends on the length here. At the old end it has an evaluation on the way, on seeds of those.

    Guard: seen failing with the final evaluation's record as a point of the learning curve.
    """
    settings = {"maddpg.lr_final": 1.0, "evaluation.every": 32, "evaluation.episodes": 2, "num_replicas": 2}
    whole(tmp_path / "long", {**settings, "total_steps": 128})
    run = whole(tmp_path / "run", {**settings, "total_steps": 64})
    resumed(run, "--total-steps", "128")
    assert not differences(records(run), records(tmp_path / "long"))
    assert [line["step"] for line in records(run) if "evaluation/return" in line] == [0, 32, 64, 96, 128]


def test_a_length_that_is_trained_already_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guard: seen failing when config.yaml was rewritten to the smaller number."""
    run = whole(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["--resume", str(run), "--total-steps", "100"]) == 2
    output = capsys.readouterr().err
    assert output == (
        "error: --total-steps: this run has trained 240 steps already, 100 are wanted. Nothing was changed; give more "
        "steps to go on.\n"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["--resume", str(run)]) == 0
    output = "".join(capsys.readouterr())
    assert "All 240 steps were trained before. Playing" in output and "Training took" not in output


def test_a_replay_of_another_capacity_takes_the_newest_rows_over() -> None:
    spec = EnvSpec("one", (AgentSpec("a", 1, (Head("move", 2),)),))

    def replay(capacity: int) -> Replay:
        return Replay(spec, capacity, 2, Stream(0, "replay", (0,)), 0.9)

    def step(k: int) -> Transitions:
        flags = {name: torch.zeros(1, 1, 2, dtype=torch.bool) for name in ("terminated", "truncated")}
        zeros, first = torch.zeros(1, 1, 2, 1), torch.zeros(1, 2, dtype=torch.bool)
        reward = torch.tensor([[[2.0 * k, 2.0 * k + 1]]])
        return Transitions(zeros, zeros, first, torch.zeros(1, 1, 2, 2), reward, **flags, next_obs=zeros)

    def rewards(store: Replay) -> list[float]:
        return store.gather(torch.arange(store.size)[None]).reward.flatten().tolist()

    full = replay(6)
    for k in range(5):
        full.add(step(k))
    assert rewards(full) == [6, 7, 8, 9, 4, 5] and full.cursor == 4
    for capacity, kept, then in (
        (6, [6, 7, 8, 9, 4, 5], [6, 7, 8, 9, 10, 11]),
        (8, [4, 5, 6, 7, 8, 9], [4, 5, 6, 7, 8, 9, 10, 11]),
        (4, [6, 7, 8, 9], [10, 11, 8, 9]),
    ):
        other = replay(capacity)
        other.load_state_dict(full.state_dict())
        assert rewards(other) == kept
        other.add(step(5))
        assert rewards(other) == then


@pytest.mark.parametrize("model", [{}, MODEL], ids=["replay", "world model"])
def test_a_finished_run_goes_on(tmp_path: Path, model: dict[str, Any]) -> None:
    """Longer than it was meant to be: the stores are larger then, and hold what they held."""
    run = whole(tmp_path / "run", {**model, "maddpg.n_step": 2})
    short = state(run)["source"]
    resumed(run, "--total-steps", "480")
    long = state(run)["source"]
    short, long = (part.get("replay", part) for part in (short, long))
    assert (short["size"], long["size"]) == (236, 476)
    assert torch.equal(long["data"][:, : short["size"]], short["data"])
    assert long["data"].isfinite().all() and (long["data"][..., -1].abs() < 1e6).all()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--maddpg.gamma", "0.9"), "maddpg.gamma: 0.95 in the run, 0.9 wanted (--maddpg.gamma)"),
        (("--env", "simple_spread"), "env: 'simple_speaker_listener_v4' in the run, 'simple_spread_v3' wanted (--env)"),
        (("--seed", "4", "--num-envs", "8"), "num_envs: 4 in the run, 8 wanted (--num-envs)"),
        (("--num-replicas", "3"), "num_replicas: 1 in the run, 3 wanted"),
        (("--backend", "pettingzoo"), "backend: 'torch' in the run, 'pettingzoo' wanted"),
        (("--replay.capacity", "100"), "replay.capacity: 1000000 in the run, 100 wanted"),
        (("--world-model",), "world_model: false in the run, true wanted"),
        (("--maddpg.hidden", "8", "16"), "maddpg.hidden"),
    ],
)
def test_other_changes_are_refused(stopped: Path, flags: tuple[str, ...], told: str) -> None:
    run = stopped
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        resumed(run, *flags)
    assert "this run cannot be resumed with another configuration" in str(caught.value)
    assert told in str(caught.value), str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_python_may_not_change_either(stopped: Path, tmp_path: Path) -> None:
    """Guard: seen failing when `train` checked neither settings nor directory: the run went on with both."""
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    saved = parse(["--resume", str(stopped)]).config
    changed = replace(saved, seed=4, maddpg=replace(saved.maddpg, gamma=0.9))
    with pytest.raises(UserError, match="seed: 3 in the run, 4 wanted") as caught:
        train(changed, resume=stopped)
    assert "maddpg.gamma: 0.95 in the run, 0.9 wanted" in str(caught.value)
    with pytest.raises(UserError, match="a resumed run goes on in its own directory"):
        train(replace(saved, run_dir=str(tmp_path / "other")), resume=stopped)
    with pytest.raises(UserError, match="resumed inside its run"):
        train(replace(saved, run_dir=None), resume=copytree(newest(stopped / DIRECTORY), tmp_path / "step_000000092"))
    with pytest.raises(UserError, match="is no run directory"):
        train(replace(saved, run_dir=None), resume=tmp_path)
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "other").exists()


def test_python_resumes_a_run_by_its_directory(tmp_path: Path) -> None:
    """As a checkpoint of it, and where `run_dir` is unset."""
    whole(tmp_path / "whole")
    run = begun(tmp_path / "halves")
    result = train(replace(config(run), run_dir=None), resume=run)
    assert result.run_dir.samefile(run)
    assert_same(tmp_path / "whole", run)


def test_an_edited_config_file_is_refused_too(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("gamma: 0.95", "gamma: 0.5"))
    with pytest.raises(UserError, match=r"maddpg.gamma: 0.95 in the run, 0.5 wanted"):
        resumed(run)


def test_the_files_of_a_run_repeat_it(tmp_path: Path) -> None:
    """config.yaml alone, in another directory."""
    whole(tmp_path / "run", EVERYTHING)
    launch = parse(["--config", str(tmp_path / "run" / "config.yaml"), "--run-dir", str(tmp_path / "again")])
    assert train(launch.config).run_dir == tmp_path / "again"
    assert_same(tmp_path / "run", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "versions.json").read_text())["torch"]
    assert config(tmp_path / "again", EVERYTHING).maddpg == launch.config.maddpg
