"""Files of a real run that are damaged, harmful, missing, or of something else: what resume and evaluation say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_fault_bytes import Harm, harmful_files, replace_part
from whole_runs import assert_same, begun, whole

from marl.evaluate import command as evaluate
from marl.runs import checkpoint

SETTINGS = {"checkpoint.every": 40, "num_replicas": 2}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never stopped."""
    return whole(tmp_path_factory.mktemp("clean") / "run", SETTINGS)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped at step 132, behind the checkpoints of steps 120 and 132."""
    return begun(tmp_path_factory.mktemp("stopped") / "run", SETTINGS, rounds=33)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def newest(run: Path) -> Path:
    result = checkpoint.newest(run / "checkpoints")
    assert result is not None and result.name == "step_000000132"
    return result


def damage(run: Path, run_py: Callable, places: int) -> tuple[int, str]:
    """Flip one bit at a time at so many places of every file of the newest checkpoint, resume; (tries, a message)."""
    tries, output = 0, ""
    for file in sorted(newest(run).iterdir()):
        content = file.read_bytes()
        for position in range(0, len(content), max(len(content) // places, 1)):
            broken = bytearray(content)
            broken[position] ^= 1 << (position % 8)
            file.write_bytes(broken)
            code, _, err = run_py(None, "--resume", str(run))
            tries += 1
            assert code == 2 and ("is damaged" in err or "this build reads up to" in err), err
            output = err
        file.write_bytes(content)
    return tries, output


@pytest.mark.parametrize("places", [3, pytest.param(16, marks=pytest.mark.fault)])
def test_flipped_bits(places: int, run: Path, clean: Path, run_py: Callable, seen: Callable) -> None:
    """Never a silent load; and the older checkpoint that the message names leads to the same end.

    Guard: seen failing without the comparison of sizes and sha256 in `verify`.
    """
    tries, output = damage(run, run_py, places)
    (newest(run) / "source.pt").write_bytes(b"")
    code, _, err = run_py(None, "--resume", str(run))
    good = run / "checkpoints" / "step_000000120"
    assert code == 2 and f"The newest good one is {good}: python run.py --resume {good}" in err
    words = shlex.split(re.findall(r"python run\.py (--resume \S+step_000000120)", err)[0])
    assert run_py(None, *words)[0] == 0
    assert_same(run, clean)
    seen("truncated, empty, text or bit-flipped checkpoint", "one bit of a file", output, times=tries, code=2)


@pytest.mark.parametrize("name", ["learner.pt", "manifest.json", "source.pt"])
def test_cut_empty_text_and_missing(name: str, run: Path, run_py: Callable, seen: Callable) -> None:
    file = newest(run) / name
    content = file.read_bytes()
    kinds = {"empty": b"", "cut": content[: len(content) // 2], "text": b"Not found\n", "missing": None}
    for kind, bytes_ in kinds.items():
        file.unlink(missing_ok=True)
        if bytes_ is not None:
            file.write_bytes(bytes_)
        code, _, err = run_py(None, "--resume", str(run))
        if name == "manifest.json" and kind == "missing":  # no checkpoint at all: the one before it is the newest
            assert code == 0
            continue
        assert code == 2 and "is damaged" in err and "The newest good one is" in err, err
        seen("truncated, empty, text or bit-flipped checkpoint", f"{name} {kind}", err, code=2)


def test_a_newer_format(run: Path, run_py: Callable, seen: Callable) -> None:
    file = newest(run) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 3}))
    code, _, err = run_py(None, "--resume", str(run))
    assert code == 2 and "has format 3, this build reads up to 1: update this package" in err
    seen("checkpoint from a newer format", "format 3 in the manifest", err, code=2)


def test_files_that_mean_harm(run: Path, tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    """A shared run whose manifest vouches for a pickle that runs a command; resume and evaluation refuse it.

    Guard: seen failing with `weights_only=False`.
    """
    marker = tmp_path / "harm"
    files = harmful_files(Harm(marker))
    for kind, content in files.items():
        replace_part(newest(run), "policy", content)
        code, _, err = run_py(None, "--resume", str(run))
        assert code == 2 and "policy.pt is refused" in err and "Nothing of it was executed" in err, kind
        assert evaluate.main([str(run), "--episodes", "1"]) == 2
        assert "weights_only" not in err and not marker.exists(), kind
        seen("malicious pickle", f"policy.pt: {kind}", err, times=2, code=2)
    (run / "config.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch {marker}']\n")
    code, _, err = run_py(None, "--resume", str(run))
    assert code == 2 and "!!python/object" in err and not marker.exists()
    seen("malicious pickle", "config.yaml with !!python/object", err, code=2)


def test_another_environment(run: Path, tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    """Another id, other arguments, and the same function that returns something else than it did."""
    for flags in (("--env", "simple_spread"), ("--env-args", "max_cycles=7")):
        code, _, err = run_py(None, "--resume", str(run), *flags)
        assert code == 2 and "cannot be resumed with another configuration" in err and "in the run" in err
        seen("resume with another environment or configuration", " ".join(flags), err, code=2)
    module = tmp_path / "changing_env.py"
    text = "from toy_envs import Toy\ndef make():\n    return Toy(agents={!r}, length=6)\n"
    module.write_text(text.format(("a_0", "a_1")))
    sys.path.insert(0, str(tmp_path))
    try:
        own = tmp_path / "own"
        settings = {"env": "changing_env:make", "backend": "pettingzoo", "run_dir": own}
        assert run_py(settings)[0] == 0
        for agents in (("a_1", "a_0"), ("a_0", "a_1", "a_2"), ("a_0", "b_1")):
            module.write_text(text.format(agents))
            sys.modules.pop("changing_env", None)
            shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
            code, _, err = run_py(None, "--resume", str(own), "--total-steps", "300")
            assert code == 2 and "belongs to another environment" in err and "agents, in order" in err, err
            assert "a_0, a_1" in err and ", ".join(agents) in err
            seen("resume with another environment or configuration", f"agents {', '.join(agents)}", err, code=2)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("changing_env", None)


@pytest.mark.fault
def test_every_setting_that_is_not_free_is_refused(run: Path, run_py: Callable, seen: Callable) -> None:
    """Guard: seen failing with `maddpg.` in FREE_ON_RESUME."""
    changes = {
        "--maddpg.gamma": "0.9", "--maddpg.tau": "0.5", "--maddpg.batch-size": "8", "--maddpg.estimator": "exact",
        "--maddpg.n-step": "2", "--maddpg.hidden": "16", "--seed": "5", "--num-envs": "8", "--num-replicas": "1",
        "--backend": "pettingzoo", "--replay.capacity": "64", "--wm.rollout": "2",
    }  # fmt: skip
    for flag, value in changes.items():
        code, _, err = run_py(None, "--resume", str(run), flag, value)
        assert code == 2 and f"({flag})" in err and "Leave these as they were" in err, err
    seen("resume with another environment or configuration", "one setting changed", err, times=len(changes), code=2)


def test_no_run_at_all(run: Path, tmp_path: Path, run_py: Callable, seen: Callable) -> None:
    for path in (tmp_path / "none", tmp_path, run / "config.yaml"):
        code, _, err = run_py(None, "--resume", str(path))
        assert code == 2 and ("expected a run directory" in err or "expected one that holds config.yaml" in err)
    code, _, err = run_py({"run_dir": run})
    assert code == 2 and "is not empty" in err and f"python run.py --resume {run}" in err
    seen("non-empty directory without `--resume`", "a run's directory as --run-dir", err, code=2)
