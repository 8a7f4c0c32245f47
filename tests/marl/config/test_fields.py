"""marl/config/fields.py: a flat view of configuration dataclasses, and conversion of values by their annotations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from marl.config.fields import (
    Mismatch,
    convert,
    convert_words,
    expected,
    flatten,
    groups,
    settings,
    to_dict,
    with_values,
)
from marl.config.ranges import Range
from marl.config.schema import Config


def test_every_field_has_a_docstring_and_a_default_that_fits_its_own_annotation() -> None:
    for name, setting in settings(Config).items():
        assert setting.doc, f"{name} has no docstring"
        assert convert(setting.kind, setting.default) == setting.default, name
    for name, group in groups(Config).items():
        assert group.doc, f"{name} has no docstring"


def test_names_follow_the_nesting() -> None:
    names = list(settings(Config))
    assert names[0] == "env" and "maddpg.actor_lr" in names and "maddpg" not in names
    assert settings(Config)["maddpg.actor_lr"].flag == "--maddpg.actor-lr"
    assert set(flatten(Config())) == set(names)


def test_with_values_replaces_nested_ones_only() -> None:
    changed = with_values(Config(), {"maddpg.gamma": 0.5, "seed": 3})
    assert (changed.maddpg.gamma, changed.seed) == (0.5, 3)
    assert with_values(changed, {"maddpg.gamma": Config().maddpg.gamma, "seed": 0}) == Config()


def test_to_dict_is_plain() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        sizes: tuple[int, ...] = (1, 2)

    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Inner = dataclasses.field(default_factory=Inner)
        args: dict[str, Any] = dataclasses.field(default_factory=lambda: {"x": (1,)})

    assert to_dict(Outer()) == {"inner": {"sizes": [1, 2]}, "args": {"x": [1]}}


Share = Annotated[float, Range(0.0, 1.0)]
Above = Annotated[float, Range(0.0, above=True)]


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        (bool, True, True),
        (int, 3, 3),
        (int, 1e6, 1_000_000),
        (int, np.int64(5), 5),
        (float, 1, 1.0),
        (float, np.float32(0.5), 0.5),
        (str, "x", "x"),
        (str, Path("a/b"), "a/b"),
        (Share, 1, 1.0),
        (Share | None, None, None),
        (Literal["a", "b"] | None, "b", "b"),
        (tuple[Annotated[int, Range(1)], ...], [64, 64.0], (64, 64)),
        (tuple[int, ...], [], ()),
        (dict[str, Any], {"N": [1]}, {"N": [1]}),
        (dict[str, Share], {"a": 1}, {"a": 1.0}),
    ],
)
def test_convert(kind: Any, value: Any, result: Any) -> None:
    got = convert(kind, value)
    assert got == result and type(got) is type(result)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (bool, "yes", "got 'yes'; expected true or false"),
        (bool, 1, "got 1; expected true or false"),
        (int, True, "got true; expected a whole number"),
        (int, 1.5, "got 1.5; expected a whole number"),
        (int, float("inf"), "got inf; expected a whole number"),
        (float, float("nan"), "got nan; expected a number"),
        (float, 10**400, "expected a number"),
        (float, "1e-2", "got '1e-2'; expected a number"),
        (str, 5, "got 5; expected text"),
        (Share, 1.5, "got 1.5; expected a number from 0 to 1"),
        (Above, 0.0, "got 0.0; expected a number, above 0"),
        (Annotated[int, Range(1)], 0, "got 0; expected a whole number, at least 1"),
        (Annotated[float, Range(0, 1, above=True)], 0, "expected a number, above 0 and up to 1"),
        (Annotated[int, Range(None, 5)], 6, "expected a whole number, at most 5"),
        (Share | None, 2, "got 2; expected a number from 0 to 1 or null"),
        (Literal["replay", "current"], "replai", "expected one of replay, current. Did you mean 'replay'?"),
        (tuple[int, ...], 64, "got 64; expected a list, each entry a whole number"),
        (tuple[Annotated[int, Range(1)], ...], [64, 0], "got 0; expected a whole number, at least 1"),
        (dict[str, Any], [1], "got [1]; expected NAME: VALUE pairs"),
        (dict[str, Any], {1: 2}, "expected NAME: VALUE pairs"),
        (dict[str, Any], {"f": {"g": [object]}}, "got <class 'object'>; expected numbers, text, true, false or null"),
        (dict[str, Share], {"a": 2}, "got 2; expected a number from 0 to 1"),
        (dict[str, Share], 2, "got 2; expected NAME: VALUE pairs, each value a number from 0 to 1"),
        (int, "x" * 500, "...; expected a whole number"),
    ],
)
def test_mismatch(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(Mismatch) as caught:
        convert(kind, value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("kind", "given", "result"),
    [
        (bool, [], True),
        (bool, ["false"], False),
        (int, ["1e6"], 1_000_000),
        (float, ["1e-2"], 0.01),
        (str, ["012"], "012"),
        (str | None, ["none"], None),
        (Share | None, ["null"], None),
        (Literal["a", "b"] | None, ["a"], "a"),
        (tuple[int, ...], ["64", "32"], (64, 32)),
        (tuple[int, ...], ["64,32"], (64, 32)),
        (dict[str, Any], ["N=5", "r=0.2", "s=x=y", "l=[1, 2]", "b=true"],
         {"N": 5, "r": 0.2, "s": "x=y", "l": [1, 2], "b": True}),
        (dict[str, Share], ["player-1=0.5", "2=1"], {"player-1": 0.5, "2": 1.0}),
    ],
)  # fmt: skip
def test_convert_words(kind: Any, given: list[str], result: Any) -> None:
    assert convert_words(kind, given) == result


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (int, [], "has no value; expected a whole number"),
        (int, ["1", "2"], "got 2 values ('1 2'); expected a whole number"),
        (int, [""], "expected a whole number"),
        (bool, ["maybe"], "got 'maybe'; expected true or false"),
        (dict[str, Any], ["N"], "got 'N'; expected NAME=VALUE"),
        (dict[str, Share], ["a=b"], "got 'b'; expected a number from 0 to 1"),
        (dict[str, Any], ["N=1", "N=2"], "gives N twice"),
        (dict[str, Any], ["N=[1"], "not valid YAML"),
        (dict[str, Any], ["9=1"], "expected NAME=VALUE, as in N=5"),
        (dict[str, Share], ["=1"], "expected NAME=VALUE, as in speaker_0=0.1"),
    ],
)
def test_words_that_do_not_fit(kind: Any, given: list[str], words: str) -> None:
    with pytest.raises(Mismatch) as caught:
        convert_words(kind, given)
    assert words in str(caught.value)


def test_expected_says_what_a_list_of_numbers_wants() -> None:
    assert expected(tuple[Annotated[int, Range(1)], ...]) == "a list, each entry a whole number, at least 1"
