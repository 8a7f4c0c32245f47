"""marl/config/resolve.py: what a configuration becomes in YAML or plain data comes back as it was."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.cli.parse import parse
from marl.config.fields import settings as all_settings
from marl.config.fields import with_values
from marl.config.ranges import Range
from marl.config.resolve import from_dict, to_dict, to_yaml
from marl.config.schema import Config
from marl.config.yaml12 import read
from marl.errors import UserError


def fitting(name: str) -> st.SearchStrategy:
    """Values that fit a setting, from its default and its range."""
    setting = all_settings(Config)[name]
    default = setting.default
    if isinstance(default, bool):
        return st.booleans()
    extras = getattr(setting.kind, "__metadata__", ())
    limits = next((extra for extra in extras if isinstance(extra, Range)), Range())
    if isinstance(default, float):
        return st.floats(max(0.001, limits.low or 0.0), min(1.0, limits.high or 1.0))
    if isinstance(default, int):
        return st.integers(max(2, int(limits.low or 0)), int(limits.high or 10**12))
    if isinstance(default, tuple):
        of = typing.get_args(setting.kind)[0]
        names = typing.get_args(of) if typing.get_origin(of) is typing.Literal else ()
        return st.lists(st.sampled_from(names) if names else st.integers(1, 512), max_size=3).map(tuple)
    if isinstance(default, dict):
        free = typing.get_args(setting.kind)[1] is Any  # else shares
        values = st.integers() | st.text(max_size=5) if free else st.floats(0.0, 1.0)
        return st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=2)
    return st.just(default)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_yaml_and_dict_round_trips(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(list(all_settings(Config))), max_size=6, unique=True))
    config = with_values(Config(), {name: data.draw(fitting(name)) for name in names})
    config = dataclasses.replace(config, workers=0, rebuild=False, num_envs=1, total_steps=10**12)
    config = with_values(config, {"maddpg.batch_size": 1})
    config = with_values(config, {"maddpg.recurrent": False})  # which asks for larger batches
    config = with_values(config, {"population": 1, "other_play": False, "channel": "gumbel"})  # which exclude others
    if config.world_model:  # which excludes several frames
        config = with_values(config, {"maddpg.frames": 1})
    assert from_dict(to_dict(config)) == config
    assert from_dict(yaml.safe_load(to_yaml(config))) == config


def test_text_survives_yaml(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "Läufe: #1 'a' \u0085\u2028")
    own = tmp_path / "own.yaml"
    own.write_text(to_yaml(Config(env="simple", run_dir=run_dir)))
    assert parse(["--config", str(own)]).config.run_dir == run_dir


@pytest.mark.parametrize(
    "text", ["1e-3", "012", "1_000", ".5", "true", "null", "~", "yes", "0x10", "3:25", "2026-01-01"]
)
def test_text_that_looks_like_something_else_survives(tmp_path: Path, text: str) -> None:
    """By YAML 1.2's rules, which read what is written here, and by YAML 1.1's, which other tools read by.

    Guard: seen failing with PyYAML's own rules: 1e-3 came back as a number, and the run could not be resumed.
    """
    config = Config(env="my_module:make", run_dir=text, from_run=text, env_args={text: [text]})
    own = tmp_path / "own.yaml"
    own.write_text(to_yaml(config))
    assert read(own.read_text()).value == yaml.safe_load(own.read_text()) == to_dict(config)


def test_only_plain_values_become_a_configuration() -> None:
    """Guard: seen failing with PyYAML's error, when the run directory was made already."""
    with pytest.raises(
        UserError, match=r"env_args: got <built-in function len>; expected numbers, text, true, false or"
    ):
        from_dict({"env": "my_module:make", "backend": "pettingzoo", "env_args": {"f": [{"g": len}]}})
    plain = {"f": [{"g": (1, 2.5, None, True, "x")}]}
    assert from_dict({"env": "my_module:make", "backend": "pettingzoo", "env_args": plain}).env_args == plain
