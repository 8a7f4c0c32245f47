"""The update by hand-written gradients against the one by autograd, on random batches of every scenario and option.

Guard: seen failing with the sign of the logit penalty turned, with the centring of one layer left out, and with the
messages of reset slots not silenced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_envs import MaskedInfo
from whole_runs import differences

import envs
from envs.batched import BatchedEnv
from envs.pettingzoo.env import PettingZooEnv
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.resolve import tuned
from marl.config.schema import MADDPGConfig
from marl.data.batch import Batch
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.errors import RunFailed
from marl.learner import losses
from marl.learner.explicit.kernels import select
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows

torch.set_num_threads(1)
IDS = (
    "simple", "simple_adversary", "simple_crypto", "simple_push", "simple_reference", "simple_speaker_listener",
    "simple_spread", "simple_tag", "simple_world_comm", "simple_line", "simple_formation", "collect_treasure",
)  # fmt: skip
S, B = 2, 24
NUMBA = select().form == "numba"
FORMS = ["torch", pytest.param("numba", marks=pytest.mark.skipif(not NUMBA, reason="numba is not installed"))]
OPTIONS: dict[str, dict[str, Any]] = {
    "one hidden layer": {"hidden": (12,)},
    "three hidden layers": {"hidden": (12, 8, 10)},
    "no layer norm": {"layer_norm": False},
    "soft": {"estimator": "gumbel_soft", "temperature": 0.7},
    "straight through": {"estimator": "straight_through", "temperature": 1.5, "temperature_final": 0.5},
    "exact, whatever the temperature": {"estimator": "exact", "temperature": 0.4},
    "exact messages": {"message_estimator": "exact"},
    "exact moves": {"estimator": "exact", "message_estimator": "gumbel_st"},
    "soft moves, exact messages": {"estimator": "gumbel_soft", "message_estimator": "exact"},
    "soft moves, hard messages": {"estimator": "gumbel_soft", "message_estimator": "straight_through"},
    "argmax": {"target_action": "argmax"},
    "penalty": {"logit_penalty": 0.3},
    "no correction": {"communication_correction": False},
    "signalling": {"signalling_bonus": 0.8, "signalling_k": 0.4, "signalling_final": 0.1},
    "team": {"team_reward": True},
    "twins": {"twin_critics": True, "actor_delay": 2},
    "independent": {"independent_critics": True},
    "independent twins": {"independent_critics": True, "twin_critics": True},
    "factored": {"critic": "factored", "team_reward": True, "share_actors": True},
    "factored twins": {"critic": "factored", "team_reward": True, "twin_critics": True, "hidden": (10, 7)},
    "clipped": {"max_grad_norm": 0.01},
    "shared": {"share_actors": True},
}


def spec_of(name: str) -> EnvSpec:
    return envs.make(name, num_envs=1).spec


SPECS = {name: spec_of(name) for name in IDS}


def random_batch(spec: EnvSpec, seed: int = 0, replicas: int = S, rows: int = B) -> Batch:
    """Any numbers of the right shapes: executed one-hots, some first steps, some ends; agents and choices missing."""
    draw = torch.Generator().manual_seed(seed)
    n, o = spec.num_agents, spec.obs_size

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(replicas, *shape, generator=draw)

    def flags(share: float, *shape: int) -> torch.Tensor:
        return torch.rand(replicas, *shape, generator=draw) < share

    head_mask = spec.head_mask[:, None]
    mask, next_mask = None, None
    if spec.has_masks:
        shape = (n, rows, *spec.head_mask.shape[1:])
        mask, next_mask = flags(0.7, *shape), flags(0.7, *shape)
    scores = normal(n, rows, *spec.head_mask.shape[1:]).masked_fill(~head_mask, -1e9)
    action = torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0) * head_mask
    if spec.continuous:
        action = action + torch.tanh(scores) * spec.number_mask[:, None]
    joint = joint_rows(normal(n, rows, o), action.flatten(-2))
    return Batch(
        joint=joint,
        prev_obs=normal(len(spec.senders), rows, o),
        first=flags(0.2, rows),
        reward=normal(n, rows),
        discount=0.9 * flags(0.8, n, rows),
        next_obs=normal(n, rows, o),
        active=None if spec.fixed_agents else flags(0.6, n, rows).float(),
        next_active=None if spec.fixed_agents else flags(0.6, n, rows).float(),
        mask=mask,
        next_mask=next_mask,
    )


def pair(spec: EnvSpec, config: MADDPGConfig, form: str, seed: int = 3) -> tuple[MADDPG, MADDPG]:
    """The same learner twice, once by hand and once by autograd; policies and critics are far from their start."""
    explicit = MADDPG(spec, config, seed, range(S))
    with torch.no_grad():
        for net in (explicit.actor, explicit.target_actor, explicit.critic, explicit.target_critic):
            net.mlp.flat.add_(torch.randn(net.mlp.flat.shape, generator=torch.Generator().manual_seed(5)), alpha=0.2)
    reference = copy.deepcopy(explicit)
    assert explicit.form != "autograd", explicit.path
    explicit.use(form)
    reference.use("autograd", "it is the reference")
    return explicit, reference


def assert_close(explicit: MADDPG, reference: MADDPG, atol: float) -> None:
    for name in ("actor", "critic", "target_actor", "target_critic"):
        one, other = (getattr(agent, name).mlp.flat.detach() for agent in (explicit, reference))
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-5, msg=lambda told, name=name: f"{name}: {told}")


def compared(spec: EnvSpec, config: MADDPGConfig, form: str) -> None:
    """Gradients (Adam's first moments), parameters and metrics of four updates."""
    # Adam's step is lr g / (|g| + 1e-8) at first: a gradient of rounding errors alone would not be comparable
    config = replace(config, actor_lr=1e-3, critic_lr=1e-3)
    explicit, reference = pair(spec, config, form)
    for k in range(4):
        one, other = random_batch(spec, k), random_batch(spec, k)
        result, expected = explicit.update(one, k / 4, True), reference.update(other, k / 4, True)
        assert result.keys() == expected.keys()
        for name in result:
            torch.testing.assert_close(result[name].detach(), expected[name].detach(), atol=2e-4, rtol=2e-4)
        assert torch.equal(one.joint, other.joint), "relabelled alike"
        for name in ("actor", "critic"):
            states = [agent.moments[name].optimiser.state_dict()["state"] for agent in (explicit, reference)]
            assert len(states[0]) == len(states[1])
            for moments in zip(*(state.values() for state in states), strict=True):
                for what in ("step", "exp_avg", "exp_avg_sq"):
                    torch.testing.assert_close(moments[0][what], moments[1][what], atol=2e-6, rtol=1e-3)
        assert_close(explicit, reference, 2e-4)
    for name, stream in explicit.noise.items():
        assert torch.equal(stream.counter, reference.noise[name].counter), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", IDS)
def test_the_settings_of_every_scenario(name: str, form: str) -> None:
    config = replace(tuned(name).maddpg, hidden=(12, 8))
    compared(SPECS[name].stacked(config.frames) if config.frames > 1 else SPECS[name], config, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["simple_reference", "simple_world_comm"])
def test_options(name: str, options: str, form: str) -> None:
    compared(SPECS[name], replace(MADDPGConfig(hidden=(12, 8)), **OPTIONS[options]), form)


NUMBERS: dict[str, dict[str, Any]] = {
    "deterministic": {"logit_penalty": 0.3},
    "smoothed twins": {"twin_critics": True, "actor_delay": 2, "smoothing": 0.2},
    "gaussian": {"continuous": "gaussian", "logit_penalty": 0.3},
    "gaussian, exact messages": {"continuous": "gaussian", "estimator": "exact"},
    "soft messages": {"estimator": "gumbel_soft", "signalling_bonus": 0.8},
    "argmax, shared": {"target_action": "argmax", "share_actors": True, "smoothing": 0.1},
    "absent": {"team_reward": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", NUMBERS)
@pytest.mark.parametrize("name", ["simple_world_comm", "simple_speaker_listener"])
def test_continuous_heads_beside_messages(name: str, options: str, form: str) -> None:
    """Also in heads that some agents have for numbers and others for symbols."""
    spec = envs.make(name, num_envs=1, env_args={"continuous_actions": True}).spec
    assert spec.continuous and spec.head_mask.any()
    spec = replace(spec, fixed_agents=False) if options == "absent" else spec
    compared(spec, MADDPGConfig(hidden=(12, 8), exploration=0.7, **NUMBERS[options]), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.1, 0.0])
def test_a_different_step_size_for_one_agent(share: float, form: str) -> None:
    """With 0 its messages are not relabelled either."""
    compared(SPECS["simple_reference"], MADDPGConfig(hidden=(8,), actor_lr_shares={"agent_0": share}), form)


# ------------------------------------------------- gradients by themselves
def test_gradient_at_the_logits_is_that_of_the_pure_losses() -> None:
    """Value, penalty and bonus of one agent with two heads against autograd of marl/learner/losses.py, to rounding."""
    draw = torch.Generator().manual_seed(1)
    kernels = select("torch")
    logits = torch.randn(1, 1, B, 2, 5, generator=draw, requires_grad=True)
    gumbel, slope = torch.randn(1, 1, B, 2, 5, generator=draw), torch.randn(1, 1, B, 10, generator=draw)
    mask = torch.ones(1, 1, 2, 5, dtype=torch.bool)
    mask[..., 1, 3:] = False
    value = losses.own_value(lambda a: (a * slope).sum(-1), logits, gumbel, ("gumbel_st",) * 2, 0.7, mask)
    bonus = losses.signalling_bonus(logits[:, :, :, 1], mask[0, :, 1], 0.4)
    loss = 0.1 * losses.logit_penalty(logits, mask) - value.mean(-1) - 2.0 * bonus
    (expected,) = torch.autograd.grad(loss.sum(), logits)

    def rows(x: torch.Tensor) -> torch.Tensor:
        return x.detach().reshape(1, B, 10).transpose(1, 2).contiguous()

    allowed = rows(mask.expand(1, 1, B, 2, 5))
    action, soft, out = (torch.zeros(1, 10, B) for _ in range(3))
    codes = torch.tensor([1, 1])
    kernels.soften(rows(logits), rows(gumbel), allowed, 0.7, codes, action, soft)
    weight = torch.full((1, B), 1.0 / B)
    kernels.logit_gradient(
        -rows(slope) / B, torch.zeros(1, 10, B), soft, rows(logits), allowed, weight, 0.1, 0.7, codes, out
    )
    kernels.signal(rows(logits), torch.ones(1, B), 1, 0, 5, 3, 0.4, 2.0, out)
    torch.testing.assert_close(out, rows(expected), atol=1e-7, rtol=1e-5)


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
def test_both_forms_draw_the_numbers_of_the_stream_bit_for_bit() -> None:
    learner = MADDPG(SPECS["simple_reference"], MADDPGConfig(hidden=(8,)), 0, range(S))
    stream = learner.noise["own"]
    shape = (2, B, *SPECS["simple_reference"].head_mask.shape[1:])
    same = copy.deepcopy(stream)
    expected = torch.stack([same.gumbel(*shape).flatten(3).transpose(2, 3) for _ in range(3)]).flatten(1, 2)
    for form in ("torch", "numba"):
        one = copy.deepcopy(learner)
        one.use(form)
        ahead = one._explicit_at(B).ahead
        ahead.draw(3, 3)
        assert torch.equal(ahead.own_UXAB[:3], expected), form
        assert int(one.noise["own"].counter) == int(same.counter)


# ------------------------------------------------------------------ promises
MANY: dict[str, Any] = {
    "hidden": (12, 8), "signalling_bonus": 0.5, "message_estimator": "exact", "actor_delay": 2, "twin_critics": True
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_resume_in_the_middle_bit_for_bit_and_from_either_path(form: str) -> None:
    spec, config = SPECS["simple_reference"], MADDPGConfig(**MANY)
    whole, reference = pair(spec, config, form)
    for k in range(3):
        whole.update(random_batch(spec, k), k / 6)
        reference.update(random_batch(spec, k), k / 6)
    state = copy.deepcopy(whole.state_dict())
    again, by_autograd, back = (MADDPG(spec, config, 3, range(S)) for _ in range(3))
    again.use(form)
    back.use(form)
    by_autograd.use("autograd", "it is the reference")
    again.load_state_dict(copy.deepcopy(state))
    by_autograd.load_state_dict(copy.deepcopy(state))
    back.load_state_dict(copy.deepcopy(reference.state_dict()))
    for k in range(3, 6):
        for agent in (whole, again, by_autograd, back):
            agent.update(random_batch(spec, k), k / 6)
    for name in ("actor", "critic", "target_actor", "target_critic"):
        assert torch.equal(getattr(whole, name).mlp.flat, getattr(again, name).mlp.flat), name
    assert_close(whole, by_autograd, 5e-4)
    assert_close(whole, back, 5e-4)


@pytest.mark.parametrize("form", FORMS)
def test_measuring_changes_no_bit(form: str) -> None:
    for estimator in ("gumbel_st", "gumbel_soft", "exact"):
        spec, config = SPECS["simple_reference"], MADDPGConfig(hidden=(12, 8), estimator=estimator)
        one, other = pair(spec, config, form)
        other.use(form)
        for k in range(4):
            assert not one.update(random_batch(spec, k), k / 4, False)
            assert other.update(random_batch(spec, k), k / 4, k % 2 == 0) or k % 2
        assert torch.equal(one.actor.mlp.flat, other.actor.mlp.flat)
        assert torch.equal(one.critic.mlp.flat, other.critic.mlp.flat)


@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_threads(form: str) -> None:
    spec, config, result = SPECS["simple_reference"], MADDPGConfig(hidden=(32, 32)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            agent = pair(spec, config, form)[0]
            for k in range(3):
                agent.update(random_batch(spec, k, rows=128))
            result.append(agent.actor.mlp.flat.detach().clone())
    finally:
        torch.set_num_threads(1)
    assert torch.equal(*result)


@pytest.mark.parametrize("form", FORMS)
def test_a_replica_trains_alike_alone_and_among_others(form: str) -> None:
    spec, config = SPECS["simple_reference"], MADDPGConfig(hidden=(16, 16))
    both, alone = MADDPG(spec, config, 0, range(2)), MADDPG(spec, config, 0, [1])
    both.kernel_form = alone.use(form)
    for k in range(3):
        batch = random_batch(spec, k)
        alone.update(batch.mapped(lambda x, dim: x[1:].clone()))
        both.update(batch)
    torch.testing.assert_close(both.actor.mlp.flat[1:], alone.actor.mlp.flat, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ["critic", "actor"])
def test_a_gradient_that_is_not_finite_stops_before_the_step(which: str, form: str) -> None:
    spec = SPECS["simple_speaker_listener"]
    agent = pair(spec, MADDPGConfig(hidden=(8,)), form)[0]
    agent.update(random_batch(spec))
    batch = random_batch(spec, 1)
    if which == "critic":
        batch.reward[1, 1, 0] = float("nan")
    else:
        with torch.no_grad():
            agent.actor.mlp.flat[1, 1, -1] = float("nan")
        batch = replace(batch, first=torch.ones_like(batch.first))
    before = [x.clone() for x in (agent.actor.mlp.flat, agent.critic.mlp.flat)]
    with pytest.raises(RunFailed, match=rf"the gradient of the {which} loss of agent 'listener_0' \(replica 1\).*2"):
        agent.update(batch)
    assert torch.equal(agent.actor.mlp.flat.nan_to_num(), before[0].nan_to_num())
    assert which == "actor" or torch.equal(agent.critic.mlp.flat, before[1])


class Pull:
    """Squares of the logits' distance to 3, at an observation of ones."""

    def __init__(self, learner: MADDPG) -> None:
        self._actor, self._spec = learner.actor, learner.spec

    def loss(self, temperature: Tensor) -> Tensor:
        obs = torch.ones(S, self._spec.num_agents, 1, self._spec.obs_size)
        return (self._actor(obs) - 3.0).square().sum((1, 2, 3, 4))[:, None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_further_loss_of_the_actors_adds_its_gradient(shared: bool, form: str) -> None:
    config = MADDPGConfig(hidden=(12, 8), share_actors=shared, max_grad_norm=1e9)
    explicit, reference = pair(SPECS["simple_spread"], config, form)
    alone = copy.deepcopy(reference)
    for learner in (explicit, reference):
        learner.add_actor_loss(Pull(learner))
    for learner in (explicit, reference, alone):
        learner.update(random_batch(learner.spec))
    one, other, without = (learner.moments["actor"].mean_SGP for learner in (explicit, reference, alone))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (without - one).norm() > 0.5 * one.norm()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda: envs.make("simple_reference", 4 * S), {"target_action": "argmax"}),
        (lambda: envs.make("simple_speaker_listener", 4 * S), {"actor_delay": 2, "twin_critics": True}),
        (lambda: envs.make("simple_spread", 4 * S), {"team_reward": True, "estimator": "exact"}),
        (lambda: PettingZooEnv(make=MaskedInfo, num_envs=4 * S, length=5, deaths={"a_0": 3}), {}),
    ],
    ids=["reference", "delayed twins", "team", "masks and deaths"],
)
def test_a_round_at_once_has_the_bits_of_one_update_after_another(
    make: Callable[[], BatchedEnv], changes: dict[str, Any], form: str
) -> None:
    env = make()
    config = MADDPGConfig(hidden=(8, 8), **changes)
    learners = [MADDPG(env.spec, config, 3, range(S)) for _ in range(2)]
    replays = [Replay(env.spec, 200, 4, Stream(0, "replay", range(S)), config.gamma, config.n_step) for _ in range(2)]
    for learner, replay in zip(learners, replays, strict=True):
        learner.use(form)
        env.reset(seed=0)
        collector = Collector(env, learner.act, S)
        for _ in range(30):
            replay.add(collector.collect()[0])
    for count, progress in ((20, 0.0), (4, 0.5), (1, 1.0)):  # more than are drawn at once, some, one
        for _ in range(count):
            learners[0].update(replays[0].sample(B), progress)
        learners[1].update_many(replays[1], B, count, progress)
        assert differences(learners[0].state_dict(), learners[1].state_dict()) == []
        assert int(replays[0].stream.counter) == int(replays[1].stream.counter)
