"""The command line: one flag for every setting, made from the configuration's dataclasses and shown by tyro.

tyro splits the words and prints `--help`; every flag takes its words as plain text, so that the conversion and the
messages are the same for flags and files, and all faults can be told at once.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from marl.config.fields import Setting, groups, range_words, settings
from marl.config.suggest import suggestions

SHORT = {"--from": "--from-run", "--opponents": "--opponents.kind"}
"""Flags by which settings of another name are given: `from` is Python's word, and `opponents` a group."""
_ABSENT = ("\0",)  # no argument of a process can hold a NUL
_NUL_FREE = "an argument holds a NUL character; expected plain text."


@dataclass(frozen=True)
class RunFlag:
    """A flag beside those of the settings."""

    name: str
    metavar: str
    doc: str


RUN_FLAGS = (
    RunFlag("config", "FILE", "YAML file of settings; what the command line gives overrides it."),
    RunFlag("resume", "DIR", "Continue the run in this directory, exactly where its newest checkpoint is."),
    RunFlag(
        "resume_environment",
        "{replay,fresh}",
        "With --resume: replay the running episodes to go on exactly (the default), or begin fresh ones, for an "
        "environment that is no function of its seed.",
    ),
    RunFlag("debug", "", "Show Python's traceback when something fails."),
)


@dataclass
class Words:
    """A command line, split."""

    given: dict[str, list[str]] = field(default_factory=dict)  # "maddpg.gamma" or "config" -> its words
    problems: list[str] = field(default_factory=list)


def split(argv: list[str], cls: type, program: str, description: str) -> Words:
    """Split a command line into the words of each flag; `--help` prints and raises SystemExit(0).

    Args:
        argv: the arguments, without the program's name.
        cls: the configuration's dataclass.
        program: shown in the usage line.
        description: shown above the flags.
    """
    known = settings(cls)
    if any("\0" in word for word in argv):
        return Words(problems=[_NUL_FREE])
    ready = _together([word for token in argv for word in _positive(token, known)], known)
    shape = _shape(cls, "")
    parsed, rest = tyro.cli(shape, prog=program, description=description, args=ready, return_unknown_args=True)
    words = Words()
    for name in [*known, *(flag.name for flag in RUN_FLAGS)]:
        value: Any = parsed
        for part in name.split("."):
            value = getattr(value, part)
        if tuple(value) != _ABSENT:
            words.given[name] = list(value)
    words.problems += _unknown(rest, [*known, *(flag.name for flag in RUN_FLAGS)])
    return words


def _positive(token: str, known: dict[str, Setting]) -> list[str]:
    """`--no-world-model` and `--maddpg.no-layer-norm` as their flag and `false`; names of `SHORT` in full."""
    if not token.startswith("--"):
        return [token]
    flag, equals, value = token.partition("=")
    if flag in SHORT:
        return [SHORT[flag] + equals + value]
    *group, last = token[2:].replace("-", "_").split(".")
    if group and group[0].startswith("no_"):
        group[0], last = group[0].removeprefix("no_"), "no_" + last
    name = ".".join([*group, last.removeprefix("no_")])
    if last.startswith("no_") and name in known and known[name].kind is bool:
        return [known[name].flag, "false"]
    return [token]


def _together(words: list[str], known: dict[str, Setting]) -> list[str]:
    """The same words, but a flag of NAME=VALUE pairs that is given again adds its pairs to the first one's."""
    current: list[str] = []
    parts, of_pairs = [current], dict[str, list[str]]()  # a flag and its words each
    for word in words:
        if not word.startswith("--"):
            current.append(word)
            continue
        flag, equals, pair = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in known or typing.get_origin(_bare(known[name].kind)) is not dict:
            current = [word]
            parts.append(current)
            continue
        if name not in of_pairs:
            of_pairs[name] = [flag]
            parts.append(of_pairs[name])
        current = of_pairs[name]
        current += [pair] if equals else []
    return [word for part in parts for word in part]


def _unknown(rest: list[str], names: list[str]) -> list[str]:
    """A problem for every flag that there is not; the words that follow one are taken for its value."""
    problems, after_flag = [], False
    for word in rest:
        is_flag = word.startswith("-") and word != "-"
        if is_flag:
            meant = suggestions(word.split("=")[0].lstrip("-").replace("-", "_"), names)
            flags = ["--" + name.replace("_", "-") for name in meant]
            hint = f" Did you mean {' or '.join(map(repr, flags))}?" if flags else ""
            problems.append(f"{word.split('=')[0][:60]}: there is no such flag.{hint}")
        elif not after_flag:
            problems.append(f"{word[:60]!r}: expected a flag that begins with --.")
        after_flag = is_flag or after_flag
    return problems


# ------------------------------------------------------------------ what tyro is shown
@lru_cache(maxsize=64)
def _shape(cls: type, prefix: str) -> Any:
    """A dataclass of the same nesting as `cls` in which every setting is a tuple of words."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for name in (entry.name for entry in dataclasses.fields(cls)):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(hints[name]):
            inner = _shape(typing.cast(type, hints[name]), f"{prefix}{name}.")
            # With its help beside it, tyro need not look for one in the source, which takes it longer than all else.
            own = dataclasses.field(default_factory=inner, metadata={"help": inner.__doc__})
            fields.append((name, inner, own))
    flat = [
        (name, _leaf(_metavar(setting.kind), setting.doc, _hint(setting, prefix)), _default())
        for name, setting in settings(cls).items()
        if "." not in name
    ]
    if not prefix:
        flat[1:1] = [(flag.name, _leaf(flag.metavar, flag.doc, ""), _default()) for flag in RUN_FLAGS]
    shape = dataclasses.make_dataclass(cls.__name__, [*flat, *fields])
    shape.__doc__ = groups(cls)[""].doc
    return shape


def _default() -> Any:
    return dataclasses.field(default=_ABSENT)


def _leaf(metavar: str, doc: str, hint: str) -> Any:
    """Any number of words, as a tuple. To check the default of a `tuple` tyro would import typeguard, and asyncio with
    it; an `object` needs no check."""
    words = PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=tuple,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    )
    return Annotated[object, words, tyro.conf.arg(metavar=metavar, help=doc, help_behavior_hint=hint)]


def _bare(kind: Any) -> Any:
    """The annotation without its range."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _metavar(kind: Any) -> str:
    base = _bare(kind)
    origin, arguments = typing.get_origin(base), typing.get_args(base)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        return _metavar(arguments[0]) + " ..."
    if origin is dict:
        return "NAME=VALUE ..."
    if type(None) in arguments:
        return _metavar(next(option for option in arguments if option is not type(None)))
    return {bool: "", int: "INT", float: "NUMBER", str: "TEXT"}[base]


def _hint(setting: Setting, prefix: str) -> str:
    """(default: 0.95; from 0 to 1)"""
    value = setting.default
    if setting.kind is bool:
        off = f"--{prefix}no-{setting.name}".replace("_", "-")
        return f"(default: on; {off} turns it off)" if value else "(default: off)"
    if value in (None, "", {}):
        words = "unset"
    else:
        words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    limits = range_words(setting.kind)
    return f"(default: {words}; {limits})" if limits else f"(default: {words})"
