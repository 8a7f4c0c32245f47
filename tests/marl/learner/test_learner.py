"""The learner's equations and its known defects elsewhere."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

import envs
from envs import probes
from envs.spec import AgentSpec, EnvSpec, Head, Route
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.batch import Transitions
from marl.data.replay import Replay
from marl.errors import RunFailed, UserError
from marl.learner import losses, maddpg
from marl.learner.diagnostics.finite_gradients import FiniteGradients
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import Actor, Critic, joint_rows

SPEC = EnvSpec(
    id="toy",
    agents=(
        AgentSpec("speaker", 2, (Head("message", 3),)),
        AgentSpec("listener", 5, (Head("move", 4), Head("message", 2))),
    ),
    routes=(Route(sender=0, head=0, receiver=1, start=2, size=3),),
)
S, N, E, H, K = 2, 2, 4, 2, 4
WIDTH = 5  # O


def transitions(seed: int = 0, **changes: torch.Tensor) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    actor = torch.zeros(S, N, E, H, K)
    actor[:, 0, :, 0, 1] = 1
    actor[:, 1, :, 0, 3] = 1
    actor[:, 1, :, 1, 0] = 1
    values = {
        "obs": torch.rand(S, N, E, WIDTH, generator=g),
        "prev_obs": torch.rand(S, N, E, WIDTH, generator=g),
        "first": torch.zeros(S, E, dtype=torch.bool),
        "action": actor.flatten(-2),
        "reward": torch.rand(S, N, E, generator=g),
        "terminated": torch.zeros(S, N, E, dtype=torch.bool),
        "truncated": torch.zeros(S, N, E, dtype=torch.bool),
        "next_obs": torch.rand(S, N, E, WIDTH, generator=g),
    }
    return Transitions(**{**values, **changes})


def replay(n_step: int = 1, gamma: float = 0.9, capacity: int = 100) -> Replay:
    return Replay(SPEC, capacity, E, Stream(0, "replay", range(S)), gamma, n_step)


def learner(**changes: object) -> MADDPG:
    return MADDPG(SPEC, replace(MADDPGConfig(hidden=(16, 16), batch_size=32), **changes), 0, range(S))


def filled(n_step: int = 1) -> Replay:
    buffer = replay(n_step)
    for seed in range(8):
        buffer.add(transitions(seed))
    return buffer


# ------------------------------------------------------------------ equations
def test_td_target_by_hand() -> None:
    q = torch.tensor([[[[10.0]], [[4.0]]]])  # two critics
    target = losses.td_target(torch.tensor([[[1.0]]]), torch.tensor([[[0.5]]]), q)
    assert target.item() == 3.0


def test_critic_loss_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match="do not match"):
        losses.critic_loss(torch.zeros(1, 1, 2, 4), torch.zeros(1, 4, 2))


LANGUAGES = {  # goals x symbols: probabilities of each symbol, and H(M) and H(M|O) in nats by hand
    "a symbol each": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], math.log(3), 0.0),
    "two goals share, a symbol unused": ([[1, 0, 0], [0, 1, 0], [0, 1, 0]], math.log(3) - 2 / 3 * math.log(2), 0.0),
    "two goals share, the third has synonyms": (
        [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]], math.log(3) - math.log(2) / 3, math.log(2) / 3,
    ),
    "always the same": ([[1, 0, 0]] * 3, 0.0, 0.0),
}  # fmt: skip


def bonus(language: str, k: float) -> float:
    logits = torch.tensor(LANGUAGES[language][0], dtype=torch.float64).clamp(min=1e-9).log()[None, None]
    return losses.signalling_bonus(logits, torch.ones(1, 3, dtype=torch.bool), k).item()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_signalling_bonus_by_hand(language: str, k: float) -> None:
    _, marginal, conditional = LANGUAGES[language]
    assert bonus(language, k) == pytest.approx(marginal - k * conditional, abs=1e-6)


def test_a_small_k_pays_for_synonyms_and_mutual_information_does_not() -> None:
    shared, synonyms = "two goals share, a symbol unused", "two goals share, the third has synonyms"
    assert bonus(synonyms, 0.5) > bonus(shared, 0.5) + 0.1
    assert bonus(synonyms, 1.0) == pytest.approx(bonus(shared, 1.0), abs=1e-6)


def test_being_gone_is_nothing_to_talk_about() -> None:
    """A speaker that always says the same, and would say something else when it is not there, is paid nothing.

    Guard: seen failing (log 2 = .693) with means over all rows.
    """
    logits = torch.tensor([[20.0, 0.0]] * 4 + [[0.0, 20.0]] * 4)[None, None]
    there = torch.tensor([1.0] * 4 + [0.0] * 4)[None, None]
    choices = torch.ones(1, 2, dtype=torch.bool)
    assert losses.signalling_bonus(logits, choices, 1.0).item() == pytest.approx(math.log(2), abs=1e-5)
    assert losses.signalling_bonus(logits, choices, 1.0, there).item() == pytest.approx(0.0, abs=1e-5)
    assert losses.signalling_bonus(logits, choices, 1.0, 0 * there).item() == 0.0
    muted = logits.clone()
    muted[:, :, 4:] = muted[:, :, :4]  # 2 in L1 where it is not there, 0 where it is
    allowed = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    paid = [losses.listening_bonus(logits[..., None, :], muted[..., None, :], allowed, w) for w in (None, there)]
    assert [one.item() for one in paid] == [pytest.approx(1.0, abs=1e-5), 0.0]


def test_own_action_value_equals_the_full_critic() -> None:
    critic = Critic(SPEC, (16, 16), True, Stream(1, "c", range(S)), num_critics=2)
    t = transitions()
    joint = joint_rows(t.obs, t.action)
    action = torch.rand(S, N, E, H * K)
    fast = critic.own_action(joint)(action)
    for n in range(N):
        replaced = t.action.clone()
        replaced[:, n] = action[:, n]
        slow = critic(joint_rows(t.obs, replaced))[:, 0, n]
        torch.testing.assert_close(fast[:, n], slow, atol=1e-5, rtol=1e-5)


def test_replicas_are_independent_of_each_other() -> None:
    both, alone = Stream(3, "a", range(2)), Stream(3, "a", [1])
    torch.testing.assert_close(Actor(SPEC, (8,), True, both).mlp.flat[1], Actor(SPEC, (8,), True, alone).mlp.flat[0])


def test_independent_critic_sees_its_own_agent_alone() -> None:
    """A linear one: moved by its weights times the change of its own agent's observation, by nothing of the other's."""
    critic = Critic(SPEC, (), False, Stream(1, "c", range(S)), independent=True)
    t = transitions()
    other = t.obs.clone().requires_grad_()
    before = critic(joint_rows(other, t.action))
    (slope_SNEO,) = torch.autograd.grad(before[:, 0, 1].sum(), other)
    assert not slope_SNEO[:, 0].any() and (slope_SNEO[:, 1].abs().sum(-1) > 0.1).all()
    change = torch.rand(S, E, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        other[:, 1] += change
        after = critic(joint_rows(other, t.action))
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    torch.testing.assert_close((after - before)[:, 0, 1], (slope_SNEO[:, 1] * change).sum(-1), atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------- the learner
def test_relabelling_changes_the_slot_alone_and_leaves_first_steps_silent() -> None:
    agent, buffer = learner(), replay()
    first = torch.zeros(S, E, dtype=torch.bool)
    first[:, 0] = True
    t = transitions(first=first)
    buffer.add(t)
    batch = buffer.gather(torch.arange(E).repeat(S, 1) + buffer._offset_S1)
    next_obs = batch.next_obs.clone()
    agent.relabel(batch)
    slot = batch.obs[:, 1, :, 2:5]
    assert torch.equal(slot[:, 0], torch.zeros(S, 3))
    assert torch.equal(slot[:, 1:].sum(-1), torch.ones(S, E - 1))
    assert torch.equal(batch.obs[:, 0], t.obs[:, 0]) and torch.equal(batch.obs[:, 1, :, :2], t.obs[:, 1, :, :2])
    assert torch.equal(batch.next_obs, next_obs)
    assert torch.equal(batch.joint[..., WIDTH + 2 : WIDTH + 5], slot)  # the critic sees the same


def test_messages_of_a_sender_that_never_learns_are_not_relabelled() -> None:
    agent, buffer = learner(actor_lr_shares={"speaker": 0.0}), replay()
    t = transitions()
    buffer.add(t)
    batch = buffer.gather(torch.arange(E).repeat(S, 1) + buffer._offset_S1)
    agent.relabel(batch)
    assert torch.equal(batch.obs, t.obs)


def test_critic_learns_on_the_executed_one_hots() -> None:
    agent, seen = learner(), []
    agent.use("autograd", "its critic is watched")
    original = agent.critic.forward
    agent.critic.forward = lambda joint: seen.append(joint.clone()) or original(joint)  # type: ignore[method-assign]
    agent.update(filled().sample(32))
    actions = seen[0][..., N * WIDTH :]
    assert set(actions.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(actions.sum(-1), torch.full((S, 32), 3.0))  # one a head: 1 + 2


def test_target_uses_the_target_networks() -> None:
    agent, batch = learner(), filled().sample(32)
    before = copy.deepcopy(agent.noise)
    y = agent.targets(batch)
    with torch.no_grad():
        agent.critic.mlp.flat += 1.0
        agent.actor.mlp.flat += 1.0
    agent.noise = copy.deepcopy(before)
    assert torch.equal(agent.targets(batch), y)
    with torch.no_grad():
        agent.target_critic.mlp.layers()[-1][1].add_(2.0)
    agent.noise = copy.deepcopy(before)
    torch.testing.assert_close(agent.targets(batch), y + 2.0 * batch.discount)  # up by the discount times as much


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    agent, batch = learner(communication_correction=False), filled().sample(32)
    batch.reward[1, 1, 0] = float("nan")
    before = agent.critic.mlp.flat.clone()
    with pytest.raises(RunFailed, match=r"critic loss of agent 'listener'.*replica 1"):
        agent.update(batch)
    assert torch.equal(agent.critic.mlp.flat, before)


def test_a_gradient_of_a_shared_network_names_all_whose_it_is() -> None:
    """simple_tag with one actor for the predators, and in each of two critics a term for them and one for the prey."""
    config = MADDPGConfig(hidden=(4,), share_actors=True, critic="factored", twin_critics=True)
    agent = MADDPG(envs.make("simple_tag").spec, config, seed=0, replicas=range(2))
    predators = r"'adversary_0', 'adversary_1', 'adversary_2' \(replica 1\)"
    for loss, groups in (("actor", 2), ("critic", 4)):
        for group in range(groups):
            norm_SG = torch.ones(2, groups)
            norm_SG[1, group] = float("nan")
            whose = f"agents {predators}" if group % 2 == 0 else r"agent 'agent_0' \(replica 1\)"
            with pytest.raises(RunFailed, match=f"{loss} loss of {whose} is not finite at update 7"):
                agent.finite.watch(loss, norm_SG, 7)


@pytest.mark.parametrize("loss", ["critic", "actor"])
def test_told_later_it_names_the_same_loss_agent_and_replica(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where norms are kept on the device until `check`; a pair of critics and two agents."""

    def later(sizes: dict[str, int], agents: object, replicas: object, device: object, _: bool) -> FiniteGradients:
        return FiniteGradients(sizes, agents, replicas, device, False)  # type: ignore[arg-type]

    monkeypatch.setattr(maddpg, "FiniteGradients", later)
    agent, batch = learner(communication_correction=False, twin_critics=True), filled().sample(32)
    agent.use("autograd")
    if loss == "critic":
        batch.reward[1, 1, 0] = float("nan")
    else:
        with torch.no_grad():
            agent.actor.mlp.layers()[0][0][1, 1, 0, 0] = float("nan")
    agent.update(batch)
    with pytest.raises(RunFailed, match=rf"{loss} loss of agent 'listener'.*replica 1.*update 1"):
        agent.check()


