"""RIAL, DIAL and intent: the gradient of each against a closed form, the chain rule by hand, and what it must not be.

Guard: seen failing with the baseline left out, with the sender's own critic kept in DIAL, with gradients to an
opponent's speaker, with messages of the first step counted, and with the announced move taken at the wrong step.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import envs
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.batch import Batch
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner import losses, relaxation
from marl.learner.maddpg import MADDPG
from marl.learner.messages import DIAL, LEARNERS, RIAL, Intent

PLAIN = MADDPGConfig(hidden=(8, 8), logit_penalty=0.0, layer_norm=False)


def of(task: str, **changes: object) -> EnvSpec:
    return replace(envs.make(task).spec, **changes)  # type: ignore[arg-type]


def replay_of(task: str, learner: MADDPG, count: int, steps: int) -> Replay:
    env = envs.make(task, count)
    env.reset(1)
    collector = Collector(env, learner.act, 1)
    replay = Replay(env.spec, count * steps, count, Stream(0, "replay", range(1)), 0.9)
    for _ in range(steps):
        replay.add(collector.collect()[0])
    return replay


def batch_of(task: str, learner: MADDPG) -> Batch:
    """Twelve transitions across the end of an episode, so that two rows are first ones."""
    replay = replay_of(task, learner, 2, 30)
    return replay.gather(torch.arange(44, 56)[None] + replay._offset_S1)


def loss_of(learner: MADDPG, batch: Batch) -> Tensor:
    """The gradient [G, P] of the whole actor loss, as an update takes it."""
    taken: list[Tensor] = []

    def step(loss: Tensor, module: object, optimiser: object, name: str) -> Tensor:
        taken.append(torch.autograd.grad(loss, learner.actor.mlp.flat)[0][0])
        return taken[0]

    learner._step = step  # type: ignore[method-assign,assignment]
    learner.update_actor(batch, measure=False)
    return taken[0]


# ------------------------------------------------------------------ RIAL
def test_the_score_function_by_hand_beside_a_pathwise_move() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 6, 2, 3, generator=g, requires_grad=True)  # S N B H K
    noise = Stream(0, "noise", (0,)).gumbel(2, 6, 2, 3)
    worth = torch.randn(6, generator=g)
    mask = torch.ones(2, 1, 2, 3, dtype=torch.bool)
    otherwise = torch.tensor([[True, False], [False, False]])  # the first agent's first head

    def value(action: Tensor) -> Tensor:
        return (action * worth).sum(-1).square()

    def gradient(**more: object) -> Tensor:
        total = losses.own_value(value, logits, noise, ("gumbel_st",) * 2, 1.0, mask, **more)  # type: ignore[arg-type]
        return torch.autograd.grad(total.sum(), logits)[0]

    scored, plain = gradient(otherwise_NH=otherwise, scored=True), gradient()
    onehot = relaxation.sample_onehot(logits, noise, mask)
    q = value(onehot.flatten(-2))[0, 0]
    by_hand = (q - q.mean())[:, None] * (onehot - logits.softmax(-1))[0, 0, :, 0]
    torch.testing.assert_close(scored[0, 0, :, 0], by_hand)
    torch.testing.assert_close(scored[0, 0, :, 1], plain[0, 0, :, 1])
    torch.testing.assert_close(scored[0, 1], plain[0, 1])
    untaught = gradient(otherwise_NH=otherwise)
    assert not untaught[0, 0, :, 0].any()
    torch.testing.assert_close(untaught[0, 1], plain[0, 1])


@pytest.mark.parametrize("estimator", ["reinforce", "exact", "gumbel_soft"])
def test_other_estimators_leave_these_heads_alone(estimator: str) -> None:
    logits = torch.randn(1, 1, 4, 1, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    noise, mask = Stream(0, "noise", (0,)).gumbel(1, 4, 1, 3), torch.ones(1, 1, 1, 3, dtype=torch.bool)
    total = losses.own_value(
        lambda a: a[..., 0], logits, noise, (estimator,), 1.0, mask, otherwise_NH=torch.tensor([[True]])
    )
    assert not total.requires_grad or not torch.autograd.grad(total.sum(), logits)[0].any()
    torch.testing.assert_close(total, relaxation.sample_onehot(logits, noise, mask)[..., 0, 0])


def test_which_heads_learn_otherwise() -> None:
    """Heads that somebody hears: not the guesses of crypto's Eve and Bob, though they are messages by name."""
    crypto = RIAL(of("simple_crypto"), PLAIN, 0)
    assert crypto.otherwise_NH is not None
    assert dict(zip(crypto.spec.agent_names, crypto.otherwise_NH[:, 0].tolist(), strict=True)) == {
        "eve_0": False, "bob_0": False, "alice_0": True,
    }  # fmt: skip
    pair = RIAL(of("simple_speaker_listener"), PLAIN, 0)
    assert pair.otherwise_NH is not None and pair.otherwise_NH.tolist() == [[True], [False]]
    assert MADDPG(of("simple_crypto"), PLAIN, 0).otherwise_NH is None


