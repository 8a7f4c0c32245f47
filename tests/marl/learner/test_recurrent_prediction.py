"""marl/learner/recurrent/prediction.py: what states tell of the next observation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_recurrent_learning import QUICK

import envs
from envs.history import History
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.batch import Windows
from marl.data.collector import Collector
from marl.data.windows import WindowReplay
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.learner.recurrent.prediction import unexplained

SMALL = replace(QUICK, hidden=(16, 8), window=4, burn_in=2)


def told(prediction_SCNRO: torch.Tensor) -> Any:
    """Parameters that predict this whatever the states are."""
    return SimpleNamespace(predicted=lambda state: prediction_SCNRO.transpose(3, 4).flatten(0, 2))


def test_errors_by_hand() -> None:
    """Two rows of one agent, three entries: one rises by 1 and by 3, one by 4 and by -4, one stays."""
    obs = torch.zeros(1, 1, 2, 3)
    after = torch.tensor([[[[1.0, 4.0, 0.0], [3.0, -4.0, 0.0]]]])
    batch: Any = SimpleNamespace(obs=obs, next_obs=after, weight=None)
    state = torch.zeros(1, 1, 2)
    # root mean squares 5 ** .5 and 4; the third entry does not count
    nothing = torch.zeros(1, 1, 1, 2, 3)
    assert unexplained(told(nothing), state, batch).item() == pytest.approx(1.0)
    right = torch.tensor([[[[[5**-0.5, 1.0, 7.0], [3 * 5**-0.5, -1.0, 7.0]]]]])
    assert unexplained(told(right), state, batch).item() == pytest.approx(0.0, abs=1e-12)
    half = torch.tensor([[[[[5**-0.5, 0.0, 0.0], [0.0, -1.0, 0.0]]]]])
    assert unexplained(told(half), state, batch).item() == pytest.approx((1 + 9 / 5) / 4)
    half = torch.tensor([[[[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]])
    batch.weight = torch.tensor([[[1.0, 0.0]]])  # only the first row counts, in units of its own changes
    assert unexplained(told(half), state, batch).item() == pytest.approx(0.0, abs=1e-12)
    assert unexplained(told(nothing), state, batch).item() == pytest.approx(1.0)
    two_critics = torch.cat([nothing, half], dim=1)
    assert unexplained(told(two_critics), torch.zeros(2, 1, 2), batch)[0, :, 0].tolist() == pytest.approx([1.0, 0.0])


def test_a_clock_and_agents_that_are_away_cost_one() -> None:
    """Guard: seen failing in units of the standard deviation of all rows: 5.6e9 for the clock, 9.4 for the agent."""
    clock = torch.arange(600.0)[None, None, :, None] * 0.1
    batch: Any = SimpleNamespace(obs=clock, next_obs=clock + 0.1, weight=None)
    state = torch.zeros(1, 1, 600)
    assert unexplained(told(torch.zeros(1, 1, 1, 600, 1)), state, batch).item() == pytest.approx(1.0, abs=1e-3)
    away = (torch.arange(600) % 10 > 0)[None, None, :, None]
    moves = torch.randn(1, 1, 600, 1, generator=torch.Generator().manual_seed(0)).masked_fill(away, 0.0)
    batch = SimpleNamespace(obs=torch.zeros_like(moves), next_obs=moves, weight=(~away)[..., 0].float())
    assert unexplained(told(torch.zeros(1, 1, 1, 600, 1)), state, batch).item() == pytest.approx(1.0)


def test_what_never_changes_costs_nothing() -> None:
    same = torch.ones(1, 2, 3, 4)
    batch: Any = SimpleNamespace(obs=same, next_obs=same, weight=None)
    assert not unexplained(told(torch.ones(1, 1, 2, 3, 4)), torch.zeros(2, 1, 3), batch).any()


def learner_and_batch(config: MADDPGConfig, batch: int = 512) -> tuple[RecurrentMADDPG, WindowReplay, Windows]:
    env = History(envs.make("simple_adversary", 16), 1, own_action=True)
    learner = RecurrentMADDPG(env.spec, config, 0, range(2))
    env.reset(seed=0)
    memory = learner.memory(8)
    collector = Collector(env, memory.act, 2, memory)
    stream = Stream(0, "replay", range(2))
    replay = WindowReplay(env.spec, 2000, 8, stream, config.gamma, config.window, config.burn_in, learner.memory_shape)
    for _ in range(120):
        replay.add(collector.collect()[0])
    return learner, replay, replay.sample(batch)


def test_states_learn_to_tell_the_next_observation() -> None:
    """Positions alone do not tell it: nobody sees a velocity. With the loss, errors fall for actors and critics."""
    learner, replay, _ = learner_and_batch(replace(SMALL, prediction_loss=1.0))
    first = learner.update(replay.sample(256), measure=True)
    for _ in range(150):
        last = learner.update(replay.sample(256), measure=True)
    for name in ("critic/prediction", "actor/prediction"):
        assert first[name].shape == (2, 3) and bool((first[name] > 0.8).all()), name
        assert bool((last[name] < 0.25).all()), name


def test_no_weight_no_loss() -> None:
    """The predicting layer stays as it was drawn, and nothing of it is measured; with a weight it and the GRU move."""
    moved = {}
    for weight in (0.0, 1.0):
        learner, _, batch = learner_and_batch(replace(SMALL, prediction_loss=weight))
        networks = (learner.actor.mlp, learner.critic.mlp)
        before = [[x.detach().clone() for pair in net.layers() for x in pair] for net in networks]
        metrics = learner.update(batch, measure=True)
        assert ("critic/prediction" in metrics) == ("actor/prediction" in metrics) == (weight > 0)
        after = [[x.detach() for pair in net.layers() for x in pair] for net in networks]
        moved[weight] = [
            [not torch.equal(a, b) for a, b in zip(one, other, strict=True)]
            for one, other in zip(before, after, strict=True)
        ]
    for net in moved[0.0]:  # weight and bias of the fourth product
        assert net[6:8] == [False, False] and all(net[:6] + net[8:])
    assert all(all(net) for net in moved[1.0])


def test_an_actors_prediction_knows_what_was_done() -> None:
    """With another action in place of the executed one the error changes."""
    learner, _, batch = learner_and_batch(replace(SMALL, prediction_loss=1.0))
    learner._acting_logits(batch)
    with_action = learner._unexplained["actor"].detach().clone()
    batch.action.copy_(batch.action.flip(-1))  # a view of the joint rows
    learner._acting_logits(batch)
    assert bool((learner._unexplained["actor"] != with_action).all())
