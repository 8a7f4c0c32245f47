"""envs/commands.py: options as typed, help that reads, and words and an exit code for every end of a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from envs.commands import Answer, ended, explain, parse, run
from envs.errors import EnvFailure, UserError


@dataclass(frozen=True)
class Base:
    """What several commands share."""

    episodes: int = 100
    """How many are played."""


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """Does something.

      python -m something RUN --seed 3

    And says so.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Where it lies."""
    seed: int = 0
    """Of the episodes."""
    others: Annotated[tuple[Path, ...], arg(name="with", metavar="RUN ...")] = ()
    """More of them."""
    replicas: Annotated[tuple[int, ...] | None, arg(metavar="I ...")] = None
    """Which."""
    sampled: bool = False
    """Sample every choice, of every agent of every replica, at every step of every
    episode."""
    figures: bool = True
    """Draw."""
    kind: Literal["big", "small"] = "big"
    """How large."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Numbers go here."""


def test_every_kind_of_option_arrives_as_its_type() -> None:
    words = ["r", "--episodes", "1e3", "--seed", "-5", "--with", "a", "b", "--replicas", "0", "2", "--sampled",
             "--no-figures", "--kind", "small", "--json=None"]  # fmt: skip
    got = parse(Options, "x", words)
    assert isinstance(got, Options)
    assert (got.episodes, got.run, got.seed, got.others) == (1000, Path("r"), -5, (Path("a"), Path("b")))
    assert (got.replicas, got.sampled, got.figures, got.kind, got.json) == ((0, 2), True, False, "small", Path("None"))
    plain = parse(Options, "x", ["r"])
    assert {name: getattr(plain, name) for name in vars(Options(run=Path("r")))} == vars(Options(run=Path("r")))
    assert plain.debug is False and parse(Options, "x", ["r", "--debug"]).debug is True  # type: ignore[attr-defined]


def test_help_says_what_happens_where_nothing_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Options, "python -m x", ["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "usage: python -m x",
        "python -m something RUN --seed 3 And says so.",
        "Where it lies. (required)",
        "How many are played. (default: 100)",
        "Of the episodes. (default: 0)",
        "--with RUN ... More of them.",
        "Draw. (default: on)",
        "--sampled Sample every choice,",
        "--json FILE Numbers go here. --debug",
    ):
        assert words in text
    assert "None" not in text and "False" not in text


def test_help_is_broken_where_the_terminal_ends_not_where_the_source_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(Options, "x", ["--help"])
    rows = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    at = next(i for i, row in enumerate(rows) if "Sample every choice" in row)
    assert rows[at + 1] == "at every step of every episode.", rows[at : at + 3]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["r", "--epsiodes", "3"], "--episodes INT"),
        (["r", "--episodes", "x"], "got 'x'; expected a whole number"),
        (["r", "--episodes", "1.5"], "got '1.5'; expected a whole number"),
        (["r", "--replicas", "x"], "got 'x'; expected a whole number"),
        (["r", "--kind", "huge"], "small"),
        ([], "RUN"),
        (["r", "more"], "more"),
        (["r", "--seed"], "--seed"),
    ],
)
def test_a_fault_of_the_words_is_two_and_said(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options, lambda options: pytest.fail("ran"), "python -m x", words) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == "" and "Traceback" not in captured.err


def raises(error: BaseException) -> str:
    raise error


FAILURE = EnvFailure("boom", env_id="e", row=0, seed=1, episode=2, step=3, actions=None, trace="inside the env")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("got 3; expected 4"), 2, "error: got 3; expected 4\n"),
        (FAILURE, 1, "failed: environment 'e' failed: boom."),
        (MemoryError(), 2, "error: out of memory."),
        (ZeroDivisionError("by zero"), 1, "failed: unexpected ZeroDivisionError in test_command_line.py, line "),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_end_has_its_words_and_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(lambda: raises(error)) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(says) and captured.out == ""
    assert "Traceback" not in captured.err and "inside the env" not in captured.err


def test_debug_shows_the_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options, lambda options: raises(FAILURE), "x", ["r", "--debug"]) == 1
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text and text.rstrip().endswith("inside the env")


def test_an_answer_brings_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Options, lambda options: str(options.run), "x", ["r"]) == 0
    assert run(Options, lambda options: Answer("breaches", 2), "x", ["r"]) == 2
    assert capsys.readouterr().out == "r\nbreaches\n"


def test_how_to_go_on_is_said_only_where_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(UserError("bad"), after=lambda: pytest.fail("asked")) == 2
    assert explain(RuntimeError("x"), failed="the run failed", after=lambda: "Resume.") == 1
    assert "the run failed: unexpected RuntimeError" in (text := capsys.readouterr().err) and text.endswith("Resume.\n")