# ------------------------------------------------------------------ DIAL
@pytest.mark.parametrize("estimator", ["gumbel_st", "gumbel_soft", "straight_through"])
def test_the_gradient_through_the_channel_is_the_chain_rule(estimator: str) -> None:
    """Listener's loss -> slot -> J(soft) / T -> the speaker's network, piece by piece."""
    config = replace(PLAIN, message_estimator=estimator, temperature=0.7)
    learner, twin = (DIAL(of("simple_speaker_listener"), config, 3) for _ in range(2))
    for one in (learner, twin):  # far from uniform policies, so that there is something to tell
        one.actor.mlp.layers()[-1][0].data.mul_(300.0)
        one.critic.mlp.flat.data.mul_(3.0)
    batch, same = (batch_of("simple_speaker_listener", one) for one in (learner, twin))
    assert bool(batch.first.any()) and not bool(batch.first.all())
    result = loss_of(learner, batch)

    logits = twin.actor(same.prev_obs.clone(), [0])
    noise = twin.noise["relabel"].gumbel(*logits.shape[1:])
    mask = twin.sender_mask
    scores = logits.detach() if estimator == "straight_through" else logits.detach() + noise
    soft = torch.softmax(relaxation.mask_logits(scores, mask) / 0.7, -1)[0, 0, :, 0, :3]
    onehot = relaxation.sample_onehot(logits, noise, mask)[0, 0, :, 0, :3]
    spoken = (~same.first[0]).float()[:, None]
    slot = ((soft if estimator == "gumbel_soft" else onehot) * spoken).requires_grad_()
    obs = same.obs.clone()
    obs[0, 1, :, 8:11] = slot
    same.obs[0, 1, :, 8:11] = onehot * spoken
    listener = twin.actor(obs)
    own = twin.noise["own"].gumbel(*listener.shape[1:])
    action = relaxation.relax(config.estimator, listener, own, 0.7, twin.head_mask)
    loss = -twin.critic.own_action(same.joint)(action.flatten(-2)).mean(-1)[0, 1]
    at_slot, at_actors = torch.autograd.grad(loss, (slot, twin.actor.mlp.flat))
    jacobian = torch.diag_embed(soft) - soft[:, :, None] * soft[:, None, :]
    at_logits = torch.einsum("bij,bj->bi", jacobian, at_slot * spoken) / 0.7
    padded = torch.nn.functional.pad(at_logits, (0, 2))[None, None, :, None]
    (at_speaker,) = torch.autograd.grad(logits, twin.actor.mlp.flat, padded)
    torch.testing.assert_close(result[0], at_speaker[0, 0])
    torch.testing.assert_close(result[1], at_actors[0, 1])
    assert float(result[0].norm()) > 0.01
    torch.testing.assert_close(batch.obs, same.obs)  # what the critics see


def test_an_opponent_does_not_teach_the_speaker() -> None:
    """Alice is heard by Bob, of her team, and by Eve: only Bob's slot carries a gradient."""
    learner = DIAL(of("simple_crypto"), PLAIN, 0)
    names = learner.spec.agent_names
    assert [(names[route.sender], names[route.receiver]) for route in learner.routes] == [("alice_0", "bob_0")]


def test_the_execution_stays_discrete() -> None:
    learner = DIAL(of("simple_reference"), replace(PLAIN, message_estimator="gumbel_soft"), 0)
    acted = learner.act(torch.randn(1, 2, 5, 21, generator=torch.Generator().manual_seed(0)))
    assert set(acted.unique().tolist()) == {0.0, 1.0}


