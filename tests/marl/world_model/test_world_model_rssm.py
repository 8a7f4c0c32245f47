"""The state-space model: alignment, resets, gradients, and what its losses train."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from world_model_data import episodes, two_agents

from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import RunFailed, UserError
from marl.world_model import losses
from marl.world_model.dreamer.latents import disagreement
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.dreamer.rssm import RSSM, Sizes, State, gated
from marl.world_model.layers import Dense, Unrolled
from marl.world_model.layout import Layout
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import Sequences

SMALL = WorldModelConfig(latents=4, classes=3, deter=6, hidden=10, sequences=3, lr=1e-2, lr_warmup=0, ensemble=2)
SIZES = Sizes(encoded=5, action=3, deter=6, latents=4, classes=3, hidden=10, ensemble=2)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rssm(posterior: str = "state", replicas: int = 2, seed: int = 0) -> RSSM:
    return RSSM(SIZES, Stream(seed, "init", range(replicas)), posterior)  # type: ignore[arg-type]


def inputs(length: int = 6, rows: int = 3, replicas: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first = torch.zeros(replicas, length, rows, dtype=torch.bool)
    first[:, 0] = True
    encoded, action = noise(replicas, length, rows, 5), noise(replicas, length, rows, 3, seed=1)
    return encoded, action, first, noise(replicas, length, rows, 4, seed=2)


def slow_observe(model: RSSM, encoded: Tensor, action: Tensor, first: Tensor, uniform: Tensor) -> State:
    """Frame by frame with plain layers, as the equations stand."""
    state = model.initial(len(encoded), encoded.shape[2], encoded)
    hs, zs = [], []
    for t in range(encoded.shape[1]):
        keep = (~first[:, t, :, None]).float()
        x = F.silu(model.embed_z(state.z * keep) + model.embed_a(action[:, t] * keep))
        h = gated(model.cell(torch.cat([x, state.h * keep], -1)), state.h * keep)
        pre = model.posterior_e(encoded[:, t])
        if model.posterior_h is not None:
            pre = pre + model.posterior_h(h)
        probs = torch.softmax(model.posterior_out(F.silu(pre)).unflatten(-1, (3, 4)), -2)
        state = State(h, losses.straight_through(probs, uniform[:, t]).flatten(-2))
        hs.append(h)
        zs.append(state.z)
    return State(torch.stack(hs, 1), torch.stack(zs, 1))


@pytest.mark.parametrize("posterior", ["state", "observation"])
def test_observe_equals_the_slow_way_with_its_gradients(posterior: str) -> None:
    model, given = rssm(posterior), inputs()
    given[2][:, 3, 1] = True  # a second episode begins inside one sequence
    weights = noise(2, 6, 3, 18, seed=5)
    results = []
    for observe in (lambda *x: model.observe(*x).state, lambda *x: slow_observe(model, *x)):
        model.zero_grad()
        state = observe(*given)
        (state.features * weights).sum().backward()
        results.append((state, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (fast, fast_grads), (slow, slow_grads) = results
    torch.testing.assert_close(fast.h, slow.h)
    assert torch.equal(fast.z, slow.z)
    assert set(slow_grads) <= set(fast_grads)
    for name, grad in slow_grads.items():
        torch.testing.assert_close(fast_grads[name], grad, msg=lambda m, name=name: f"{name}: {m}")


def test_unrolled_layer_by_hand() -> None:
    """y1 = 2 * 3 + 1, y2 = 2 * 4 + 1: dL/dW of y1 + 10 y2 is 3 + 40."""
    weight = torch.tensor([[[2.0]]], requires_grad=True)
    bias = torch.ones(1, 1, 1, requires_grad=True)
    layer = Unrolled(weight, bias[:, None].expand(1, 2, 1, 1))
    one, two = layer(torch.tensor([[[3.0]]])), layer(torch.tensor([[[4.0]]]))
    assert (one.item(), two.item()) == (7.0, 9.0)
    (one + 10 * two).sum().backward()
    assert weight.grad is not None and bias.grad is not None
    assert (weight.grad.item(), bias.grad.item()) == (43.0, 11.0)


@pytest.mark.parametrize("posterior", ["state", "observation"])
def test_imagining_continues_where_observing_stands(posterior: str) -> None:
    """The recurrent state and the prior at frame t + 1 are one imagined step from the posterior at t with a_t."""
    model, (encoded, action, first, uniform) = rssm(posterior), inputs()
    seen = model.observe(encoded, action, first, uniform)
    for t in range(5):
        before = State(seen.state.h[:, t], seen.state.z[:, t])
        after = model.imagine_step(before, action[:, t + 1], uniform[:, t + 1])
        torch.testing.assert_close(after.h, seen.state.h[:, t + 1])
        torch.testing.assert_close(model.prior(after.h).unflatten(-1, (3, 4)), seen.prior[:, t + 1])
        shifted = model.imagine_step(before, action[:, t], uniform[:, t + 1])
        assert (shifted.h - seen.state.h[:, t + 1]).abs().max() > 1e-3


@pytest.mark.parametrize("posterior", ["state", "observation"])
def test_two_packed_episodes_equal_two_separate_ones(posterior: str) -> None:
    model, (encoded, action, first, uniform) = rssm(posterior), inputs()
    first[:, 4] = True
    packed = model.observe(encoded, action, first, uniform).state
    one, two = (
        model.observe(encoded[:, part], action[:, part], first[:, part], uniform[:, part]).state
        for part in (slice(0, 4), slice(4, 6))
    )
    torch.testing.assert_close(packed.features, torch.cat([one.features, two.features], 1))
    # and the first frame's action is not looked at
    action[:, 4] = 99.0
    torch.testing.assert_close(model.observe(encoded, action, first, uniform).state.features, packed.features)


def test_replicas_do_not_depend_on_their_neighbours() -> None:
    encoded, action, first, uniform = inputs()
    both = rssm().observe(encoded, action, first, uniform)
    alone = RSSM(SIZES, Stream(0, "init", [1])).observe(encoded[1:], action[1:], first[1:], uniform[1:])
    torch.testing.assert_close(alone.state.features, both.state.features[1:])
    assert (both.state.h[0] - both.state.h[1]).abs().max() > 1e-3


# --------------------------------------------------------------------------- losses
def toy(posterior: str = "state", **changes: object) -> tuple[DreamerModel, Sequences]:
    layout = Layout(two_agents())
    config = replace(SMALL, posterior=posterior, **changes)  # type: ignore[arg-type]
    model = DreamerModel(layout, config, 0.9, Stream(0, "init", [0, 1]))
    first = torch.zeros(2, 5, 3, dtype=torch.bool)
    first[:, 0] = True
    return model, Sequences(
        obs=noise(2, 5, 3, layout.full_size),
        action=(noise(2, 5, 3, layout.action_size, seed=1) > 0.5).float() * ~first[..., None],
        reward=noise(2, 5, 3, 2, seed=2),
        alive=torch.ones(2, 5, 3, 2),
        first=first,
        last=torch.zeros_like(first),
        valid=torch.ones_like(first),
    )


def gradients(model: DreamerModel, seq: Sequences) -> dict[str, bool]:
    """Which part of the model the loss's gradient reaches."""
    model.optimiser.zero_grad()
    model.loss(seq, Stream(0, "noise", [0, 1]))[0].sum().backward()
    reached: dict[str, bool] = {}
    for name, p in model.networks.named_parameters():
        part = ".".join(name.split(".")[:2]) if name.startswith("rssm") else name.split(".")[0]
        assert p.grad is not None
        reached[part] = reached.get(part, False) or bool(p.grad.any())
    return reached


