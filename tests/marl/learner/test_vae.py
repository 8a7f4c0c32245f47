"""The autoencoder of docs/gumbel.md: unbiased estimates, exact bounds, what the reparameterised one is worth."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.gumbel import page, vae

STORED = json.loads((page.RESULTS / "numbers.json").read_text())["vae"]
ONE = range(1)


@pytest.fixture(scope="module")
def model() -> vae.Parameters:
    """Trained a little, so that encoder and decoder are no strangers."""
    return vae.trained("reparameterised", ONE, 150)[0]


def test_the_truth_integrates_to_one() -> None:
    axis = torch.linspace(-5, 5, 401)
    density = vae.true_log_density(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.sum()) * (10 / 400) ** 2 == pytest.approx(1.0, abs=1e-4)


def test_every_estimate_has_the_same_mean_and_their_variances_are_in_order(model: vae.Parameters) -> None:
    draws = {arm: vae.gradient_draws(arm, model, 0, 2000) for arm in vae.ARMS}
    path = draws["reparameterised"]
    scale = path.mean(0).norm()
    for arm, rows in draws.items():
        error = (rows.var(0).sum() + path.var(0).sum()).div(len(rows)).sqrt()
        distance = (rows.mean(0) - path.mean(0)).norm()
        assert distance < 3 * error and (error < scale or arm == "score function"), arm
    sizes = [vae.variance(draws[arm]) for arm in vae.ARMS]
    assert 3 * sizes[0] < sizes[1] < sizes[2]


def test_a_wrong_gradient_would_be_seen(model: vae.Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard itself: a divergence of the wrong sign moves the mean far beyond the noise."""
    path = vae.gradient_draws("reparameterised", model, 0, 500)
    right = vae.divergence
    monkeypatch.setattr(vae, "divergence", lambda mean, log_sd: -right(mean, log_sd))
    wrong = vae.gradient_draws("reparameterised", model, 0, 500)
    error = (wrong.var(0).sum() + path.var(0).sum()).div(500).sqrt()
    assert (wrong.mean(0) - path.mean(0)).norm() > 10 * error


def test_divergence_and_likelihood_by_hand_and_by_torch(model: vae.Parameters) -> None:
    mean, log_sd = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[0.2, -0.7]]])
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_sd.exp()), normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(vae.divergence(mean, log_sd), expected)
    z, x = torch.tensor([[[0.3, 0.1]]]), torch.tensor([[[1.0, -0.4]]])
    decoded = vae._layers(z, model["decoder"][:-1])
    expected = normal(decoded, model["decoder"][-1].exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(vae.log_likelihood(model, z, x), expected)


def test_the_log_likelihood_of_a_linear_model_is_the_closed_one() -> None:
    """x = z + b + sd e is N(b, 1 + sd^2): a decoder whose tanh are in their linear range."""
    parameters = {name: [torch.zeros(1, *shape) for shape in shapes] for name, shapes in vae.SHAPES.items()}
    first, _, second, _, third, bias, log_sd = parameters["decoder"]
    small = 1e-3
    for k in range(2):
        first[0, k, k], second[0, k, k], third[0, k, k] = small, 1.0, 1 / small
    bias[0] = torch.tensor([0.3, -0.2])
    log_sd[0] = math.log(0.5)
    x = torch.tensor([[[1.0, 0.0], [-2.0, 1.5]]])
    expected = torch.distributions.Normal(bias, math.sqrt(1.25)).log_prob(x).sum(-1)
    torch.testing.assert_close(vae.log_evidence(parameters, x), expected, atol=1e-3, rtol=0)


def test_a_short_run_of_either_gradient() -> None:
    """The reparameterised one is ahead after 400 updates on both seeds, and no ELBO exceeds its likelihood."""
    seeds = range(2)
    ends = {}
    for arm in ("reparameterised", "score function"):
        model, curve = vae.trained(arm, seeds, 400, 400)
        ends[arm] = torch.tensor(curve[-1])
        likelihood = vae.log_evidence(model, vae.held_out().expand(2, -1, -1)).mean(-1)
        assert (ends[arm] < likelihood).all() and (likelihood < STORED["truth"]).all()
    assert ends["reparameterised"].mean() > -3.55
    assert (ends["reparameterised"] > ends["score function"] + 0.02).all()


def test_what_the_stored_run_claims() -> None:
    arms = STORED["arms"]
    last = {arm: row["elbo"][-1] for arm, row in arms.items()}
    assert vae.mean(last["reparameterised"]) > -3.3
    for arm in vae.ARMS[1:]:
        assert all(ahead > behind for ahead, behind in zip(last["reparameterised"], last[arm], strict=True))
        assert vae.mean(last["reparameterised"]) > vae.mean(last[arm]) + 0.1
        for when, least in (("first update", 8), ("last update", 3)):
            variances = STORED["gradient_variance"][when]
            assert all(
                large > least * small for large, small in zip(variances[arm], variances["reparameterised"], strict=True)
            )
    for row in arms.values():
        assert all(bound < likelihood for bound, likelihood in zip(row["elbo"][-1], row["log_evidence"], strict=True))
        assert all(likelihood < STORED["truth"] for likelihood in row["log_evidence"])
