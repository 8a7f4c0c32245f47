"""Anything at all as a configuration file or a command line: a checked configuration or a UserError, never else."""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from marl.cli.parse import parse
from marl.config import resolve as configure
from marl.config.fields import flatten, groups
from marl.config.fields import settings as all_settings
from marl.config.resolve import from_dict, to_dict, to_yaml
from marl.config.schema import Config
from marl.errors import UserError

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
NAMES = [*all_settings(Config), *(name for name in groups(Config) if name)]
KEYS = sorted({part for name in NAMES for part in name.split(".")})
ODD = [
    "1e-2", "1e999", "-1", "0x10", "yes", "null", "~", ".nan", "-.inf", "[1, 2]", "{a: 1}", "é", "'", '"', "&a", "*a",
    "!!python/name:os.system", "<<", "- 1", "%", "@", "`", "\t", "1" * 5000,
]  # fmt: skip

key = st.sampled_from(KEYS) | st.text(max_size=6)
atom = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD)
tree = st.recursive(
    atom, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=4), max_leaves=12
)
line = st.tuples(
    st.sampled_from(["", "  ", "\t", "    "]),
    st.sampled_from([*KEYS, *ODD]),
    st.sampled_from([": ", ":", " ", "=", ": - "]),
    st.sampled_from(ODD) | st.text(max_size=8),
).map("".join)
lines = st.lists(line, max_size=6).map("\n".join)
RAW = st.sampled_from([*ODD, "1" * 400, "1e308", "-0.0", "2", "0.5", "true", "[]", "{}"]) | st.floats().map(repr)
settled = st.dictionaries(st.sampled_from(list(all_settings(Config))), RAW, min_size=1, max_size=4)
FLAGS = ["--" + name.replace("_", "-") for name in NAMES]
ODD_FLAGS = ["--config", "--resume", "--debug", "--", "-", "---", "--no-world-model", "--no-maddpg", "-s", "--env="]
flag = st.sampled_from(FLAGS) | st.sampled_from(ODD_FLAGS)
word = flag | st.sampled_from(ODD) | st.text(max_size=6) | st.sampled_from(["simple", "N=5", "a:b", "=", "N="])
argv = st.lists(word, max_size=8)
SLOW_OK = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def outcome(arguments: list[str]) -> str:
    """ "fine", "help" or the words of the UserError; any other exception is the test's failure."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            return judged(lambda: parse(arguments).config)
        except SystemExit as stop:
            assert stop.code in (0, None), err.getvalue()
            return "help"


def outcome_of_file(path: Path) -> str:
    """The same for `--env simple --config FILE`, without the command line's share of the time."""
    flags, own = configure.Sources(), configure.Sources()
    flags.put("env", "simple", "--env")
    configure.read_file(path, own)
    return judged(lambda: configure.fresh(own, flags)[0])


def judged(launched: Callable[[], Config]) -> str:
    try:
        config = launched()
    except UserError as error:
        assert str(error) and "Traceback" not in str(error) and len(str(error)) < 20_000
        return str(error)
    assert from_dict(to_dict(config)) == config
    assert all(math.isfinite(value) for value in flatten(config).values() if isinstance(value, float))
    return "fine"


def rendered(values: dict[str, str]) -> str:
    """A file in which every setting stands in its right place, whatever its value."""
    own = [f"{name}: {raw}\n" for name, raw in values.items() if "." not in name]
    for group in dict.fromkeys(name.split(".")[0] for name in values if "." in name):
        inner = [(name.split(".")[1], raw) for name, raw in values.items() if name.startswith(group + ".")]
        own += [f"{group}:\n", *(f"  {name}: {raw}\n" for name, raw in inner)]
    return "".join(own)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def run_fuzz(count: int, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    some = settings(max_examples=count, deadline=None, suppress_health_check=SLOW_OK, database=None)
    fewer = settings(some, max_examples=count // 4)  # the command line takes longer than a file

    @some
    @given(tree)
    def values(value: object) -> None:
        write(own, yaml.safe_dump(value).encode())
        outcome_of_file(own)

    @some
    @given(settled)
    @example({"seed": "1" * 400, "maddpg.actor_lr": ".nan"})
    @example({"maddpg.tau": "1" * 5000})
    def odd_values(values: dict[str, str]) -> None:
        write(own, rendered(values).encode())
        outcome_of_file(own)

    @some
    @given(lines)
    def texts(text: str) -> None:
        write(own, text.encode("utf-8", "surrogatepass"))
        outcome_of_file(own)

    @some
    @given(st.binary(max_size=60))
    def noise(content: bytes) -> None:
        write(own, content)
        outcome_of_file(own)

    @fewer
    @given(argv)
    def flags(arguments: list[str]) -> None:
        outcome(["--env", "simple", *arguments])

    values()
    odd_values()
    texts()
    noise()
    flags()


@pytest.mark.fault
def test_any_file_and_any_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Callable) -> None:
    """Guard: seen failing with NaN taken for a number, and with the OverflowError of 10^400 and the ValueError of 5000
    digits let through."""
    monkeypatch.chdir(tmp_path)
    run_fuzz(400, tmp_path)
    output = "every problem with its file, line and flag, and close names; or a checked configuration"
    seen("anything as configuration or flags", "hypothesis: files, values and command lines", output, 4 * 400 + 100, 2)


def test_some_files_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_fuzz(40, tmp_path)


def test_cut_and_flipped_configurations(tmp_path: Path) -> None:
    """A config.yaml that was damaged is a configuration still, or refused with its name."""
    content = to_yaml(Config(env="simple")).encode()
    own = tmp_path / "own.yaml"
    for size in range(0, len(content), 37):
        text = outcome_of_file(write(own, content[:size]))
        assert text == "fine" or str(own) in text
    for position in range(0, len(content), 41):
        broken = bytearray(content)
        broken[position] ^= 1 << (position % 8)
        text = outcome_of_file(write(own, bytes(broken)))
        assert text == "fine" or str(own) in text or "--help lists every setting" in text


def test_a_harmful_file_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "harm"
    for text in (
        f"seed: !!python/object/apply:os.system ['touch {marker}']\n",
        f"!!python/object/new:os.system [touch {marker}]\n",
        f"env_args: {{a: !!python/object/apply:subprocess.check_output [[touch, {marker}]]}}\n",
    ):
        own = write(tmp_path / "own.yaml", text.encode())
        assert f"{own}: line 1: the tag !!python/object" in outcome(["--env", "simple", "--config", str(own)])
    own = write(tmp_path / "bomb.yaml", b"a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n")
    assert "an alias (*name); write the value out" in outcome(["--env", "simple", "--config", str(own)])
    assert not marker.exists()


# ------------------------------------------------------------------ the real program
def program(*arguments: str, optimised: bool = False, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, *(["-O"] if optimised else []), str(REPOSITORY / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_run_py_refuses_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = program("--env", "simple", "--maddpg.gamma", "1.5", "--device", "nonsense", "--run-dir", str(tmp_path / "x"))
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: 2 problems:\n") and "expected a number from 0 to 1" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.fault
def test_python_o_keeps_every_check(tmp_path: Path, seen: Callable) -> None:
    """Guard: seen failing with a range checked by `assert`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-O", str(HERE / "fault_optimised_child.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.split()[-1] == "refused", done.stdout + done.stderr
    done = program("--env", "simpl", "--seed", "-1", optimised=True)
    assert done.returncode == 2
    seen("`python -O`", "every refusal once more without `assert`", done.stderr, times=15, code=2)
