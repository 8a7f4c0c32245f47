"""Imagination with memory: states along rollouts, where rollouts begin, and whom the gradient reaches."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from world_model_data import two_agents
from world_model_games import GAME, Game, Goal, assert_derivative

import envs
from envs.history import History
from envs.pictures import Small
from envs.streams import Stream
from marl.config.schema import Config, MADDPGConfig
from marl.config.world_model import WorldModelConfig
from marl.data.collector import Collector
from marl.data.windows import WindowReplay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.learner.recurrent.networks import RecurrentActor, RecurrentCritic, columns, trace
from marl.learner.recurrent.unrolled import UnrolledActor, UnrolledCritic
from marl.world_model.attach import imagining
from marl.world_model.imagination.recall import Recall
from marl.world_model.imagination.rollouts import Rollouts, rows_of
from marl.world_model.imagination.starts import Start
from marl.world_model.imagination.through import ThroughModel
from marl.world_model.layout import Layout
from marl.world_model.sequences import FrameStore

SPEC = two_agents().stacked(1, own_action=True)
S, N, W, STEPS = 2, 2, 6, 3


def draws(name: str, *shape: int) -> Tensor:
    return Stream(0, name, [0]).uniform(*shape)[0] * 2 - 1


def actor() -> RecurrentActor:
    return RecurrentActor(SPEC, (W,), True, Stream(0, "actor", range(S)))


def memory(*shape: int) -> Tensor:
    return draws("memory", S, *shape, W)


# -------------------------------------------------------------------------------------------------------------- layout
def test_own_last_actions_are_copied_and_not_predicted() -> None:
    """The speaker sees 2 numbers and its symbol; the listener 2 numbers, the symbol heard, and its two choices."""
    layout = Layout(SPEC)
    assert layout.obs_size == 4 and layout.full_size == (2 + 3) + (5 + 2 + 4)
    predicted = torch.arange(1.0, 5.0).view(1, 1, 4)
    speaks, moves, chooses = torch.eye(3)[2], torch.eye(2)[1], torch.eye(4)[0]
    joint = torch.cat([speaks, moves, chooses]).view(1, 1, 9)
    speaker, listener = layout.assemble(predicted, joint)[0, :, 0]
    assert speaker.tolist() == [1, 2, *speaks, *[0] * 6]
    assert listener.tolist() == [3, 4, *speaks, *moves, *chooses]
    assert torch.equal(layout.join_action(layout.split_action(joint)), joint)


def test_what_is_copied_is_what_the_environment_shows() -> None:
    env = History(envs.make("simple_world_comm", num_envs=3), 1, own_action=True)
    layout, obs = Layout(env.spec), env.reset(seed=1)
    action = (draws("action", env.spec.num_agents, 3, env.spec.num_heads) > 0).long()
    onehot = torch.nn.functional.one_hot(action, env.spec.head_size).float() * env.spec.head_mask[:, None]
    obs = env.step(action).obs[None]
    predicted = layout.join(obs)[..., layout.dynamic_J]
    torch.testing.assert_close(layout.assemble(predicted, layout.join_action(onehot.flatten(2)[None])), obs)


# ------------------------------------------------------------------------------------------------------------ unrolled
@pytest.mark.parametrize("blocks", [1, 2])
def test_an_actor_along_a_rollout_is_its_single_steps(blocks: int) -> None:
    made, state = actor(), memory(N, 8)
    steps = UnrolledActor(made, state, torch.arange(N) % blocks, blocks)
    for k in range(STEPS):
        obs = draws(f"obs {k}", S, N, 8, SPEC.obs_size)
        expected, state = made.step(obs, state, made.prepared())
        torch.testing.assert_close(steps(obs), expected)


def test_parameters_are_live_in_their_own_block() -> None:
    """Autograd's reference: every agent's loss of the rows of its block, through all steps; nothing from other rows."""
    made, obs = actor(), [draws(f"obs {k}", S, N, 8, SPEC.obs_size) for k in range(STEPS)]
    steps = UnrolledActor(made, memory(N, 8), torch.tensor([1, 0]), 2)
    direction = [draws(f"direction {k}", S, N, 8, *made.heads) for k in range(STEPS)]
    total = sum((steps(x) * d).sum() for x, d in zip(obs, direction, strict=True))
    (mine,) = torch.autograd.grad(total, made.mlp.flat)  # type: ignore[arg-type]
    state, expected = memory(N, 8), 0.0
    own = torch.zeros(1, N, 8, 1, 1)
    own[:, 0, 4:], own[:, 1, :4] = 1.0, 1.0
    for x, d in zip(obs, direction, strict=True):
        logits, state = made.step(x, state, made.prepared())
        expected = expected + (logits * d * own).sum()
    (theirs,) = torch.autograd.grad(expected, made.mlp.flat)  # type: ignore[arg-type]
    torch.testing.assert_close(mine, theirs)


def test_gradients_reach_earlier_observations_in_every_block() -> None:
    made, first = actor(), draws("obs", S, N, 8, SPEC.obs_size).requires_grad_()
    steps = UnrolledActor(made, memory(N, 8), torch.tensor([1, 0]), 2)
    steps(first)
    (gradient,) = torch.autograd.grad(steps(torch.zeros_like(first)).sum(), first)
    widths = torch.tensor([agent.obs_size for agent in SPEC.agents])
    assert all(gradient[:, n, :, : widths[n]].abs().sum(-1).all() for n in range(N))


def test_a_critic_along_a_rollout_is_that_of_whole_windows() -> None:
    """The first of two; its parameters take no gradient, what was done before it does."""
    critic = RecurrentCritic(SPEC, (W,), True, Stream(0, "critic", range(S)), 2)
    obs = [draws(f"obs {k}", S, N, 5, SPEC.obs_size) for k in range(STEPS)]
    done = [draws(f"done {k}", S, N, 5, SPEC.action_size).requires_grad_() for k in range(STEPS)]
    steps = UnrolledCritic(critic, memory(N, 5))
    for x, a in zip(obs[:-1], done[:-1], strict=True):
        steps.follow(x, a)
    value = steps(obs[-1], done[-1])
    torch.testing.assert_close(steps(obs[-1], done[-1]), value)  # asking leaves no trace
    joint = torch.cat([joint_rows(x, a) for x, a in zip(obs, done, strict=True)], dim=1).transpose(1, 2)
    parameters = critic.first()
    keep, none = torch.ones(S * N, 1, STEPS, 5), torch.ones(S * N, 1, 0, 5)
    whole = trace(parameters, joint[..., :0], joint, columns(memory(N, 5)), none, keep)
    expected = whole.output()[..., -5:].view(S, N, 5)
    torch.testing.assert_close(value, expected)
    mine, theirs = (torch.autograd.grad(x.sum(), done, retain_graph=True) for x in (value, expected))
    assert mine[0].abs().sum() > 0
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.grad(value.sum(), critic.mlp.flat, allow_unused=True) == (None,)


# ------------------------------------------------------------------------------------------------------------- starts
def test_starts_remember_what_the_learner_remembered() -> None:
    """Two episodes of three environments: the states before every frame are those with which it was played."""
    env = History(envs.make("simple_speaker_listener", num_envs=S * 3), 1, own_action=True)
    learner = RecurrentMADDPG(env.spec, MADDPGConfig(recurrent=True, hidden=(W,)), 0, range(S))
    running = learner.memory(3)
    collector = Collector(env, running.act, S, running)
    layout = Layout(env.spec)
    store, everyone = FrameStore(layout.widths, S, 3, 3 * 60, "cpu"), torch.ones(S, 3, dtype=torch.bool)
    before = []
    for _ in range(40):
        transitions, _ = collector.collect()
        assert transitions.memory is not None
        store.add(rows_of(layout, transitions), everyone)
        before.append((transitions.obs, transitions.memory))
    seq = store.from_start(26 + 15)
    index = torch.arange(41 * 3).expand(S, -1)
    found = Recall(learner, layout)(seq, index).unflatten(2, (41, 3))  # [S, 2N, T, E, W]
    for step, (obs, state) in enumerate(before):
        frame = step + step // 25  # the last frame of an episode is nobody's to act on
        torch.testing.assert_close(layout.split(seq.obs[:, frame]), obs)
        torch.testing.assert_close(found[:, :, frame], state, rtol=1e-4, atol=1e-5)
    picked = Recall(learner, layout)(seq, torch.tensor([[30, 4], [9, 77]]))
    torch.testing.assert_close(picked[1, :, 1], found.flatten(2, 3)[1, :, 77])


# --------------------------------------------------------------------------------------------------------------- loss
def through(horizon: int, groups: tuple[tuple[int, ...], ...], seen: bool) -> tuple[ThroughModel, RecurrentActor]:
    """Rollouts of the game from a memory; `seen`: the speaker sees the goal, else only its memory may tell it."""
    count = 16
    goal = torch.nn.functional.one_hot(torch.arange(count) % 2, 2).double().expand(S, count, 2)
    remembered = torch.zeros(S, 4, count, W, dtype=torch.float64)
    remembered[:, 0, :, :2] = goal

    def starts() -> Start:
        obs = torch.stack([goal * seen, torch.zeros_like(goal)], 1)
        first = torch.ones(S, count, dtype=torch.bool)
        return Start(Goal(goal), obs, torch.zeros_like(obs), first, first, goal[..., :0], remembered)

    stream, config = Stream(0, "imagination", range(S)), WorldModelConfig(through_horizon=horizon)
    drawn, gate = SimpleNamespace(draw=starts), SimpleNamespace(length_S=torch.tensor([3, 3]))
    rollouts = Rollouts(Game(), None, drawn, Layout(GAME), config, 0.9, stream)  # type: ignore[arg-type]
    acting = RecurrentActor(GAME, (W,), True, Stream(0, "actor", range(S))).double()
    acting.mlp.flat.data *= 3
    critic = RecurrentCritic(GAME, (W,), True, Stream(0, "critic", range(S))).double()
    return ThroughModel(rollouts, gate, acting, critic, groups, ["gumbel_soft"]), acting  # type: ignore[arg-type]


@pytest.mark.parametrize("seen", [True, False])
def test_gradient_is_the_derivative_of_the_value(seen: bool) -> None:
    """Central differences in float64, with soft samples and fixed noise: memories of actors and critics included."""
    made, acting = through(3, ((0, 1),), seen)
    flat = acting.mlp.flat

    def value() -> Tensor:
        made._rollouts.stream.load_state_dict({"counter": 0})  # the same noise
        return made.loss(0.8).sum()

    assert_derivative(value, flat)


def test_values_are_those_of_what_was_remembered_and_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: the same noise from empty memories, and with critics that forget the steps of the rollout."""

    def value(forget: bool = False, empty: bool = False) -> float:
        made, _ = through(2, ((0, 1),), False)
        start = made._rollouts.starts.draw()
        assert start.memory is not None
        if empty:
            start.memory.zero_()
        with monkeypatch.context() as patched:
            if forget:
                patched.setattr(UnrolledCritic, "follow", lambda *_: None)
            return made.loss(0.8).sum().item()

    whole = value()
    assert value() == whole
    assert abs(value(empty=True) - whole) > 1e-6 and abs(value(forget=True) - whole) > 1e-6


