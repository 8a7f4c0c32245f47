"""marl.learner.diagnostics.gradient_error: the exact gradient, single draws and their comparison."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from marl.learner import relaxation as rx
from marl.learner.diagnostics import gradient_error as ed

ALL = (*rx.PATHWISE, "reinforce", "exact")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape: int, seed: int) -> Tensor:
    return rx.gumbel(torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_exact_gradient_is_that_of_the_expected_value() -> None:
    weight = normal(4, 5, seed=1)

    def f(x: Tensor) -> Tensor:
        return torch.tanh((x * weight).sum(-1)) + x.square().sum(-1)

    logits = normal(3, 4, 5, seed=2).requires_grad_()
    total = (logits.softmax(-1) * ed.choice_values(f, logits)).sum()
    assert torch.allclose(ed.exact_gradient(logits, f), torch.autograd.grad(total, logits)[0], atol=1e-14)
    assert torch.equal(ed.choice_values(f, logits)[2, 1], torch.stack([f(x.expand(4, 5))[1] for x in torch.eye(5)]))


def test_comparison_worked_by_hand() -> None:
    """Draws (2, 0) and (0, 2), v = (2, 1): mean (1, 1); variances 2 + 2; |mean - v|^2 = 1, minus 4 / 2 < 0."""
    draws = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    got = ed.compare_gradients(draws, torch.tensor([2.0, 1.0]))
    assert got["cosine"].item() == pytest.approx(3 / (2 * 5) ** 0.5)
    assert got["relative_sd"].item() == pytest.approx((4 / 5) ** 0.5)
    assert got["relative_bias"].item() == 0.0
    # v = (4, 5): |mean - v|^2 = 25, minus 2
    assert ed.compare_gradients(draws, torch.tensor([4.0, 5.0]))["relative_bias"].item() == pytest.approx(
        (23 / 41) ** 0.5
    )


def test_kept_dimensions_are_measured_apart() -> None:
    draws, exact = normal(6, 2, 3, 7, 5, seed=1), normal(2, 3, 7, 5, seed=2)
    kept = ed.compare_gradients(draws, exact, keep=2)
    for name, value in kept.items():
        assert value.shape == (2, 3)
        alone = ed.compare_gradients(draws[:, 1, 2].contiguous(), exact[1, 2])[name]
        assert value[1, 2].item() == pytest.approx(alone.item())
    assert ed.compare_gradients(draws, exact)["cosine"].shape == ()


def test_the_bias_is_corrected_for_the_noise_of_few_draws() -> None:
    """Unbiased estimates with relative deviation 2: |mean of 8 - v| alone would read 0.7."""
    exact = normal(5, seed=1)
    squared = []
    for seed in range(300):
        draws = exact + 2 * exact.norm() / 5**0.5 * normal(8, 5, seed=seed)
        naive = (draws.mean(0) - exact).norm() / exact.norm()
        got = ed.compare_gradients(draws, exact)
        squared.append((naive.item() ** 2, got["relative_bias"].item() ** 2, got["relative_sd"].item()))
    naive, corrected, sd = torch.tensor(squared).mean(0).tolist()
    assert naive == pytest.approx(4 / 8, rel=0.1)
    assert corrected < 0.4 * naive  # the clamp at 0 keeps the positive half
    assert sd == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("estimator", ALL)
def test_linear_functions_show_which_estimators_are_unbiased(estimator: str) -> None:
    slope, logits = normal(5, seed=3), normal(5, seed=4).expand(20_000, 5)
    draws = ed.gradient_draws(
        estimator,
        logits,
        lambda x: x @ slope,
        noise(1, 20_000, 5, seed=5),
        1.0,
        conditional=uniform(1, 4, 20_000, 5, seed=6),
        baseline=0.3,
    )[0]
    got = ed.compare_gradients(draws, ed.exact_gradient(logits[0], lambda x: x @ slope))
    if estimator in ("straight_through", "reinmax", "reinforce", "exact"):
        assert got["relative_bias"] < 4 * got["relative_sd"] / 20_000**0.5 + 1e-9
        assert got["cosine"] > 0.999
    else:
        assert got["relative_bias"] > 0.05
    if estimator in ("straight_through", "exact"):
        assert got["relative_sd"] < 1e-9


@pytest.mark.parametrize("estimator", ALL)
def test_statistics_of_a_critic(estimator: str) -> None:
    """A batch of masked choices through a critic with parameters: finite, shaped, and without side effects."""
    critic = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    logits = normal(2, 3, 16, 5, seed=1).requires_grad_()
    mask = uniform(3, 1, 5, seed=2) > 0.2
    mask[0] = False
    calls = []

    def f(x: Tensor) -> Tensor:
        assert x.shape == logits.shape
        calls.append(x.requires_grad)
        return critic(x).squeeze(-1)

    with torch.no_grad():
        got = ed.gradient_statistics(
            estimator, logits, f, noise(4, 2, 3, 16, 5, seed=3), 0.7, mask, uniform(4, 2, 2, 3, 16, 5, seed=4), keep=2
        )
    assert len(calls) == (5 if estimator == "exact" else 5 + 4)
    assert set(got) == {"cosine", "relative_bias", "relative_sd"}
    for value in got.values():
        assert value.shape == (2, 3)
        assert value.isfinite().all()
        assert (value[:, 0] == 0).all()  # absent heads have no gradient to miss
    assert (got["cosine"][:, 1:] <= 1 + 1e-12).all()
    assert all(p.grad is None for p in critic.parameters()) and logits.grad is None
    if estimator == "exact":
        assert torch.allclose(got["cosine"][:, 1:], torch.ones(2, 2, dtype=torch.float64))
        assert (got["relative_bias"] == 0).all() and (got["relative_sd"] < 1e-12).all()


def test_reinforce_is_measured_with_the_expected_value_as_baseline() -> None:
    logits = torch.zeros(40_000, 2, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return x[..., 0] + 100

    got = ed.gradient_statistics("reinforce", logits, f, noise(2, 40_000, 2, seed=1), 1.0)
    # f - E f = +-1/2 and D - pi = +-(1/2, -1/2): every draw is (1/4, -1/4) exactly
    assert got["relative_sd"].item() == pytest.approx(0.0, abs=1e-9)
    assert got["cosine"].item() == pytest.approx(1.0)
