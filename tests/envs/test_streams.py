"""Counter-based random numbers: known answers of SplitMix64, uniformity, independence, and purity."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from envs.streams import Stream, mix, name_key, uniform_from

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix_mix(z: int) -> int:
    """SplitMix64's finaliser in Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(z: int) -> int:
    return z - (1 << 64) if z >= 1 << 63 else z


def test_known_answers_of_splitmix64():
    """First outputs for the seed 1234567, as published with Vigna's splitmix64.c and in Rosetta Code."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    state = torch.tensor([signed((1234567 + GOLDEN * (k + 1)) & MASK) for k in range(5)])
    assert [int(z) & MASK for z in mix(state)] == expected


@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20))
def test_mix_equals_python_integers(words):
    assert [int(z) & MASK for z in mix(torch.tensor([signed(z) for z in words]))] == [splitmix_mix(z) for z in words]


def test_name_key_is_the_start_of_sha256():
    digest = hashlib.sha256(b"7/noise").digest()
    assert name_key(7, "noise") == int.from_bytes(digest[:8], "little", signed=True)
    assert len({name_key(seed, name) for seed in range(50) for name in "abcd"}) == 200


def test_bits_by_hand():
    """Row r, draw c, number i: mix(mix(mix(key + G (r + 1)) + G c) + G i), counted from 1."""
    stream = Stream(3, "x", [0, 5])
    stream.bits(4)
    second = stream.bits(2, 2)
    key = name_key(3, "x") & MASK
    for r, row in enumerate([0, 5]):
        base = splitmix_mix((splitmix_mix((key + GOLDEN * (row + 1)) & MASK) + GOLDEN * 2) & MASK)
        expected = [splitmix_mix((base + GOLDEN * i) & MASK) for i in range(1, 5)]
        assert [int(z) & MASK for z in second[r].flatten()] == expected


# ----------------------------------------------------------------------- purity
def test_rows_do_not_depend_on_their_neighbours():
    many, few = Stream(1, "a", range(10)), Stream(1, "a", [7, 2])
    for shape in ((3,), (2, 2), ()):
        assert torch.equal(many.bits(*shape)[[7, 2]], few.bits(*shape))


def test_state_is_one_integer():
    stream = Stream(1, "a", range(3))
    stream.uniform(5)
    stream.gumbel(2)
    state = stream.state_dict()
    expected = stream.bits(4)
    again = Stream(1, "a", range(3))
    again.load_state_dict(state)
    assert state == {"counter": 2} and torch.equal(again.bits(4), expected)


def test_the_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that must not move
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Stream(1, "a", range(3)).gumbel(100)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_draws_differ_by_seed_name_row_and_counter():
    streams = [Stream(seed, name, range(4)) for seed in range(3) for name in ("a", "b")]
    numbers = torch.cat([stream.bits(8).flatten() for stream in streams for _ in range(3)])
    assert len(numbers.unique()) == len(numbers) == 3 * 2 * 4 * 8 * 3


# ---------------------------------------------------------------- distributions
def test_uniform_is_open_and_finite_at_its_ends():
    ends = torch.tensor([0, -1, 1, (1 << 63) - 1, -(1 << 63)])
    for dtype in (torch.float32, torch.float64):
        numbers = uniform_from(ends, dtype)
        assert numbers.dtype == dtype and bool(((numbers > 0) & (numbers < 1)).all())
        assert torch.isfinite(-torch.log(-torch.log(numbers))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniformity(dtype):
    numbers = Stream(5, "u", range(100)).uniform(500, dtype=dtype).flatten().double().numpy()
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    counts = np.bincount((numbers * 64).astype(int), minlength=64)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_bit_is_balanced():
    words = Stream(2, "bits", range(64)).bits(256).flatten()
    share = torch.stack([(words >> k) & 1 for k in range(64)]).double().mean(1)
    assert bool((share - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(len(words)))


def test_gumbel_has_its_distribution():
    noise = Stream(6, "g", range(100)).gumbel(300)
    assert noise.dtype == torch.float32 and torch.isfinite(noise).all()
    assert stats.kstest(noise.flatten().double().numpy(), "gumbel_r").pvalue > 1e-3


def test_integers_are_uniform_below_high():
    draws = Stream(7, "i", range(100)).integers(7, 300).flatten()
    counts = torch.bincount(draws, minlength=7)
    assert draws.dtype == torch.int64 and len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    highs = torch.tensor([1, 2, 1 << 31])
    columns = Stream(7, "i", range(200)).integers(highs, 3)
    assert columns[:, 0].max() == 0 and set(columns[:, 1].tolist()) == {0, 1} and columns[:, 2].max() > 1 << 30


@pytest.mark.parametrize("pair", ["rows", "names", "seeds", "draws", "neighbours"])
def test_independence(pair):
    """Correlation and a two-dimensional chi-square between what must not be related."""
    n = 20_000
    one = Stream(1, "a", [0]).uniform(n)[0]
    if pair == "rows":
        two = Stream(1, "a", [1]).uniform(n)[0]
    elif pair == "names":
        two = Stream(1, "b", [0]).uniform(n)[0]
    elif pair == "seeds":
        two = Stream(2, "a", [0]).uniform(n)[0]
    elif pair == "draws":
        stream = Stream(1, "a", [0])
        stream.uniform(n)
        two = stream.uniform(n)[0]
    else:
        one, two = Stream(1, "a", [0]).uniform(2 * n)[0].view(n, 2).T
    assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 4 / math.sqrt(n)
    table = np.histogram2d(one.numpy(), two.numpy(), bins=8, range=[[0, 1]] * 2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_many_rows_one_draw_each_are_uniform():
    """The pattern of environments: one number a row; rows are consecutive integers."""
    numbers = Stream(0, "reset", range(50_000)).uniform(1).flatten().numpy()
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / math.sqrt(len(numbers))