def test_agents_with_rewards_of_their_own_learn_from_their_own_copies() -> None:
    """As many values as groups; each agent's gradient is that of its own group's alone."""
    made, acting = through(2, ((0,), (1,)), True)
    values = made.loss(0.8)
    assert values.shape == (S, 2)
    for group in range(2):
        (gradient,) = torch.autograd.grad(values[:, group].sum(), acting.mlp.flat, retain_graph=True)
        assert gradient[:, group].any() and not gradient[:, 1 - group].any()


# ---------------------------------------------------------------------------------------------------------------- runs
def config(**changes: Any) -> Config:
    learner = MADDPGConfig(recurrent=True, hidden=(W,), window=4, burn_in=2, batch_size=16)
    wm = WorldModelConfig(kind="mlp", gate=1e9, reward_gate=1e9, starts=8, warmup_steps=60, **changes)
    return Config(env="simple_speaker_listener", num_envs=10, world_model=True, maddpg=learner, wm=wm)


def test_batches_are_real_and_rollouts_remember() -> None:
    settings = config()
    env = History(envs.make(settings.env, num_envs=10), 1, own_action=True)
    learner = RecurrentMADDPG(env.spec, settings.maddpg, 0)
    replay = WindowReplay(env.spec, 500, 10, Stream(0, "replay", [0]), 0.95, 4, 2, learner.memory_shape)
    source = imagining(replay, learner, settings)
    running = learner.memory(10)
    collector = Collector(env, running.act, 1, running)
    for _ in range(60):
        source.add(collector.collect()[0])
    assert not source.imagined.filled and source.gate.length_S.any()
    batch, before = source.sample(16), learner.actor.mlp.flat.detach().clone()
    memory_SGRW = source.rollouts.starts.draw().memory
    assert memory_SGRW is not None and memory_SGRW.shape == (1, 4, 8, W) and memory_SGRW.any()
    learner.update(batch)
    assert not torch.equal(learner.actor.mlp.flat, before)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"has_masks": True}, "choices may be"), ({"fixed_agents": False}, "agents may leave"), ({}, "are pictures")],
)
def test_what_no_memory_is_imagined_in(changes: dict[str, bool], why: str) -> None:
    settings, spec = config(), replace(SPEC, **changes)  # type: ignore[arg-type]
    if not changes:
        spec = envs.make("picture_envs:thirds", num_envs=1, backend="pettingzoo", pictures=Small()).spec
        settings = replace(settings, wm=replace(settings.wm, kind="rssm", observation="image"))
    learner: MADDPG = RecurrentMADDPG(spec, settings.maddpg, 0)
    with pytest.raises(UserError, match=f"{why}.*maddpg.recurrent false"):
        imagining(None, learner, settings)  # type: ignore[arg-type]
