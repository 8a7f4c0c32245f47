"""Observation spaces as plain data: what a checkpoint stores of them, so that a policy reads without the environment.

Bounds of a Box are left out: reading does not need them, and those of an image are as large as the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces


def to_plain(space: spaces.Space[Any]) -> dict[str, Any]:
    """Lists, dicts, strings and numbers that JSON can hold; `from_plain` is the inverse.

    Raises:
        TypeError: a kind of space that has no fixed width.
    """
    match space:
        case spaces.Box():
            return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype)}
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "shape": list(space.shape)}
        case spaces.Text():
            size = {"min_length": int(space.min_length), "max_length": int(space.max_length)}
            return {"kind": "Text", **size, "charset": space.characters}
        case spaces.Tuple():
            return {"kind": "Tuple", "spaces": [to_plain(member) for member in space.spaces]}
        case spaces.OneOf():
            return {"kind": "OneOf", "spaces": [to_plain(member) for member in space.spaces]}
        case spaces.Dict():  # pairs: keys may be numbers, which the keys of a JSON object are not
            return {"kind": "Dict", "spaces": [[key, to_plain(member)] for key, member in space.spaces.items()]}
    raise TypeError(f"a {type(space).__name__} space has no plain form")


def boxes(plain: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The shapes of all boxes in a space of `to_plain`, however deep."""
    if plain["kind"] == "Box":
        return [tuple(plain["shape"])]
    members = [member[1] if plain["kind"] == "Dict" else member for member in plain.get("spaces", ())]
    return [shape for member in members for shape in boxes(member)]


def from_plain(plain: Mapping[str, Any]) -> spaces.Space[Any]:
    """The space that `to_plain` described; a Box has the widest bounds of its type.

    Raises:
        KeyError, TypeError, ValueError: `plain` is not of `to_plain`.
    """
    kind = plain["kind"]
    if kind == "Box":
        dtype = np.dtype(plain["dtype"])
        low, high = (0, 1) if dtype.kind == "b" else (-np.inf, np.inf)
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return spaces.Box(low, high, tuple(plain["shape"]), dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(plain["n"], start=plain["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(plain["nvec"]), start=np.array(plain["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(plain["shape"])
    if kind == "Text":
        return spaces.Text(plain["max_length"], min_length=plain["min_length"], charset=plain["charset"])
    if kind == "Dict":
        return spaces.Dict([(key, from_plain(member)) for key, member in plain["spaces"]])
    if kind in ("Tuple", "OneOf"):
        members = [from_plain(member) for member in plain["spaces"]]
        return spaces.Tuple(members) if kind == "Tuple" else spaces.OneOf(members)
    raise ValueError(f"no space is of the kind {kind!r}")
