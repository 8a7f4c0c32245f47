"""marl.learner.relaxation: noise, sampling, masks, precision, annealing, and the traps that its design avoids."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from envs.streams import Stream
from marl.errors import UserError
from marl.learner import relaxation as rx

# seven classes, in 66ths
SEVEN = torch.tensor([7.0, 3.0, 8.0, 14.0, 8.0, 17.0, 9.0]) / 66
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return rx.gumbel(uniform(*shape, seed=seed, dtype=dtype))


# ---- noise ----


def test_gumbel_noise_has_the_gumbel_distribution() -> None:
    worked = rx.gumbel(torch.tensor([math.exp(-1.0), math.exp(-math.e)], dtype=torch.float64))
    assert torch.allclose(worked, torch.tensor([0.0, -1.0], dtype=torch.float64), atol=1e-15)
    draws = rx.gumbel(Stream(0, "kolmogorov-smirnov", [0]).uniform(200_000, dtype=torch.float64))[0]
    assert stats.kstest(draws.numpy(), lambda x: torch.exp(-torch.exp(-torch.as_tensor(x))).numpy()).pvalue > 0.01
    # mean: Euler's constant; variance: pi^2 / 6
    assert draws.mean().item() == pytest.approx(0.5772156649, abs=4 * math.sqrt(math.pi**2 / 6 / 200_000))
    assert draws.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gumbel_noise_is_finite_for_every_uniform_number(dtype: torch.dtype) -> None:
    edges = torch.tensor([0.0, torch.finfo(dtype).tiny, 0.5, 1.0], dtype=dtype)
    out = rx.gumbel(edges)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert out.isfinite().all()
    assert (out.diff() > 0).sum() >= 2  # increasing
    if dtype == torch.float32:
        assert out[0].item() == pytest.approx(-4.47, abs=0.01)
        assert out[-1].item() == pytest.approx(16.64, abs=0.01)


def test_the_usual_guard_of_the_logarithm_is_nothing_in_half_precision() -> None:
    assert torch.tensor(1e-20, dtype=torch.float16) == 0
    u = torch.tensor([0.0, 1.0], dtype=torch.float16)
    assert not (-torch.log(-torch.log(u + 1e-20) + 1e-20)).isfinite().any()
    assert rx.gumbel(u).isfinite().all()


# ---- sampling ----


@pytest.mark.parametrize("sampler", ["sample_onehot", *rx.PATHWISE])
def test_every_sampler_draws_the_seven_classes(sampler: str) -> None:
    n = 200_000
    gumbel = Stream(1, f"chi-square {sampler}", [0]).gumbel(n, 7)[0]
    logits = SEVEN.log().expand(n, 7)
    if sampler == "sample_onehot":
        drawn = rx.sample_onehot(logits, gumbel)
    else:
        drawn = rx.relax(sampler, logits, gumbel, 0.5, conditional=torch.full((1, n, 7), 0.3))
    counts = torch.bincount(drawn.argmax(-1), minlength=7)
    assert stats.chisquare(counts.numpy(), n * (SEVEN / SEVEN.sum()).double().numpy(), sum_check=False).pvalue > 0.001


def test_float32_noise_samples_within_2e_5_draws_even_a_peaked_policy() -> None:
    n, logits = 200_000, torch.tensor([0.0, -3.0, -6.0, -9.0])
    drawn = rx.sample_onehot(logits.expand(n, 4), Stream(2, "peaked", [0]).gumbel(n, 4)[0])
    expected = n * logits.double().softmax(-1)
    assert stats.chisquare(drawn.sum(0).numpy(), expected.numpy(), sum_check=False).pvalue > 0.001


def test_softmax_keeps_what_argmax_throws_away() -> None:
    p = rx.probabilities(torch.tensor([-20.0, 10.0, 9.6, 6.2], dtype=torch.float64))
    assert p[0].item() == pytest.approx(5.5e-14, rel=0.01)
    assert p[1:].tolist() == pytest.approx([0.59078, 0.39601, 0.01322], abs=6e-6)
    near, clear = torch.tensor([1e-9, 0.591, 0.396, 0.013]).log(), torch.tensor([1e-9, 0.9, 0.1, 1e-9]).log()
    assert torch.equal(rx.greedy_onehot(near), rx.greedy_onehot(clear))
    gumbel = Stream(3, "two policies", [0]).gumbel(100_000, 4)[0]
    frequency = [rx.sample_onehot(t.expand(100_000, 4), gumbel).mean(0) for t in (near, clear)]
    assert frequency[0].tolist() == pytest.approx([0, 0.591, 0.396, 0.013], abs=0.006)
    assert frequency[1].tolist() == pytest.approx([0, 0.9, 0.1, 0], abs=0.006)


@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_every_estimator_takes_the_sampler_s_choice(estimator: str) -> None:
    logits = (3 * noise(7, 11, 5, seed=1)).requires_grad_()
    gumbel = noise(7, 11, 5, seed=2)
    mask = uniform(11, 5, seed=3) > 0.4
    mask[0] = False
    conditional = uniform(4, 7, 11, 5, seed=4)
    for allowed in (None, mask):
        expected = rx.sample_onehot(logits, gumbel, allowed)
        for temperature in (1e-3, 0.5, 1.0, 1e3):
            value = rx.relax(estimator, logits, gumbel, temperature, allowed, conditional)
            if estimator == "gumbel_soft":
                assert torch.equal(value.argmax(-1), expected.argmax(-1))
                assert torch.allclose(value.sum(-1), expected.sum(-1))
            else:
                assert torch.equal(value, expected)


def test_samples_are_exact_onehots_without_gradient() -> None:
    logits = noise(1000, 5, dtype=torch.float32).requires_grad_()
    for onehot in (rx.sample_onehot(logits, noise(1000, 5, seed=1, dtype=torch.float32)), rx.greedy_onehot(logits)):
        assert not onehot.requires_grad
        assert ((onehot == 0) | (onehot == 1)).all()
        assert (onehot.sum(-1) == 1).all()
    for estimator in rx.PATHWISE[1:]:
        conditional = uniform(3, 1000, 5, seed=2)
        value = rx.relax(estimator, logits, noise(1000, 5, seed=1, dtype=torch.float32), 0.3, None, conditional)
        assert value.requires_grad
        assert ((value == 0) | (value == 1)).all()
        assert (value.sum(-1) == 1).all()


def test_a_tie_gives_one_one() -> None:
    tied = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert (tied == tied.amax(-1, keepdim=True)).sum(-1).tolist() == [2, 3]  # what the comparison would have given
    assert rx.greedy_onehot(tied).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert rx.sample_onehot(tied, torch.zeros(2, 3)).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_samples_do_not_depend_on_a_shift_of_the_logits() -> None:
    logits, gumbel = noise(500, 5, seed=1), noise(500, 5, seed=2)
    assert torch.equal(rx.sample_onehot(logits, gumbel), rx.sample_onehot(logits + 64, gumbel))
    assert torch.allclose(rx.probabilities(logits), rx.probabilities(logits - 64), atol=1e-12)
    assert torch.allclose(rx.entropy(logits), rx.entropy(logits + 64), atol=1e-12)


# ---- probabilities, entropy, masks ----


def test_entropy_worked_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([True, True, False, False])
    # 3/4 and 1/4: ln 4 - 3/4 ln 3
    assert rx.entropy(logits, mask).tolist() == pytest.approx([math.log(2), math.log(4) - 0.75 * math.log(3)])
    assert rx.entropy(logits)[0].item() == pytest.approx(math.log(4))
    certain = torch.tensor([100.0, -100.0, -100.0])
    assert rx.entropy(certain).item() == pytest.approx(0.0, abs=1e-30)


def test_entropy_s_gradient_is_that_of_its_definition() -> None:
    logits = noise(20, 5, seed=1).requires_grad_()
    p = logits.softmax(-1)
    (expected,) = torch.autograd.grad(-(p * p.log()).sum(), logits)
    (gradient,) = torch.autograd.grad(rx.entropy(logits).sum(), logits)
    assert torch.allclose(gradient, expected, atol=1e-13)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("forbidden", [0.0, 50.0, -math.inf, math.inf, math.nan])
def test_a_forbidden_choice_has_neither_probability_nor_gradient(dtype: torch.dtype, forbidden: float) -> None:
    logits = torch.tensor([[1.0, forbidden, 2.0, 0.5], [forbidden] * 4], dtype=dtype)
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    gumbel, conditional = noise(2, 4, dtype=torch.float32), uniform(3, 2, 4, dtype=torch.float32)
    weight = torch.tensor([3.0, -1.0, 2.0, 5.0], dtype=dtype)
    scalars = {
        "probabilities": lambda x: rx.probabilities(x, mask) * weight,
        "entropy": lambda x: rx.entropy(x, mask),
        "exact": lambda x: rx.exact_surrogate(x, torch.where(mask, weight, math.nan), mask),
        "reinforce": lambda x: rx.reinforce_surrogate(x, rx.sample_onehot(x, gumbel, mask), weight[:2], 0.5, mask),
    }
    for estimator in rx.PATHWISE:
        scalars[estimator] = lambda x, e=estimator: rx.relax(e, x, gumbel, 0.5, mask, conditional) * weight
    reduced, wide = logits[:1, [0, 2, 3]], ("exact", "reinforce")
    for name, scalar in scalars.items():
        leaf = logits.clone().requires_grad_()
        value = scalar(leaf)
        assert value.dtype == (torch.promote_types(dtype, torch.float32) if name in wide else dtype), name
        assert value.isfinite().all(), name
        assert (value[1] == 0).all(), name
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert gradient.isfinite().all(), name
        assert (gradient[~mask] == 0).all(), name
        assert name == "reinforce" or (gradient[mask] != 0).any(), name
    small = rx.probabilities(reduced)
    assert torch.equal(rx.probabilities(logits, mask)[0, [0, 2, 3]], small[0])


def test_a_row_with_nothing_allowed_chooses_nothing() -> None:
    logits, mask = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 5, dtype=torch.bool)
    mask[1] = True
    for onehot in (rx.sample_onehot(logits, torch.zeros(3, 5), mask), rx.greedy_onehot(logits, mask)):
        assert onehot.sum(-1).tolist() == [0, 1, 0]
    assert rx.entropy(logits, mask)[[0, 2]].tolist() == [0, 0]
    assert rx.probabilities(logits, mask)[[0, 2]].count_nonzero() == 0
    assert torch.full((3,), -math.inf).softmax(-1).isnan().all()  # what a row of -inf would have given
    assert rx.mask_logits(logits, mask).isfinite().all()


@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_an_unmasked_logit_of_minus_infinity_is_a_forbidden_choice(estimator: str) -> None:
    logits = torch.tensor([[0.0, 1.0, -math.inf], [3.0, -math.inf, 2.0]], requires_grad=True)
    gumbel, conditional = noise(2, 3, dtype=torch.float32), uniform(4, 2, 3, dtype=torch.float32)
    value = rx.relax(estimator, logits, gumbel, 0.7, None, conditional)
    (gradient,) = torch.autograd.grad((value * torch.tensor([1.0, 2.0, 4.0])).sum(), logits)
    assert value[0, 2] == value[1, 1] == gradient[0, 2] == gradient[1, 1] == 0
    assert gradient.isfinite().all()
    for f in (rx.entropy, rx.probabilities):
        (gradient,) = torch.autograd.grad(f(logits)[..., 0].sum(), logits)
        assert gradient.isfinite().all()


def test_one_choice_is_always_taken_and_has_no_gradient() -> None:
    logits = noise(6, 1).requires_grad_()
    for estimator in rx.PATHWISE:
        value = rx.relax(estimator, logits, noise(6, 1, seed=1), 0.5, conditional=uniform(2, 6, 1))
        (gradient,) = torch.autograd.grad((3 * value).sum(), logits)
        assert (value == 1).all()
        assert (gradient.abs() < 1e-15).all()
    assert rx.entropy(logits).abs().max() < 1e-15


# ---- precision ----


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_extreme_logits_and_temperatures_are_as_float64_has_them(
    estimator: str, temperature: float, dtype: torch.dtype
) -> None:
    logits = torch.cat([uniform(64, 5, seed=1) * 200 - 100, uniform(64, 5, seed=2)]).to(dtype)
    gumbel, conditional = noise(128, 5, seed=3, dtype=torch.float32), uniform(4, 128, 5, seed=4, dtype=torch.float32)
    arriving = (uniform(128, 5, seed=5) - 0.5).to(dtype)

    def value_and_gradient(wide: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = logits.to(wide).requires_grad_()
        value = rx.relax(estimator, leaf, gumbel, temperature, None, conditional)
        return value, torch.autograd.grad((value * arriving).sum(), leaf)[0].double()

    value, gradient = value_and_gradient(dtype)
    exact_value, exact_gradient = value_and_gradient(torch.float64)
    assert value.dtype == dtype
    assert value.isfinite().all() and gradient.isfinite().all()
    tolerance = torch.finfo(dtype).eps + 20 * torch.finfo(torch.float32).eps / temperature
    assert torch.allclose(value.double(), exact_value, atol=tolerance, rtol=0)
    # relative to the steepest gradient: rounding of the result, and of the scores (up to 100) divided by T
    rounding = torch.finfo(dtype).eps + 200 * torch.finfo(torch.float32).eps / temperature
    scale = max(1.0, 1 / temperature) if estimator == "reinmax" else 1 / temperature
    assert (gradient - exact_gradient).abs().max() <= 4 * rounding * scale


def test_cold_gradients_are_almost_always_zero() -> None:
    """J(y) y-row underflows where the gap of the two best perturbed logits exceeds about T * 104 (float32)."""
    n = 20_000
    logits = torch.randn(n, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = rx.relax("gumbel_st", logits, noise(n, 5, seed=7, dtype=torch.float32), 1e-3)
    arriving = torch.randn(n, 5, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((value * arriving).sum(), logits)
    dead = (gradient == 0).all(-1).float().mean().item()
    pi = logits.detach().softmax(-1)
    # P(gap > d) = sum_k P(k wins against the others lifted by d)
    predicted = (pi / (pi + (1 - pi) * math.exp(0.104))).sum(-1).mean().item()
    assert dead == pytest.approx(predicted, abs=0.006)
    assert 0.92 < dead < 0.95


# ---- annealing ----


def test_temperature_falls_exponentially() -> None:
    assert [rx.temperature_at(p, 4.0, 0.1) for p in (0.0, 0.5, 1.0)] == pytest.approx([4.0, math.sqrt(0.4), 0.1])
    assert rx.temperature_at(0.25, 2.5, 0.5) == pytest.approx(2.5 * 0.2**0.25)
    assert rx.temperature_at(0.7, 1.5, None) == 1.5
    assert rx.temperature_at(-1.0, 4.0, 0.1) == 4.0
    assert rx.temperature_at(7.0, 4.0, 0.1) == pytest.approx(0.1)
    progress = torch.tensor([0.0, 0.5, 2.0])
    assert rx.temperature_at(progress, 4.0, 0.1).tolist() == pytest.approx([4.0, math.sqrt(0.4), 0.1])
    assert rx.temperature_at(progress, 4.0, None).tolist() == [4.0] * 3


@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_a_temperature_may_be_a_tensor_one_for_every_row(estimator: str) -> None:
    logits, gumbel, conditional = noise(3, 4, seed=1), noise(3, 4, seed=2), uniform(2, 3, 4)

    def gradient(rows: slice, temperature: float | torch.Tensor) -> torch.Tensor:
        leaf = logits[rows].clone().requires_grad_()
        value = rx.relax(estimator, leaf, gumbel[rows], temperature, None, conditional[:, rows])
        return torch.autograd.grad((value * torch.arange(4)).sum(), leaf)[0]

    together = gradient(slice(None), torch.tensor([[0.2], [1.0], [5.0]]))
    for row, temperature in enumerate((0.2, 1.0, 5.0)):
        assert torch.allclose(together[row], gradient(slice(row, row + 1), torch.tensor(temperature))[0], atol=1e-7)
    assert not torch.allclose(together, gradient(slice(None), 1.0), atol=1e-3)


# ---- faults and traps ----


def test_unknown_estimators_are_named() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match=r"'gumbel_sft'.*Did you mean 'gumbel_soft' or 'gumbel_st'"):
        rx.relax("gumbel_sft", logits, logits, 1.0)
    with pytest.raises(UserError, match="surrogate"):
        rx.relax("exact", logits, logits, 1.0)
    with pytest.raises(UserError, match=r"conditional noise.*\[n, \.\.\., K\]"):
        rx.relax("rao_blackwell", logits, logits, 1.0)


def test_the_order_of_the_straight_through_sum_matters() -> None:
    z = rx.sample_onehot(noise(1000, 5, dtype=torch.float32), noise(1000, 5, seed=1, dtype=torch.float32))
    p = noise(1000, 5, dtype=torch.float32).softmax(-1)
    assert 0 < ((z + p - p.detach()) - z).abs().max() < 1e-6
    assert torch.equal(z + (p - p.detach()), z)


def test_torch_s_onehot_log_probability_passes_no_gradient_to_a_sample() -> None:
    logits = noise(4, 5).requires_grad_()
    sample = rx.relax("straight_through", logits, noise(4, 5, seed=1), 1.0)
    other = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    log_p = torch.distributions.OneHotCategorical(logits=other).log_prob(sample)
    assert torch.autograd.grad(log_p.sum(), logits, allow_unused=True, retain_graph=True)[0] is None
    (gradient,) = torch.autograd.grad((sample * rx.log_probabilities(noise(4, 5, seed=2))).sum(), logits)
    assert (gradient.abs() > 0).all()


def test_exponentiated_logits_overflow_where_log_softmax_does_not() -> None:
    logits = torch.tensor([[90.0, 0.0], [-100.0, 100.0]])
    assert logits.exp().isinf().any()
    conditional = uniform(50, 2, 2, dtype=torch.float32)
    value = rx.relax("rao_blackwell", logits.requires_grad_(), torch.zeros(2, 2), 1e-3, None, conditional)
    (gradient,) = torch.autograd.grad((value * torch.tensor([1.0, 2.0])).sum(), logits)
    assert value.tolist() == [[1, 0], [0, 1]] and gradient.isfinite().all()
