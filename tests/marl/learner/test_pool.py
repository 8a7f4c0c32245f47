"""Frozen opponents from a pool: who is drawn, who acts where, what targets take, and who learns.

Guard: seen failing with the other team frozen, the newest snapshot in every seat, members drawn in the middle of an
episode, targets that take the present team's next action, frozen agents that learn, and messages relabelled for them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import envs
from envs.streams import Stream
from marl.config.opponents import OpponentsConfig
from marl.config.schema import Config, MADDPGConfig
from marl.data.batch import Batch
from marl.data.collector import Collector
from marl.data.opponents import Opponents, opponent_widths
from marl.data.replay import Replay
from marl.data.standings import Standings, beaten, hardness
from marl.errors import UserError
from marl.learner.losses import td_target
from marl.learner.networks.actor_critic import joint_rows
from marl.learner.population.pool import FrozenActors, PoolMADDPG, refuse_pool
from marl.learner.relaxation import sample_onehot

torch.set_num_threads(1)
S, E, B = 2, 4, 16


class Marked:
    """Policies that choose the row of the ring that they stand in, whatever they see."""

    def put(self, slot: int) -> None: ...

    def seats(self, row_SJ: Tensor) -> Tensor:
        return row_SJ

    def act(self, seats: Tensor, obs_SNJO: Tensor, mask: Tensor | None) -> Tensor:
        every = torch.nn.functional.one_hot(seats, 12).float()
        return every[:, None, :, None].expand(-1, obs_SNJO.shape[1], -1, -1, -1)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def pool(how: Any = "uniform", against: int = 3, size: int = 3, replicas: int = S, shared: bool = False) -> Opponents:
    """Of three agents: the first two against the last."""
    stream = Stream(0, "opponents", range(replicas))
    return Opponents(Marked(), stream, [(0, 1), (2,)], (against, against + 1), size + 1, how, shared)


EVERYWHERE = torch.ones(S, E, dtype=torch.bool)


# ------------------------------------------------------------------ who acts
def test_a_frozen_team_acts_on_exactly_its_rows() -> None:
    """By hand: three environments against the pool and one without; present policies choose 11."""
    against = pool()
    #                     replica 0: the pair frozen, nobody, the last one frozen; replica 1: nobody, the pair, the pair
    team, there = torch.tensor([[0, 0, 1], [1, 0, 0]]), torch.tensor([[True, False, True], [False, True, True]])
    against.team_SJ.copy_(team)
    against.member_SJ.copy_(torch.tensor([[2, 0, 1], [0, 3, 0]]))  # replica 1's ring is the rows 4 to 7
    against.frozen_SNJ.copy_(against._plays_TN[team].transpose(1, 2) & there[:, None])
    against.learns_SNE[:, :, :3] = ~against.frozen_SNJ
    mine = torch.nn.functional.one_hot(torch.full((S, 3, E, 1), 11), 12).float()
    seats, seen = against.seats(), torch.zeros(S, 3, E, 5)
    played = against.act(seats, mine.clone(), seen, None).argmax(-1)[..., 0]
    assert played.tolist() == [
        [[2, 11, 11, 11], [2, 11, 11, 11], [11, 11, 1, 11]],
        [[11, 7, 4, 11], [11, 7, 4, 11], [11, 11, 11, 11]],
    ]
    ahead = against.ahead(seats, seen, None)
    is_frozen = played != 11
    assert ahead.shape == (S, 3, E, 12) and torch.equal(ahead.sum(-1) > 0, is_frozen)
    assert torch.equal(ahead.argmax(-1)[is_frozen], played[is_frozen])
    assert torch.equal(against.learns_SNE, ~is_frozen)
    assert against.faced_SE.tolist() == [[True, False, True, False], [False, True, True, False]]


@pytest.mark.parametrize("shared", [False, True])
def test_snapshots_play_as_they_were(shared: bool) -> None:
    """Every seat against a copy of the actors that it was taken from; one actor for the three predators."""
    env = envs.make("simple_tag", num_envs=S * E)
    learner = PoolMADDPG(env.spec, MADDPGConfig(hidden=(8, 8), share_actors=True), 3, range(S))
    frozen, kept = FrozenActors(learner, 3, 2), []
    for slot in range(2):
        with torch.no_grad():
            learner.actor.mlp.flat.add_(torch.randn(learner.actor.mlp.flat.shape) * 3)
        frozen.put(slot)
        kept.append(copy.deepcopy(learner.actor))
    obs = torch.randn(S, 4, 3, env.spec.obs_size)
    member = torch.tensor([[0, 1, 3], [2, 0, 1]] if shared else [[0, 1, 1], [1, 0, 1]])
    rows = member if shared else member + torch.arange(S)[:, None] * 2
    action = frozen.act(frozen.seats(rows), obs, None)
    frozen.noise["opponents/act"].counter -= 1
    noise = frozen.noise["opponents/act"].gumbel(4, 3, *action.shape[-2:])
    for s, e in torch.cartesian_prod(torch.arange(S), torch.arange(3)).tolist():
        replica, slot = divmod(int(rows[s, e]), 2)
        logits = kept[slot](obs[s : s + 1].expand(S, -1, -1, -1))[replica, :, e]
        expected = sample_onehot(logits, noise[s, :, e], env.spec.head_mask)
        assert torch.equal(action[s, :, e], expected), (s, e)


# ------------------------------------------------------------------ who is drawn
def test_probabilities_by_hand() -> None:
    """(1 - x)^2 of x = 7/8, 1/4 and, never met, 1/2: 1/64, 36/64 and 16/64."""
    won, games = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 0.0])
    assert beaten(won, games).tolist() == [7 / 8, 1 / 4, 1 / 2]
    assert (64 * hardness(beaten(won, games))).tolist() == [1, 36, 16]
    drawn = pool("prioritised", against=30_000, replicas=1)
    for step in (10, 20, 30):
        drawn.snapshot(step)
    drawn.standings.won_STM[0, 1, :3], drawn.standings.games_STM[0, 1, :3] = won, games
    drawn.draw(torch.ones(1, 30_001, dtype=torch.bool))
    assert drawn.frozen_SNJ[0].float().mean(1).sub(0.5).abs().max() < 0.02, "either team as often"
    for team, chances in ((0, [1 / 3, 1 / 3, 1 / 3, 0]), (1, [1 / 53, 36 / 53, 16 / 53, 0])):
        met = drawn.member_SJ[0][drawn.team_SJ[0] == team]
        agents = drawn.frozen_SNJ[0][:, drawn.team_SJ[0] == team].float().mean(1)
        assert agents.tolist() == [[1, 1, 0], [0, 0, 1]][team]
        shares = torch.bincount(met, minlength=4) / len(met)
        assert (shares - torch.tensor(chances)).abs().max() < 0.02 and shares[3] == 0


@pytest.mark.parametrize(("how", "expected"), [("uniform", {0, 1, 3}), ("latest", {1}), ("prioritised", {0, 1, 3})])
@pytest.mark.parametrize("shared", [False, True])
def test_the_ring_holds_the_newest_and_leaves_the_oldest_to_its_episodes(
    how: str, expected: set[int], shared: bool
) -> None:
    drawn = pool(how, against=300, shared=shared)
    everywhere = torch.ones(S, 301, dtype=torch.bool)
    drawn.draw(everywhere)
    assert drawn.learns_SNE.all(), "nobody is frozen before there is a snapshot"
    for step in range(6):  # slots 0 1 2 3 0 1: slot 2 has the oldest, and is the next that is written
        drawn.snapshot(step)
    drawn.draw(everywhere)
    for s in range(S):
        rings = (0, 1) if shared else (0,)
        assert set(drawn.member_SJ[s].tolist()) == {4 * ring + slot for ring in rings for slot in expected}
    assert drawn.learns_SNE[:, :, :300].all(1).sum() == 0 and drawn.learns_SNE[:, :, 300].all()


def test_who_plays_lasts_for_an_episode() -> None:
    drawn = pool(against=E)
    drawn.snapshot(1)
    drawn.snapshot(2)
    drawn.draw(torch.ones(S, E + 1, dtype=torch.bool))
    before = drawn.team_SJ.clone(), drawn.member_SJ.clone(), drawn.learns_SNE.clone()
    ended = torch.zeros(S, E + 1, dtype=torch.bool)
    drawn.draw(ended)
    after = drawn.team_SJ, drawn.member_SJ, drawn.learns_SNE
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    ended[:, 2] = True
    for _ in range(9):
        drawn.draw(ended)
    changed = (drawn.team_SJ != before[0]) | (drawn.member_SJ != before[1])
    assert changed[:, 2].any() and not changed[:, [0, 1, 3]].any()


def test_standings_by_hand() -> None:
    """One member: 3 against nothing to compare with; then 5 and 1 at once against the mean 3; then 3 against 3."""
    table, member = Standings(1, 2, 4, torch.device("cpu")), torch.tensor([[1, 1, 1]])
    team = torch.tensor([[0, 0, 1]])

    def end(*returns: float, ended: tuple[bool, bool, bool]) -> None:
        table.add(team, member, torch.tensor([returns]), torch.tensor([ended]))

    end(3.0, 9.0, 9.0, ended=(True, False, False))
    assert table.won_STM[0, 0].tolist() == [0, 0.5, 0, 0] and table.games_STM[0, 0].tolist() == [0, 1, 0, 0]
    end(5.0, 1.0, 9.0, ended=(True, True, False))
    kept = 0.99**2
    won, games, total = 0.5 * kept + 1, kept + 2, 3 * kept + 6
    assert table.won_STM[0, 0, 1].item() == pytest.approx(won) and table.games_STM[0, 0, 1].item() == pytest.approx(
        games
    )
    assert (total / games) == pytest.approx(3)
    end(float(table.total_ST[0, 0] / table.count_ST[0, 0]), 9.0, 9.0, ended=(True, False, False))
    assert table.won_STM[0, 0, 1].item() == pytest.approx(won * 0.99 + 0.5)
    assert not table.games_STM[0, 1].any() and not table.won_STM[0, 0, [0, 2, 3]].any(), "nobody else has played"
    table.forget(slice(1, None, 4))
    assert not table.games_STM.any() and table.count_ST[0, 0] > 0


def test_games_are_counted_where_they_were_played() -> None:
    counted = pool("prioritised", against=3)
    counted.snapshot(7)
    counted.draw(EVERYWHERE)
    counted.team_SJ.copy_(torch.tensor([[0, 0, 1], [1, 1, 1]]))
    counted.frozen_SNJ.copy_(counted._plays_TN[counted.team_SJ].transpose(1, 2))
    counted.learns_SNE[:, :, :3] = ~counted.frozen_SNJ
    returns = torch.tensor([[1.0, 2.0, 3.0, 9.0], [5.0, 6.0, 7.0, 9.0], [-1.0, -2.0, -3.0, 9.0]]).expand(S, 3, E)
    counted.turn(returns, torch.tensor([[True, True, True, True], [False, True, False, True]]))
    found = counted.metrics()
    # replica 0: the last agent against the pair in two games, the pair against the last agent in the third
    assert found["opponents/return"].tolist() == [
        [3.0, 7.0, -1.5],
        [2.0, 6.0, pytest.approx(float("nan"), nan_ok=True)],
    ]
    assert found["opponents/episodes"].tolist() == [3, 1] and found["opponents/met/step_7"].tolist() == [1, 1]
    assert found["opponents/beaten/step_7"].tolist() == [0.5, 0.5]
    assert counted.metrics()["opponents/episodes"].tolist() == [0, 0]


def test_games_against_snapshots_that_have_left_are_still_games() -> None:
    """Guard: seen failing (0 games) where the games of a slot were forgotten with its snapshot."""
    counted = pool("uniform", against=3)
    everywhere = torch.ones(S, E, dtype=torch.bool)
    for step in range(counted.slots + 2):  # step 0 plays, then leaves
        counted.snapshot(step)
        if step == 0:
            counted.draw(everywhere)
            counted.turn(torch.ones(S, 3, E), everywhere)
    state = counted.state_dict()
    assert counted.met_SM.sum() == 0
    found = counted.metrics()
    assert found["opponents/episodes"].tolist() == [3, 3]
    assert sum(x.sum().item() for name, x in found.items() if "met" in name) == 0
    counted.load_state_dict(state)
    assert counted.metrics()["opponents/episodes"].tolist() == [3, 3]


@pytest.mark.parametrize(("every", "size", "told"), [(399, 1, "--opponents.every 400 or more, or --opponents.size 2"),
                                                     (400, 1, None), (399, 3, None), (399, 2, None)])  # fmt: skip
def test_no_opponent_is_replaced_within_a_game(every: int, size: int, told: str | None) -> None:
    """Sixteen environments of 25 steps: an episode takes 400. 1,500 steps hold three snapshots that are 399 apart."""
    pool_of = OpponentsConfig(kind="pool", every=every, size=size)
    config = Config(env="simple_tag", num_envs=16, total_steps=1500, opponents=pool_of)
    spec = envs.make("simple_tag", num_envs=1).spec
    if told is None:
        refuse_pool(spec, config)
    else:
        with pytest.raises(UserError, match=told):
            refuse_pool(spec, config)


# ------------------------------------------------------------------ what is learned
def learners(name: str = "simple_crypto", **settings: Any) -> tuple[Any, PoolMADDPG]:
    env = envs.make(name, num_envs=S * E)
    chosen = MADDPGConfig(**{"hidden": (12, 8), "batch_size": B, "signalling_bonus": 0.3, **settings})
    learner = PoolMADDPG(env.spec, chosen, 3, range(S))
    with torch.no_grad():
        for net in (learner.actor, learner.target_actor, learner.critic, learner.target_critic):
            net.mlp.flat.add_(torch.randn(net.mlp.flat.shape, generator=torch.Generator().manual_seed(5)), alpha=0.2)
    return env, learner


def batches(env: Any, learner: PoolMADDPG) -> Batch:
    env.reset(seed=0)
    drawn = Opponents(
        FrozenActors(learner, 3, 3), Stream(0, "opponents", range(S)), env.spec.teams, (3, E), 3, "uniform"
    )
    drawn.snapshot(0)
    drawn.draw(EVERYWHERE)
    collector = Collector(env, learner.act, S, opponents=drawn)
    replay = Replay(env.spec, 400, E, Stream(0, "replay", range(S)), 0.9, further=opponent_widths(env.spec))
    for _ in range(40):
        replay.add(collector.collect()[0])
    batch = replay.sample(B)
    assert 0.1 < batch.frozen.float().mean() < 0.7
    return batch


@torch.no_grad()
def test_what_is_stored_is_what_the_snapshot_does_now_and_next() -> None:
    """Actors so sure that a sample is their argmax; the snapshot does otherwise than the actors that learn on."""
    env, learner = learners("simple_tag")
    learner.actor.mlp.last(learner.actor.mlp.flat).mul_(1e5)
    drawn = Opponents(
        FrozenActors(learner, 3, 2), Stream(0, "opponents", range(S)), env.spec.teams, (3, E), 2, "uniform"
    )
    snapshot = copy.deepcopy(learner.actor)
    drawn.snapshot(0)
    drawn.draw(EVERYWHERE)
    learner.actor.mlp.flat.neg_()
    env.reset(seed=0)
    collector = Collector(env, learner.act, S, opponents=drawn)
    replay = Replay(env.spec, 400, E, Stream(0, "replay", range(S)), 0.9, 3, further=opponent_widths(env.spec))
    for _ in range(40):
        replay.add(collector.collect()[0])
    batch = replay.sample(60)
    assert batch.next_action is not None

    def sure(actor: Any, obs: Tensor) -> Tensor:
        nothing = torch.zeros(()).expand_as(actor(obs))
        return sample_onehot(actor(obs), nothing, env.spec.head_mask[:, None]).flatten(-2)

    frozen = batch.frozen[..., None]
    then, now = sure(snapshot, batch.obs), sure(learner.actor, batch.obs)
    agree = (batch.action == torch.where(frozen, then, now)).all(-1).float().mean()
    assert agree > 0.99 and ((then != now).any(-1) & batch.frozen).float().mean() > 0.1
    ahead = (batch.next_action == sure(snapshot, batch.next_obs) * frozen).all(-1).float().mean()
    assert ahead > 0.99, "also behind three steps, and at the end of an episode"


def test_targets_value_who_played() -> None:
    env, learner = learners()
    batch = batches(env, learner)
    result = learner.targets(batch)
    learner.noise["target"].counter -= 1
    action = learner.sampled(learner.target_actor(batch.next_obs), "target", None).flatten(-2)
    assert batch.next_action is not None and batch.learns is not None
    for s, n, b in batch.frozen.nonzero().tolist():
        action[s, n, b] = batch.next_action[s, n, b]
    expected = td_target(batch.reward, batch.discount, learner.target_critic(joint_rows(batch.next_obs, action)))
    torch.testing.assert_close(result, expected)
    exact = batch.next_action.unflatten(-1, (env.spec.num_heads, -1)).sum(-1)  # one-hots of the frozen, 0 of others
    assert torch.equal(exact.amax(-1) > 0, batch.frozen)


def test_who_is_gone_at_the_next_step_does_nothing() -> None:
    batch = Batch(*(torch.zeros(1) for _ in range(6)), learns=torch.zeros(1, 1, 2), next_action=torch.ones(1, 1, 2, 3))
    assert replace(batch, next_active=torch.tensor([[[1.0, 0.0]]])).frozen_action.tolist() == [[[[1] * 3, [0] * 3]]]
    assert batch.frozen_action is batch.next_action


def test_messages_of_frozen_senders_stay_as_they_were_heard() -> None:
    env, learner = learners()
    batch = batches(env, learner)
    before, frozen = batch.obs.clone(), batch.frozen
    learner.relabel(batch)
    for route in env.spec.routes:
        changed = (batch.obs[:, route.receiver, :, route.slot] != before[:, route.receiver, :, route.slot]).any(-1)
        assert not changed[frozen[:, route.sender]].any()
        assert changed[~frozen[:, route.sender]].any(), "present senders are asked again"


@pytest.mark.parametrize("form", ["torch", "numba"])
def test_the_explicit_update_knows_the_frozen(form: str) -> None:
    env, reference = learners(twin_critics=True)
    explicit = copy.deepcopy(reference)
    if form == "numba" and reference.form != "numba":
        pytest.skip("numba is not installed")
    explicit.use(form)
    reference.use("autograd")
    batch = batches(env, reference)
    learned = [replace(batch, joint=batch.joint.clone()) for _ in range(2)]
    for agent, own in zip((explicit, reference), learned, strict=True):
        agent.update(own)
    torch.testing.assert_close(learned[0].joint, learned[1].joint)
    for which in ("critic", "actor"):
        moments = [agent.moments[which].mean_SGP for agent in (explicit, reference)]
        torch.testing.assert_close(*moments, atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("form", ["autograd", "torch"])
def test_who_is_frozen_everywhere_does_not_learn(form: str) -> None:
    env, learner = learners(signalling_bonus=0.0)
    batch = batches(env, learner)
    learner.use(form)
    learns = torch.ones_like(batch.reward)
    learns[0, 1:] = 0.0  # replica 0's Alice and Bob
    before = [net.mlp.flat.detach().clone() for net in (learner.actor, learner.critic)]
    learner.update(replace(batch, learns=learns))
    for flat, net in zip(before, (learner.actor, learner.critic), strict=True):
        moved = (net.mlp.flat.detach() != flat).any(-1)
        assert moved.tolist() == [[True, False, False], [True, True, True]]
