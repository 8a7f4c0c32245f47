"""marl/config/yaml12.py: what is read, what is refused, and in which words."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.config.yaml12 import read, scalar

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz_", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
@settings(max_examples=150, deadline=None)
def test_reads_back_what_pyyaml_dumps(value: object) -> None:
    document = read(yaml.safe_dump(value))
    # a name such as "yes" or "012" is quoted by PyYAML's older rules and plain by ours: text either way
    assert document.problems == []
    assert document.value == value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-2", 0.01),  # PyYAML's safe_load gives the text "1e-2"
        ("1e6", 1e6),
        ("1_000_000", 1_000_000),
        ("-3", -3),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("yes", "yes"),
        ("012", 12),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("simple_spread", "simple_spread"),
        (".inf", math.inf),
        ("e5", "e5"),
        (".", "."),
    ],
)
def test_scalars(word: str, value: object) -> None:
    for got in (scalar(word), read(f"key: {word}").value["key"]):
        assert got == value and type(got) is type(value)


def test_lines_are_those_of_the_keys() -> None:
    document = read("seed: 1\n\nmaddpg:\n  # about gamma\n  gamma: 1e-2\n")
    assert document.value == {"seed": 1, "maddpg": {"gamma": 0.01}}
    assert document.lines == {"seed": 1, "maddpg": 3, "maddpg.gamma": 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2\n", "line 2: seed is given twice, first in line 1"),
        ("maddpg:\n  tau: 1\n  tau: 1\n", "line 3: maddpg.tau is given twice, first in line 2"),
        ("maddpg:\n\tgamma: 1\n", "line 2: a tab; YAML wants spaces for indentation"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1: the tag !!python/object/apply:os.system is refused"),
        ("a: !!binary aGk=\n", "line 1: the tag !!binary is refused"),
        ("a: &x 1\nb: *x\n", "line 2: an alias"),
        ("1: 2\n", "line 1: the key 1 is no name"),
        ("? [a]\n: 2\n", "line 1: the key a list or mapping is no name"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML: but found another document"),
        ("a: \x07\n", "not valid YAML: special characters are not allowed"),
        ("[" * 5000, "is nested too deeply"),
        ("a: " + "x" * 2_000_000, "has 2000003 characters, which is no configuration"),
    ],
)
def test_refusals(text: str, words: str) -> None:
    assert any(words in problem for problem in read(text).problems), read(text).problems


def test_several_faults_of_one_file_are_told_together() -> None:
    problems = read("a: 1\na: 2\nb: !!set {x}\n3: 4\n").problems
    assert [problem.split(":")[0] for problem in problems] == ["line 2", "line 3", "line 4"]


def test_empty_and_comments_hold_nothing() -> None:
    assert read("").value is None and read("# only a comment\n").value is None
