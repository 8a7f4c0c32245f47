"""Records: their JSON key by key, back again, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from marl.results import INLINE, LEFT_OUT, Record, key


@dataclass(frozen=True)
class Point(Record):
    x: float
    y: float | None


@dataclass(frozen=True)
class Missing(Record):
    reason: str


@dataclass(frozen=True)
class Whole(Record):
    point: Point = field(metadata=INLINE)
    returns: Mapping[str, Point] = field(metadata=key("return"))
    table: tuple[tuple[int, ...], ...]
    span: tuple[float, float] | None
    either: Point | Missing
    names: tuple[str, ...] = ()
    extra: Missing | None = field(default=None, metadata=LEFT_OUT)
    inlined: Missing | None = field(default=None, metadata=INLINE)


def whole(**changes) -> Whole:
    values = {
        "point": Point(1.5, None), "returns": {"a": Point(0.0, 2.0)}, "table": ((1, 2), (3, 4)), "span": (0.0, 1.0),
        "either": Missing("no meaning"),
    }  # fmt: skip
    return Whole(**{**values, **changes})


def test_the_json_has_the_fields_keys_in_their_order() -> None:
    assert json.dumps(whole(names=("b",)).to_json()) == (
        '{"x": 1.5, "y": null, "return": {"a": {"x": 0.0, "y": 2.0}}, "table": [[1, 2], [3, 4]], "span": [0.0, 1.0], '
        '"either": {"reason": "no meaning"}, "names": ["b"]}'
    )
    given = whole(span=None, extra=Missing("e"), inlined=Missing("i")).to_json()
    assert list(given) == ["x", "y", "return", "table", "span", "either", "names", "extra", "reason"]
    assert given["span"] is None and given["extra"] == {"reason": "e"} and given["reason"] == "i"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"span": None},
        {"either": Point(1.0, 2.0)},
        {"extra": Missing("e")},
        {"table": (), "names": ("a", "b")},
        {"inlined": Missing("i")},
    ],
)
def test_what_is_written_is_read_back(changes) -> None:
    one = whole(**changes)
    assert Whole.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert Whole.from_json({**one.to_json(), "of a later version": 1}) == one


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": "1"}, "x: expected <class 'float'>, got '1'"),
        ({"x": True}, "x: expected <class 'float'>, got True"),
        ({"return": [1]}, "return: expected"),
        ({"return": {"a": {"x": 1.0}}}, "Point without 'y'"),
        ({"table": [[1.5]]}, "table: expected <class 'int'>, got 1.5"),
        ({"span": [0.0]}, "span: expected"),
        ({"either": {}}, "Point without 'x'; Missing without 'reason'"),
        ({"names": "ab"}, "names: expected"),
    ],
)
def test_what_does_not_fit_is_named(change, says) -> None:
    with pytest.raises(ValueError) as fault:
        Whole.from_json({**whole().to_json(), **change})
    assert says in str(fault.value)


def test_no_object_and_missing_keys() -> None:
    with pytest.raises(ValueError, match="expected an object with the fields of Point, got list"):
        Point.from_json([1.0, 2.0])
    with pytest.raises(ValueError, match="Whole without 'return'"):
        Whole.from_json({"x": 1.0, "y": None})
    assert Point.from_json({"x": 1, "y": 2}) == Point(1, 2), "a whole number is a float"


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Point(1.0, 2.0).x = 3.0  # type: ignore[misc]
