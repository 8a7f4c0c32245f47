"""Likelihoods, KL balancing and straight-through samples against closed forms, torch's own and enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_world_model_rssm import toy
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical, kl_divergence

from envs.streams import Stream
from marl.world_model import losses

ALPHA, BETA = 0.8, 0.1


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    """Over the classes of [..., C, L]."""
    return torch.log_softmax(x, -2)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return logits(*shape, seed=1).requires_grad_(), logits(*shape, seed=2).requires_grad_()


def circulated(log_q: torch.Tensor, log_p: torch.Tensor, z: torch.Tensor, nt: float, nq: float) -> torch.Tensor:
    """The simplified form in circulation: - nt log p(sg z) + nq log sg(q)(z), with means over the latents."""
    to_prior = -(z.detach() * log_p).sum(-2).mean()
    to_posterior = (z * log_q.detach()).sum(-2).mean()
    return nt * to_prior + nq * to_posterior


# ------------------------------------------------------------------ likelihoods
def test_gaussian_likelihood_is_least_squares() -> None:
    x, mean = logits(5, 7, seed=3), logits(5, 7, seed=4).requires_grad_()
    value = losses.gaussian_log_prob(x, mean)
    squares = (x - mean).square().sum(-1)
    torch.testing.assert_close(-value, 0.5 * squares + 7 / 2 * math.log(2 * math.pi))
    torch.testing.assert_close(value, Independent(Normal(mean, 1.0), 1).log_prob(x))
    (-value.sum()).backward()
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, (mean - x).detach())


def test_gaussian_likelihood_by_hand_and_over_images() -> None:
    value = losses.gaussian_log_prob(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]))
    assert value.item() == pytest.approx(-2.5 - math.log(2 * math.pi), abs=1e-6)
    image, mean = logits(2, 3, 4, 4), logits(2, 3, 4, 4, seed=9)
    flat = losses.gaussian_log_prob(image.flatten(1), mean.flatten(1))
    torch.testing.assert_close(losses.gaussian_log_prob(image, mean, event_dims=3), flat)


def test_gaussian_likelihood_refuses_a_shape_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"\(4, 1\) and mean \(4, 3\)"):
        losses.gaussian_log_prob(torch.zeros(4, 1), torch.zeros(4, 3))


def test_relative_likelihood_by_hand() -> None:
    """Errors of 1 at values of .5 and -4: squares 1 and (1 / 4)^2; as a Gaussian of deviation max(1, |x|)."""
    x, mean = torch.tensor([0.5, -4.0]), torch.tensor([1.5, -3.0], requires_grad=True)
    value = losses.relative_log_prob(x, mean)
    assert value.item() == pytest.approx(-0.5 * (1 + 1 / 16))
    deviation = torch.tensor([1.0, 4.0])
    normaliser = (deviation.log() + 0.5 * math.log(2 * math.pi)).sum()
    torch.testing.assert_close(value, Normal(mean, deviation).log_prob(x).sum() + normaliser)
    torch.testing.assert_close(losses.relative_error(x, mean).detach(), torch.tensor([1.0, 0.25]))


def test_categorical_likelihood_is_cross_entropy() -> None:
    scores = logits(6, 5, 3)
    index = torch.arange(18).view(6, 3) % 5
    onehot = torch.nn.functional.one_hot(index, 5).double().transpose(1, 2)
    value = losses.categorical_log_prob(onehot, log_softmax(scores))
    cross_entropy = torch.nn.functional.cross_entropy(scores, index, reduction="none")
    torch.testing.assert_close(-value, cross_entropy.sum(-1))


def test_likelihood_maximised_where_kl_to_the_data_is_minimal() -> None:
    data = torch.tensor([[0.5], [0.3], [0.2]], dtype=torch.float64)
    theta = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    expected_nll = -losses.categorical_log_prob(data, log_softmax(theta))
    kl = losses.kl_divergence(data.log(), log_softmax(theta))
    (by_likelihood,) = torch.autograd.grad(expected_nll, theta)
    (by_kl,) = torch.autograd.grad(kl, theta)
    torch.testing.assert_close(by_likelihood, by_kl)
    torch.testing.assert_close(kl, expected_nll - losses.entropy(data.log()))


@given(st.floats(0.0, 1.0), st.floats(-20.0, 20.0))
@settings(max_examples=50, deadline=None)
def test_bernoulli_with_a_soft_label(target: float, logit: float) -> None:
    t, x = torch.tensor(target, dtype=torch.float64), torch.tensor(logit, dtype=torch.float64)
    slow = target * math.log(1 / (1 + math.exp(-logit))) + (1 - target) * math.log(1 / (1 + math.exp(logit)))
    assert losses.bernoulli_log_prob(t, x).item() == pytest.approx(slow, abs=1e-9)
    hard = torch.tensor(float(target > 0.5), dtype=torch.float64)
    torch.testing.assert_close(losses.bernoulli_log_prob(hard, x), Bernoulli(logits=x).log_prob(hard))


def test_bernoulli_is_maximal_at_the_soft_label() -> None:
    x = torch.tensor(math.log(0.95 / 0.05), dtype=torch.float64, requires_grad=True)
    losses.bernoulli_log_prob(torch.tensor(0.95, dtype=torch.float64), x).backward()
    assert x.grad is not None and abs(x.grad.item()) < 1e-12


# ------------------------------------------------------------------ KL balancing
@pytest.mark.parametrize("form", ["balanced", "sampled"])
def test_gradients_have_their_closed_form(form: str) -> None:
    """Prior: alpha beta (p - q); posterior: (1 - alpha) beta q (log q/p - KL)."""
    q_logits, p_logits = pair(1, 5, 4)
    log_q, log_p = log_softmax(q_logits), log_softmax(p_logits)
    q, p = log_q.exp().detach(), log_p.exp().detach()
    if form == "balanced":
        loss, _ = losses.balanced_kl(log_q, log_p, ALPHA)
        drawn = q
    else:
        z = losses.straight_through(log_q.exp(), torch.full((1, 4), 0.4, dtype=torch.float64))
        loss, _ = losses.sampled_kl(log_q, log_p, z, ALPHA)
        drawn = z.detach()
    (BETA * loss.sum()).backward()
    ratio = (log_q - log_p).detach()
    kl = (q * ratio).sum(-2, keepdim=True)
    assert q_logits.grad is not None and p_logits.grad is not None
    torch.testing.assert_close(q_logits.grad, (1 - ALPHA) * BETA * q * (ratio - kl))
    torch.testing.assert_close(p_logits.grad, ALPHA * BETA * (p - drawn))


def test_sampled_prior_gradient_is_unbiased_by_enumeration() -> None:
    q_logits, p_logits = pair(1, 4, 1)
    log_q, log_p = log_softmax(q_logits), log_softmax(p_logits)
    total = torch.zeros_like(p_logits)
    for k in range(4):
        z = torch.nn.functional.one_hot(torch.tensor([k]), 4).double()[..., None]
        loss, _ = losses.sampled_kl(log_q, log_p, z, ALPHA)
        (grad,) = torch.autograd.grad(loss.sum(), p_logits, retain_graph=True)
        total = total + log_q.exp().detach()[0, k, 0] * grad
    torch.testing.assert_close(total, ALPHA * (log_p.exp() - log_q.exp()).detach())


def test_balanced_value_does_not_depend_on_alpha() -> None:
    log_q, log_p = (log_softmax(x) for x in pair(3, 5, 4))
    values = [losses.balanced_kl(log_q, log_p, alpha)[0] for alpha in (0.0, 0.3, 0.8, 1.0)]
    for value in values:
        torch.testing.assert_close(value, losses.kl_divergence(log_q, log_p))


def test_kl_equals_torch_and_has_the_right_direction() -> None:
    q_logits, p_logits = pair(6, 5, 3)
    q, p = (Independent(OneHotCategorical(logits=x.transpose(1, 2)), 1) for x in (q_logits, p_logits))
    ours = losses.kl_divergence(log_softmax(q_logits), log_softmax(p_logits))
    torch.testing.assert_close(ours, kl_divergence(q, p))
    # by hand: q = (1/2, 1/2), p = (1/4, 3/4): KL(q||p) = ln(2)/2 + ln(2/3)/2 = .1438, KL(p||q) = .1308
    log_q, log_p = torch.tensor([[0.5], [0.5]]).log(), torch.tensor([[0.25], [0.75]]).log()
    assert losses.kl_divergence(log_q, log_p).item() == pytest.approx(0.1438410, abs=1e-6)
    assert losses.kl_divergence(log_p, log_q).item() == pytest.approx(0.1308120, abs=1e-6)
    # torch's nn.KLDivLoss(input=log q, target=log p) is the other direction
    other = torch.nn.KLDivLoss(reduction="sum", log_target=True)(log_q, log_p)
    assert other.item() == pytest.approx(0.1308120, abs=1e-6)


def test_doubling_the_latents_doubles_the_kl() -> None:
    log_q, log_p = (log_softmax(x) for x in pair(6, 5, 3))
    once = losses.kl_divergence(log_q, log_p)
    torch.testing.assert_close(losses.kl_divergence(log_q.repeat(1, 1, 2), log_p.repeat(1, 1, 2)), 2 * once)
    assert once.shape == (6,)


@pytest.mark.parametrize("alpha, moved", [(1.0, "prior"), (0.0, "posterior")])
def test_stop_gradients_reach_only_one_side(alpha: float, moved: str) -> None:
    q_logits, p_logits = pair(2, 4, 3)
    loss, kl = losses.balanced_kl(log_softmax(q_logits), log_softmax(p_logits), alpha)
    loss.sum().backward()
    assert q_logits.grad is not None and p_logits.grad is not None
    assert bool(p_logits.grad.any()) == (moved == "prior")
    assert bool(q_logits.grad.any()) == (moved == "posterior")
    assert not kl.requires_grad


# ---------------------------------------------------------------------- free nats
def test_free_nats_per_step() -> None:
    kl = torch.tensor([[0.2, 3.0, 1.0]], requires_grad=True)
    clipped = losses.free_nats(kl, 1.0, "step")
    assert clipped.tolist() == [[1.0, 3.0, 1.0]]
    clipped.sum().backward()
    assert kl.grad is not None
    assert kl.grad[0, 0] == 0.0 and kl.grad[0, 1] == 1.0


@pytest.mark.parametrize(
    "values, floor, expected, slope",
    [
        ([[0.2, 3.0, 1.0]], 1.0, 1.4, 1 / 3),  # the average 1.4 lies above: nothing is clipped
        ([[0.2, 0.3, 1.0]], 1.0, 1.0, 0.0),  # the average .5 lies below, though one step touches the floor
    ],
)
def test_free_nats_averaged(values: list[list[float]], floor: float, expected: float, slope: float) -> None:
    kl = torch.tensor(values, requires_grad=True)
    mean = losses.free_nats(kl, floor, "average").mean()
    assert mean.item() == pytest.approx(expected)
    mean.backward()
    assert kl.grad is not None
    torch.testing.assert_close(kl.grad, torch.full_like(kl, slope))


def test_free_nats_averaged_keeps_replicas_apart() -> None:
    kl = torch.tensor([[0.1, 0.1], [5.0, 7.0]])
    assert losses.free_nats(kl, 1.0, "average").tolist() == [[1.0, 1.0], [6.0, 6.0]]


def test_free_nats_averaged_over_frames_that_count() -> None:
    """Of 3, .5, 9 and 9 the first two count: their mean is 1.75, not 5.375, and each has half of the gradient."""
    kl = torch.tensor([[3.0, 0.5, 9.0, 9.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    (gradient,) = torch.autograd.grad((losses.free_nats(kl, 1.0, "average", weight) * weight).sum() / 2, kl)
    assert losses.free_nats(kl, 1.0, "average", weight).tolist() == [[1.75] * 4]
    assert gradient.tolist() == [[0.5, 0.5, 0.0, 0.0]]
    assert losses.free_nats(kl, 2.0, "average", weight).tolist() == [[2.0] * 4]
    many = torch.rand(3, 26, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(losses.free_nats(many, 0.1, "average", one) for one in (None, torch.ones_like(many))))


@pytest.mark.parametrize("kl", ["balanced", "sampled"])
def test_frames_behind_the_newest_do_not_move_the_averaged_kl(kl: str) -> None:
    """Guard: seen failing with the balanced KL, whose clipped mean they were part of."""
    model, seq = toy(kl=kl, free_form="average", free_prior=0.01, free_posterior=0.01)
    seq.valid[:, 3:] = False
    results = []
    for _ in range(2):
        model.optimiser.zero_grad()
        loss = model.loss(seq, Stream(0, "noise", [0, 1]))[0]
        loss.sum().backward()
        results.append([loss, *(p.grad.clone() for p in model.networks.parameters() if p.grad is not None)])
        seq.obs[:, 3:] *= 3.0
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("form", ["step", "average"])
@pytest.mark.parametrize("kind", ["balanced", "sampled"])
def test_two_floors_silence_their_own_side_only(kind: str, form: losses.FreeForm) -> None:
    q_logits, p_logits = pair(2, 4, 3)
    log_q, log_p = log_softmax(q_logits), log_softmax(p_logits)
    z = losses.straight_through(log_q.exp(), torch.full((2, 3), 0.3, dtype=torch.float64))
    call = {"balanced": losses.balanced_kl}.get(kind, lambda q, p, *rest: losses.sampled_kl(q, p, z, *rest))
    for floors, prior_moves, posterior_moves in (((0.0, 99.0), True, False), ((99.0, 0.0), False, True)):
        loss, _ = call(log_q, log_p, ALPHA, *floors, form)
        grads = torch.autograd.grad(loss.sum(), (p_logits, q_logits), retain_graph=True, materialize_grads=True)
        assert [bool(g.any()) for g in grads] == [prior_moves, posterior_moves]


# --------------------------------------------------------------- samples and unimix
def test_straight_through_is_exactly_one_hot_with_the_softmax_jacobian() -> None:
    theta = logits(5, 1).float().requires_grad_()
    probs = torch.softmax(theta, -2)
    for u in (0.001, 0.3, 0.7, 0.999):
        z = losses.straight_through(probs, torch.tensor([u]))
        assert sorted(z.flatten().tolist()) == [0.0, 0.0, 0.0, 0.0, 1.0]
        jacobian = torch.stack([torch.autograd.grad(z[k, 0], theta, retain_graph=True)[0] for k in range(5)])
        p = probs.detach()[:, 0]
        torch.testing.assert_close(jacobian[..., 0], torch.diag(p) - torch.outer(p, p))


def test_samples_follow_their_probabilities() -> None:
    """Chi-square with 3 degrees of freedom; 16.3 is its 99.9 % quantile."""
    probs = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])
    uniform = Stream(0, "test", [0]).uniform(200_000)
    counts = losses.sample_onehot(probs[:, None].expand(5, 200_000), uniform[0]).sum(1)
    assert counts[2] == 0
    expected = 200_000 * probs[probs > 0]
    assert ((counts[probs > 0] - expected).square() / expected).sum() < 16.3


@pytest.mark.parametrize("uniform", [2.0**-24, 1 - 2.0**-24])
def test_samples_at_the_ends_of_the_noise_are_possible_choices(uniform: float) -> None:
    for probs in ([0.0, 1.0, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0]):
        z = losses.sample_onehot(torch.tensor(probs)[:, None], torch.tensor([uniform]))
        assert z.sum() == 1.0 and torch.tensor(probs)[int(z.argmax())] > 0.0


def test_unimix_floor() -> None:
    extreme = torch.tensor([[100.0, -100.0, -100.0, 0.0]]).T
    probs = losses.unimix(extreme, 0.01).exp()
    torch.testing.assert_close(probs.min(), torch.tensor(0.01 / 4))
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
    torch.testing.assert_close(losses.unimix(extreme, 0.0), log_softmax(extreme))


def test_unimix_keeps_the_kl_finite() -> None:
    log_q = losses.unimix(torch.tensor([[1e4], [0.0]]), 0.01)
    log_p = losses.unimix(torch.tensor([[0.0], [1e4]]), 0.01)
    assert 0.0 < losses.kl_divergence(log_q, log_p).item() < math.log(2 / 0.01)


# ------------------------------------------------- what the circulated form gets wrong
def test_circulated_form_never_pulls_the_posterior_towards_the_prior() -> None:
    """Its posterior gradient is the same whatever the prior, and not zero where the two agree."""
    q_logits = logits(1, 5, 4).requires_grad_()
    log_q = log_softmax(q_logits)
    z = losses.straight_through(log_q.exp(), torch.full((1, 4), 0.4, dtype=torch.float64))
    grads = []
    for seed in (1, 2):
        loss = circulated(log_q, log_softmax(logits(1, 5, 4, seed=seed)), z, nt=0.08, nq=0.1)
        grads.append(torch.autograd.grad(loss, q_logits, retain_graph=True)[0])
    torch.testing.assert_close(grads[0], grads[1])
    # it is an entropy bonus: gradient descent on it ascends the entropy
    (entropy_grad,) = torch.autograd.grad(losses.entropy(log_q).sum(), q_logits, retain_graph=True)
    torch.testing.assert_close(grads[0], -0.1 / 4 * entropy_grad)
    exact, _ = losses.sampled_kl(log_q, log_q.detach(), z, ALPHA)
    (repaired,) = torch.autograd.grad(exact.sum(), q_logits)
    assert not repaired.any()  # prior = posterior: nothing to pull


def test_circulated_form_with_torch_log_prob_has_no_posterior_gradient() -> None:
    q_logits = logits(5, 1).requires_grad_()
    z = losses.straight_through(torch.softmax(q_logits, -2), torch.tensor([0.4], dtype=torch.float64))
    assert z.requires_grad
    fixed = OneHotCategorical(logits=q_logits.detach()[:, 0], validate_args=False)
    assert not fixed.log_prob(z[:, 0]).requires_grad


def test_circulated_form_shrinks_the_kl_by_the_number_of_latents() -> None:
    q_logits, p_logits = pair(1, 5, 32)
    log_q, log_p = log_softmax(q_logits), log_softmax(p_logits)
    z = losses.straight_through(log_q.exp(), torch.full((1, 32), 0.4, dtype=torch.float64))
    (small,) = torch.autograd.grad(circulated(log_q, log_p, z, 0.08, 0.1), p_logits, retain_graph=True)
    (full,) = torch.autograd.grad(BETA * losses.sampled_kl(log_q, log_p, z, ALPHA)[0].sum(), p_logits)
    torch.testing.assert_close(32 * small, full)  # nt = 0.08 = alpha beta: only the mean is wrong here
