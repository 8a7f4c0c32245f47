"""Every gradient estimator against its formula, written out with explicit Jacobians, and the exactness it promises.

Enumeration: noise of 1e3 at one choice and 0 elsewhere draws that choice for certain. straight_through, gapped and
reinmax depend on the noise through the draw alone, so their expectation is a finite sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from envs.streams import Stream
from marl.learner import relaxation as rx

K = 5
TEMPERATURES = (0.1, 0.5, 0.7, 1.0, 4.0)
ENUMERABLE = ("straight_through", "gapped", "reinmax")
UNIT = torch.eye(K, dtype=torch.float64)
FORCED = 1e3 * UNIT  # row k draws choice k


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS = normal(K, seed=11)
PI = LOGITS.softmax(-1)


def jacobian(p: Tensor) -> Tensor:
    """[..., K, K] of softmax where its value is p."""
    return torch.diag_embed(p) - p[..., None] * p[..., None, :]


def gradient(estimator: str, logits: Tensor, gumbel: Tensor, temperature: float, arriving: Tensor | Callable, **noise):
    """The estimator's gradient with df/dD = `arriving`, or of a function f."""
    leaf = logits.clone().requires_grad_()
    value = rx.relax(estimator, leaf, gumbel, temperature, **noise)
    total = arriving(value) if callable(arriving) else value * arriving
    return torch.autograd.grad(total.sum(), leaf)[0]


def tanh_network(seed: int) -> Callable[[Tensor], Tensor]:
    weight, bias, out = normal(16, K, seed=seed), normal(16, seed=seed + 1), normal(16, seed=seed + 2)
    return lambda x: torch.tanh(x @ weight.T + bias) @ out


def exact(f: Callable[[Tensor], Tensor], logits: Tensor = LOGITS) -> Tensor:
    return jacobian(logits.softmax(-1)) @ f(UNIT)


# ---- formulas ----


def test_two_choices_worked_by_hand() -> None:
    """t = (0, 0), D = e_1, g = (1, 0): J(p) g = p_1 p_2 (1, -1)."""
    logits, gumbel, g = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])
    s = 1 / (1 + math.exp(-1.0))  # softmax(1, 0)
    by_hand = {
        "gumbel_soft": s * (1 - s),
        "gumbel_st": s * (1 - s),
        "straight_through": 0.25,
        "gapped": s * (1 - s),  # t stays (0, -1) after m1 = 0, m2 = (0, 1)
        "reinmax": 2 * 0.75 * 0.25 - 0.25 / 2,
    }
    for estimator, entry in by_hand.items():
        assert gradient(estimator, logits, gumbel, 1.0, g).tolist() == pytest.approx([entry, -entry], abs=1e-15)
    # E = (1, 1): z_D = 0 and z_2 = -log(1 / pi_2 + 1) = -log 3, so softmax(z) = (3/4, 1/4)
    conditional = torch.full((1, 2), math.exp(-1.0), dtype=torch.float64)
    got = gradient("rao_blackwell", logits, gumbel, 1.0, g, conditional=conditional)
    assert got.tolist() == pytest.approx([0.75 * 0.25, -0.75 * 0.25], abs=1e-15)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_gradients_are_the_written_formulas(estimator: str, temperature: float) -> None:
    for seed in range(20):
        t, noise, g = 2 * normal(K, seed=seed), rx.gumbel(uniform(K, seed=seed + 100)), normal(K, seed=seed + 200)
        conditional = uniform(3, K, seed=seed + 300)
        d = UNIT[int((t + noise).argmax())]
        pi = t.softmax(-1)
        if estimator == "straight_through":
            expected = jacobian((t / temperature).softmax(-1)) @ g / temperature
        elif estimator == "rao_blackwell":
            expected = torch.zeros(K, dtype=torch.float64)
            for e in -conditional.log():
                e_d = (e * d).sum()
                z = torch.where(d > 0, -torch.log(e_d), -torch.log(e / pi + e_d))
                expected += jacobian((z / temperature).softmax(-1)) @ g / temperature / 3
        elif estimator == "gapped":
            m1 = (t.max() - (t * d).sum()) * d
            m2 = (t + 1.0 - t.max()).clamp(min=0) * (1 - d)
            expected = jacobian(((t + m1 - m2) / temperature).softmax(-1)) @ g / temperature
        elif estimator == "reinmax":
            mean = ((t / temperature).softmax(-1) + d) / 2
            expected = 2 * jacobian(mean) @ g - jacobian(pi) @ g / 2
        else:
            expected = jacobian(((t + noise) / temperature).softmax(-1)) @ g / temperature
        got = gradient(estimator, t, noise, temperature, g, conditional=conditional)
        assert torch.allclose(got, expected, atol=1e-12, rtol=1e-12)


