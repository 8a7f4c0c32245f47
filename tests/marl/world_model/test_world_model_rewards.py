"""How the reward head learns by itself, and when the state adds to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_world_model_heads import noise
from test_world_model_rssm import toy
from world_model_data import episodes, play

import envs
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model.dreamer.heads import RewardHead
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.dreamer.rewards import Rewards, better
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.sequences import Sequences


def rewards_of(**changes: object) -> Rewards:
    config = replace(WorldModelConfig(kind="rssm", lr=0.01, lr_warmup=0, sparse=0.0, max_grad_norm=1e9), **changes)  # type: ignore[arg-type]
    return Rewards(RewardHead(3, 1, Stream(0, "init", [0])), None, 1, config)


def test_rewards_learn_several_times_from_rows_that_an_action_led_to() -> None:
    """Three updates on a third of the rows each; rows before any action do not count."""
    obs, action, reward = noise(1, 6, 2, seed=1), noise(1, 6, 1, seed=2), noise(1, 6, 1, seed=3)
    follows = torch.tensor([[True, True, False, True, True, False]])
    one, two, slow = (rewards_of(reward_updates=3) for _ in range(3))
    mean = one.update(obs, action, reward, follows)
    assert int(one.optimiser.updates) == 3
    two.update(obs, action, torch.where(follows[..., None], reward, 99.0), follows)
    assert torch.equal(one.optimiser.flat_P, two.optimiser.flat_P)
    logs = []
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        slow.optimiser.zero_grad()
        squares = (slow.head(obs, action) - reward)[:, part].square().sum(-1)[follows[:, part]]
        logs.append(-0.5 * squares.mean().detach())
        (100 * 0.5 * squares.mean()).backward()
        slow.optimiser.step()
    torch.testing.assert_close(one.optimiser.flat_P, slow.optimiser.flat_P, atol=1e-4, rtol=0)
    torch.testing.assert_close(mean, torch.stack(logs).mean()[None], atol=0, rtol=1e-3)


def test_far_rewards_count_by_their_size() -> None:
    """The gradient of a row of reward 10 is a hundredth of what a squared error gives."""
    grads = []
    for size in (0.5, 10.0):
        rewards = rewards_of(reward_updates=1)
        with torch.no_grad():
            rewards.head.linear.bias.fill_(size + 1.0)  # type: ignore[union-attr]
            rewards.head.linear.weight.zero_()
            rewards.head.perceptron.layers[-1].weight.zero_()  # type: ignore[operator]
            rewards.head.perceptron.layers[-1].bias.zero_()  # type: ignore[union-attr, operator]
        one = torch.ones(1, 1, 1)
        rewards.update(noise(1, 1, 2), one, size * one, torch.ones(1, 1, dtype=torch.bool))
        grads.append(float(rewards.head.linear.bias.grad))  # type: ignore[union-attr, arg-type]
    assert grads[0] > 0 and abs(grads[1] / grads[0] - 0.01) < 1e-4


def test_the_state_adds_to_rewards_where_it_helps_by_a_twentieth() -> None:
    """Errors of 1 alone: with the rest .94, .96, and .5 in rows that do not count."""
    reward, own = torch.zeros(3, 4, 1), torch.ones(3, 4, 1)
    rest = torch.tensor([-0.06, -0.04, 0.0])[:, None, None].expand(3, 4, 1).clone()
    follows = torch.tensor([[True, True, True, False]]).expand(3, 4)
    rest[2, 3] = -0.5
    assert better(own + rest, own, reward, follows).tolist() == [True, False, False]
    far = better(own + 10.0 + 10 * rest[:1], own + 10.0, reward + 10.0, follows)
    assert far.tolist() == [True, True, True], "relative to rewards of 10: .4 of an error of 1"


def test_rewards_are_read_from_the_state_too_where_that_helps() -> None:
    """The reward of the second replica is a linear map of its state, that of the first is unrelated to it."""
    model, seq = toy()
    assert model.rewards is not None
    with torch.no_grad():
        for p in model.rewards.averaged.parameters():
            p.zero_()
        model.averaged.reward.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.averaged.reward.bias.zero_()
    # the posterior's samples differ from call to call: those of the same noise
    state = model.observe(seq, Stream(3, "noise", [0, 1]))
    rest = model.averaged.reward(state.features).unflatten(1, seq.first.shape[1:])
    seq.reward[1] = model.reward_scale.invert(rest.flatten(1, 2)).unflatten(1, seq.first.shape[1:])[1]
    model.calibrate(seq, Stream(3, "noise", [0, 1]))
    assert model.rewards.by_state_S.tolist() == [False, True]
    after, seen = model.step(state, seq.action.flatten(1, 2), torch.rand(2, 15, model.noise_size))
    told = model.reward_scale.apply(seen.reward)
    assert not bool(told[0].any())
    torch.testing.assert_close(told[1], model.averaged.reward(after.features)[1])


def test_pairs_teach_rewards_and_nothing_else() -> None:
    (one, seq), (two, _), (three, _) = toy(), toy(), toy()
    pairs = seq.select(slice(0, 2))
    other = replace(pairs, reward=pairs.reward + 1.0)
    for model, given in ((one, pairs), (two, other), (three, None)):
        model.update(seq, Stream(0, "noise", [0, 1]), given)
    assert torch.equal(one.optimiser.flat_P, two.optimiser.flat_P)
    assert one.rewards and two.rewards and three.rewards
    assert not torch.equal(one.rewards.optimiser.flat_P, two.rewards.optimiser.flat_P)
    assert not torch.equal(one.rewards.optimiser.flat_P, three.rewards.optimiser.flat_P)
    assert one.pairs == 256 * one.config.reward_updates


def solved_toy() -> tuple[DreamerModel, Sequences]:
    """A toy whose head says nothing and whose solution pays the first entry of the observation to both agents."""
    model, seq = toy()
    assert model.rewards is not None and model.rewards.solved is not None
    with torch.no_grad():
        for p in model.rewards.averaged.parameters():
            p.zero_()
        model.rewards.solved.rewards.weight_SPJ.zero_()
        model.rewards.solved.rewards.weight_SPJ[:, 1] = 1.0  # the inputs are one, the entries, and more
    return model, seq


def test_rewards_are_solved_for_where_that_is_nearer() -> None:
    """The second replica is paid the first entry of its observation, the first minus that."""
    model, seq = solved_toy()
    first = seq.obs[..., model.layout.dynamic_J][..., :1].expand(-1, -1, -1, 2)
    seq.reward[0], seq.reward[1] = -first[0], first[1]
    model.calibrate(seq, Stream(3, "noise", [0, 1]))
    assert model.rewards is not None and model.rewards.by_solution_S.tolist() == [False, True]
    state = model.observe(seq, Stream(3, "noise", [0, 1]))
    after, seen = model.step(state, seq.action.flatten(1, 2), torch.rand(2, 15, model.noise_size))
    assert after.obs is not None
    torch.testing.assert_close(seen.reward[1], seen.obs[1, :, :1].expand(-1, 2))
    assert not bool(seen.reward[0].any())


def test_solved_rewards_pass_their_gradient_to_the_state() -> None:
    model, seq = solved_toy()
    assert model.rewards is not None
    model.rewards.by_solution_S = torch.tensor([False, True])
    model.rewards._solved_in = 1
    state = model.observe(seq, Stream(3, "noise", [0, 1]))
    action = seq.action.flatten(1, 2).requires_grad_()
    with torch.no_grad():
        for p in model.averaged.parameters():
            p.add_(0.1)
    reward = model.step(state, action, torch.rand(2, 15, model.noise_size))[1].reward
    (gradient,) = torch.autograd.grad(reward.sum(), action)
    assert bool(gradient[1].any())


def test_solutions_continue_and_are_not_made_where_switched_off() -> None:
    (one, seq), (two, _), (without, _) = solved_toy(), toy(), toy(solved_rewards=False)
    assert without.rewards is not None and without.rewards.solved is None
    seq.reward.copy_(seq.obs[..., one.layout.dynamic_J][..., :1].expand(-1, -1, -1, 2))
    one.calibrate(seq, Stream(3, "noise", [0, 1]))
    two.load_state_dict(one.state_dict())
    assert two.pairs == 256 and one.pairs == 256, "nobody asks the head"
    assert two.rewards is not None and two.rewards.by_solution_S.tolist() == [True, True]
    assert one.rewards is not None and one.rewards.solved is not None and two.rewards.solved is not None
    assert torch.equal(one.rewards.solved.rewards.weight_SPJ, two.rewards.solved.rewards.weight_SPJ)
    steps = [
        model.step(
            model.observe(seq, Stream(3, "noise", [0, 1])), seq.action.flatten(1, 2), torch.full((2, 15, 1), 0.5)
        )
        for model in (one, two)
    ]
    assert torch.equal(steps[0][1].reward, steps[1][1].reward)
    with pytest.raises(UserError, match="no-solved-rewards"):
        two.load_state_dict(without.state_dict())


def test_what_forty_episodes_pay_is_solved_for() -> None:
    """Rewards of speaker_listener: a choice among three squared distances. The untrained head knows none of it."""
    layout, test, _ = episodes("simple_speaker_listener", 20, seed=1)
    model = DreamerModel(layout, WorldModelConfig(kind="rssm", hidden=8, deter=8), 0.9, Stream(0, "init", [0]))
    for step in play(envs.make("simple_speaker_listener", num_envs=40), 25):
        model.absorb(rows_of(layout, step), torch.ones(1, 40, dtype=torch.bool))
    assert model.rewards is not None and model.rewards.solved is not None
    model.rewards.solved.solve()
    model.calibrate(test, Stream(1, "noise", [0]))
    obs, action, reward, follows = model._reward_rows(test)
    error = (model.rewards(obs, model.obs_scale.invert(obs), action) - reward)[follows].square().mean().sqrt()
    assert model.rewards.by_solution_S.tolist() == [True] and error < 0.1