# ------------------------------------------------------------------ intent
def test_telling_loss_by_hand() -> None:
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    told = torch.tensor([[0.5, 0.5, 0.0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)[None]
    weight = torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    loss = losses.telling_loss(logits, torch.ones(3, dtype=torch.bool), told, weight)
    p = logits.softmax(-1)
    expected = -((told * p.log()).sum(-1) * weight).sum() / 3
    torch.testing.assert_close(loss[0], expected)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, (p - told) * weight[..., None] / 3)
    nothing = losses.telling_loss(logits, torch.ones(3, dtype=torch.bool), told, torch.zeros(1, 4, dtype=torch.float64))
    assert nothing.item() == 0.0


def test_a_mover_tells_the_move_that_it_makes_when_it_is_heard() -> None:
    learner = Intent(of("simple_reference"), PLAIN, 5)
    learner.actor.mlp.layers()[-1][0].data.mul_(300.0)
    batch = batch_of("simple_reference", learner)
    logits = learner._logits(batch)
    result = learner._bonuses(batch, logits)
    before = learner.actor(batch.prev_obs)  # both speak, so that these are of all agents
    for n in range(2):
        said = before[0, n, :, 1].log_softmax(-1)
        moves = logits[0, n, :, 0, :5].softmax(-1)
        spoken = ~batch.first[0]
        expected = (said[:, :5] * moves).sum(-1)[spoken].mean()
        torch.testing.assert_close(result[0, n], expected)
    assert bool(batch.first.any())


def test_a_speaker_tells_what_it_observes() -> None:
    learner = Intent(of("simple_speaker_listener"), PLAIN, 5)
    learner.actor.mlp.layers()[-1][0].data.mul_(300.0)
    batch = batch_of("simple_speaker_listener", learner)
    logits = learner._logits(batch)
    result = learner._bonuses(batch, logits)
    goal = batch.obs[0, 0, :, :3].argmax(-1)
    said = logits[0, 0, :, 0, :3].log_softmax(-1)
    torch.testing.assert_close(result[0, 0], said.gather(1, goal[:, None]).mean())
    assert result[0, 1].item() == 0.0


@pytest.mark.parametrize("kind", LEARNERS.values(), ids=LEARNERS)
def test_learns_the_given_language_or_from_the_listener(kind: type[MADDPG]) -> None:
    """An update changes the speaker, by autograd, and moves it where the way of learning says."""
    learner = kind(of("simple_speaker_listener"), replace(PLAIN, actor_lr=0.01), 1)
    assert learner.path == f"autograd, since messages are learned by {kind.channel}"  # type: ignore[attr-defined]
    before = learner.actor.mlp.flat.detach().clone()
    replay = replay_of("simple_speaker_listener", learner, 16, 2)
    for _ in range(60 if kind is Intent else 2):
        learner.update(replay.sample(32))
    assert bool((learner.actor.mlp.flat != before)[0].any(-1).all())
    if kind is Intent:
        goals = torch.full((1, 2, 3, 11), 0.0)
        goals[0, 0, :, :3] = 0.15 + 0.5 * torch.eye(3)
        assert learner.actor(goals)[0, 0, :, 0, :3].argmax(-1).tolist() == [0, 1, 2]


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        (RIAL, of("simple_spread"), "channel rial: no agent of simple_spread_v3 hears another"),
        (Intent, of("simple_world_comm"), r"'leadadversary_0' of simple_world_comm_v3 has 5 moves to tell with 4"),
        (
            Intent,
            of("simple_speaker_listener", routes=tuple(
                replace(route, meaning=None) for route in of("simple_speaker_listener").routes)),
            "makes no move, and what it has to tell is not declared",
        ),
        (
            Intent,
            of("simple_speaker_listener", routes=tuple(
                replace(route, meaning=(0, 2, 1)) for route in of("simple_speaker_listener").routes)),
            "has to tell has 2 attributes; expected one",
        ),
        (
            DIAL,
            of("simple_speaker_listener", routes=tuple(
                replace(route, exact=False) for route in of("simple_speaker_listener").routes)),
            "channel dial: a gradient needs a listener of the sender's own team",
        ),
    ],
)  # fmt: skip
def test_refusals(kind: type[MADDPG], spec: EnvSpec, words: str) -> None:
    with pytest.raises(UserError, match=words):
        kind(spec, PLAIN, 0)
