"""Which settings a resume takes from the checkpoint, allows to change, or refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from marl.cli.parse import parse
from marl.config.fields import flatten, with_values
from marl.config.resolve import check_resume, to_dict, to_yaml
from marl.config.rules import FREE_ON_RESUME, WARNED_ON_RESUME
from marl.config.schema import Config
from marl.errors import UserError
from marl.runs import checkpoint


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(list(argv))
    return str(caught.value)


def make_run(path: Path, config: Config) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(to_yaml(dataclasses.replace(config, run_dir=None)))
    return checkpoint.save(path / "checkpoints", 100, {"policy": {"x": 1}}, {"spec": {}, "config": to_dict(config)})


SAVED = dataclasses.replace(Config(env="simple_spread", seed=5, device="cpu"), maddpg=Config().maddpg)


def test_resume_takes_the_checkpoints_configuration(tmp_path: Path) -> None:
    saved = with_values(SAVED, {"maddpg.gamma": 0.123})
    made = make_run(tmp_path / "run", saved)
    for directory in (tmp_path / "run", made):
        launch = parse(["--resume", str(directory)])
        assert launch.resume == made
        assert launch.config == dataclasses.replace(saved, run_dir=str((tmp_path / "run").resolve()))
        assert launch.warnings == ()


def test_resume_lists_every_refused_difference(tmp_path: Path) -> None:
    """Guard: seen failing with `changes_on_resume` returning no refusals."""
    make_run(tmp_path / "run", SAVED)
    text = refused("--resume", str(tmp_path / "run"), "--maddpg.gamma", "0.5", "--seed", "6", "--env", "simple_tag")
    assert "env: 'simple_spread_v3' in the run, 'simple_tag_v3' wanted (--env)" in text
    assert "seed: 5 in the run, 6 wanted (--seed)" in text
    assert f"maddpg.gamma: {SAVED.maddpg.gamma} in the run, 0.5 wanted (--maddpg.gamma)" in text


def test_resume_allows_and_warns(tmp_path: Path) -> None:
    make_run(tmp_path / "run", SAVED)
    argv = ["--resume", str(tmp_path / "run"), "--total-steps", "200000", "--logging.every", "10", "--device", "cuda",
            "--checkpoint.keep", "5", "--evaluation.every", "0", "--env", "simple_spread_v3"]  # fmt: skip
    launch = parse(argv)
    assert (launch.config.total_steps, launch.config.logging.every, launch.config.checkpoint.keep) == (200_000, 10, 5)
    assert sorted(warning.split()[0] for warning in launch.warnings) == ["device", "total_steps"]


def test_an_edited_config_yaml_is_no_way_around(tmp_path: Path) -> None:
    make_run(tmp_path / "run", SAVED)
    edited = tmp_path / "run" / "config.yaml"
    edited.write_text(edited.read_text().replace("seed: 5", "seed: 9"))
    text = refused("--resume", str(tmp_path / "run"))
    assert "seed: 5 in the run, 9 wanted (" in text and "config.yaml, line" in text
    edited.unlink()
    assert parse(["--resume", str(tmp_path / "run")]).config.seed == 5


def test_resume_stays_in_its_directory(tmp_path: Path) -> None:
    make_run(tmp_path / "run", dataclasses.replace(SAVED, run_dir="/somewhere/else"))
    run = tmp_path / "run"
    assert parse(["--resume", str(run), "--run-dir", str(run)]).config.run_dir == str(run.resolve())
    assert "goes on in its own directory" in refused("--resume", str(run), "--run-dir", str(tmp_path / "other"))


def test_resume_of_nothing(tmp_path: Path) -> None:
    assert "does not exist" in refused("--resume", str(tmp_path / "none"))
    assert "is no run directory" in refused("--resume", str(tmp_path))
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert "holds no checkpoint" in refused("--resume", str(tmp_path))
    assert "is a file" in refused("--resume", str(tmp_path / "config.yaml"))


def test_resume_of_a_checkpoint_that_knows_other_settings(tmp_path: Path) -> None:
    plain = to_dict(SAVED)
    plain["maddpg"]["forgotten"] = 1
    del plain["maddpg"]["tau"]
    root = tmp_path / "run" / "checkpoints"
    checkpoint.save(root, 1, {}, {"config": plain})
    assert "written by another version of this package" in refused("--resume", str(tmp_path / "run"))
    del plain["maddpg"]["forgotten"]
    checkpoint.save(root, 2, {}, {"config": plain})
    assert "older than these settings, which take their defaults: maddpg.tau" in parse(
        ["--resume", str(tmp_path / "run")]
    ).warnings[0]  # fmt: skip
    checkpoint.save(root, 3, {}, {"config": 5})
    assert "holds no configuration" in refused("--resume", str(tmp_path / "run"))


def test_check_resume_covers_every_setting() -> None:
    """Every setting is refused, allowed or allowed with a warning: none is forgotten when the list grows."""
    for name, value in flatten(SAVED).items():
        other = not value if isinstance(value, bool) else (value or 0) + 1 if isinstance(value, int | float) else None
        if other is None:
            continue
        wanted = with_values(SAVED, {name: other})
        if name in WARNED_ON_RESUME:
            assert len(check_resume(SAVED, wanted)) == 1
        elif name.startswith(FREE_ON_RESUME):
            assert check_resume(SAVED, wanted) == []
        else:
            with pytest.raises(UserError, match=f"{name}: "):
                check_resume(SAVED, wanted)
