"""Observations of any flattenable Gymnasium space as one row of numbers, and PettingZoo's action masks.

The numbers and their order are those of `gymnasium.spaces.utils.flatten`; unlike it, a value that does not belong to
its space is refused by name instead of being cast or read from the wrong end, and a row is written in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from envs.errors import UserError
from envs.pettingzoo.values import BadValue
from envs.pictures import Shape, shrunk

Writer = Callable[[Any, np.ndarray], None]  # writes a value of the space into a row of the space's width


class ObservationReader:
    """Writes an agent's observations as rows and separates the action mask from them.

    Args:
        space: the agent's observation space. A Dict with the key "action_mask" follows PettingZoo's convention: the
            mask is no part of the observation, and what is left is either the entry "observation" or a smaller Dict.
        agent: the agent's name, for messages.
        lenient: also take lists and numbers of any type, and rows that are flat already, as the loops of users hold.
        picture: (channels, height, width) to which the space's picture is shrunk; None: it is flattened as it is.

    Attributes:
        size: width of the flattened observation, without the mask.
        has_mask: whether the observation carries an action mask.
        bounds: float32 (low, high), each [size]: within which the space holds every number, infinite where nothing
            outside can be written.

    Raises:
        UserError: the space cannot be flattened to a fixed number of numbers.
    """

    def __init__(
        self, space: spaces.Space[Any], agent: str, lenient: bool = False, picture: Shape | None = None
    ) -> None:
        self.has_mask = isinstance(space, spaces.Dict) and "action_mask" in space.spaces
        self._only: str | None = None
        if isinstance(space, spaces.Dict) and self.has_mask:
            rest = {key: entry for key, entry in space.spaces.items() if key != "action_mask"}
            if not rest:
                raise UserError(f"the observation space of agent {agent!r} holds an action mask and nothing else.")
            if set(rest) == {"observation"}:
                self._only, space = "observation", rest["observation"]
            else:
                space = spaces.Dict(rest)
        if picture is not None:
            assert isinstance(space, spaces.Box)
            self.size = math.prod(picture)
            self.bounds = _unbounded(self.size)  # no byte is outside
            self._write = _picture_writer(space, picture, lenient)
            return
        self.size = _width(space, agent)
        self.bounds = _bounds(space)
        self._write = _lenient_writer(space, self.size) if lenient else _writer(space)

    def write(self, observation: Any, row: np.ndarray) -> Any:
        """Flatten `observation` into `row` [size]; return its action mask, or None where it carries none.

        Raises:
            BadValue: the observation does not have the structure, shape or dtype of its space.
        """
        mask = None
        if self.has_mask:
            if not isinstance(observation, Mapping) or "action_mask" not in observation:
                raise BadValue(f"expected a dict with the key 'action_mask', got {_show(observation)}")
            mask = observation["action_mask"]
            if self._only is not None:
                if self._only not in observation:
                    raise BadValue(f"expected a dict with the key {self._only!r}, got the keys {list(observation)}")
                observation = observation[self._only]
            else:
                observation = {key: entry for key, entry in observation.items() if key != "action_mask"}
        self._write(observation, row)
        return mask


class RowReader:
    """Takes observations that are rows of numbers already, of any number type and also as lists.

    Args:
        size: width of a row.
    """

    has_mask = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.bounds = _unbounded(size)

    def write(self, observation: Any, row: np.ndarray) -> None:
        """Copy an observation of `size` numbers into `row`.

        Raises:
            BadValue: another number of numbers, or none at all.
        """
        value = _numbers(observation)
        if value.size != self.size:
            raise BadValue(f"must have shape [{self.size}], got {list(value.shape)}")
        row[:] = value.reshape(-1)


def _numbers(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadValue(f"expected numbers, got {_show(value)} ({error})") from None
    if array.dtype.kind not in "biuf":
        raise BadValue(f"expected numbers, got {_show(value)}")
    return array


def _lenient_writer(space: spaces.Space[Any], size: int) -> Writer:
    strict = _writer(space, lenient=True)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return strict

    def write(value: Any, row: np.ndarray) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape == (size,):
            row[:] = value  # flat already: no element of such a space is an array of floats
        else:
            strict(value, row)

    return write


def _width(space: spaces.Space[Any], agent: str) -> int:
    try:
        size = flatdim(space)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"the observation space of agent {agent!r} cannot be flattened to a fixed number of values: {space}. "
            "Expected Box, Discrete, MultiDiscrete, MultiBinary, or Tuple and Dict of these; "
            "wrap the environment so that it returns one of them."
        ) from error
    if size < 1:
        raise UserError(f"the observation space of agent {agent!r} has no entries: {space}.")
    return size


# ----------------------------------------------------------------------- bounds
def _bounds(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(space, spaces.Box):
        low, high = _box_bound(space.low, -1), _box_bound(space.high, 1)
        return low, high
    if isinstance(space, spaces.MultiBinary):
        size = flatdim(space)
        return np.zeros(size, np.float32), np.ones(size, np.float32)
    if isinstance(space, spaces.Tuple | spaces.Dict):
        members = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        parts = [_bounds(member) for member in members]
        return np.concatenate([low for low, _ in parts]), np.concatenate([high for _, high in parts])
    return _unbounded(flatdim(space))  # its writer refuses what is no element


def _box_bound(bound: np.ndarray, sign: int) -> np.ndarray:
    """A bound of a Box as float32; infinite where it is that of the dtype, which the writer asks for already."""
    flat = bound.reshape(-1)
    with np.errstate(over="ignore"):
        result = flat.astype(np.float32)
    if flat.dtype.kind in "iu":
        limits = np.iinfo(flat.dtype)
        result[flat == (limits.max if sign > 0 else limits.min)] = sign * np.inf
    return result


def _unbounded(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)


# ---------------------------------------------------------------------- writers
def _writer(space: spaces.Space[Any], lenient: bool = False) -> Writer:
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return _number_writer(space) if lenient else _array_writer(space)
    if isinstance(space, spaces.Tuple):
        return _tuple_writer(space, lenient)
    if isinstance(space, spaces.Dict):
        return _dict_writer(space, lenient)

    def write(value: Any, row: np.ndarray) -> None:  # Discrete, MultiDiscrete and rarer ones: small, no need for speed
        if not space.contains(value):
            raise BadValue(f"expected an element of {space}, got {_show(value)}")
        row[:] = flatten(space, value)

    return write


def _array_writer(space: spaces.Box | spaces.MultiBinary) -> Writer:
    """Bounds are not checked here: all rows together cost less (`Copies`)."""
    shape, dtype = space.shape, np.dtype(space.dtype)
    flat = len(shape) == 1
    wide = dtype.kind == "f" and dtype.itemsize > 4  # may overflow float32; infinities are reported by the caller
    fits: dict[Any, bool] = {dtype: True}  # by dtype of an observation: Gymnasium's own rule of safe casts

    def write(value: Any, row: np.ndarray) -> None:
        if type(value) is not np.ndarray and not isinstance(value, np.ndarray | np.generic):
            raise BadValue(f"expected an array of {dtype} and shape {shape}, got {_show(value)}")
        if value.shape != shape:
            raise BadValue(f"expected shape {shape}, got shape {value.shape}")
        if value.dtype not in fits:
            fits[value.dtype] = bool(np.can_cast(value.dtype, dtype))
        if not fits[value.dtype]:
            raise BadValue(f"expected dtype {dtype}, got {value.dtype}: return it with .astype(np.{dtype})")
        if wide:
            with np.errstate(over="ignore"):
                row[:] = value.reshape(-1)
        else:
            row[:] = value if flat else value.reshape(-1)

    return write


def _number_writer(space: spaces.Box | spaces.MultiBinary) -> Writer:
    shape, size = space.shape, int(np.prod(space.shape))

    def write(value: Any, row: np.ndarray) -> None:
        array = _numbers(value)
        if array.shape != shape and array.shape != (size,):
            raise BadValue(f"must have shape {list(shape)}, got {list(array.shape)}")
        row[:] = array.reshape(-1)

    return write


def _picture_writer(space: spaces.Box, picture: Shape, lenient: bool) -> Writer:
    numbers, whole = np.empty(math.prod(space.shape)), np.empty(space.shape, np.uint8)
    read = (_number_writer if lenient else _array_writer)(space)

    def write(value: Any, row: np.ndarray) -> None:
        if type(value) is not np.ndarray or value.dtype != np.uint8 or value.shape != space.shape:
            read(value, numbers)  # refuses what is none of the space's
            wrong = ~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))
            if wrong.any():
                raise BadValue(f"expected bytes, whole numbers from 0 to 255, got {numbers[wrong][0]:g}")
            whole[:] = numbers.reshape(space.shape)
            value = whole
        row[:] = shrunk(value, picture).reshape(-1)

    return write


def _tuple_writer(space: spaces.Tuple[Any], lenient: bool) -> Writer:
    parts = _parts(dict(enumerate(space.spaces)), lenient)

    def write(value: Any, row: np.ndarray) -> None:
        if not isinstance(value, tuple | list) or len(value) != len(parts):
            raise BadValue(f"expected a tuple of {len(parts)} entries, got {_show(value)}")
        for (key, writer, where), entry in zip(parts, value, strict=True):
            _write_entry(writer, entry, row[where], f"entry {key}")

    return write


def _dict_writer(space: spaces.Dict, lenient: bool) -> Writer:
    parts = _parts(space.spaces, lenient)
    keys = set(space.spaces)

    def write(value: Any, row: np.ndarray) -> None:
        if not isinstance(value, Mapping) or value.keys() != keys:
            got = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else _show(value)
            raise BadValue(f"expected a dict with the keys {sorted(map(str, keys))}, got {got}")
        for key, writer, where in parts:
            _write_entry(writer, value[key], row[where], f"entry {key!r}")

    return write


def _parts(members: Mapping[Any, spaces.Space[Any]], lenient: bool) -> list[tuple[Any, Writer, slice]]:
    parts, start = [], 0
    for key, member in members.items():
        stop = start + flatdim(member)
        parts.append((key, _writer(member, lenient), slice(start, stop)))
        start = stop
    return parts


def _write_entry(writer: Writer, value: Any, row: np.ndarray, name: str) -> None:
    try:
        writer(value, row)
    except BadValue as fault:
        raise BadValue(f"{name}: {fault}") from None


def _show(value: Any) -> str:
    """Type, dtype and shape of a value, and the value itself where it is short."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


