"""The fields of a configuration dataclass as a flat list of settings: names, documentation, and conversion of values.

Generic over any frozen dataclass whose fields are bool, int, float, str, Literal, tuple[X, ...], dict[str, Any], an
optional of these, `Annotated` with a `Range`, or another such dataclass.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import os
import types
import typing
from functools import lru_cache
from typing import Any, Literal

from envs.field_docs import field_docs
from marl.config.ranges import Range
from marl.config.yaml12 import read, scalar
from marl.errors import did_you_mean


class Mismatch(Exception):
    """A value that does not fit its setting; the message is the "got ...; expected ..." of a sentence."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of the configuration."""

    name: str  # "maddpg.actor_lr"
    kind: Any  # its annotation
    default: Any
    doc: str  # its docstring in one line

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclasses.dataclass(frozen=True)
class Group:
    """A nested dataclass of the configuration; the name "" is the whole."""

    name: str
    doc: str


@lru_cache(maxsize=8)
def settings(cls: type) -> dict[str, Setting]:
    """Every setting of `cls`, nested ones as "group.field", in order."""
    results: dict[str, Setting] = {}
    for name, kind, default, doc in _fields(cls):
        if dataclasses.is_dataclass(kind):
            for inner in settings(typing.cast(type, kind)).values():
                results[f"{name}.{inner.name}"] = dataclasses.replace(inner, name=f"{name}.{inner.name}")
        else:
            results[name] = Setting(name, kind, default, doc)
    return results


@lru_cache(maxsize=8)
def groups(cls: type) -> dict[str, Group]:
    """The nested dataclasses of `cls` by their dotted names."""
    results = {"": Group("", inspect.getdoc(cls) or "")}
    for name, kind, _, _ in _fields(cls):
        if dataclasses.is_dataclass(kind):
            for inner in groups(typing.cast(type, kind)).values():
                full = f"{name}.{inner.name}" if inner.name else name
                results[full] = Group(full, inner.doc)
    return results


def _fields(cls: type) -> list[tuple[str, Any, Any, str]]:
    """(name, annotation, default, docstring) of every field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = field_docs(cls)
    rows = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        rows.append((field.name, hints[field.name], default, docs.get(field.name, "")))
    return rows


# ------------------------------------------------------------------ plain data
def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts of plain values; tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def flatten(config: Any) -> dict[str, Any]:
    """{"maddpg.gamma": 0.95, ...} of a configuration."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{field.name}.{inner}": entry for inner, entry in flatten(value).items()}
        else:
            flat[field.name] = value
    return flat


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """A copy of `config` in which the settings named in `values` are replaced."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        inner = {name[len(field.name) + 1 :]: v for name, v in values.items() if name.startswith(field.name + ".")}
        if inner:
            changes[field.name] = with_values(getattr(config, field.name), inner)
        elif field.name in values:
            changes[field.name] = values[field.name]
    return dataclasses.replace(config, **changes)


# ------------------------------------------------------------------ words
def _range_of(kind: Any) -> tuple[Any, Range]:
    """(annotation without its Range, the Range)."""
    if typing.get_origin(kind) is typing.Annotated:
        base, *extras = typing.get_args(kind)
        return base, next((extra for extra in extras if isinstance(extra, Range)), Range())
    return kind, Range()


def _is_optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _options(kind: Any) -> list[Any]:
    return [option for option in typing.get_args(kind) if option is not type(None)]


def range_words(kind: Any) -> str:
    """ "from 0 to 1", "above 0", "at least 1", or "" where every number is allowed."""
    base, limits = _range_of(kind)
    if _is_optional(base):
        return range_words(_options(base)[0])
    if typing.get_origin(base) is tuple:
        return range_words(typing.get_args(base)[0])
    low, high = limits.low, limits.high
    if low is not None and high is not None:
        return f"above {low:g} and up to {high:g}" if limits.above else f"from {low:g} to {high:g}"
    if low is not None:
        return f"above {low:g}" if limits.above else f"at least {low:g}"
    return "" if high is None else f"at most {high:g}"


def expected(kind: Any) -> str:
    """What a setting wants, in words."""
    base, _ = _range_of(kind)
    if _is_optional(base):
        return " or ".join([*(expected(option) for option in _options(base)), "null"])
    if typing.get_origin(base) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(base)))
    if typing.get_origin(base) is tuple:
        return "a list, each entry " + expected(typing.get_args(base)[0])
    if typing.get_origin(base) is dict:
        inner = typing.get_args(base)[1]
        return "NAME: VALUE pairs" + ("" if inner is Any else f", each value {expected(inner)}")
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    limits = range_words(kind)
    return f"{names[base]}{' ' if limits.startswith('from') else ', '}{limits}" if limits else names[base]


def shown(value: Any) -> str:
    """A value for a message: short, on one line."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------ conversion
