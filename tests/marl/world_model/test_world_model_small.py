"""The small model: exact where the dynamics is linear, rewards learned, members that disagree off the data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from world_model_data import episodes, play, two_agents

import envs
from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import Episodes, Sequences
from marl.world_model.small.model import NETWORKS, SmallModel
from marl.world_model.small.regression import Features, LeastSquares, Ridge
from marl.world_model.training import ModelTraining

CONFIG = WorldModelConfig(kind="linear", lr=1e-3, lr_warmup=0, ensemble=2)


def trained(env_id: str, updates: int, kind: str = "linear", count: int = 40) -> tuple[SmallModel, Sequences]:
    """A model after `updates` on `count` random episodes, and other episodes to test it on."""
    layout, seq, _ = episodes(env_id, count)
    model = SmallModel(layout, replace(CONFIG, kind=kind), 0.95, Stream(0, "init", [0]))  # type: ignore[arg-type]
    env = envs.make(env_id, num_envs=count)
    for t in play(env, 25):
        model.absorb(rows_of(layout, t), torch.ones(1, count, dtype=torch.bool))
    stream = Stream(0, "noise", [0])
    for _ in range(updates):
        model.update(seq, stream)
    return model, episodes(env_id, 20, seed=1)[1]


def test_least_squares_equals_torchs_and_ignores_directions_never_seen() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 60, 4, generator=g, dtype=torch.float64)
    x[..., 3] = 1.0 - x[..., 2]  # collinear with the others and the constant
    x = torch.cat([x, torch.ones(2, 60, 1, dtype=torch.float64)], 2)
    y = torch.randn(2, 60, 3, generator=g, dtype=torch.float64)
    weight = torch.rand(2, 60, generator=g) > 0.4
    fit = LeastSquares(5, 3, 2, "cpu")
    for part in (slice(0, 30), slice(30, 60)):
        fit.add(x[:, part], y[:, part], weight[:, part])
    fit.solve()
    for s in range(2):
        seen_x, seen_y = x[s][weight[s]], y[s][weight[s]]
        slow = torch.linalg.lstsq(seen_x, seen_y, driver="gelsd").solution
        torch.testing.assert_close(fit.weight_SPJ[s].double(), slow, rtol=1e-4, atol=1e-5)
        rest = (seen_x @ slow - seen_y).square().mean(0).sqrt()
        torch.testing.assert_close(fit.residual_S1J[s, 0].double(), rest, rtol=1e-4, atol=1e-5)


def test_ridge_equals_the_augmented_least_squares_and_survives_inputs_never_seen() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 40, 3, generator=g).double() * torch.tensor([1.0, 30.0, 0.0]), torch.randn(1, 40, 2).double()
    fit = Ridge(3, 2, 1, "cpu")
    fit.PENALTY = 0.1
    fit.add(x, y, torch.ones(1, 40))
    fit.solve()
    penalty = (0.1 * x[0].square().sum(0)).sqrt().diag()[:2, :2]
    slow = torch.linalg.lstsq(torch.cat([x[0, :, :2], penalty]), torch.cat([y[0], torch.zeros(2, 2).double()])).solution
    torch.testing.assert_close(fit.weight_SPJ[0, :2].double(), slow, rtol=1e-4, atol=1e-6)
    assert not bool(fit.weight_SPJ[0, 2].any())
    rest = (x[0, :, :2] @ slow - y[0]).square().mean(0).sqrt()
    torch.testing.assert_close(fit.residual_S1J[0, 0].double(), rest, rtol=1e-4, atol=1e-5)


def test_inputs_hardly_ever_seen_get_no_great_weights() -> None:
    """One row has 1e-14 in an input that is zero elsewhere, and an output that nothing else explains."""
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(1, 40, 4, generator=g).double(), torch.randn(1, 40, 2, generator=g).double()
    x[..., 3] = 0.0
    x[0, 7, 3] = 1e-14
    fit = Ridge(4, 2, 1, "cpu")
    fit.add(x, y, torch.ones(1, 40))
    fit.solve()
    assert fit.weight_SPJ.abs().max() < 10.0


@pytest.mark.parametrize("env_id, bound", [("simple_speaker_listener", 1e-6), ("simple_reference", 1e-6)])
def test_linear_dynamics_predicts_twenty_steps_exactly(env_id: str, bound: float) -> None:
    model, test = trained(env_id, 1)
    output = open_loop(model, test, 5, Stream(0, "noise", [0]))
    truth = test.obs[:, 6:, :, model.layout.dynamic_J]
    assert (output.obs - truth).square().mean().sqrt() < bound


def test_spread_is_linear_but_for_collisions() -> None:
    model, test = trained("simple_spread", 1, count=100)
    output = open_loop(model, test, 5, Stream(0, "noise", [0]))
    truth = test.obs[:, 6:, :, model.layout.dynamic_J]
    error = (output.obs - truth).square().mean().sqrt().item()
    assert 0.05 < error < 0.3  # copying the last frame: .45


@pytest.mark.parametrize("env_id, count", [("simple_speaker_listener", 40), ("simple_reference", 100)])
def test_rewards_of_distances_are_known_from_few_episodes(env_id: str, count: int) -> None:
    model, test = trained(env_id, 20, count=count)
    output = open_loop(model, test, 5, Stream(0, "noise", [0]))
    truth = test.reward[:, 6:]
    r2 = 1 - (output.reward - truth).square().mean() / truth.var()
    assert r2 > 0.99
    assert (output.discount - 0.95).abs().max() < 0.35


def test_nearest_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents of a kind see a landmark at (3, 4) and (.06, .08): lengths 5 and .1, of which .1 is the least."""
    agents = tuple(AgentSpec(f"agent_{n}", 2, (Head("move", 5),)) for n in range(2))
    monkeypatch.setattr(Features, "MOST_PRODUCTS", 0)
    features = Features(Layout(EnvSpec("toy", agents, horizon=4)), 1)
    output = features.rewards(torch.tensor([[[3.0, 4.0, 0.06, 0.08]]]))[0, 0]
    assert len(output) == features.reward_size == 1 + 10 + 1
    assert output[9:].tolist() == pytest.approx([5.0, 0.1, 0.1], abs=1e-4)


