"""Statistics against scipy, cases worked by hand and slow references."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from marl import stats
from marl.errors import UserError

RNG = np.random.default_rng(0)


def test_mean_and_se_of_a_worked_case():
    mean, error = stats.mean_and_se([[1.0, 10.0], [3.0, 10.0], [5.0, 10.0]])
    np.testing.assert_allclose(mean, [3.0, 10.0])
    np.testing.assert_allclose(error, [2.0 / np.sqrt(3), 0.0])  # standard deviation 2 of 1, 3, 5


def test_se_agrees_with_scipy_and_is_unknown_for_one_value():
    values = RNG.normal(size=(17, 3))
    np.testing.assert_allclose(stats.mean_and_se(values)[1], scipy_stats.sem(values, axis=0))
    np.testing.assert_allclose(stats.mean_and_se(values, axis=1)[1], scipy_stats.sem(values, axis=1))
    assert np.isnan(stats.mean_and_se([4.0])[1])


def test_error_of_a_crossed_sample_by_hand():
    """Guard: seen failing as the error of independent values, which pairs of the same players are not."""
    added = np.array([0.0, 2.0])[:, None, None] + np.array([0.0, 4.0])[:, None] + np.array([0.0, 6.0])
    found = stats.crossed_summary(added)
    assert found.mean == 6.0
    assert found.se == pytest.approx(np.sqrt(1 + 4 + 9)), "two values d apart: d / 2 along each axis"
    episodes = RNG.normal(size=30)
    assert stats.crossed_summary(episodes[None, None]) == stats.summary(episodes)
    assert stats.crossed_summary([[3.0]]) == stats.Estimate(3.0, None)


def test_mean_interval_is_students():
    values = RNG.normal(size=9)
    expected = scipy_stats.t.interval(0.9, 8, loc=values.mean(), scale=scipy_stats.sem(values))
    np.testing.assert_allclose(stats.mean_interval(values, 0.9), expected)


def test_iqm_of_a_worked_case_ignores_the_outer_quarters():
    assert stats.aggregate([-100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 900.0]) == pytest.approx(3.5)  # 2, 3, 4, 5


@pytest.mark.parametrize("shape", [(5, 1), (7, 3), (10, 6), (1, 1), (3, 1)])
def test_iqm_agrees_with_scipys_trimmed_mean(shape):
    scores = RNG.normal(size=shape)
    assert stats.aggregate(scores) == pytest.approx(scipy_stats.trim_mean(scores, 0.25, axis=None))


@pytest.mark.parametrize("statistic", [stats.iqm, stats.mean])
def test_statistics_are_vectorised_over_leading_dimensions(statistic):
    scores = RNG.normal(size=(4, 6, 3))
    np.testing.assert_allclose(statistic(scores), [statistic(table) for table in scores])


def test_bootstrap_interval_agrees_with_scipys_on_the_mean():
    values = RNG.exponential(size=30)
    ours = stats.bootstrap_interval(values, stats.mean, resamples=20_000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_bootstrap_is_stratified():
    """Two tasks without spread between runs: however the runs are drawn, the mean stays; pooled runs would vary."""
    scores = np.tile([0.0, 10.0], (5, 1))
    assert stats.bootstrap_interval(scores, stats.mean) == (5.0, 5.0)
    pooled = stats.bootstrap_interval(scores.ravel(), stats.mean)
    assert pooled[0] < 4 and pooled[1] > 6


def test_tasks_are_resampled_independently():
    """x and -x beside each other: with the same draws the sum would always be zero."""
    column = RNG.normal(size=8)
    low, high = stats.bootstrap_interval(np.stack([column, -column], 1), stats.mean)
    assert low < -0.1 < 0.1 < high


def test_bootstrap_is_a_function_of_its_seed():
    values = RNG.normal(size=10)
    assert stats.bootstrap_interval(values, seed=3) == stats.bootstrap_interval(values, seed=3)
    assert stats.bootstrap_interval(values, seed=3) != stats.bootstrap_interval(values, seed=4)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    samples = RNG.normal(size=(200, 20))
    hits = 0
    for sample in samples:
        low, high = stats.bootstrap_interval(sample, stats.mean, level=0.9, resamples=400)
        hits += low <= 0 <= high
    assert 160 <= hits <= 192  # 0.9 * 200 = 180, a little less for a percentile interval of 20 values


def test_median_interval_of_worked_cases():
    ten = np.arange(1.0, 11.0)
    # P(Binomial(10, 1/2) <= 1) = 11/1024 <= 0.025 < 56/1024: second and ninth of ten values
    assert stats.median_interval(ten) == (2.0, 9.0)
    assert stats.median_interval([3.0, np.inf, 1.0, 2.0, 4.0, 5.0]) == (1.0, np.inf)  # 2/64 outside: 0.969
    assert stats.median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (-np.inf, np.inf)  # 2/32 outside: 0.9375 is too little


def test_median_interval_agrees_with_scipys_quantile_test():
    values = RNG.normal(size=25)
    theirs = scipy_stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    ours = stats.median_interval(values)
    assert (ours[0], ours[1]) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.aggregate([]),
        lambda: stats.aggregate([1.0, np.nan]),
        lambda: stats.bootstrap_interval([1.0], level=1.0),
        lambda: stats.bootstrap_interval([1.0], resamples=0),
        lambda: stats.mean_interval([1.0]),
        lambda: stats.median_interval([np.nan]),
        lambda: stats.mean_and_se([]),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(UserError, match="statistics got"):
        call()


# ------------------------------------------------------------------ runs that play the same episodes
def test_crossed_interval_of_independent_noise_agrees_with_the_normal_one():
    """Means of runs alike, with noise of their own: what is left is the runs' spread (a normal interval)."""
    runs = RNG.normal(size=(40, 1))
    values = runs + np.zeros((40, 300))
    low, high = stats.crossed_interval(values, statistic=stats.mean)
    reach = 1.96 * runs.std() / np.sqrt(40)
    np.testing.assert_allclose([low, high], [runs.mean() - reach, runs.mean() + reach], atol=0.06 * 2 * reach)


