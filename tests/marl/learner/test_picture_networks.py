"""Actors and critics of pictures against torch's own layers, one agent at a time; and what they learn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from picture_envs import Thirds, spec_of
from torch import Tensor, nn

from envs.pettingzoo.env import PettingZooEnv
from envs.pictures import Small
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.collector import Collector
from marl.data.pictures import PictureReplay
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows
from marl.learner.pictures.networks import Eye, PictureActor, PictureCritic, PictureNetwork

S, N, B, SIDE, W = 2, 2, 5, 28, 7


def stream(name: str = "networks") -> Stream:
    return Stream(0, name, range(S))


def seen(spec: EnvSpec, rows: int = B) -> Tensor:
    """Pixels as bytes, and what stands behind them as ones and zeros."""
    numbers = stream("pixels").uniform(N, rows, spec.obs_size)
    return torch.where(torch.arange(spec.obs_size) < Eye.of(spec).pixels, (numbers * 255).round(), numbers.round())


def eye(flat_P: Tensor, maps: int) -> tuple[nn.Sequential, int]:
    """torch's layers with the first parameters of one network, and how many these are."""
    layers = [nn.Conv2d(maps, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.Flatten()]
    model, used = nn.Sequential(*layers), 0
    for parameter in model.parameters():
        parameter.data = flat_P[used : used + parameter.numel()].view_as(parameter).clone()
        used += parameter.numel()
    return model, used


def perceptron(flat_P: Tensor, sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, (i, o) in enumerate(pairwise(sizes)):
        linear = nn.Linear(i, o)
        weight, bias, flat_P = flat_P.split([i * o, o, len(flat_P) - i * o - o])
        linear.weight.data, linear.bias.data = weight.view(i, o).T.clone(), bias.clone()
        hidden = k < len(sizes) - 2
        layers += [linear, nn.LayerNorm(o, elementwise_affine=False), nn.ReLU()] if hidden else [linear]
    assert not len(flat_P), "all parameters are used"
    return nn.Sequential(*layers)


@pytest.mark.parametrize("frames", [1, 2])
def test_actors_equal_torchs_layers(frames: int) -> None:
    spec = spec_of(N, SIDE, frames=frames)
    actor = PictureActor(spec, (W,), True, stream())
    obs_SNBO = seen(spec)
    logits = actor(obs_SNBO)
    picture = frames * SIDE * SIDE
    for s in range(S):
        for n in range(N):
            look, used = eye(actor.mlp.flat[s, n].detach(), frames)
            think = perceptron(actor.mlp.flat[s, n, used:].detach(), actor.mlp.sizes)
            pixels, rest = obs_SNBO[s, n, :, :picture], obs_SNBO[s, n, :, picture:]
            features = look(pixels.view(B, frames, SIDE, SIDE) / 255 - 0.5)
            torch.testing.assert_close(logits[s, n, :, 0], think(torch.cat([features, rest], 1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actor(obs_SNBO[:, 1:], [1]), logits[:, 1:])


@pytest.mark.parametrize("critics", [1, 2])
@pytest.mark.parametrize("independent", [False, True])
def test_critics_equal_torchs_layers(critics: int, independent: bool) -> None:
    spec = spec_of(N, SIDE)
    critic = PictureCritic(spec, (W,), True, stream(), critics, independent)
    obs_SNBO = seen(spec)
    action_SNBA = stream("action").uniform(N, B, spec.action_size)
    values = critic(joint_rows(obs_SNBO, action_SNBA))
    for s in range(S):
        for c in range(critics):
            flat_NP = critic.mlp.flat[s, c * N : (c + 1) * N].detach()
            looks = [eye(flat_P, 1) for flat_P in flat_NP]
            found = [look(obs_SNBO[s, n].view(B, 1, SIDE, SIDE) / 255 - 0.5) for n, (look, _) in enumerate(looks)]
            for n in range(N):
                own = [found[m] * (m == n or not independent) for m in range(N)]
                acted = [action_SNBA[s, m] * (m == n or not independent) for m in range(N)]
                think = perceptron(flat_NP[n, looks[n][1] :], critic.mlp.sizes)
                expected = think(torch.cat([*own, *acted], 1))[:, 0]
                torch.testing.assert_close(values[s, c, n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("critics", [1, 2])
def test_the_own_action_is_replaced_in_the_first_critic(critics: int) -> None:
    spec = spec_of(N, SIDE)
    critic = PictureCritic(spec, (W,), True, stream(), critics)
    obs, old, new = seen(spec), *(stream(name).uniform(N, B, spec.action_size) for name in ("old", "new"))
    values = critic.own_action(joint_rows(obs, old))(new)
    for n in range(N):
        mixed = old.clone()
        mixed[:, n] = new[:, n]
        torch.testing.assert_close(values[:, n], critic(joint_rows(obs, mixed))[:, 0, n], rtol=1e-4, atol=1e-5)


def test_a_replica_and_an_actor_learn_from_their_own_loss_alone() -> None:
    spec = spec_of(N, SIDE)
    actor = PictureActor(spec, (W,), True, stream())
    (gradient,) = torch.autograd.grad(actor(seen(spec))[0, 1].sum(), actor.mlp.flat)
    used = gradient.abs().amax(2) > 0
    assert used.tolist() == [[False, True], [False, False]]
    assert (gradient[0, 1, : sum(Eye.of(spec).lengths)] != 0).any(), "its convolutions too"


def test_the_smallest_picture_and_the_last_layer() -> None:
    tiny = Eye(1, 20)
    assert tiny.features == 32 and Eye(1, 64).features == 32 * 6 * 6
    network = PictureNetwork(tiny, (32, W, 3), N, True, stream())
    last = network.last(network.flat)
    assert last.shape == (S, N, W + 1, 3)
    last.detach().zero_()
    assert (network.flat[..., -(W + 1) * 3 :] == 0).all() and (network.flat[..., -(W + 1) * 3 - 1] != 0).all()


def test_what_a_picture_shows_is_learned() -> None:
    """Chance is 1/3; both agents of two replicas name the bright third."""
    env = PettingZooEnv(make=Thirds, num_envs=16, pictures=Small(20))
    env.reset(0)
    config = MADDPGConfig(gamma=0.0, hidden=(32,), actor_lr=5e-3, critic_lr=5e-3)
    learner = MADDPG(env.spec, config, 0, range(2))
    assert learner.path == "autograd, since observations are pictures"
    replay = PictureReplay(env.spec, 2000, 8, Stream(0, "replay", range(2)), 0.0)
    collector = Collector(env, learner.act, 2)
    for k in range(150):
        replay.add(collector.collect()[0])
        if k >= 4:
            learner.update(replay.sample(32))
    rewards = torch.stack([collector.collect()[0].reward for _ in range(10)])
    assert rewards.mean((0, 3)).min() > 0.8