@pytest.mark.parametrize("decoder", ["change", "state"])
def test_every_term_reaches_its_own_parameters_only(decoder: str) -> None:
    nothing = {"nx": 0.0, "nr": 0.0, "ng": 0.0, "beta": 0.0, "decoder": decoder}
    heads = {"nx": "decoder", "nr": "reward", "ng": "discount"}
    for term, head in heads.items():
        reached = gradients(*toy(**nothing | {term: 1.0}))
        assert {name for name in heads.values() if reached[name]} == {head}
        teaches = term != "nr" or decoder == "state"  # a reward head that sees the observation leaves the state alone
        assert reached["encoder"] == reached["rssm.cell"] == teaches and not reached["rssm.prior"]
    # of a single frame: later frames' priors also depend on the posterior's samples before, through h
    kl = nothing | {"beta": 1.0, "free_posterior": 0.0}
    model, seq = toy(**kl | {"alpha": 1.0})
    reached = gradients(model, seq.select(slice(0, 1)))
    assert reached["rssm.prior"] and reached["rssm.ensemble"]
    assert not reached["rssm.posterior_out"] and not reached["encoder"]
    model, seq = toy(**kl | {"alpha": 0.0})
    reached = gradients(model, seq.select(slice(0, 1)))
    assert reached["rssm.posterior_out"] and reached["encoder"] and not reached["rssm.prior"]
    assert not any(reached[name] for name in heads.values())


