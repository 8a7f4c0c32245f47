"""Estimators against hand-worked cases, slow references, and the bias figures of independent samples."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from envs.streams import Stream
from marl.communication.measures import information as info


@lru_cache
def resampler(episodes: int, permutations: int = 199, resamples: int = 400) -> info.Resampler:
    return info.Resampler(episodes, 0, permutations, resamples)


def draws(high: int, rows: int, episodes: int, name: str) -> np.ndarray:
    return Stream(3, name, range(rows)).integers(high, episodes).numpy()


def slow_information(x, y, z=None) -> float:
    """Sum of p log2 p(x, y | z) / p(x | z) p(y | z), cell by cell, in Python."""
    z = [0] * len(x) if z is None else z
    n = len(x)
    xyz, xz, yz, zz = Counter(zip(x, y, z, strict=True)), Counter(zip(x, z, strict=True)), Counter(), Counter()
    yz.update(zip(y, z, strict=True))
    zz.update(z)
    return sum(c / n * math.log2(c * zz[k] / (xz[i, k] * yz[j, k])) for (i, j, k), c in xyz.items())


def test_information_by_hand():
    # 4 episodes, x = y: one bit. Correction -(2 - 2 - 2 + 1) / (2 * 4 ln 2) = 1 / (8 ln 2).
    x = np.array([0, 0, 1, 1])
    table = info.contingency(x, x, (2, 2))
    assert table.tolist() == [[[2, 0], [0, 2]]]
    assert float(info.information_bits(table)) == pytest.approx(1.0, abs=1e-12)
    assert float(info.information_correction(table)) == pytest.approx(1 / (8 * math.log(2)), abs=1e-12)
    assert float(info.entropy_bits(np.array([1, 1, 2]))) == pytest.approx(1.5, abs=1e-12)
    assert float(info.entropy_corrected(np.array([1, 1, 2]))) == pytest.approx(1.5 + 2 / (8 * math.log(2)), abs=1e-12)


def test_information_equals_the_slow_reference():
    x, y, z = draws(3, 1, 200, "x")[0], draws(10, 1, 200, "y")[0], draws(2, 1, 200, "z")[0]
    y = np.where(z == 1, (x + y // 5) % 10, y)
    plain = float(info.information_bits(info.contingency(x, y, (3, 10))))
    given = float(info.information_bits(info.contingency(x, y, (3, 10), z, 2)))
    assert plain == pytest.approx(slow_information(x.tolist(), y.tolist()), abs=1e-12)
    assert given == pytest.approx(slow_information(x.tolist(), y.tolist(), z.tolist()), abs=1e-12)


def test_batched_tables_equal_single_ones():
    x, y = draws(3, 5, 40, "x"), draws(4, 5, 40, "y")
    tables = info.contingency(x, y, (3, 4))
    assert tables.shape == (5, 1, 3, 4)
    for row in range(5):
        assert np.array_equal(tables[row], info.contingency(x[row], y[row], (3, 4)))


@pytest.mark.parametrize(
    ("episodes", "plug_in", "corrected", "tolerance"),
    [(30, 0.522, 0.340, 0.006), (100, 0.146, 0.023, 0.003), (1000, 0.013, 0.0001, 0.0006)],
)
def test_bias_of_an_independent_speaker_with_3_goals_and_10_symbols(episodes, plug_in, corrected, tolerance):
    table = info.contingency(draws(3, 1500, episodes, "goal"), draws(10, 1500, episodes, "symbol"), (3, 10))
    plain = info.information_bits(table)
    assert plain.mean() == pytest.approx(plug_in, abs=tolerance)
    assert (plain + info.information_correction(table)).mean() == pytest.approx(corrected, abs=tolerance)


@pytest.mark.parametrize("episodes", [100, 1000])
@pytest.mark.parametrize("symbols", [3, 10])
def test_a_random_speaker_is_a_false_positive_at_most_5_percent_of_the_time(episodes, symbols):
    speakers = 400
    shared = resampler(episodes, resamples=2)
    goals, said = draws(3, speakers, episodes, "goal"), draws(symbols, speakers, episodes, "symbol")
    result = [info.mutual_information(g, m, (3, symbols), shared).p for g, m in zip(goals, said, strict=True)]
    # The test is exact, so the rate is at most 5 %; 3 standard errors of 400 trials are .033.
    rate = np.mean(np.array(result) < 0.05)
    assert rate <= 0.05 + 0.033
    assert rate >= 0.045 - 0.033, "a test that never rejects has no power"


def test_p_values_never_reach_zero_and_find_a_real_dependence():
    goal = draws(3, 1, 100, "goal")[0]
    result = info.mutual_information(goal, goal, (3, 3), resampler(100))
    assert result.p == pytest.approx(1 / 200)


def test_conditional_permutation_keeps_what_the_context_explains():
    # x and y both follow z: dependent, but independent given z.
    z = draws(2, 1, 1000, "z")[0]
    x = (z + (draws(4, 1, 1000, "flip x")[0] == 0)) % 2
    y = (z + (draws(4, 1, 1000, "flip y")[0] == 0)) % 2
    assert info.mutual_information(x, y, (2, 2), resampler(1000)).p < 0.01
    assert info.mutual_information(x, y, (2, 2), resampler(1000), z, 2).p > 0.05


def test_xor_tells_nothing_alone_and_one_bit_with_the_key():
    goal, key = draws(2, 1, 1000, "goal")[0], draws(2, 1, 1000, "key")[0]
    message = goal ^ key
    alone = info.mutual_information(goal, message, (2, 4), resampler(1000))
    with_key = info.mutual_information(goal, message, (2, 4), resampler(1000), key, 2)
    assert alone.low <= 0.0 <= alone.high and alone.p > 0.05
    assert with_key.low <= 1.0 <= with_key.high + 1e-12 and with_key.p < 0.01


def joint(table: np.ndarray, rows: int, episodes: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Samples of a joint distribution and its information in bits."""
    table = table / table.sum()
    independent = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    inside = table > 0
    truth = float((table[inside] * np.log2(table[inside] / independent[inside])).sum())
    uniform = Stream(5, "joint", range(rows)).uniform(episodes).numpy()
    cells = np.searchsorted(np.cumsum(table), uniform)
    return cells // table.shape[1], cells % table.shape[1], truth


