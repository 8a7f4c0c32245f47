"""docs/gumbel.md and the benchmark behind it: every number on the page is recomputed or found in the stored results."""

from __future__ import annotations

import json
import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.gumbel import estimators, facts, page, vae
from marl.learner import relaxation as rx

PAGE = page.DOCUMENT.read_text()
NUMBERS = json.loads((page.RESULTS / "numbers.json").read_text())
# Settings of an experiment rather than results
SETTINGS = (
    r"T = 0\.001",
    r"temperatures from 0\.001 to 1000",
    r"from 4 to 0\.1 or from 2\.5 to 0\.5",
    r"\(0, 0\.9, 0\.1, 0\)",
    r"softmax}\(-20, 10, 9\.6, 6\.2\)",
)


@cache
def theory() -> dict[str, float]:
    return facts.normal_maximum_theory(100)


def noises(name: str) -> float:
    return abs(NUMBERS["seven_classes"]["noises"][name]["total_variation"])


def variance_ratio(when: str, arm: str) -> float:
    by_arm = NUMBERS["vae"]["gradient_variance"][when]
    return vae.mean(by_arm[arm]) / vae.mean(by_arm["reparameterised"])


def softmax_example() -> list[float]:
    return rx.probabilities(torch.tensor([-20.0, 10.0, 9.6, 6.2], dtype=torch.float64)).tolist()


# every sentence with a result: its pattern, with one group for every number, and the numbers
CHECKS = {
    r"is about \$\(0, ([\d.]+), ([\d.]+), ([\d.]+)\)\$: the first entry is \$([\d.]+)": lambda: [
        *softmax_example()[1:],
        softmax_example()[0] * 1e14,
    ],
    r"\\mu = ([\d.]+)\$ and \$\\sigma = ([\d.]+)\$": lambda: [NUMBERS["gaussian"]["mu"], NUMBERS["gaussian"]["sigma"]],
    r"deviates by ([\d.]+) when reparameterised and by ([\d.]+)": lambda: [
        2 * NUMBERS["gaussian"]["sigma"],
        NUMBERS["gaussian"]["score_mu_sd_exact"],
    ],
    r"Euler's constant, ([\d.]+), and its variance \$\\pi\^2 / 6 = ([\d.]+)\$; .* \$m \+ ([\d.]+)": lambda: [
        np.euler_gamma,
        math.pi**2 / 6,
        np.euler_gamma,
    ],
    r"mean is ([\d.]+) and its standard\s+deviation ([\d.]+) \(exactly, by quadrature: ([\d.]+) and ([\d.]+)": lambda: [
        NUMBERS["maxima"]["normal"]["mean"],
        NUMBERS["maxima"]["normal"]["sd"],
        theory()["mean"],
        theory()["sd"],
    ],
    r"once in a hundred draws, ([\d.]+), with a scale between ([\d.]+) and ([\d.]+),": lambda: [
        theory()["location"],
        theory()["scale_quantile"],
        theory()["scale_hazard"],
    ],
    r"the fitted one has location ([\d.]+) and scale ([\d.]+)": lambda: [
        *NUMBERS["maxima"]["normal"]["gumbel"].values()
    ],
    r"still ([\d.]+) away": lambda: [NUMBERS["maxima"]["normal"]["gumbel_ks"]],
    r"off by ([\d.]+) and ([\d.]+), the right limits by ([\d.]+)\s+and ([\d.]+)": lambda: [
        NUMBERS["maxima"][parent][key] for key in ("gumbel_ks", "limit_ks") for parent in ("pareto", "beta")
    ],
    r"the held-out points, which is (-[\d.]+) on average": lambda: [NUMBERS["vae"]["truth"]],
    r"at the trained ones ([\d.]+) and ([\d.]+) times": lambda: [
        variance_ratio("last update", "score function"),
        variance_ratio("last update", "score function, baseline"),
    ],
    r"total variation of so many draws is ([\d.]+) on average": lambda: [NUMBERS["direct"]["by_chance"]],
    r"variances differ: ([\d.]+), 1 and 1/12": lambda: [math.pi**2 / 6],
    r"normal noise falls from ([\d.]+) to ([\d.]+) and that\s+of uniform noise from ([\d.]+) to ([\d.]+)": lambda: [
        noises(name) for name in ("normal", "normal, matched", "uniform", "uniform, matched")
    ],
    r"([\d.]+) % of the float32 gradient rows": lambda: [100 * NUMBERS["dead_rows"]],
    r'"Near a one-hot" is\s+within ([\d.]+)': lambda: [0.01],
    r"a median bias of ([\d.]+) over the family, not ([\d.]+)": lambda: [
        NUMBERS["spread"]["rows"]["straight_through T 1"]["bias"][1],
        float(estimators.REFERENCE["straight_through T 1"][0]),
    ],
    r"than straight-through in ([\d.]+) %": lambda: [
        100 * NUMBERS["spread"]["reinmax_less_bias_than_straight_through"]
    ],
    r"ends at ([\d.]+) on the upper side": lambda: [rx.gumbel(torch.tensor(1 - 2.0**-24)).item()],
}


