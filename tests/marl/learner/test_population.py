"""Partners from a population: who is drawn, who acts, whose next actions the targets take, and who learns.

Guard: seen failing with partners of the next replica, with `learns` left out of the losses, and with draws in the
middle of an episode.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import assert_learned, assert_same, begun, resumed, whole

import envs
from envs.streams import Stream
from marl.config.resolve import from_dict
from marl.config.schema import Config, MADDPGConfig
from marl.data.batch import Batch
from marl.data.collector import Collector
from marl.data.partners import Partners
from marl.data.replay import Replay, population_widths
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.learner.population.maddpg import PopulationMADDPG
from marl.learner.population.members import picked, pooled
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks

torch.set_num_threads(1)
S, P, E, B = 4, 2, 5, 16  # two populations of two


def partners(agents: int = 3, population: int = 3, replicas: int = 6, count: int = E) -> Partners:
    return Partners(Stream(0, "population", range(replicas)), population, agents, count)


# ------------------------------------------------------------------ who is drawn
def test_one_agent_learns_and_meets_everybody_alike() -> None:
    drawn = partners(count=4000)
    learns, member = drawn.learns_SNE, drawn.member_SNE
    assert torch.equal(learns.sum(1), torch.ones(6, 4000, dtype=torch.int64)), "one role an environment"
    assert learns.float().mean((0, 2)).sub(1 / 3).abs().max() < 0.02, "every role as often"
    own = torch.arange(6)[:, None, None] % 3
    assert (member == own)[learns].all(), "which the replica plays itself"
    for s in range(6):
        for i in range(3):
            for j in {0, 1, 2} - {i}:
                met = member[s, j][learns[s, i]]
                share = torch.bincount(met, minlength=3) / len(met)
                assert (share - 1 / 3).abs().max() < 0.06, "a partner is any member of the population"


def test_teams_last_for_an_episode() -> None:
    drawn = partners()
    before = drawn.member_SNE.clone(), drawn.learns_SNE.clone()
    drawn.draw(torch.zeros(6, E, dtype=torch.bool))
    assert torch.equal(drawn.member_SNE, before[0]) and torch.equal(drawn.learns_SNE, before[1])
    ended = torch.zeros(6, E, dtype=torch.bool)
    ended[:, 2] = True
    for _ in range(9):
        drawn.draw(ended)
    changed = (drawn.member_SNE != before[0]).any(1)
    assert changed[:, 2].any() and not changed[:, [0, 1, 3, 4]].any()


def test_draws_are_a_function_of_seed_replica_and_counter() -> None:
    whole, last = partners(), Partners(Stream(0, "population", range(3, 6)), 3, 3, E)
    assert torch.equal(whole.member_SNE[3:], last.member_SNE)
    state, ended = copy.deepcopy(whole.state_dict()), torch.ones(6, E, dtype=torch.bool)
    whole.draw(ended)
    again = partners()
    again.load_state_dict(state)
    again.draw(ended)
    assert torch.equal(whole.member_SNE, again.member_SNE) and torch.equal(whole.learns_SNE, again.learns_SNE)


def test_rows_there_and_back() -> None:
    x = torch.randn(6, 2, 4, E)
    member = Stream(1, "who", range(6)).integers(3, 2, E)
    every = pooled(x, 3)
    marked = every + 100 * (torch.arange(6) % 3)[:, None, None, None]  # every member says who it is
    result = picked(marked, member, 3)
    for s, n, b in torch.cartesian_prod(*map(torch.arange, (6, 2, E))).tolist():
        assert torch.equal(result[s, n, :, b], x[s, n, :, b] + 100 * member[s, n, b])
    assert pooled(x, 1) is x and torch.equal(picked(x, torch.zeros_like(member), 1), x)


# ------------------------------------------------------------------ who acts and learns
def learners(name: str = "simple_reference", **settings: Any) -> tuple[Any, PopulationMADDPG, MADDPG]:
    """A learner of populations, and the plain one with the same parameters and noise, far from their start."""
    env = envs.make(name, num_envs=S * E)
    config = MADDPGConfig(**{"hidden": (12, 8), "batch_size": B, "signalling_bonus": 0.3, **settings})
    learner = PopulationMADDPG(env.spec, config, 3, range(S), population=P)
    plain = MADDPG(env.spec, config, 3, range(S))
    for one in (learner, plain):
        with torch.no_grad():
            for net in (one.actor, one.target_actor, one.critic, one.target_critic):
                net.mlp.flat.add_(
                    torch.randn(net.mlp.flat.shape, generator=torch.Generator().manual_seed(5)), alpha=0.2
                )
    return env, learner, plain


def batches(env: Any, learner: PopulationMADDPG) -> Batch:
    env.reset(seed=0)
    drawn = Partners(Stream(0, "population", range(S)), P, env.spec.num_agents, E)
    collector = Collector(env, lambda obs, mask: learner.act_as(drawn.member_SNE, obs, mask), S, partners=drawn)
    replay = Replay(env.spec, 400, E, Stream(0, "replay", range(S)), 0.9, further=population_widths(env.spec))
    for _ in range(40):
        replay.add(collector.collect()[0])
    return replay.sample(B)


def as_member(actor: Any, obs: torch.Tensor, member: torch.Tensor, agents: tuple[int, ...] | None = None) -> Any:
    """Row by row: the logits of the member that played, by an actor that holds its parameters in place of others'."""
    rows = []
    for k in range(P):
        shifted = copy.deepcopy(actor)
        with torch.no_grad():
            own = actor.mlp.flat.unflatten(0, (-1, P))[:, k : k + 1].expand(-1, P, -1, -1).flatten(0, 1)
            shifted.mlp.flat.copy_(own)
            rows.append(shifted(obs, agents))
    every = torch.stack(rows)
    place = member[None, ..., None, None].expand(1, *every.shape[1:])
    return every.gather(0, place)[0]