# ------------------------------------------------------------------------ masks
def mask_array(mask: Any, sizes: tuple[int, ...], multi_discrete: bool) -> np.ndarray:
    """An agent's action mask as one array; arguments as for `read_mask`.

    Raises:
        BadValue: a list or tuple that is not one mask, or, of a MultiDiscrete, one mask for each of its heads.
    """
    try:
        parts = [np.asarray(part) for part in mask] if multi_discrete and isinstance(mask, tuple | list) else []
        if not any(part.ndim for part in parts):
            return np.asarray(mask)
    except ValueError:
        raise BadValue(f"expected an action mask of zeros and ones (int8 or bool), got {_show(mask)}") from None
    if [part.shape for part in parts] != [(size,) for size in sizes]:
        shapes = [part.shape for part in parts]
        raise BadValue(
            f"expected one action mask for each of the heads of sizes {list(sizes)}, got the shapes {shapes}"
        )
    return np.concatenate(parts)


def read_mask(mask: Any, sizes: tuple[int, ...], multi_discrete: bool, rows_HK: np.ndarray) -> bool:
    """Write an agent's action mask as one row of allowed choices a head; whether it allows anything.

    Args:
        mask: zeros and ones (or bool): `[n]` over the joint choices of a Discrete(n), first head fastest; for a
            MultiDiscrete the heads' masks one after the other, in one array or, as `MultiDiscrete.sample` takes
            them, in a tuple or list of arrays.
        sizes: choices of every head.
        multi_discrete: which of the two layouts.
        rows_HK: bool [H, K], written in place; entries beyond an agent's own heads and choices become False.

    An agent that may choose nothing (a mask of zeros: it is not its turn) is given choice 0 of every head, so that a
    policy always has a choice and a critic sees a constant.

    Raises:
        BadValue: wrong length or dtype, values other than 0 and 1, one of several heads without a choice, or a mask
            over joint choices that is not a product of masks of the heads.
    """
    mask = mask_array(mask, sizes, multi_discrete)
    count = sum(sizes) if multi_discrete else int(np.prod(sizes))
    if mask.shape != (count,):
        raise BadValue(f"expected an action mask of shape {(count,)}, got shape {mask.shape}")
    if mask.dtype.kind not in "bui" or (mask.dtype.kind != "b" and bool(((mask != 0) & (mask != 1)).any())):
        raise BadValue(f"expected an action mask of zeros and ones (int8 or bool), got {_show(mask)}")
    allowed = mask.astype(bool)
    rows_HK[:] = False
    if not allowed.any():
        rows_HK[: len(sizes), 0] = True
        return False
    if multi_discrete:
        start = 0
        for h, size in enumerate(sizes):
            rows_HK[h, :size] = allowed[start : start + size]
            start += size
            if not rows_HK[h].any():
                raise BadValue(f"the action mask allows no choice of head {h}, but choices of other heads")
        return True
    grid = allowed.reshape(sizes[::-1])  # the first head runs fastest: the last axis
    axes = range(len(sizes))
    for h, size in enumerate(sizes):
        rows_HK[h, :size] = grid.any(axis=tuple(a for a in axes if a != len(sizes) - 1 - h))
    if len(sizes) > 1:
        product = rows_HK[0, : sizes[0]]
        for h in range(1, len(sizes)):
            product = rows_HK[h, : sizes[h]][(...,) + (None,) * h] & product
        if not bool((product == grid).all()):
            raise BadValue(
                f"the action mask over {count} joint choices is not a product of one mask for each of the heads of "
                f"sizes {list(sizes)}; leave this agent's action as one head"
            )
    return True
