"""Gradients through the model: across the channel, to the right actors, and to nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from world_model_data import play
from world_model_games import GAME, Game, Goal, assert_derivative

import envs
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.data.replay import Replay
from marl.learner.networks.actor_critic import Actor, Critic
from marl.world_model.imagination.rollouts import Rollouts
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.imagination.starts import Start
from marl.world_model.imagination.through import ThroughModel, critic_tail
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction

TEAM = ((0, 1),)


def no_tail(obs: Tensor, action: Tensor) -> Tensor:
    return obs.new_zeros(obs.shape[:3])


def through(
    horizon: int, estimator: str = "straight_through", groups: tuple[tuple[int, ...], ...] = TEAM, selfish: bool = False
) -> tuple[ThroughModel, Actor]:
    """Rollouts of the game, and fresh actors of two replicas."""
    rows = 64
    goal = torch.nn.functional.one_hot(torch.arange(rows) % 2, 2).float().expand(2, rows, 2)

    def starts() -> Start:
        obs = torch.stack([goal, torch.zeros_like(goal)], 1)
        first = torch.ones(2, rows, dtype=torch.bool)
        return Start(Goal(goal), obs, torch.zeros_like(obs), first, first, goal[..., :0])

    stream, config = Stream(0, "imagination", [0, 1]), WorldModelConfig(through_horizon=horizon)
    drawn, gate = SimpleNamespace(draw=starts), SimpleNamespace(length_S=torch.tensor([3, 3]))
    policy = None  # the actor is given to the loss itself
    rollouts = Rollouts(Game(selfish), policy, drawn, Layout(GAME), config, 0.9, stream)  # type: ignore[arg-type]
    actor = Actor(GAME, (16,), True, Stream(0, "actor", [0, 1]))
    return ThroughModel(rollouts, gate, actor, no_tail, groups, [estimator]), actor  # type: ignore[arg-type]


def gradient(horizon: int, **options: object) -> Tensor:
    """Of the loss at the actors' parameters, [S, N, P]."""
    made, actor = through(horizon, **options)  # type: ignore[arg-type]
    made.loss(1.0).sum().backward()
    assert actor.mlp.flat.grad is not None
    return actor.mlp.flat.grad


def test_a_message_needs_two_steps_to_pay() -> None:
    """Within one step nobody has heard it; within two the speaker's gradient comes back through the channel."""
    assert not gradient(1)[:, 0].any() and gradient(1)[:, 1].any()
    assert gradient(2)[:, 0].any()


def test_gradient_is_the_derivative_of_the_value() -> None:
    """With soft samples and fixed noise the value is differentiable: central differences in float64."""
    made, actor = through(3, "gumbel_soft")
    flat = actor.double().mlp.flat
    flat.data = flat.data * 3
    starts = made._rollouts.starts.draw()
    state, obs, *rest = starts
    state.goal, obs = state.goal.double(), obs.double()
    made._rollouts.starts.draw = lambda: (state, obs, *rest)  # type: ignore[method-assign]

    def value() -> Tensor:
        made._rollouts.stream.load_state_dict({"counter": 0})  # the same noise
        return made.loss(0.8).sum()

    assert_derivative(value, flat)


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel_st"])
def test_a_protocol_is_learned_inside_the_model(estimator: str) -> None:
    """The best of three steps: chance at the first, sure at the other two."""
    made, actor = through(3, estimator)
    optimiser = torch.optim.Adam(actor.parameters(), 0.03)
    for _ in range(150):
        optimiser.zero_grad()
        made.loss(1.0).sum().backward()
        optimiser.step()
    with torch.no_grad():
        loss_SP = sum(made.loss(1.0) for _ in range(5)) / 5
    assert loss_SP.shape == (2, 1)
    assert (-loss_SP > 0.5 + 0.9 + 0.81 - 0.12).all()


def test_each_group_moves_its_own_actors_only() -> None:
    """The listener is paid for a wrong message. Apart, the speaker ignores that; as a team, it serves it."""
    apart = gradient(2, groups=((0,), (1,)), selfish=True)
    assert not apart[:, 0].any()
    assert gradient(2, groups=TEAM, selfish=True)[:, 0].any()


