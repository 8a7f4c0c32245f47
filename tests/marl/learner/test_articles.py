"""docs/articles.md: every mistake that it names is one, and its mend is right; by hand and by scipy or torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from envs.streams import Stream
from marl.learner import relaxation
from marl.world_model import losses

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])


def test_kl_is_cross_entropy_minus_entropy() -> None:
    """So cross entropy is KL *plus* entropy: the other sign is off by twice the entropy."""
    kl, entropy, cross = stats.entropy(P, Q), stats.entropy(P), -(P * np.log(Q)).sum()
    assert kl == pytest.approx(0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(1 / 3))
    assert kl + entropy == pytest.approx(cross)
    assert cross - (kl - entropy) == pytest.approx(2 * entropy) and entropy > 1.0


def test_squared_error_is_the_gaussian_assumption() -> None:
    """Half the squared error is the Gaussian's negative log-likelihood but for a constant; a Laplace's is not."""
    x, means = 1.3, np.array([-1.0, 0.0, 2.0])
    rest = -stats.norm.logpdf(x, means) - 0.5 * (x - means) ** 2
    assert rest == pytest.approx([0.5 * math.log(2 * math.pi)] * 3)
    assert np.ptp(-stats.laplace.logpdf(x, means) - 0.5 * (x - means) ** 2) == pytest.approx(0.8)  # .455 + .345
    data = np.array([0.0, 0.0, 9.0])  # least squares is pulled to the mean, the Laplace likelihood to the median
    grid = np.linspace(-1, 10, 1101)
    assert grid[stats.norm.logpdf(data[:, None], grid).sum(0).argmax()] == pytest.approx(3.0)
    assert grid[stats.laplace.logpdf(data[:, None], grid).sum(0).argmax()] == pytest.approx(0.0)


def test_a_likelihood_of_detached_logits_has_no_gradient() -> None:
    logits = torch.tensor([0.3, -1.0, 0.5], requires_grad=True)
    onehot = torch.tensor([0.0, 1.0, 0.0])
    detached = -torch.distributions.OneHotCategorical(logits=logits.detach()).log_prob(onehot)
    assert not detached.requires_grad
    attached = -torch.distributions.OneHotCategorical(logits=logits).log_prob(onehot)
    (gradient,) = torch.autograd.grad(attached, logits)
    torch.testing.assert_close(gradient, torch.softmax(logits.detach(), 0) - onehot)


def test_squared_error_of_latents_vanishes_where_they_are_surely_wrong() -> None:
    """Prior (e, 1 - e) for a latent that is the second: the squared error's gradient falls with e, the KL's does not.

    And one-hots are all equally far apart, so that sampled latents say nothing of the probabilities.
    """
    for e in (1e-2, 1e-4):
        logits = torch.tensor([math.log(1 - e), math.log(e)], dtype=torch.float64, requires_grad=True)
        latent = torch.tensor([0.0, 1.0], dtype=torch.float64)
        (square,) = torch.autograd.grad((torch.softmax(logits, 0) - latent).square().sum(), logits)
        (entropy,) = torch.autograd.grad(-torch.log_softmax(logits, 0)[1], logits)
        assert square[1].item() == pytest.approx(-4 * e * (1 - e) ** 2)  # by hand
        assert entropy[1].item() == pytest.approx(-(1 - e))
    assert torch.pdist(torch.eye(4)).tolist() == pytest.approx([math.sqrt(2)] * 6)


def test_left_edges_of_bins_bias_a_location_by_half_a_width() -> None:
    """A Gumbel density fitted to the heights of a histogram."""
    width, law = 0.5, stats.gumbel_r(7.3, 0.37)
    edges = np.arange(5.0, 12.0, width)
    heights = np.diff(law.cdf(edges)) / width

    def mean_at(places: np.ndarray) -> float:
        return float((places * heights).sum() / heights.sum())

    left, middle = mean_at(edges[:-1]), mean_at(edges[:-1] + width / 2)
    assert left - law.mean() == pytest.approx(-width / 2, abs=0.01)
    assert middle - law.mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("way", ["direct", "gumbel-max"])
def test_noise_adds_no_exploration(way: str) -> None:
    """Drawing from the policy directly and by Gumbel-max is one distribution: chi-square, entropy included."""
    p = torch.tensor([7.0, 3, 8, 14, 8, 17, 9]) / 66
    draws, stream = 200_000, Stream(0, "articles", [0])
    if way == "direct":
        index = torch.searchsorted(p.cumsum(0)[:-1].contiguous(), stream.uniform(draws)[0])
        counts = index.bincount(minlength=7)
    else:
        noise = stream.gumbel(draws, 7)[0]
        mask = torch.ones(7, dtype=torch.bool)
        counts = relaxation.sample_onehot(p.log().expand(draws, 7), noise, mask).sum(0)
    counts = counts.double()
    expected = p.double() / p.double().sum() * draws
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3
    assert stats.entropy(counts.numpy()) == pytest.approx(stats.entropy(p.double().numpy()), abs=0.005)


def test_the_general_gumbel_density() -> None:
    """exp(-(z + exp(-z))) / b with z = (x - m) / b: without the 1 / b it integrates to b."""
    m, b = 1.5, 2.0

    def density(x: float) -> float:
        z = (x - m) / b
        return math.exp(-(z + math.exp(-z))) / b

    for x in (-2.0, 1.5, 6.0):
        assert density(x) == pytest.approx(stats.gumbel_r(m, b).pdf(x))
    assert integrate.quad(density, -20, 120)[0] == pytest.approx(1.0)
    assert integrate.quad(lambda x: b * density(x), -20, 120)[0] == pytest.approx(b)


def test_the_gaussian_head_is_half_the_squared_error() -> None:
    """The world model's own likelihood, against scipy."""
    mean, x = torch.tensor([[0.2, -1.0]]), torch.tensor([[1.0, 0.5]])
    expected = stats.norm.logpdf(x.numpy(), mean.numpy()).sum()
    assert float(losses.gaussian_log_prob(x, mean).sum()) == pytest.approx(float(expected), rel=1e-5)