def prose() -> str:
    """The page without generated tables and settings."""
    text = re.sub(r"<!-- table: .*?<!-- end -->", "", PAGE, flags=re.DOTALL)
    for setting in SETTINGS:
        text, count = re.subn(setting, "", text)
        assert count, f"the setting {setting} is not on the page"
    return text


@pytest.mark.parametrize("pattern", CHECKS)
def test_a_number_of_the_page_is_right_to_its_last_digit(pattern: str) -> None:
    result = re.search(pattern, PAGE, re.DOTALL)
    assert result, f"no such sentence: {pattern}"
    expected = CHECKS[pattern]()
    assert len(result.groups()) == len(expected)
    for printed, value in zip(result.groups(), expected, strict=True):
        digits = len(printed.rstrip(".").partition(".")[2])
        assert f"{value:.{digits}f}" == printed.rstrip(".")


def test_no_number_of_the_page_is_unchecked() -> None:
    text = prose()
    for pattern in CHECKS:
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+", text) == []


def test_the_tables_of_the_page_are_those_of_the_stored_numbers() -> None:
    assert page.write_tables(PAGE, NUMBERS) == PAGE
    assert set(re.findall(r"<!-- table: (\w+) -->", PAGE)) == set(page.tables(NUMBERS))
    broken = PAGE.replace("| 0.095 |", "| 0.096 |")
    assert broken != PAGE and page.write_tables(broken, NUMBERS) == PAGE


def test_the_whole_numbers_of_the_page() -> None:
    result = NUMBERS["estimators"]
    assert f"number {result['network']:,} of a" in " ".join(PAGE.split())
    assert result["network"] == estimators.CLOSEST < 9_000_000
    assert f"random tanh network $f$, {result['draws']:,} draws" in PAGE
    assert f"the figure are {NUMBERS['seven_classes']['draws']:,} draws" in PAGE
    assert f"biases of sampled rows from {NUMBERS['spread']['draws']:,} draws" in PAGE
    assert f"{NUMBERS['spread']['networks']} networks (median" in PAGE
    assert f"Of {NUMBERS['direct']['draws']:,} draws each" in PAGE
    result = NUMBERS["vae"]
    assert f"means over {result['seeds']} seeds after {result['updates']:,} updates" in PAGE
    last = vae.mean(result["arms"]["score function"]["elbo"][-1])
    passes = f"after {vae.updates_to(result, 'reparameterised', last)} updates where the score function is after 2,000"
    assert passes in " ".join(PAGE.split())
    plain, helped = (variance_ratio("first update", f"score function{name}") for name in ("", ", baseline"))
    assert f"variance is {plain:.0f} times as large, {helped:.0f} times with a baseline" in PAGE
    assert f"Over {NUMBERS['maxima']['days']:,} days" in PAGE
    assert "Take the largest of 100 draws" in PAGE and NUMBERS["maxima"]["per_day"] == 100
    assert torch.finfo(torch.float16).max == 65504 and "65504" in PAGE
    assert torch.tensor(88.0).exp().isfinite() and torch.tensor(89.0).exp().isinf() and "overflows above 88" in PAGE


def test_every_figure_of_the_page_is_drawn_and_small() -> None:
    linked = set(re.findall(r"\(\.\./benchmarks/results/gumbel/(\w+)\.png\)", PAGE))
    assert linked == {path.stem for path in page.RESULTS.glob("*.png")}
    assert all((page.RESULTS / f"{name}.png").stat().st_size < 200_000 for name in linked)