@pytest.mark.parametrize(
    "table",
    [np.eye(3), np.ones((3, 3)), np.ones((3, 10)), np.eye(3) * 0.8 + 0.05, np.eye(3)[[0, 1, 1]]],
    ids=["perfect", "independent 3x3", "independent 3x10", "noisy", "two goals share a symbol"],
)
def test_the_interval_covers_the_truth(table):
    x, y, truth = joint(table, 120, 1000)
    inside = 0
    for row in range(120):
        result = info.mutual_information(x[row], y[row], table.shape, resampler(1000, 2, 200))
        inside += result.low - 1e-12 <= truth <= result.high + 1e-12
    assert inside / 120 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 120)


def test_context_independence_by_hand():
    assert info.context_independence(np.diag([5, 3, 2])) == pytest.approx(1.0)
    # Two goals share symbol 0: goal 0 gives p(m|g) p(g|m) = 1 * 1/2, goal 1 too, goal 2 gives 1.
    assert info.context_independence(np.array([[4, 0], [4, 0], [0, 4]])) == pytest.approx(2 / 3)
    # Two synonyms for goal 0: p(m|g) = 1/2 and p(g|m) = 1: synonyms are punished.
    assert info.context_independence(np.array([[2, 2, 0], [0, 0, 4]])) == pytest.approx(0.75)
    # The symbol is chosen by p(g|m): goal 0 is best told by symbol 1 (1/4 * 1), goal 1 by symbol 0 (1 * 5/8).
    assert info.context_independence(np.array([[3, 1], [5, 0]])) == pytest.approx(0.4375)
    # A goal that never occurred does not count.
    assert info.context_independence(np.array([[4, 0], [0, 0]])) == pytest.approx(1.0)


def test_topographic_similarity_and_disentanglement():
    first, second = draws(3, 1, 200, "a")[0], draws(4, 1, 200, "b")[0]
    meanings = np.stack([first, second], axis=1)
    compositional = info.topographic_similarity(meanings, meanings)
    assert compositional.value == pytest.approx(1.0)
    assert info.positional_disentanglement(meanings, meanings).value == pytest.approx(1.0, abs=0.05)
    whole = np.stack([(first * 4 + second) * 5 % 12, (first * 4 + second) * 7 % 5], axis=1)
    holistic = info.topographic_similarity(meanings, whole)
    pairs = [(i, j) for i in range(200) for j in range(i + 1, 200)]
    slow = spearmanr(
        [sum(meanings[i] != meanings[j]) for i, j in pairs], [sum(whole[i] != whole[j]) for i, j in pairs]
    ).statistic
    assert holistic.value == pytest.approx(slow, abs=1e-9)
    assert holistic.value < 0.5


