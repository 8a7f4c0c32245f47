"""Observations as rows: against gymnasium.spaces.utils.flatten; masks by heads: against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import UserError
from envs.pettingzoo.flatten import ObservationReader, read_mask
from envs.pettingzoo.values import BadValue

LEAVES = st.one_of(
    st.builds(
        lambda shape, dtype: spaces.Box(0, 100, shape, dtype),
        st.lists(st.integers(1, 3), max_size=3).map(tuple),
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
    ),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.just(spaces.Text(4)),
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(space=SPACES, seed=st.integers(0, 1000))
def test_rows_are_those_of_gymnasium(space, seed):
    space.seed(seed)
    reader = ObservationReader(space, "a")
    value = space.sample()
    row = np.full(reader.size, np.nan)
    assert reader.size == flatdim(space)
    assert reader.write(value, row) is None
    np.testing.assert_array_equal(row, np.asarray(flatten(space, value), np.float64))


def test_the_mask_is_no_part_of_the_observation():
    only = spaces.Dict({"observation": spaces.Box(0, 1, (2, 2)), "action_mask": spaces.MultiBinary(3)})
    reader = ObservationReader(only, "a")
    row = np.zeros(4, np.float32)
    mask = reader.write({"observation": np.eye(2, dtype=np.float32), "action_mask": np.ones(3, np.int8)}, row)
    assert reader.has_mask and row.tolist() == [1, 0, 0, 1] and mask.tolist() == [1, 1, 1]
    more = spaces.Dict({"own": spaces.Discrete(2), "rest": spaces.Discrete(2), "action_mask": spaces.MultiBinary(3)})
    reader = ObservationReader(more, "a")
    assert reader.write({"own": 0, "rest": 1, "action_mask": 7}, row) == 7 and row.tolist() == [1, 0, 0, 1]


BOX = spaces.Box(0, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (BOX, np.zeros(3, np.float32), r"shape \(2,\), got shape \(3,\)"),
        (BOX, np.zeros((1, 2), np.float32), r"shape \(2,\), got shape \(1, 2\)"),
        (BOX, np.zeros(2), r"float32, got float64: return it with .astype\(np.float32\)"),
        (BOX, np.array(["a", "b"]), "float32, got <U1"),
        (BOX, [0.0, 1.0], "array of float32"),
        (BOX, None, "got NoneType None"),
        (spaces.Discrete(3), 3, "got int 3"),
        (spaces.Discrete(3), -1, "got int -1"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "an element of MultiDiscrete"),
        (spaces.Tuple([BOX, BOX]), (np.zeros(2, np.float32),), "tuple of 2 entries"),
        (spaces.Dict(a=BOX), {"b": 1}, r"keys \['a'\], got the keys \['b'\]"),
        (spaces.Dict(a=spaces.Tuple([BOX])), {"a": (np.zeros(1, np.float32),)}, "entry 'a': entry 0: expected shape"),
        (spaces.Dict(observation=BOX, action_mask=BOX), np.zeros(2), "key 'action_mask'"),
        (spaces.Dict(observation=BOX, action_mask=BOX), {"action_mask": 0}, "key 'observation'"),
    ],
)
def test_values_outside_their_space_are_refused(space, value, words):
    reader = ObservationReader(space, "a")
    with pytest.raises(BadValue, match=words):
        reader.write(value, np.zeros(reader.size))


def test_safe_casts_are_accepted():
    row = np.zeros(2)
    ObservationReader(BOX, "a").write(np.array([1, 2], np.int16), row)
    assert row.tolist() == [1, 2]


def test_an_overflow_is_left_to_the_caller():
    row = np.zeros(1, np.float32)
    ObservationReader(spaces.Box(0, np.inf, (1,), np.float64), "a").write(np.array([1e300]), row)
    assert np.isinf(row[0])


def test_spaces_without_a_width_are_refused():
    for space in (spaces.Sequence(BOX), spaces.Graph(BOX, None), spaces.Tuple([spaces.Sequence(BOX)])):
        with pytest.raises(UserError, match="'a' cannot be flattened"):
            ObservationReader(space, "a")
    with pytest.raises(UserError, match="no entries"):
        ObservationReader(spaces.Box(0, 1, (0,)), "a")


# ------------------------------------------------------------------------ masks
@settings(max_examples=60, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_product_mask_is_split_into_its_heads(data, sizes):
    heads = [data.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any)) for size in sizes]
    joint = np.zeros(int(np.prod(sizes)), np.int8)
    for choice in itertools.product(*(range(size) for size in sizes)):
        index, stride = 0, 1
        for c, size in zip(choice, sizes, strict=True):  # the first head runs fastest
            index, stride = index + stride * c, stride * size
        joint[index] = all(heads[h][c] for h, c in enumerate(choice))
    rows = np.ones((len(sizes) + 1, 5), bool)
    read_mask(joint, tuple(sizes), False, rows)
    assert [row[:size].tolist() for row, size in zip(rows, sizes, strict=False)] == heads
    assert not rows[len(sizes)].any() and not any(rows[h, size:].any() for h, size in enumerate(sizes))
    read_mask(np.concatenate(heads), tuple(sizes), True, rows)
    assert [row[:size].tolist() for row, size in zip(rows, sizes, strict=False)] == heads


@pytest.mark.parametrize(
    ("mask", "sizes", "multi", "words"),
    [
        ([1, 1, 1], (2, 2), False, r"shape \(4,\), got shape \(3,\)"),
        ([1, 0, 0, 1], (2, 2), False, "not a product of one mask for each of the heads of sizes .2, 2."),
        ([1, 2], (2,), False, "zeros and ones"),
        ([1.0, 0.0], (2,), False, "zeros and ones"),
        ([1, 0, 0, 0], (2, 2), True, "no choice of head 1"),
        ([1, 1], (2, 2), True, r"shape \(4,\), got shape \(2,\)"),
        (([1, 1], [1, 1, 1]), (3, 2), True, r"heads of sizes \[3, 2\], got the shapes \[\(2,\), \(3,\)\]"),
        (([1, 1], 1), (2, 1), True, r"heads of sizes \[2, 1\], got the shapes \[\(2,\), \(\)\]"),
        (([1, 1], [0, 0]), (2, 2), True, "no choice of head 1"),
        (([1, 1], [1.0, 1.0]), (2, 2), True, "zeros and ones"),
        (([1, 1], [1, 1]), (2, 2), False, r"shape \(4,\), got shape \(2, 2\)"),  # over joint choices it says nothing
        (([1, 1], [1]), (2,), False, "zeros and ones .*, got tuple"),
        (([[1], [1, 1]], [1]), (2, 1), True, "zeros and ones .*, got tuple"),
    ],
)
def test_bad_masks(mask, sizes, multi, words):
    with pytest.raises(BadValue, match=words):
        read_mask(mask if isinstance(mask, tuple) else np.array(mask), sizes, multi, np.zeros((2, 2), bool))


def test_nothing_allowed_means_choice_0():
    for multi, length in ((False, 6), (True, 5)):
        rows = np.ones((3, 3), bool)
        read_mask(np.zeros(length, np.int8), (2, 3), multi, rows)
        assert rows.tolist() == [[True, False, False]] * 2 + [[False] * 3]