def test_the_ensemble_teaches_nothing_back() -> None:
    """With a KL whose gradients are closed by free nats only the ensemble itself moves."""
    closed = {"nx": 0.0, "nr": 0.0, "ng": 0.0, "beta": 1.0, "free_prior": 1e3, "free_posterior": 1e3}
    reached = gradients(*toy(**closed))
    assert [name for name, yes in reached.items() if yes] == ["rssm.ensemble"]


@pytest.mark.parametrize("field, value", [
    ("kl", "sampled"), ("alpha", 0.3), ("beta", 0.7), ("free_prior", 0.12), ("free_posterior", 50.0),
    ("free_form", "average"), ("unimix", 0.3), ("nx", 3.0), ("nr", 3.0), ("ng", 3.0), ("posterior", "observation"),
    ("latents", 5), ("classes", 4), ("deter", 7), ("hidden", 11), ("layers", 1), ("ensemble", 3), ("preset", "gpu"),
    ("decoder", "state"), ("sparse", 0.0), ("reward_updates", 3),
])  # fmt: skip
def test_every_setting_changes_the_update(field: str, value: object) -> None:
    base = {"free_posterior": 0.12, "free_form": "step", "hidden": None if field == "preset" else 10}
    before, seq = toy(**base)
    after, _ = toy(**base | {field: value})
    numbers = []
    for model in (before, after):
        model.update(seq, Stream(0, "noise", [0, 1]))
        rewards = [] if model.rewards is None else [model.rewards.optimiser.flat_P]
        numbers.append(torch.cat([model.optimiser.flat_P, *rewards]))
    assert numbers[0].shape != numbers[1].shape or not torch.equal(*numbers)


def test_batch_and_time_are_averaged_and_invalid_frames_left_out() -> None:
    model, seq = toy(posterior="observation")
    doubled = Sequences(**{name: torch.cat([x, x], 2) for name, x in vars(seq).items()})

    class Fixed:
        """The same noise for both copies."""

        def uniform(self, *shape: int) -> Tensor:
            u = noise(2, 5, 3, 4, seed=7)
            return u if shape[1] == 3 else torch.cat([u, u], 2)

    once, twice = (model.loss(x, Fixed())[0] for x in (seq, doubled))  # type: ignore[arg-type]
    torch.testing.assert_close(once, twice)
    doubled.valid[:, :, 3:] = False
    doubled.obs[:, :, 3:] = 1e3
    doubled.reward[:, :, 3:] = 1e3
    torch.testing.assert_close(once, model.loss(doubled, Fixed())[0])  # type: ignore[arg-type]


def test_discount_label_is_soft_and_truncation_continues() -> None:
    """A head that says sigmoid = gamma everywhere is optimal for episodes that only a time limit ends."""
    model, seq = toy(nx=0.0, nr=0.0, ng=1.0, beta=0.0)
    seq.last[:, -1] = True
    with torch.no_grad():
        layer = model.networks.discount.layers[-1]
        layer.weight.zero_()
        layer.bias.fill_(torch.logit(torch.tensor(0.9)).item())
    model.optimiser.zero_grad()
    model.loss(seq, Stream(0, "noise", [0, 1]))[0].sum().backward()
    assert layer.bias.grad is not None and layer.bias.grad.abs().max() < 1e-6
    seq.alive[:, -1, :, 0] = 0.0
    model.optimiser.zero_grad()
    model.loss(seq, Stream(0, "noise", [0, 1]))[0].sum().backward()
    assert (layer.bias.grad[..., 0] > 0.1).all() and layer.bias.grad[..., 1].abs().max() < 1e-6