def test_conclusions_drawn_from_the_table() -> None:
    rows, spread = NUMBERS["estimators"]["rows"], NUMBERS["spread"]["rows"]
    for name, (bias, sd) in estimators.REFERENCE.items():
        assert not sd or abs(rows[name]["relative_sd"] / float(sd) - 1) < 0.10  # "agree within 10 %"
        assert abs(rows[name]["relative_bias"] - float(bias)) < 0.1
    ratio = max(row["bias"][2] / row["bias"][0] for name, row in spread.items() if "reinforce" not in name)
    assert 2.5 < ratio < 3.5  # "up to three"
    deviation = {name: row["relative_sd"] for name, row in rows.items()}
    assert min(deviation, key=deviation.get) == "straight_through T 1"
    halved = deviation["rao_blackwell T 0.5, 10 draws"] / deviation["rao_blackwell T 0.5, 1 draw"]
    assert 0.45 < halved < 0.6
    curves = NUMBERS["against_temperature"]
    biases = {name: row["relative_bias"] for name, row in curves["rows"].items()}
    assert biases["straight_through"][0] > 0.95 and biases["gapped"][0] > 0.95  # dead when cold
    one = curves["temperatures"].index(1.0)
    assert min(biases["reinmax"]) == biases["reinmax"][one]


# ---- the numbers themselves, again from the start and with fewer draws ----


@pytest.mark.parametrize(
    ("name", "expected", "distance"),
    [
        ("gumbel", facts.SEVEN, 0.0),
        ("normal", [0.0835, 0.0158, 0.1047, 0.2454, 0.1047, 0.3192, 0.1268], 0.095),
        ("uniform", [0.0008, 0, 0.0082, 0.3130, 0.0082, 0.6424, 0.0274], 0.486),
    ],
)
def test_seven_classes_by_quadrature(name: str, expected: list[float], distance: float) -> None:
    exact = facts.winning_probabilities(np.log(facts.SEVEN), facts.NOISES[name])
    assert exact == pytest.approx(expected, abs=1e-10 if name == "gumbel" else 6e-5)
    assert exact.sum() == pytest.approx(1, abs=1e-8)
    assert facts.total_variation(exact, facts.SEVEN) == pytest.approx(distance, abs=5e-4)
    stored = NUMBERS["seven_classes"]["noises"][name]
    assert stored["exact"] == pytest.approx(exact.tolist(), abs=1e-9)
    # the stored draws are draws of that: 200,000, so 5 standard errors
    error = 5 * np.sqrt(exact * (1 - exact) / NUMBERS["seven_classes"]["draws"]) + 1e-9
    assert (np.abs(np.array(stored["sampled"]) - exact) < error).all()


def test_drawing_directly_is_the_distribution_of_gumbel_max() -> None:
    few = facts.direct(20_000)
    for result in (few, NUMBERS["direct"]):
        for row in result["ways"].values():
            assert row["chi_square_p"] > 1e-3 and row["total_variation"] < 3 * result["by_chance"]
    # by chance, from draws of the counts themselves
    counts = stats.multinomial(20_000, facts.SEVEN).rvs(2000, random_state=0) / 20_000
    distances = np.abs(counts - facts.SEVEN).sum(1) / 2
    assert few["by_chance"] == pytest.approx(distances.mean(), rel=0.02)


def test_noises_matched_in_variance_come_closer() -> None:
    for name, distance in (("normal, matched", 0.036), ("uniform, matched", 0.072)):
        assert facts.NOISES[name].var() == pytest.approx(math.pi**2 / 6)
        assert noises(name) == pytest.approx(distance, abs=5e-4)
    variances = [facts.NOISES[name].var() for name in ("gumbel", "normal", "uniform")]
    assert variances == pytest.approx([1.645, 1, 1 / 12], abs=1e-3)


def test_quadrature_of_two_choices_worked_by_hand() -> None:
    """Normal noise: P(1 wins) = Phi((t_1 - t_2) / sqrt 2); uniform: 1 - (1 - d)^2 / 2."""
    assert facts.winning_probabilities([0.5, 0.0], stats.norm())[0] == pytest.approx(stats.norm.cdf(0.5 / 2**0.5))
    assert facts.winning_probabilities([0.4, 0.0], stats.uniform())[0] == pytest.approx(1 - 0.6**2 / 2)
    assert facts.winning_probabilities([9.0, 0.0], stats.uniform()).tolist() == pytest.approx([1, 0])


def test_gumbel_moments_by_quadrature() -> None:
    for location, scale in ((0.0, 1.0), (1.7, 0.6)):
        got = facts.gumbel_moments(location, scale)
        assert got["mass"] == pytest.approx(1, abs=1e-12)
        assert got["mean"] == pytest.approx(location + np.euler_gamma * scale, abs=1e-10)
        assert got["variance"] == pytest.approx(math.pi**2 * scale**2 / 6, abs=1e-9)