def test_rewards_of_the_nearest_agent_and_of_collisions_are_known() -> None:
    model, test = trained("simple_spread", 20, "mlp", count=100)
    output = open_loop(model, test, 5, Stream(0, "noise", [0]))
    truth = test.reward[:, 6:11]
    assert 1 - (output.reward[:, :5] - truth).square().mean() / truth.var() > 0.99


def test_networks_learn_what_the_closed_form_leaves_of_the_rewards() -> None:
    """Predators' and prey's rewards are no sums of its inputs: networks make up for some of what is left."""
    model, _ = trained("simple_tag", 100, count=60)
    _, seq, _ = episodes("simple_tag", 60)
    model.update(seq, Stream(0, "noise", [0]))
    left = (model.solved.rewards.residual_S1J / model.reward_scale.std_S1X).mean() ** 2
    assert model.metrics()["reward_r2"] > 1 - 0.8 * left


def test_networks_learn_what_is_not_linear() -> None:
    """Kind "mlp" explains part of what speed limits leave on the episodes that it saw."""
    model, _ = trained("simple_tag", 60, kind="mlp", count=30)
    _, seq, _ = episodes("simple_tag", 30)
    obs = seq.obs[..., model.layout.dynamic_J]
    before, after = obs[:, :-1].flatten(1, 2), obs[:, 1:].flatten(1, 2)
    action = seq.action[:, 1:].flatten(1, 2)
    linear = model.solved.dynamics(model.solved.inputs(before, action))
    rest = model._members(model.networks.residual, model.solved.features(before), action).mean(1)  # type: ignore[arg-type]
    both = linear + rest * model._rest_scale()
    assert (both - after).square().mean() < 0.8 * (linear - after).square().mean()


def test_members_disagree_more_away_from_the_data() -> None:
    model, test = trained("simple_speaker_listener", 40, kind="mlp", count=20)
    state = model.observe(test, Stream(0, "noise", [0]))
    action = test.action.flatten(1, 2)
    noise = torch.full((1, action.shape[1], 1), 0.3)
    near = model.step(state, action, noise)[1].uncertainty.median()
    state.obs = state.obs * 3.0
    far = model.step(state, action, noise)[1].uncertainty.median()
    assert far > 3 * near > 0


def test_member_is_chosen_by_the_noise() -> None:
    """Member k of M for noise in [k / M, (k + 1) / M): what it adds to the linear prediction, and nobody else's."""
    model, test = trained("simple_spread", 5, kind="mlp", count=10)
    state, action = model.observe(test, Stream(0, "n", [0])), test.action.flatten(1, 2)
    model.level_S.fill_(NETWORKS)
    model._highest = NETWORKS
    solved = torch.bmm(model.solved.inputs(state.obs, action), model._weight(model.level_S))
    rest = model._members(model.averaged.residual, model.solved.features(state.obs), action)  # type: ignore[arg-type]
    rest = rest * model._rest_scale()[:, None]
    members = rest.shape[1]
    apart = (rest[:, 1:] - rest[:, :-1]).abs().amax((0, 2, 3))
    assert members > 1 and (apart > 3e-4).all()
    for k in range(members):
        for u in (k / members + 1e-3, (k + 1) / members - 1e-3):
            obs = model.step(state, action, torch.full((1, action.shape[1], 1), u))[0].obs
            torch.testing.assert_close(obs, solved + rest[:, k], atol=1e-4, rtol=1e-4)