def test_structure_is_refused_with_a_reason_where_it_is_undefined():
    one, two = np.zeros((5, 1), dtype=np.int64), np.zeros((5, 2), dtype=np.int64)
    for measure in (info.topographic_similarity, info.positional_disentanglement):
        assert "single symbol" in measure(two, one).reason
        assert "single attribute" in measure(one, two).reason
        assert isinstance(measure(two, two), info.Undefined) and measure(two, two).reason


def test_capacity_of_known_channels():
    assert info.channel_capacity(np.eye(3)) == pytest.approx(math.log2(3), abs=1e-5)
    # Symmetric: log2 V - H(noise, rest). Erasure: (1 - e) log2 V. Z channel with 1/2: log2(5) - 2.
    noise, symbols = 0.2, 4
    other = noise / (symbols - 1)
    symmetric = np.full((symbols, symbols), other) + np.eye(symbols) * (1 - noise - other)
    entropy = -0.8 * math.log2(0.8) - 0.2 * math.log2(0.2 / 3)
    assert info.channel_capacity(symmetric) == pytest.approx(2 - entropy, abs=1e-5)
    erasure = np.hstack([np.eye(4) * 0.7, np.full((4, 1), 0.3)])
    assert info.channel_capacity(erasure) == pytest.approx(1.4, abs=1e-5)
    assert info.channel_capacity(np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(math.log2(5) - 2, abs=1e-5)
    assert info.channel_capacity(np.ones((3, 1))) == pytest.approx(0.0, abs=1e-9)


def test_small_helpers():
    assert info.bayes_accuracy(np.array([[3, 1], [1, 3]])) == pytest.approx(0.75)
    low, high = info.wilson_interval(np.array([5, 0]), np.array([10, 0]))
    assert (low[0], high[0]) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert (low[1], high[1]) == (0.0, 1.0)
    assert info.wilson_interval(np.array([0]), np.array([7]))[0][0] >= 0.0
    assert info.joint_symbol([np.array([1]), np.array([2])], [2, 3]).tolist() == [5]


def test_the_same_seed_repeats_every_number_and_rows_are_permutations():
    first, second = info.Resampler(50, 7, 20, 20), info.Resampler(50, 7, 20, 20)
    values = np.arange(50)
    assert np.array_equal(first.permute(values), second.permute(values))
    assert all(sorted(row) == list(range(50)) for row in first.permute(values).tolist())
    strata = np.arange(50) % 3
    assert np.array_equal(first.permute(values, strata) % 3, np.tile(strata, (20, 1)))
    low, high = first.mean_interval(np.ones(50))
    assert (low, high) == (1.0, 1.0)


def test_joint_choices_of_several_heads_cost_what_occurs_of_them():
    """Four heads of 11 choices, of which seven occur. Guard: seen failing with 280 MB of empty cells."""
    x, y = draws(3, 1, 200, "x")[0], draws(7, 1, 200, "y")[0]
    y = np.where(draws(2, 1, 200, "z")[0] == 1, x, y)
    plain = info.mutual_information(x, y, (3, 7), resampler(200))
    tracemalloc.start()
    spread = info.mutual_information(x, 2000 * y + 17, (3, 11**4), resampler(200))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spread == plain and peak < 10 * 2**20


def test_the_interval_is_clipped_by_the_alphabet_and_not_by_what_occurs():
    """Two symbols and two choices, one to one: corrected 1 + 1 / (8 ln 2), above the one bit of what occurs."""
    x = np.array([0, 0, 1, 1])
    told = info.mutual_information(x, 300 * x, (4, 1000), resampler(4))
    assert told.corrected == pytest.approx(1 + 1 / (8 * math.log(2)), abs=1e-12) and told.high > 1


def test_a_large_sample_gets_fewer_permutations(monkeypatch):
    monkeypatch.setattr(info, "_MOST_DRAWS", 100_000)
    large = info.Resampler(500, 0)
    assert large.noise_PN.shape == (200, 500) and large.picks_RN.shape == (200, 500)
    assert info.Resampler(50).noise_PN.shape == (999, 50)
    assert info.Resampler(10_000).noise_PN.shape == (99, 10_000), "never so few that nothing can be significant"