def test_the_gap_separates_the_choice_from_every_other() -> None:
    for k in range(K):
        leaf = LOGITS.clone().requires_grad_()
        soft = rx._gapped(leaf, UNIT[k], 1.0).log()
        others = torch.cat([soft[:k], soft[k + 1 :]])
        assert (soft[k] - others.max()).item() >= 1.0 - 1e-12
        if k == int(LOGITS.argmax()):
            second = LOGITS.sort().values[-2]
            assert (soft[k] - others.max()).item() == pytest.approx(max(1.0, (LOGITS.max() - second).item()))


# ---- exactness, by enumeration in float64 ----


@pytest.mark.parametrize("seed", range(5))
def test_the_all_action_surrogate_is_exact(seed: int) -> None:
    f, logits = tanh_network(seed), normal(K, seed=seed)
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad((leaf.softmax(-1) * f(UNIT)).sum(), leaf)
    value = rx.exact_surrogate(leaf, f(UNIT))
    (got,) = torch.autograd.grad(value, leaf)
    assert value.item() == pytest.approx((logits.softmax(-1) * f(UNIT)).sum().item(), abs=1e-14)
    assert torch.allclose(got, expected, atol=1e-14)
    assert torch.allclose(got, exact(f, logits), atol=1e-14)


@pytest.mark.parametrize("baseline", [0.0, -3.7, "mean"])
def test_reinforce_is_unbiased_for_every_baseline(baseline: float | str) -> None:
    f = tanh_network(3)
    b = (PI * f(UNIT)).sum() if baseline == "mean" else baseline
    leaf = LOGITS.expand(K, K).clone().requires_grad_()
    surrogate = rx.reinforce_surrogate(leaf, UNIT, f(UNIT), b)
    (rows,) = torch.autograd.grad(surrogate.sum(), leaf)
    assert torch.allclose(rows, (f(UNIT) - b)[:, None] * (UNIT - PI), atol=1e-13)
    assert torch.allclose(PI @ rows, exact(f), atol=1e-12)


def test_reinforce_s_variance_is_smaller_with_the_mean_as_baseline() -> None:
    def f(x: Tensor) -> Tensor:
        return tanh_network(3)(x) + 10

    def variance(b: Tensor | float) -> float:
        rows = (f(UNIT) - b)[:, None] * (UNIT - PI)
        return (PI[:, None] * (rows - PI @ rows).square()).sum().item()

    assert variance((PI * f(UNIT)).sum()) < variance(0.0) / 20


def reinmax_mean(temperature: float, slopes: Tensor) -> Tensor:
    """The mean over draws of 2 J((pi_T + D) / 2) g - J(pi) g / 2, with the gradients g [draw, K] of f at the draws."""
    between = (torch.softmax(LOGITS / temperature, -1) + UNIT) / 2
    rows = ((2 * jacobian(between) - 0.5 * jacobian(PI)) @ slopes[..., None])[..., 0]
    return PI @ rows


