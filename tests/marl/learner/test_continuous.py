"""Continuous heads: their noise, the gradient against closed forms, and a game whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import envs
from envs import probes
from envs.spec import AgentSpec, EnvSpec, Head, Route
from envs.streams import Stream
from marl.config.schema import Config, MADDPGConfig, ReplayConfig
from marl.data.batch import Batch
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner import losses
from marl.learner.continuous import STREAMS, Numbers
from marl.learner.diagnostics.diagnose import diagnose
from marl.learner.maddpg import MADDPG
from marl.learner.messages import RIAL
from marl.learner.networks.actor_critic import joint_rows
from marl.world_model.attach import imagining

MOVE = Head("move", 2, (-1.0, -1.0), (1.0, 1.0))
SPEC = EnvSpec(
    id="toy",
    agents=(
        AgentSpec("speaker", 2, (MOVE, Head("message", 3)), box=True),
        AgentSpec("listener", 5, (MOVE,), box=True),
    ),
    routes=(Route(sender=0, head=1, receiver=1, start=2, size=3),),
)
S, N, B, O, H, K = 1, 2, 6, 5, 2, 3  # noqa: E741 - the tensor legend's letters


def batch(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    action = torch.zeros(S, N, B, H, K)
    action[:, 0, :, 1, 2] = 1
    action = action + (2 * torch.rand(S, N, B, H, K, generator=g) - 1) * SPEC.number_mask[:, None]
    obs, following = torch.rand(2, S, N, B, O, generator=g)
    return Batch(
        joint=joint_rows(obs, action.flatten(-2)),
        prev_obs=torch.rand(S, 1, B, O, generator=g),
        first=torch.zeros(S, B, dtype=torch.bool),
        reward=torch.rand(S, N, B, generator=g),
        discount=torch.full((S, N, B), 0.9),
        next_obs=following,
    )


def numbers(deviation: float = 0.5, rows: tuple[int, ...] = (0,), **changes: object) -> Numbers:
    noise = {name: Stream(3, name, rows) for name in STREAMS.values()}
    return Numbers(SPEC, MADDPGConfig(**changes), noise, torch.tensor(deviation))  # type: ignore[arg-type]


def noise(purpose: str, *shape: int) -> Tensor:
    return Stream(3, STREAMS[purpose], (0,)).normal(*shape)


# ------------------------------------------------------------------------ noise
def test_normal_noise_is_normal_and_a_rows_own() -> None:
    drawn = Stream(1, "n", range(4)).normal(20_000)
    assert stats.kstest(drawn.flatten().double().numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn.numpy())[0, 1]) < 0.03
    assert torch.equal(Stream(1, "n", [2]).normal(20_000)[0], drawn[2])
    u, v = Stream(1, "n", [0]).uniform(2, 5)[0].double()
    torch.testing.assert_close(
        Stream(1, "n", [0]).normal(5)[0].double(), (-2 * u.log()).sqrt() * (2 * math.pi * v).cos(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "purpose", "expected"),
    [
        ({}, "act", lambda x, e: (x.tanh() + 0.5 * e).clamp(-1, 1)),
        ({}, "target", lambda x, e: x.tanh()),
        ({}, "own", lambda x, e: x.tanh()),
        ({}, "others", lambda x, e: x.tanh()),
        ({"smoothing": 0.2}, "target", lambda x, e: (x.tanh() + 0.2 * e.clamp(-2.5, 2.5)).clamp(-1, 1)),
        ({"smoothing": 0.2}, "act", lambda x, e: (x.tanh() + 0.5 * e).clamp(-1, 1)),
        *(({"continuous": "gaussian"}, p, lambda x, e: (x + 0.5 * e).tanh()) for p in STREAMS),
    ],
)
def test_what_each_purpose_adds(
    changes: dict[str, object], purpose: str, expected: Callable[[Tensor, Tensor], Tensor]
) -> None:
    outputs = 2 * torch.randn(1, N, 200, H, K, generator=torch.Generator().manual_seed(0))
    got = numbers(**changes)(outputs, purpose)
    torch.testing.assert_close(got, expected(outputs, noise(purpose, N, 200, H, K)) * SPEC.number_mask[:, None])
    assert got.abs().max() <= 1


def test_collected_actions_are_rows_of_one_hots_and_numbers() -> None:
    learner = MADDPG(SPEC, MADDPGConfig(hidden=(8,)), 0, range(2))
    action = learner.act(torch.rand(2, N, 50, O))
    assert action[:, 0, :, 1].sum(-1).eq(1).all() and action[:, 0, :, 1].max(-1).values.eq(1).all()
    assert action[:, 0, :, 0, 2].eq(0).all() and action[:, 1, :, 1].eq(0).all()  # padding, an absent head
    assert action[:, :, :, 0, :2].std() == pytest.approx(0.3, abs=0.03)  # a new actor says 0
    learner.schedules.follow(1.0)
    assert learner.act(torch.rand(2, N, 50, O))[:, :, :, 0, :2].std() == pytest.approx(0.05, abs=0.01)


# --------------------------------------------------------------------- gradients
@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_gradient_of_a_linear_quadratic_toy(kind: str) -> None:
    """x = w o, u = tanh(x + s e) and Q = -(u - b o)^2: dJ/dw = -2 mean (u - b o) (1 - u^2) o, by hand."""
    w, b = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), -0.4
    spec = EnvSpec("toy", (AgentSpec("a", 1, (Head("move", 1, (-1.0,), (1.0,)),), box=True),))
    streams = {name: Stream(3, name, (0,)) for name in STREAMS.values()}
    one = Numbers(spec, MADDPGConfig(continuous=kind), streams, torch.tensor(0.5))  # type: ignore[arg-type]
    o = torch.linspace(-1, 1, 9, dtype=torch.float64)
    outputs = (w * o).view(1, 1, 9, 1, 1)
    value = one.beside(lambda action: -((action[..., 0] - b * o) ** 2), outputs)
    gumbel = torch.zeros(1, 1, 9, 1, 1, dtype=torch.float64)
    got = losses.own_value(value, outputs, gumbel, ("gumbel_st",), 1.0, spec.head_mask[:, None])
    (gradient,) = torch.autograd.grad(got.mean(), w)
    e = noise("own", 1, 9, 1, 1).flatten().double() if kind == "gaussian" else torch.zeros(9)
    u = torch.tanh(0.7 * o + 0.5 * e)
    torch.testing.assert_close(gradient, (-2 * (u - b * o) * (1 - u**2) * o).mean())


def test_the_learners_actor_step_is_the_deterministic_policy_gradient() -> None:
    """A linear critic: dQ/du is its weight c, so the gradient at weight [o, u] is -mean c (1 - u^2) o, by hand."""
    learner = MADDPG(SPEC, MADDPGConfig(hidden=(), layer_norm=False, logit_penalty=0.1), 0)
    learner.actor.mlp.flat.data.mul_(60)
    data = batch()
    found = []
    learner._step = lambda loss, *rest: found.append(torch.autograd.grad(loss, learner.actor.mlp.flat)[0])  # type: ignore
    learner.update_actor(data, False)
    (weight, bias), layer = learner.actor.mlp.layers()[0], learner.critic.mlp.layers()[0][0]
    gradient = found[0].unflatten(2, (-1, H * K))  # [S, N, O + 1, A], the bias last
    x = data.obs @ weight + bias[:, :, None]
    for n, entries, widths in ((0, (0, 1), 5), (1, (0, 1), 2)):
        for a in entries:
            c = layer[0, n, N * O + n * H * K + a, 0]
            u = x[0, n, :, a].tanh()
            hand = -(c * (1 - u**2))[:, None] * data.obs[0, n] / B
            hand = hand + 0.1 * 2 * x[0, n, :, a, None] * data.obs[0, n] / B / widths  # mean square over all entries
            torch.testing.assert_close(gradient[0, n, :O, a], hand.sum(0).detach(), atol=1e-6, rtol=1e-4)
    assert gradient[0, 0, :, 3:6].abs().sum() > 0  # the message head learns beside it
    assert gradient[0, 1, :, 2:].abs().sum() == 0  # what agent 1 has not


@pytest.mark.parametrize("target_action", ["sample", "argmax"])
def test_targets_take_the_target_actors_numbers(target_action: str) -> None:
    learner = MADDPG(SPEC, MADDPGConfig(hidden=(8,), target_action=target_action), 0)  # type: ignore[arg-type]
    learner.target_actor.mlp.flat.mul_(30)
    data, seen = batch(), []
    logits, value = learner._ahead(data)
    learner._ahead = lambda _: (logits, lambda joint: seen.append(joint) or value(joint))  # type: ignore
    learner.targets(data)
    action = seen[0][..., N * O :].unflatten(2, (N, H, K)).transpose(1, 2)
    torch.testing.assert_close(action[:, :, :, 0, :2], logits[:, :, :, 0, :2].tanh())
    assert action[:, 0, :, 1].sum(-1).eq(1).all()


def test_messages_are_relabelled_beside_numbers() -> None:
    learner = MADDPG(SPEC, MADDPGConfig(hidden=(8,)), 0)
    data = batch()
    before = data.obs.clone()
    learner.relabel(data)
    assert data.obs[0, 1, :, 2:].sum(-1).eq(1).all() and torch.equal(data.obs[0, 1, :, :2], before[0, 1, :, :2])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"continuous": "gaussian", "other_actions": "current"},
        {"twin_critics": True, "actor_delay": 2, "smoothing": 0.2},
        {"estimator": "exact", "signalling_bonus": 0.3},
    ],
)
def test_updates_measure_and_are_repeated_from_a_state(changes: dict[str, object]) -> None:
    def made() -> MADDPG:
        return MADDPG(SPEC, MADDPGConfig(hidden=(8,), **changes), 0)  # type: ignore[arg-type]

    learner, again = made(), made()
    for k in range(3):
        metrics = learner.update(batch(k), 0.1, measure=True)
    assert learner.path.startswith("autograd, since other_actions" if "other_actions" in changes else "explicit")
    again.load_state_dict(learner.state_dict())
    for k in range(3, 5):
        metrics |= learner.update(batch(k), 0.2, measure=True)
        again.update(batch(k), 0.2)
    assert torch.equal(learner.actor.mlp.flat, again.actor.mlp.flat)
    assert torch.equal(learner.act(torch.ones(1, N, 2, O)), again.act(torch.ones(1, N, 2, O)))
    assert {"entropy/speaker/message", "numbers/speaker/move", "numbers/listener/move"} <= metrics.keys()
    assert "entropy/speaker/move" not in metrics
    before = {name: str(stream.state_dict()) for name, stream in learner.noise.items()}
    told = diagnose(learner, batch(9), 0.5, learner.noise["diagnose"])
    drawn = [name for name, stream in learner.noise.items() if str(stream.state_dict()) != before[name]]
    assert drawn == ["diagnose"], "training draws the same numbers without diagnostics"
    assert {name.rsplit("/", 1)[0] for name in told} == {"estimator/speaker/message"}


# ----------------------------------------------------------------------- learning
@pytest.mark.parametrize(
    ("changes", "near"), [({}, 0.1), pytest.param({"continuous": "gaussian"}, 0.25, marks=pytest.mark.slow)]
)
def test_the_number_of_a_probe_is_learned(changes: dict[str, object], near: float) -> None:
    """Each agent its own answer, near the wanted number (a Gaussian's noise makes the best mean another); and the
    critic's value of other numbers."""
    config = MADDPGConfig(hidden=(32,), actor_lr=1e-2, critic_lr=1e-2, tau=0.05, lr_final=0.1)
    config = replace(config, **changes)  # type: ignore[arg-type]
    env = probes.make("track_observation", num_envs=16)
    learner = MADDPG(env.spec, config, 1)
    env.reset(seed=1)
    collector = Collector(env, learner.act, 1)
    replay = Replay(env.spec, 4096, 16, Stream(1, "replay", range(1)), config.gamma)
    for step in range(400):
        replay.add(collector.collect()[0])
        if step > 8:
            learner.update(replay.sample(128), step / 400)
    seen = torch.tensor([-0.8, 0.0, 0.8]).view(1, 1, 3, 1).expand(1, 2, 3, 1)
    wanted = seen[0, 0, :, 0] * torch.tensor([[1.0], [-1.0]])
    torch.testing.assert_close(learner.actor(seen)[0, ..., 0, 0].tanh().detach(), wanted, atol=near, rtol=0)
    for observations, played, values in env.rules.facts(0.95):
        joint = torch.tensor([*observations, *played], dtype=torch.float32).view(1, 1, 4)
        torch.testing.assert_close(
            learner.critic(joint)[0, 0, :, 0].detach(), torch.tensor(values), atol=2.5 * near, rtol=0
        )


# ----------------------------------------------------------------------- refusals
def test_what_needs_choices_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="channel rial is made for discrete moves"):
        RIAL(SPEC, MADDPGConfig(), 0)
    with pytest.raises(UserError, match="listening_bonus compares probabilities of choices"):
        MADDPG(SPEC, MADDPGConfig(listening_bonus=0.1), 0)
    env = envs.make("simple", 4, env_args={"continuous_actions": True})
    config = Config(world_model=True, replay=ReplayConfig(capacity=100))
    replay = Replay(env.spec, 100, 4, Stream(0, "replay", (0,)), 0.9)
    with pytest.raises(UserError, match=r"simple_v3 has continuous actions.*without --world-model"):
        imagining(replay, MADDPG(env.spec, config.maddpg, 0), config)
