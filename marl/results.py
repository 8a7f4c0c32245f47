"""Records of what was measured: frozen dataclasses, each with one form as JSON.

A record's fields are the keys of its JSON object, in the same order. A field's metadata says where the two differ:

    returns: Mapping[str, Estimate] = field(metadata=key("return"))            another name
    usage: Usage = field(metadata=INLINE)                                      its keys stand among those of the record
    crypto: Secrecy | None = field(default=None, metadata=LEFT_OUT)            no key where it is None
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

_KEY, _INLINE, _LEFT_OUT = "key", "inline", "left out"
INLINE = {_INLINE: True}
LEFT_OUT = {_LEFT_OUT: True}


def key(name: str) -> dict[str, str]:
    """Metadata of a field whose JSON key is `name`, such as one that Python reserves."""
    return {_KEY: name}


class Record:
    """Base of the frozen dataclasses that hold results."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object: dictionaries, lists, strings, numbers, booleans and None."""
        results: dict[str, Any] = {}
        for one in _fields(type(self)):
            value = getattr(self, one.name)
            if one.metadata.get(_INLINE):
                if value is not None:
                    results.update(value.to_json())
            elif value is not None or not one.metadata.get(_LEFT_OUT):
                results[_key(one)] = _plain(value)
        return results

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The record that `to_json` gave `data` of; unknown keys are ignored, missing ones take the field's default.

        Raises:
            ValueError: a key is missing whose field has no default, or a value is of another kind.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object with the fields of {cls.__name__}, got {type(data).__name__}")
        hints, given = get_type_hints(cls), {}
        for one in _fields(cls):
            if one.metadata.get(_INLINE):
                absent = type(None) in get_args(hints[one.name]) and not _begins(hints[one.name], data)
                given[one.name] = None if absent else _read(hints[one.name], data, one.name)
            elif _key(one) in data:
                given[one.name] = _read(hints[one.name], data[_key(one)], _key(one))
            elif one.metadata.get(_LEFT_OUT):
                given[one.name] = None
            elif one.default is MISSING and one.default_factory is MISSING:
                raise ValueError(f"{cls.__name__} without {_key(one)!r}")
        return cls(**given)


def _fields(kind: type[Record]) -> tuple[Field[Any], ...]:
    return fields(kind)  # type: ignore[arg-type]  # every subclass is a dataclass


def _key(one: Field[Any]) -> str:
    name: str = one.metadata.get(_KEY, one.name)
    return name


def _begins(kind: Any, data: Mapping[str, Any]) -> bool:
    """Whether the object holds the first key of an optional record, whose keys stand among those of another."""
    record = next(one for one in get_args(kind) if one is not type(None))
    return _key(_fields(record)[0]) in data


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _read(kind: Any, value: Any, place: str) -> Any:
    """The value of a field annotated with `kind`, from JSON; `place` names it in a fault."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _first(inner, value, place)
    if origin is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(_read(one, entry, place) for one, entry in zip(kinds, value, strict=True))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: _read(inner[1], one, f"{place}.{name}") for name, one in value.items()}
    elif kind is Any or (isinstance(kind, type) and _is(kind, value)):
        return value
    elif isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_json(value)
    raise ValueError(f"{place}: expected {kind}, got {value!r:.60}")


def _first(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    """The value as the first of several kinds that it fits."""
    faults = []
    for kind in kinds:
        try:
            return _read(kind, value, place)
        except ValueError as error:
            faults.append(str(error))
    raise ValueError("; ".join(faults))


def _is(kind: type, value: Any) -> bool:
    """Whether a JSON value is of a plain kind; a whole number will do where a float is expected."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