def test_members_act_and_are_asked_again() -> None:
    env, learner, _ = learners()
    batch = batches(env, learner)
    assert batch.member is not None and batch.learns is not None and batch.learns.sum(1).eq(1).all()
    logits, _ = learner._ahead(batch)
    expected = as_member(learner.target_actor, batch.next_obs, batch.member)
    torch.testing.assert_close(logits, expected)
    senders = env.spec.senders
    said = as_member(learner.actor, batch.prev_obs, batch.member[:, list(senders)], senders)
    torch.testing.assert_close(learner._speaking(batch), said)
    action = learner.act_as(batch.member, batch.obs)
    learner.noise["act"].counter -= 1
    again = learner.sampled(as_member(learner.actor, batch.obs, batch.member), "act", None)
    assert torch.equal(action, again)


@pytest.mark.parametrize("form", ["autograd", "torch", "numba"])
def test_with_itself_as_partner_it_is_the_plain_update(form: str) -> None:
    env, learner, plain = learners()
    batch = batches(env, learner)
    own = (torch.arange(S) % P)[:, None, None].expand_as(batch.member)
    alone = replace(batch, member=own.clone(), learns=torch.ones_like(batch.reward), joint=batch.joint.clone())
    other = replace(batch, member=None, learns=None, joint=batch.joint.clone())
    if form == "numba" and learner.form != "numba":
        pytest.skip("numba is not installed")
    for one in (learner, plain):
        one.use(form)
    metrics, expected = learner.update(alone, measure=True), plain.update(other, measure=True)
    for name in metrics:
        torch.testing.assert_close(metrics[name].detach(), expected[name].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.joint, other.joint)
    torch.testing.assert_close(learner.critic.mlp.flat, plain.critic.mlp.flat, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["torch", "numba"])
def test_the_explicit_update_among_partners(form: str) -> None:
    env, reference, _ = learners(twin_critics=True)
    explicit = copy.deepcopy(reference)
    if form == "numba" and reference.form != "numba":
        pytest.skip("numba is not installed")
    explicit.use(form)
    reference.use("autograd")
    batch = batches(env, reference)
    for agent in (explicit, reference):
        agent.update(replace(batch, joint=batch.joint.clone()))
    for name in ("critic", "actor"):
        moments = [agent.moments[name].mean_SGP for agent in (explicit, reference)]
        torch.testing.assert_close(*moments, atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("form", ["autograd", "torch"])
def test_an_agent_learns_only_where_its_replica_played_it(form: str) -> None:
    env, learner, _ = learners("simple_speaker_listener", signalling_bonus=0.0)
    batch = batches(env, learner)
    learner.use(form)
    learns = torch.zeros_like(batch.reward)
    learns[0, 1] = 1.0  # replica 0 was the listener everywhere, and nobody else was anything
    before = [net.mlp.flat.detach().clone() for net in (learner.actor, learner.critic)]
    learner.update(replace(batch, learns=learns))
    for flat, net in zip(before, (learner.actor, learner.critic), strict=True):
        moved = (net.mlp.flat.detach() != flat).any(-1)
        assert moved.nonzero().tolist() == [[0, 1]]


def test_agents_that_leave_and_populations_weigh_together() -> None:
    batch = Batch(*(torch.zeros(1) for _ in range(6)), active=torch.tensor([1.0, 1.0, 0.0]), learns=torch.ones(3))
    assert batch.weight is not None and batch.weight.tolist() == [1, 1, 0]
    assert replace(batch, learns=torch.tensor([0.0, 1.0, 1.0])).weight.tolist() == [0, 1, 0]
    assert replace(batch, active=None, learns=None).weight is None


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    settings = {"env": "simple_reference", "num_replicas": 4, "population": 2, "num_envs": 3}
    one, two = whole(tmp_path / "one", settings), begun(tmp_path / "two", settings)
    resumed(two)
    assert_same(one, two)
    assert_learned(one)


# ------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_replicas": 3}, "cannot be divided into populations of 2"),
        ({"world_model": True}, "world_model exclude each other"),
        ({"maddpg": {"recurrent": True}}, "maddpg.recurrent exclude each other"),
        ({"maddpg": {"other_actions": "current"}}, "other_actions current exclude each other"),
        ({"distributed": "data"}, "distributed data exclude each other"),
    ],
)
def test_settings_that_populations_exclude(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_dict({"env": "simple_reference", "num_replicas": 4, "population": 2, **settings})


def test_a_population_stays_in_one_process() -> None:
    ranks = Ranks()
    config = Config(env="simple_reference", num_replicas=6, population=2)
    ranks.size = 3
    assert Division.of(config, ranks).replicas == 6
    ranks.size = 2
    with pytest.raises(UserError, match="2 processes cannot share num_replicas 6 in populations of 2"):
        Division.of(config, ranks)