def test_crossed_interval_holds_the_luck_that_the_episodes_have_in_common():
    """Runs that are all alike: only the episodes move, by their standard error; resampling runs alone finds nothing."""
    episodes = RNG.normal(size=400)
    values = np.tile(episodes, (5, 1))
    low, high = stats.crossed_interval(values)
    error = episodes.std() / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert stats.bootstrap_interval(values.mean(1)) == pytest.approx((episodes.mean(), episodes.mean()))


def test_crossed_interval_covers_as_often_as_it_says():
    """Of 200 experiments with runs and episodes drawn anew, the interval of the mean holds the truth (0) in >= 93 %."""
    held = 0
    for _ in range(200):
        values = 0.5 * RNG.normal(size=(12, 1)) + RNG.normal(size=60) + RNG.normal(size=(12, 60))
        low, high = stats.crossed_interval(values, statistic=stats.mean, resamples=300)
        held += low <= 0 <= high
    assert held >= 180  # 95 % of 200 less four standard errors is 178


def test_crossed_interval_grows_by_the_error_of_what_was_added():
    values = np.tile(RNG.normal(size=400), (4, 1))
    low, high = stats.crossed_interval(values, offset_se=1.0)
    error = np.sqrt(values[0].var() / 400 + 1.0)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_crossed_interval_is_of_a_table():
    with pytest.raises(UserError, match="statistics got values of shape"):
        stats.crossed_interval([1.0, 2.0])


def test_runs_of_one_group_are_not_independent() -> None:
    generator = np.random.default_rng(0)
    own = generator.normal(size=8)
    few = [np.full((1, 20), value) for value in own]
    many = [np.full((9, 20), value) for value in own]
    low, high = stats.nested_interval(many)
    assert (high - low) == pytest.approx(np.subtract(*stats.nested_interval(few)[::-1]), rel=0.1)
    spread = 2 * 1.96 * own.std() / np.sqrt(8)  # of the mean of eight resampled values
    assert (high - low) == pytest.approx(spread, rel=0.15) and low < own.mean() < high
    flat = stats.bootstrap_interval(np.concatenate(many).mean(1), stats.mean)
    assert (high - low) > 2 * (flat[1] - flat[0]), "72 runs of 8 groups are no 72 groups"


def test_episodes_are_shared_by_all_groups() -> None:
    luck = np.random.default_rng(1).normal(size=50)
    low, high = stats.nested_interval([np.tile(luck, (3, 1))] * 4)
    assert (high - low) == pytest.approx(2 * 1.96 * luck.std() / np.sqrt(50), rel=0.15)
    assert stats.nested_interval([np.full((2, 3), 1.5)]) == (1.5, 1.5)
    with pytest.raises(UserError, match="2 groups of runs"):
        stats.nested_interval([np.zeros((1, 3)), np.zeros((1, 4))])