def test_features_by_hand() -> None:
    """Rows (a0 a1 | b0 b1), the slot left out: squares, and lengths of neighbours of the same agent only."""
    features = Features(Layout(two_agents()), 1)
    raw = features.raw(torch.tensor([[[3.0, 4.0, 5.0, 12.0]]]))
    assert raw[0, 0].tolist() == pytest.approx([3, 4, 5, 12, 9, 16, 25, 144, 5, 13])
    assert features.size == 10
    products = features.rewards(torch.tensor([[[3.0, 4.0, 5.0, 12.0]]]))[0, 0]
    assert len(products) == features.reward_size == 1 + 10 + 4 * 6 and products[0] == 1
    assert products[11:17].tolist() == pytest.approx([27, 48, 75, 432, 15, 39])  # 3 times squares and lengths
    assert products[-1] == 12 * 13
    assert features(torch.tensor([[[300.0, 0.0, 0.0, 0.0]]])).max() == 10.0  # cut off


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_state_continues_bit_for_bit(kind: str) -> None:
    one, test = trained("simple_speaker_listener", 3, kind=kind, count=6)
    two = SmallModel(one.layout, one.config, 0.95, Stream(9, "init", [0]))
    two.load_state_dict(one.state_dict())
    for model in (one, two):
        model.update(test, Stream(5, "noise", [0]))
    assert torch.equal(one.optimiser.flat_P, two.optimiser.flat_P)
    assert torch.equal(one.solved.linear.weight_SPJ, two.solved.linear.weight_SPJ)


def sums_of(model: SmallModel) -> list[torch.Tensor]:
    """All that `absorb` writes."""
    solved = model.solved
    fits = [x for fit in (solved.linear, solved.rewards) for x in (fit.gram_SPP, fit.cross_SPJ, fit.squares_SJ)]
    scales = [scale.sums_S3X for scale in (model.obs_scale, model.reward_scale, solved.features.scale)]
    return [*fits, solved.linear.count_S, solved.rewards.count_S, *scales]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_held_out_episodes_never_enter_the_least_squares(kind: str) -> None:
    """Other observations and rewards in the held-out episodes change no sum; in one of the others they change each."""
    config = replace(CONFIG, kind=kind, warmup_steps=10**9, validation_share=0.25)  # type: ignore[arg-type]
    env = envs.make("simple_spread", num_envs=8)
    layout = Layout(env.spec)
    widths = (layout.full_size, layout.action_size, env.spec.num_agents)
    steps = [rows_of(layout, t) for t in play(env, 60)]

    def taught(where: str) -> tuple[list[torch.Tensor], int]:
        model = SmallModel(layout, config, 0.95, Stream(0, "init", [0]))
        mask = Episodes(widths, 1, 8, 10**4, config.validation_share, "cpu")
        training = ModelTraining(
            model, Episodes(widths, 1, 8, 10**4, config.validation_share, "cpu"), 26, config, Stream(0, "t", [0])
        )
        held_out = 0
        for step in steps:
            kept_SE1 = mask.add(step)[..., None]
            held_out += int((~kept_SE1).sum())
            spoilt_SE1 = {"nowhere": kept_SE1 & ~kept_SE1, "held out": ~kept_SE1, "for training": kept_SE1}[where]
            training.add(
                replace(
                    step,
                    obs=torch.where(spoilt_SE1, 7.0 * step.obs + 3.0, step.obs),
                    next_obs=torch.where(spoilt_SE1, 3.0 - 5.0 * step.next_obs, step.next_obs),
                    reward=torch.where(spoilt_SE1, 99.0, step.reward),
                )
            )
        return sums_of(model), held_out

    (sums, held_out), (same, _), (others, _) = taught("nowhere"), taught("held out"), taught("for training")
    assert held_out == 60 * 2  # a quarter of eight
    assert all(map(torch.equal, sums, same))
    apart = [bool(torch.equal(one, other)) for one, other in zip(sums, others, strict=True)]
    assert sum(apart) == 2  # the two counts
    assert sums[6].tolist() == sums[7].tolist() == [60 * 8 - held_out]


@pytest.mark.parametrize("gamma", [0.5, 0.95])
def test_the_discount_is_learned_with_gamma_in_it(gamma: float) -> None:
    """Nothing terminates in this task: the label is gamma, and a network that learns 1 is .5 away."""
    layout, seq, _ = episodes("simple_speaker_listener", 30)
    model = SmallModel(layout, replace(CONFIG, lr=3e-3), gamma, Stream(0, "init", [0]))
    env = envs.make("simple_speaker_listener", num_envs=30)
    for t in play(env, 25):
        model.absorb(rows_of(layout, t), torch.ones(1, 30, dtype=torch.bool))
    for _ in range(120):
        model.update(seq, Stream(0, "noise", [0]))
    state, action = model.observe(seq, Stream(0, "n", [0])), seq.action.flatten(1, 2)
    discount = model.step(state, action, torch.full((1, action.shape[1], 1), 0.3))[1].discount
    assert abs(discount.mean().item() - gamma) < 0.02