def test_reconstruction_r2_by_hand() -> None:
    """A decoder that says nothing (zeros for standardised data) has R^2 = 1 - mean square."""
    model, seq = toy(decoder="state")
    with torch.no_grad():
        for parameter in model.networks.decoder.state.layers[-1].parameters():
            parameter.zero_()
    metrics = model.loss(seq, Stream(0, "noise", [0, 1]))[1]
    squares = seq.obs[..., model.layout.dynamic_J].square().mean((1, 2, 3))
    torch.testing.assert_close(metrics["observation_r2"], 1 - squares)


@pytest.mark.parametrize("posterior", ["state", "observation"])
def test_actions_are_aligned_with_the_observations_they_cause(posterior: str) -> None:
    """o_{t+1} = onehot(a_t): imagined perfectly from the actions, at chance from actions shifted by one."""
    spec = EnvSpec("echo", (AgentSpec("agent_0", 4, (Head("move", 4),)),), horizon=6)
    config = replace(SMALL, posterior=posterior, classes=8, deter=24, hidden=32, nx=20.0)  # type: ignore[arg-type]
    model = DreamerModel(Layout(spec), config, 0.9, Stream(0, "init", [0]))
    draw = torch.Generator().manual_seed(0)
    stream = Stream(0, "noise", [0])

    def batch(rows: int) -> Sequences:
        action = torch.nn.functional.one_hot(torch.randint(4, (1, 7, rows), generator=draw), 4).float()
        first = torch.zeros(1, 7, rows, dtype=torch.bool)
        first[:, 0] = True
        action[:, 0] = 0.0
        none = torch.zeros_like(first)
        reward = torch.zeros(1, 7, rows, 1)
        return Sequences(action.clone(), action, reward, reward + 1.0, first, none, ~none)

    for _ in range(250):
        model.update(batch(16), stream)
    test = batch(200)
    right = open_loop(model, test, 1, stream).obs.argmax(-1)
    truth = test.obs[:, 2:].argmax(-1)
    assert (right == truth).float().mean() > 0.98
    shifted = replace(test, action=torch.roll(test.action, 1, 1))
    wrong = open_loop(model, shifted, 1, stream).obs.argmax(-1)
    assert abs((wrong == truth).float().mean().item() - 0.25) < 0.06


def test_open_loop_sees_the_context_only() -> None:
    layout, seq, _ = episodes("simple_speaker_listener", 4)
    model = DreamerModel(layout, SMALL, 0.9, Stream(0, "init", [0]))
    output = open_loop(model, seq, 5, Stream(0, "noise", [0]))
    assert output.obs.shape == (1, 20, 4, layout.obs_size) and output.reward.shape == (1, 20, 4, 2)
    blind = replace(seq, obs=seq.obs.clone(), reward=seq.reward.clone())
    blind.obs[:, 6:] = 7.0
    blind.reward[:] = 7.0
    torch.testing.assert_close(open_loop(model, blind, 5, Stream(0, "noise", [0])).obs, output.obs)
    blind.obs[:, 5] = 7.0
    assert (open_loop(model, blind, 5, Stream(0, "noise", [0])).obs - output.obs).abs().max() > 1e-4


def test_training_predicts_better_than_the_mean() -> None:
    layout, seq, _ = episodes("simple_speaker_listener", 64)
    config = WorldModelConfig(classes=6, latents=16, deter=64, hidden=64, lr=3e-3, lr_warmup=20, ensemble=2)
    model = DreamerModel(layout, config, 0.9, Stream(0, "init", [0]))
    frames = seq.obs[..., layout.dynamic_J].flatten(1, 2)
    model.obs_scale.add(frames, torch.ones(frames.shape[:2]))
    model.reward_scale.add(seq.reward.flatten(1, 2), torch.ones(frames.shape[:2]))
    stream = Stream(0, "noise", [0])
    for k in range(150):
        part = [(16 * k + i) % 48 for i in range(16)]
        model.update(Sequences(**{name: x[:, :, part] for name, x in vars(seq).items()}), stream)
    held = Sequences(**{name: x[:, :, 48:] for name, x in vars(seq).items()})
    output = open_loop(model, held, 5, stream).obs
    truth = held.obs[..., layout.dynamic_J]
    error = (output - truth[:, 6:]).square().mean().sqrt()
    constant = (truth.mean((1, 2), keepdim=True) - truth[:, 6:]).square().mean().sqrt()
    assert error < 0.8 * constant
    assert model.metrics()["observation_r2"].item() > 0.6