def convert(kind: Any, value: Any) -> Any:
    """`value` (from YAML or Python) as the annotation `kind` wants it.

    Whole floats pass for ints (1e6 steps), ints for floats, lists for tuples, paths for text.

    Raises:
        Mismatch: another type, out of range, or none of the choices.
    """
    base, limits = _range_of(kind)
    if _is_optional(base):
        if value is None:
            return None
        try:
            return convert(_options(base)[0], value)
        except Mismatch as error:
            raise Mismatch(f"{error} or null") from None
    fitting = _fit(base, value)
    if fitting is not _NOTHING and _within(fitting, limits):
        return fitting
    hint = ""
    if typing.get_origin(base) is Literal and isinstance(value, str):
        close = did_you_mean(value, [str(choice) for choice in typing.get_args(base)])
        hint = f".{close}" if close else ""
    raise Mismatch(f"got {shown(value)}; expected {expected(kind)}{hint}")


_NOTHING = object()


def _fit(base: Any, value: Any) -> Any:
    """`value` as type `base`, or `_NOTHING`."""
    origin = typing.get_origin(base)
    if origin is Literal:
        return next((c for c in typing.get_args(base) if type(c) is type(value) and c == value), _NOTHING)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return _NOTHING
        inner = typing.get_args(base)[0]
        return tuple(convert(inner, entry) for entry in value)
    if origin is dict:
        if not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
            return _NOTHING
        inner = typing.get_args(base)[1]
        return {key: _storable(entry) if inner is Any else convert(inner, entry) for key, entry in value.items()}
    if base is bool:
        return value if isinstance(value, bool) else _NOTHING
    if base is str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        return text if isinstance(text, str) else _NOTHING
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return _NOTHING
    return _number(base, value)


def _storable(value: Any) -> Any:
    """`value`, of which a file can hold everything."""
    if type(value) in (list, tuple):
        return type(value)(map(_storable, value))
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _storable(entry) for key, entry in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise Mismatch(f"got {shown(value)}; expected numbers, text, true, false or null, in lists and mappings or alone")


def _number(base: type, value: Any) -> Any:
    try:
        if not math.isfinite(value):
            return _NOTHING
        if base is int:
            return int(value) if value == int(value) else _NOTHING
        return float(value)
    except (OverflowError, ValueError):
        return _NOTHING


def _within(value: Any, limits: Range) -> bool:
    if limits.low is not None and (value < limits.low or (limits.above and value == limits.low)):
        return False
    return limits.high is None or value <= limits.high


def convert_words(kind: Any, words: list[str]) -> Any:
    """The words after a flag as the annotation `kind` wants them.

    Raises:
        Mismatch: as `convert`; a missing value; more than one where one is wanted.
    """
    base, _ = _range_of(kind)
    inner = _range_of(_options(base)[0])[0] if _is_optional(base) else base
    if inner is bool and not words:
        return True
    if not words:
        raise Mismatch(f"has no value; expected {expected(kind)}")
    if _is_optional(base) and len(words) == 1 and words[0].lower() in ("null", "none"):
        return None
    origin = typing.get_origin(inner)
    if origin is dict:
        return convert(kind, _pairs(words, arguments=typing.get_args(inner)[1] is Any))
    if origin is tuple:
        separate = [part for word in words for part in word.split(",") if part]
        return convert(kind, [scalar(part) for part in separate])
    if len(words) > 1:
        raise Mismatch(f"got {len(words)} values ({shown(' '.join(words))}); expected {expected(kind)}")
    textual = inner is str or (origin is Literal and all(isinstance(c, str) for c in typing.get_args(inner)))
    return convert(kind, words[0] if textual else scalar(words[0]))


def _pairs(words: list[str], arguments: bool) -> dict[str, Any]:
    """NAME=VALUE words; names are those of arguments, else of agents, which may be any text."""
    results: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name and (name.isidentifier() or not arguments)):
            example = "N=5 local_ratio=0.2" if arguments else "speaker_0=0.1 listener_0=1"
            raise Mismatch(f"got {shown(word)}; expected NAME=VALUE, as in {example}")
        if name in results:
            raise Mismatch(f"gives {name} twice")
        if text[:1] in ("[", "{", '"', "'"):
            document = read(text)
            if document.problems:
                raise Mismatch(f"got {shown(word)}: {document.problems[0]}")
            results[name] = document.value
        else:
            results[name] = scalar(text)
    return results