OPTIONS = [
    {},
    {"twin_critics": True, "actor_delay": 2},
    {"estimator": "gumbel_soft"},
    {"estimator": "straight_through"},
    {"estimator": "rao_blackwell"},
    {"estimator": "gapped"},
    {"estimator": "reinmax"},
    {"estimator": "reinforce"},
    {"estimator": "exact"},
    {"message_estimator": "exact"},
    {"temperature_final": 0.5},
    {"target_action": "argmax"},
    {"other_actions": "current"},
    {"independent_critics": True},
    {"critic": "factored", "team_reward": True},
    {"team_reward": True},
    {"communication_correction": False},
    {"signalling_bonus": 1.0},
    {"listening_bonus": 1.0},
    {"layer_norm": False},
    {"logit_penalty": 0.1},
    {"lr_final": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_updates_exactly_repeatably_and_changes_something(options: dict[str, object]) -> None:
    def trained(changes: dict[str, object]) -> MADDPG:
        agent, buffer = learner(**changes), filled()
        for k in range(4):
            agent.update(buffer.sample(32), progress=k / 4)
        return agent

    once, twice = trained(options), trained(options)
    assert torch.equal(once.actor.mlp.flat, twice.actor.mlp.flat)
    plain = trained({})
    if options:
        assert not torch.equal(once.actor.mlp.flat, plain.actor.mlp.flat)
    state, buffer = once.state_dict(), filled()
    again = learner(**options)
    again.load_state_dict(copy.deepcopy(state))
    batch = buffer.sample(32)
    once.update(copy.deepcopy(batch))
    again.update(batch)
    assert torch.equal(once.actor.mlp.flat, again.actor.mlp.flat)
    assert torch.equal(once.critic.mlp.flat, again.critic.mlp.flat)


BONUSES = {
    "signalling_bonus": ({"signalling_bonus": 1.0}, 0.15),
    "listening_bonus": ({"listening_bonus": 1.0}, 0.05),
    "logit_penalty": ({"logit_penalty": 1.0}, -0.05),
}


@pytest.mark.parametrize("name", BONUSES)
def test_what_is_paid_for_grows_and_what_costs_shrinks(name: str) -> None:
    """After 60 updates, against the same learner without it: bits of language, of listening, and mean square logits."""
    options, least = BONUSES[name]

    def amount(changes: dict[str, object]) -> float:
        plain = {"signalling_bonus": 0.0, "listening_bonus": 0.0, "logit_penalty": 0.0}
        agent, buffer = learner(**{**plain, "actor_lr": 1e-2, "lr_final": 1.0, **changes}), filled()
        for _ in range(60):
            agent.update(buffer.sample(32))
        batch = buffer.sample(400)
        with torch.no_grad():
            logits = agent.actor(batch.obs)
            muted = batch.obs.clone()
            muted[:, 1, :, 2:5] = 0.0
            found = {
                "signalling_bonus": losses.signalling_bonus(logits[:, :1, :, 0], agent.head_mask[0, :, 0], 1.0),
                "listening_bonus": losses.listening_bonus(logits, agent.actor(muted), agent.head_mask)[:, 1],
                "logit_penalty": losses.logit_penalty(logits, agent.head_mask),
            }
        return float(found[name].mean())

    change = amount(options) - amount({})
    assert change * math.copysign(1, least) > abs(least)


def test_a_share_of_the_step_size_is_that_share_of_the_step_of_that_agent_alone() -> None:
    whole, slow = learner(), learner(actor_lr_shares={"speaker": 0.25})
    begun = whole.actor.mlp.flat.detach().clone()
    assert torch.equal(begun, slow.actor.mlp.flat)
    for agent in (whole, slow):
        agent.update(filled().sample(32))
    moved, less = whole.actor.mlp.flat.detach() - begun, slow.actor.mlp.flat.detach() - begun
    assert torch.equal(less[:, 1], moved[:, 1]) and moved[:, 0].abs().max() > 1e-4
    torch.testing.assert_close(less[:, 0], 0.25 * moved[:, 0], rtol=0, atol=1e-7)
    assert torch.equal(whole.critic.mlp.flat, slow.critic.mlp.flat)


def test_shares_of_the_step_size_for_agents_that_there_are() -> None:
    with pytest.raises(UserError, match="actor_lr_shares names 'speeker'; expected one of speaker, listener"):
        learner(actor_lr_shares={"speeker": 0.5})
    spread = probes.make("matching_game", num_envs=1).spec
    twins = replace(spread, agents=tuple(replace(spread.agents[0], name=f"agent_{n}") for n in range(2)), routes=())
    with pytest.raises(UserError, match="differ between agents that share one actor"):
        MADDPG(twins, MADDPGConfig(share_actors=True, actor_lr_shares={"agent_0": 0.5}), 0)
    both = MADDPGConfig(share_actors=True, actor_lr_shares={"agent_0": 0.5, "agent_1": 0.5})
    assert MADDPG(twins, both, 0).frozen_G1.tolist() == [[0.5]]