def test_groups_share_their_mean_reward() -> None:
    made, _ = through(1, groups=((1,), (0,)), selfish=True)
    loss = made.loss(1.0)
    assert loss.shape == (2, 2) and (loss[:, 1] == 0).all() and (loss[:, 0] < 0).all()
    team, _ = through(1, groups=TEAM, selfish=True)
    assert team.loss(1.0).abs().max() <= 0.5


@pytest.mark.parametrize("alive", [0.9, 0.0])
def test_nothing_counts_after_an_imagined_end(alive: float) -> None:
    """A hit in each of three steps, by a listener that always hits: 1 + .9 + .81 of it, or the first alone."""
    made, _ = through(3)
    model = made._rollouts.model

    def step(state: Goal, action_SnU: Tensor, uniform: Tensor, uncertain: bool) -> tuple[Goal, Prediction]:
        ones = torch.ones(*action_SnU.shape[:2], 2)
        return state, Prediction(state.goal, ones, alive * ones, 0 * ones[..., 0])

    model.step = step  # type: ignore[method-assign]
    gamma = made._rollouts.gamma
    expected = 1 + gamma + gamma**2 if alive else 1.0
    torch.testing.assert_close(made.loss(1.0), torch.full((2, 1), -expected))


def test_a_closed_gate_gives_no_gradient() -> None:
    made, actor = through(2)
    made._gate.length_S = torch.tensor([0, 1])
    made.loss(1.0).sum().backward()
    assert actor.mlp.flat.grad is not None
    assert not actor.mlp.flat.grad[0].any() and actor.mlp.flat.grad[1].any()


def test_where_every_gate_is_closed_nothing_is_imagined() -> None:
    made, _ = through(2)
    made._gate.length_S = torch.tensor([0, 0])
    made._rollouts.starts.draw = None  # type: ignore[method-assign, assignment]
    assert torch.equal(made.loss(1.0), torch.zeros(2, 1))


@pytest.mark.parametrize("value", [1e6, float("inf")])
def test_invalid_starts_do_not_count(value: float) -> None:
    """Guard: seen failing with infinity, which times a weight of 0 is no number."""
    made, _ = through(2)
    starts = made._rollouts.starts.draw()
    half = starts[4] & (torch.arange(64) < 32)
    made._rollouts.starts.draw = lambda: starts._replace(valid=half)  # type: ignore[method-assign]
    starts[0].goal = starts[0].goal.clone()
    starts[0].goal[:, 32:] = value
    assert made.loss(1.0).abs().max() < 2.0


@pytest.mark.parametrize("kind", ["linear", "rssm"])
def test_with_a_real_model_and_critic_only_actors_get_gradients(kind: str) -> None:
    env = envs.make("simple_speaker_listener", num_envs=10)
    config = WorldModelConfig(
        kind=kind, classes=4, latents=4, deter=8, hidden=8, sequences=4, warmup_steps=50, updates_per_step=0.05,
        starts=16, through_horizon=3, gate=1e9, reward_gate=1e9, refresh_every=50, ensemble=2, validation_share=0.25,
    )  # fmt: skip
    streams = {name: Stream(0, name, [0]) for name in ("replay", "model", "training", "imagination")}
    actor = Actor(env.spec, (16,), True, Stream(0, "actor", [0]))
    critic = Critic(env.spec, (16,), True, Stream(0, "critic", [0]))
    replay = Replay(env.spec, 1000, 10, streams["replay"], 0.9)
    source = ImaginationSource.of(replay, actor, env.spec, config, 10, streams)
    for t in play(env, 30):
        source.add(t)
    assert source.gate.length_S.item() == config.rollout
    source.training.model.optimiser.zero_grad()  # type: ignore[attr-defined]
    made = ThroughModel(source.rollouts, source.gate, actor, critic_tail(critic), TEAM, ["straight_through"])
    made.loss(1.0).sum().backward()
    assert actor.mlp.flat.grad is not None and bool(actor.mlp.flat.grad[:, 0].any())
    assert critic.mlp.flat.grad is None
    assert not any(bool(p.grad.any()) for p in source.training.model.networks.parameters())  # type: ignore[attr-defined]