# ------------------------------------------------------------------ uncertainty, faults
def test_disagreement_by_hand() -> None:
    """Two members, sure of different classes of one latent: ln 2; the same members: 0."""
    apart = torch.tensor([[50.0, 0.0], [0.0, 50.0]]).view(1, 2, 1, 2, 1)
    assert disagreement(apart).item() == pytest.approx(0.693147, abs=1e-5)
    assert disagreement(apart[:, :1].expand(1, 2, 1, 2, 1)).item() == pytest.approx(0.0, abs=1e-6)


def test_adam_equals_torchs_and_clips_every_replica_alone() -> None:
    stream = Stream(0, "init", [0, 1])
    ours, theirs = (Dense(3, 2, stream) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = ReplicaAdam(ours, 2, lr=0.01, max_grad_norm=0.5, average=0.6)
    mean = [p.detach().clone() for p in ours.parameters()]
    reference = torch.optim.Adam(theirs.parameters(), lr=0.01)
    scale = torch.tensor([1.0, 50.0])[:, None, None]
    for k in range(5):
        x = noise(2, 4, 3, seed=k)
        mine.zero_grad()
        (ours(x) * scale).square().sum().backward()
        reference.zero_grad()
        (theirs(x) * scale).square().sum().backward()
        for s in range(2):
            grads = [p.grad[s] for p in theirs.parameters() if p.grad is not None]
            norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
            for g in grads:
                g.mul_((0.5 / norm).clamp(max=1.0))
        mine.step()
        reference.step()
        forget = max(10 / (11 + k), 0.4)
        mean = [m + forget * (p.detach() - m) for m, p in zip(mean, ours.parameters(), strict=True)]
    for a, b, m, average in zip(ours.parameters(), theirs.parameters(), mean, mine.averaged.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(average, m)
        assert not average.requires_grad


def test_a_loss_that_is_not_finite_is_named_and_harms_no_other_replica() -> None:
    model, seq = toy()
    stream = Stream(0, "noise", [0, 1])
    model.update(seq, stream)
    model.check()
    seq.reward[1, 2, 0, 0] = float("nan")
    model.update(seq, stream)
    assert bool(model.optimiser.flat_P.isfinite().all())
    with pytest.raises(RunFailed, match=r"replicas \[1\] by update 2 .*log_reward.*--wm.lr"):
        model.check()


def test_posterior_collapse_is_named_late_in_training() -> None:
    model, seq = toy()
    model.update(seq, Stream(0, "noise", [0, 1]))
    assert model.warnings() == []
    model.optimiser.updates.fill_(5000)
    model._metrics["observation_r2"] = torch.tensor([0.99, 0.4])
    (warning,) = model.warnings()
    assert "0.400" in warning and "0.990" not in warning and "--wm.nx" in warning and "5000 updates" in warning


def test_state_continues_bit_for_bit() -> None:
    (one, seq), (two, _) = toy(), toy()
    stream = Stream(0, "noise", [0, 1])
    for _ in range(3):
        one.update(seq, stream)
    two.load_state_dict(one.state_dict())
    for model in (one, two):
        model.update(seq, Stream(5, "noise", [0, 1]))
    assert torch.equal(one.optimiser.flat_P, two.optimiser.flat_P)
    assert one.rewards is not None and two.rewards is not None
    assert torch.equal(one.rewards.optimiser.flat_P, two.rewards.optimiser.flat_P)
    assert int(two.rewards.optimiser.updates) == 4 * one.config.reward_updates
    assert all(torch.equal(a, b) for a, b in zip(one.networks.parameters(), two.networks.parameters(), strict=True))


def test_a_state_of_another_decoder_is_refused_in_words() -> None:
    older, newer = toy(decoder="state")[0], toy()[0]
    with pytest.raises(UserError, match=r"parameters, expected .*earlier version"):
        newer.load_state_dict(older.state_dict())