@pytest.mark.parametrize("seed", range(5))
def test_straight_through_is_exact_for_linear_functions(seed: int) -> None:
    slope = normal(K, seed=seed)
    rows = gradient("straight_through", LOGITS.expand(K, K), FORCED, 1.0, lambda x: x @ slope)
    assert torch.allclose(PI @ rows, exact(lambda x: x @ slope), atol=1e-12)
    cold = gradient("straight_through", LOGITS.expand(K, K), FORCED, 0.5, lambda x: x @ slope)
    colder = torch.softmax(LOGITS / 0.5, -1)
    assert torch.allclose(PI @ cold, 2 * jacobian(colder) @ slope, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_reinmax_is_exact_for_quadratic_functions(seed: int) -> None:
    matrix, slope = normal(K, K, seed=seed), normal(K, seed=seed + 50)

    def quadratic(x: Tensor) -> Tensor:
        return ((x @ matrix) * x).sum(-1) + x @ slope

    def mean(estimator: str, temperature: float) -> Tensor:
        return PI @ gradient(estimator, LOGITS.expand(K, K), FORCED, temperature, quadratic)

    assert torch.allclose(mean("reinmax", 1.0), exact(quadratic), atol=1e-12)
    slopes = UNIT @ (matrix + matrix.T) + slope  # [draw, K]
    assert torch.allclose(mean("straight_through", 1.0), jacobian(PI) @ (PI @ slopes), atol=1e-12)
    assert torch.allclose(mean("reinmax", 0.5), reinmax_mean(0.5, slopes), atol=1e-12)


def test_reinmax_is_not_exact_beyond_quadratic_functions() -> None:
    """It is the trapezoidal rule from draw to choice, whose error for the cube of c is (c_k - c_D)^3 / 2."""
    slope = normal(K, seed=1)

    def cubic(x: Tensor) -> Tensor:
        return (x @ slope) ** 3

    rows = gradient("reinmax", LOGITS.expand(K, K), FORCED, 1.0, cubic)
    assert torch.allclose(PI @ rows, reinmax_mean(1.0, 3 * (UNIT @ slope)[:, None] ** 2 * slope), atol=1e-12)
    errors = 0.5 * PI[:, None] * PI * (slope[:, None] - slope) ** 3
    assert torch.allclose(PI @ rows - exact(cubic), errors.sum(1), atol=1e-12)


def test_straight_through_gumbel_is_biased_even_for_linear_functions() -> None:
    """E[J(y)] / T is no multiple of J(pi): two choices, by quadrature; the soft sample's mean has it as derivative."""
    t, temperature = 1.0, 0.5

    def soft(x: float, difference: float) -> float:  # the noise's difference is logistic
        return stats.logistic.pdf(x) / (1 + math.exp(-(difference + x) / temperature))

    def mean(difference: float) -> float:
        return integrate.quad(soft, -40, 40, args=(difference,), epsabs=1e-13)[0]

    slope = (mean(t + 1e-4) - mean(t - 1e-4)) / 2e-4
    n = 400_000
    noise = Stream(5, "two choices", [0]).gumbel(n, 2)[0].double()
    logits = torch.tensor([t, 0.0], dtype=torch.float64).expand(n, 2)
    rows = gradient("gumbel_st", logits, noise, temperature, torch.tensor([1.0, 0.0], dtype=torch.float64))[:, 0]
    assert rows.mean().item() == pytest.approx(slope, abs=4 * rows.std().item() / math.sqrt(n))
    p = 1 / (1 + math.exp(-t))
    assert abs(slope - p * (1 - p)) > 0.005


# ---- Rao-Blackwell ----


def test_conditional_noise_has_the_distribution_given_the_choice() -> None:
    """Draw D, then the perturbed logits given D: without D known they are independent Gumbel variables at log pi."""
    n = 100_000
    onehot = rx.sample_onehot(LOGITS.expand(n, K), rx.gumbel(uniform(n, K, seed=1)))
    noise = rx.gumbel(uniform(n, K, seed=2))
    top = (noise * onehot).sum(-1, keepdim=True)
    drawn = torch.where(onehot > 0, noise, -torch.logaddexp(-(PI.log() + noise), -top))
    assert torch.equal(drawn.argmax(-1), onehot.argmax(-1))
    free = drawn - PI.log()
    for k in range(K):
        assert stats.kstest(free[:, k].numpy(), "gumbel_r").pvalue > 0.001
    correlation = torch.corrcoef(free.T) - UNIT
    assert correlation.abs().max() < 4.5 / math.sqrt(n)
    # the temperature 1 soft sample is the same function of that noise in the module
    soft = rx._rao_blackwell(LOGITS.expand(n, K), onehot, 1.0, uniform(1, n, K, seed=2))
    assert torch.allclose(soft, drawn.softmax(-1), atol=1e-12)


def test_rao_blackwell_has_straight_through_gumbel_s_mean_and_less_variance() -> None:
    n, temperature, f = 60_000, 0.5, tanh_network(7)
    noise, logits = rx.gumbel(uniform(n, K, seed=1)), LOGITS.expand(n, K)
    base = gradient("gumbel_st", logits, noise, temperature, f)
    base_error = (base.var(0) / n).sqrt()
    variances = [base.var(0).sum().item()]
    for inner in (1, 3, 10):
        rows = gradient("rao_blackwell", logits, noise, temperature, f, conditional=uniform(inner, n, K, seed=2))
        error = (base_error.square() + rows.var(0) / n).sqrt()
        assert ((rows.mean(0) - base.mean(0)).abs() < 4 * error).all()
        variances.append(rows.var(0).sum().item())
    assert variances[1] == pytest.approx(variances[0], rel=0.05)  # one inner draw: the same law
    assert variances[1] > 1.5 * variances[2] > 2 * variances[3]
    # Var = Var(E[. | D]) + E[Var(. | D)] / inner draws: linear in 1 / inner
    within = (variances[1] - variances[3]) / (1 - 1 / 10)
    assert variances[2] == pytest.approx(variances[1] - within * (1 - 1 / 3), rel=0.05)


# ---- limits and invariances ----


@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_gradients_do_not_depend_on_a_shift_and_sum_to_zero(estimator: str) -> None:
    t, noise, g = normal(50, K, seed=1), rx.gumbel(uniform(50, K, seed=2)), normal(50, K, seed=3)
    conditional = uniform(4, 50, K, seed=4)
    here = gradient(estimator, t, noise, 0.5, g, conditional=conditional)
    assert torch.allclose(here, gradient(estimator, t + 30, noise, 0.5, g, conditional=conditional), atol=1e-10)
    assert here.sum(-1).abs().max() < 1e-12
    # a constant added to f's slope changes nothing either
    assert torch.allclose(here, gradient(estimator, t, noise, 0.5, g + 9, conditional=conditional), atol=1e-10)


def test_limits_of_the_temperature() -> None:
    t, noise, g = normal(200, K, seed=1), rx.gumbel(uniform(200, K, seed=2)), normal(200, K, seed=3)
    onehot = rx.sample_onehot(t, noise)

    def clear_winner(scores: Tensor) -> Tensor:
        return scores.sort(-1).values.diff()[:, -1] > 0.05

    clear = clear_winner(t + noise)
    cold, hot = rx.relax("gumbel_soft", t, noise, 1e-3), rx.relax("gumbel_soft", t, noise, 1e6)
    assert torch.allclose(cold[clear], onehot[clear], atol=1e-12)
    assert torch.allclose(hot, torch.full_like(hot, 1 / K), atol=1e-5)
    # T grad -> J(uniform) g = (g - mean g) / K
    flat = (g - g.mean(-1, keepdim=True)) / K
    conditional = uniform(2, 200, K, seed=4)
    for estimator in ("gumbel_soft", "gumbel_st", "straight_through", "rao_blackwell", "gapped"):
        assert torch.allclose(1e6 * gradient(estimator, t, noise, 1e6, g, conditional=conditional), flat, atol=1e-5)
        frozen = gradient(estimator, t, noise, 1e-3, g, conditional=conditional)
        rows = clear_winner(t) if estimator == "straight_through" else clear
        assert estimator == "rao_blackwell" or frozen[rows].abs().max() < 1e-12
    # reinmax keeps its scale: (uniform + D) / 2 when hot, D or its greedy neighbour when cold
    d = onehot
    for temperature, limit in ((1e6, torch.full_like(d, 1 / K)), (1e-4, rx.greedy_onehot(t))):
        p = (limit + d) / 2
        pi = t.softmax(-1)
        expected = 2 * (p * g - p * (p * g).sum(-1, keepdim=True)) - (pi * g - pi * (pi * g).sum(-1, keepdim=True)) / 2
        assert torch.allclose(gradient("reinmax", t, noise, temperature, g), expected, atol=1e-5)


def test_no_gradient_flows_through_values_and_baselines() -> None:
    logits, value = normal(3, K, seed=1).requires_grad_(), normal(3, seed=2).requires_grad_()
    baseline, values = normal(3, seed=3).requires_grad_(), normal(3, K, seed=4).requires_grad_()
    onehot = rx.sample_onehot(logits, rx.gumbel(uniform(3, K, seed=5)))
    for total in (rx.reinforce_surrogate(logits, onehot, value, baseline), rx.exact_surrogate(logits, values)):
        got = torch.autograd.grad(total.sum(), [value, baseline, values], allow_unused=True, retain_graph=True)
        assert got == (None, None, None)
        assert torch.autograd.grad(total.sum(), logits)[0].count_nonzero() > 0


def test_gaussian_reparameterisation_has_the_known_gradients() -> None:
    """z = mu + sigma e: d/dmu E[z^2] = 2 mu, d/dsigma E[z^2] = 2 sigma."""
    n, mu, sigma = 200_000, 0.7, 1.3
    noise = torch.special.ndtri(Stream(6, "gaussian", [0]).uniform(n, dtype=torch.float64))[0]
    leaf = torch.tensor([mu, sigma], dtype=torch.float64).expand(n, 2).clone().requires_grad_()
    (rows,) = torch.autograd.grad((leaf[:, 0] + leaf[:, 1] * noise).square().sum(), leaf)
    error = 4 * rows.std(0) / math.sqrt(n)
    assert abs(rows[:, 0].mean() - 2 * mu) < error[0]
    assert abs(rows[:, 1].mean() - 2 * sigma) < error[1]


def test_the_argmax_does_not_depend_on_the_temperature() -> None:
    t, noise = normal(2000, K, seed=1), rx.gumbel(uniform(2000, K, seed=2))
    draws = [rx.relax("gumbel_soft", t, noise, temperature).argmax(-1) for temperature in (0.1, 0.5, 1.0, 10.0)]
    assert all(torch.equal(draw, draws[0]) for draw in draws)