def test_the_proof_s_integral_is_softmax_and_the_maximum_independent_of_the_winner() -> None:
    got = facts.proof(20_000)
    assert got["quadrature_error"] < 1e-10
    assert got["maximum_ks_p"] > 0.01 and got["independence_p"] > 0.01
    assert NUMBERS["proof"]["quadrature_error"] < 1e-10
    assert NUMBERS["proof"]["maximum_ks_p"] > 0.01 and NUMBERS["proof"]["independence_p"] > 0.01
    assert NUMBERS["seven_classes"]["chi_square_p"] > 0.01


def test_daily_maxima() -> None:
    got, stored = facts.maxima(2000), NUMBERS["maxima"]
    exact = theory()
    assert exact["mean"] == pytest.approx(7.507, abs=1e-3)
    limit = [exact[key] for key in ("location", "scale_quantile", "scale_hazard")]
    assert limit == pytest.approx([7.326, 0.354, 0.375], abs=6e-4)
    for days, row in ((2000, got["normal"]), (10_000, stored["normal"])):
        assert row["mean"] == pytest.approx(exact["mean"], abs=4 * exact["sd"] / days**0.5)
        assert row["sd"] == pytest.approx(exact["sd"], rel=5 / days**0.5)
        assert row["gumbel"]["location"] == pytest.approx(7.31, abs=0.03)
        assert 0.354 < row["gumbel"]["scale"] < 0.39
    for parent in ("pareto", "beta"):
        assert got[parent]["gumbel_ks"] > 0.05 > 0.03 > got[parent]["limit_ks"]


def test_gaussian_estimates_have_the_exact_mean_and_deviation() -> None:
    got = NUMBERS["gaussian"]
    for name in ("path", "score"):
        for parameter in ("mu", "sigma"):
            sd = got[f"{name}_{parameter}_sd"]
            assert got[f"{name}_{parameter}"] == pytest.approx(2 * got[parameter], abs=4 * sd / got["draws"] ** 0.5)
    assert got["path_mu_sd"] == pytest.approx(2 * got["sigma"], rel=0.01)
    assert got["score_mu_sd"] == pytest.approx(got["score_mu_sd_exact"], rel=0.01)


def test_the_table_of_bias_and_deviation_is_reproduced() -> None:
    network = estimators.Network(*(x[0] for x in estimators.networks([estimators.CLOSEST])))
    rows, many, few = NUMBERS["estimators"]["rows"], NUMBERS["estimators"]["draws"], 20_000
    for case in estimators.CASES:
        stored, got = rows[estimators.label(*case)], estimators.sampled(network, *case, few)
        # heavy tails: a deviation from few draws is itself good to a few percent
        assert got["relative_sd"] == pytest.approx(stored["relative_sd"], rel=0.06)
        assert got["relative_bias"] == pytest.approx(stored["relative_bias"], abs=4 * got["relative_sd"] / few**0.5)
        if "exact_sd" in stored:
            bias, sd = estimators.enumerated(network, *case[:2])
            assert [bias.item(), sd.item()] == pytest.approx([stored["exact_bias"], stored["exact_sd"]], abs=1e-9)
            assert stored["relative_bias"] == pytest.approx(bias.item(), abs=4 * sd.item() / many**0.5)
            assert stored["relative_sd"] == pytest.approx(sd.item(), rel=0.02)


def test_a_numbered_network_can_be_built_alone() -> None:
    alone, among = estimators.networks([17]), estimators.networks(range(20))
    assert all(torch.equal(a[0], b[17]) for a, b in zip(alone, among, strict=True))
    x = torch.eye(estimators.K, dtype=torch.float64)
    by_hand = torch.stack([(alone.out[0] * torch.tanh(alone.weight[0] @ e + alone.bias[0])).sum() for e in x])
    assert torch.allclose(alone(x)[0], by_hand)


def test_the_search_finds_the_nearest_network() -> None:
    number, difference = estimators.closest_network(3000)
    network = estimators.Network(*(x[0] for x in estimators.networks([number])))
    bias, sd = estimators.enumerated(network, "straight_through", 1.0)
    assert abs(bias.item() / 0.054 - 1) <= difference and abs(sd.item() / 0.36 - 1) <= difference < 1


def test_timings_name_their_machine() -> None:
    for row in NUMBERS["timing"].values():
        assert {"cpu", "cores", "threads", "torch"} <= set(row["machine"]) and row["date"] and row["command"]
        assert all(set(times) == {"5", "10"} and min(times.values()) > 0 for times in row["rows"].values())
    assert NUMBERS["timing"]["cpu"]["machine"]["threads"] == 1
    got = estimators.timing(repeats=3)
    assert set(got["rows"]) == set(NUMBERS["timing"]["cpu"]["rows"])
