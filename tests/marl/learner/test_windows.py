"""Windows of the replay against a record kept by hand, and the states stored with them.

Guard: seen failing with windows that run over the write position, with rows of another environment, with the state
after a step in place of that before it, with memory that outlives an episode, and with sums that do.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from envs import probes
from envs.history import History
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.batch import Transitions, Windows
from marl.data.collector import Collector
from marl.data.windows import WindowReplay
from marl.learner import losses
from marl.learner.recurrent.maddpg import RecurrentMADDPG, _traced
from marl.learner.recurrent.networks import actor_input, columns, rows

S, E = 2, 5
CONFIG = MADDPGConfig(hidden=(7, 6), recurrent=True, window=3, burn_in=2, batch_size=60, twin_critics=True)


def learner_and_collector(name: str = "recall", **changes: object) -> tuple[RecurrentMADDPG, Collector]:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    options = {"agents": 2} if name == "recall" else {}
    env = History(probes.make(name, num_envs=S * E, **options), config.frames, own_action=True)
    env.reset(seed=3)
    learner = RecurrentMADDPG(env.spec, config, 0, range(S))
    memory = learner.memory(E)
    return learner, Collector(env, memory.act, S, memory)


def replay_of(learner: RecurrentMADDPG, capacity: int = 12 * E) -> WindowReplay:
    c = learner.config
    stream = Stream(0, "replay", range(S))
    return WindowReplay(learner.spec, capacity, E, stream, c.gamma, c.window, c.burn_in, learner.memory_shape)


def stepped(collector: Collector, replay: WindowReplay, steps: int) -> list[Transitions]:
    played = []
    for _ in range(steps):
        played.append(collector.collect()[0])
        replay.add(played[-1])
    return played


def windows_of(x_SNR: Tensor, count: int) -> Tensor:
    """[S, N, T * b, ...] to [S, N, T, b, ...]."""
    return x_SNR.unflatten(2, (-1, count))


@pytest.mark.parametrize("steps", [5, 9, 12, 31])
def test_windows_are_consecutive_steps_of_one_environment(steps: int) -> None:
    """Before the store is full, when it just is, and when it has been written over; every start occurs."""
    learner, collector = learner_and_collector()
    replay = replay_of(learner)
    played = stepped(collector, replay, steps)
    kept = played[-12:]
    starts = set()
    for _ in range(40):
        drawn = replay.sample(60)
        b = drawn.memory.shape[2]
        assert b == 20 and drawn.reward.shape[2] == 60 and drawn.lead.reward.shape[2] == 40
        obs = torch.cat([windows_of(drawn.lead.obs, b), windows_of(drawn.obs, b)], dim=2)  # [S, N, 5, b, O]
        rewards = torch.cat([windows_of(drawn.lead.reward, b), windows_of(drawn.reward, b)], dim=2)
        for s in range(S):
            for i in range(b):
                places = [
                    (k, e)
                    for k in range(len(kept) - 4)
                    for e in range(E)
                    if torch.equal(kept[k].memory[s, :, e], drawn.memory[s, :, i])  # type: ignore[index]
                    and torch.equal(kept[k].obs[s, :, e], obs[s, :, 0, i])
                    and all(torch.equal(kept[k + j].obs[s, :, e], obs[s, :, j, i]) for j in range(5))
                    and all(torch.equal(kept[k + j].reward[s, :, e], rewards[s, :, j, i]) for j in range(5))
                ]
                assert places
                starts |= {k for k, _ in places}
    assert starts == set(range(len(kept) - 4))


def test_stored_states_are_those_recomputed_while_parameters_stay() -> None:
    """Of actors and critics, at every learned step, through the ends of episodes (of four steps) in the windows."""
    learner, collector = learner_and_collector()
    replay = replay_of(learner, 40 * E)
    played = stepped(collector, replay, 30)
    drawn = replay.sample(300)
    agents, networks = learner.spec.num_agents, learner.memory_shape[0]
    acting = learner._acting(learner.actor, drawn)
    valuing = learner._valuing(learner.critic, drawn)
    before = torch.cat([rows(acting.before_XWR, (S, agents)), rows(valuing.before_XWR, (S, networks - agents))], dim=1)
    assert bool(drawn.first.any()) and bool(drawn.lead.first.any())
    later = {}
    for one in played:
        for s in range(S):
            for e in range(E):
                assert one.memory is not None
                key = s, *one.obs[s, :, e].flatten().tolist(), *one.action[s, :, e].flatten().tolist()
                later.setdefault(key, []).append(one.memory[s, :, e])
    for s in range(S):
        for i in range(before.shape[2]):
            key = s, *drawn.obs[s, :, i].flatten().tolist(), *drawn.action[s, :, i].flatten().tolist()
            assert any(torch.allclose(x, before[s, :, i], atol=1e-6) for x in later[key])
    assert not before[drawn.first[:, None].expand(-1, networks, -1)].any()  # memory is empty where an episode begins
    assert float(before.abs().max()) > 0.1


def test_memory_is_emptied_where_an_episode_ends() -> None:
    learner, collector = learner_and_collector()
    replay = replay_of(learner)
    played = stepped(collector, replay, 9)
    for t, one in enumerate(played):
        assert one.memory is not None
        assert bool(one.memory.any()) == (t % 4 != 0) and bool(one.first.all()) == (t % 4 == 0)


def test_targets_bootstrap_from_the_true_next_observation() -> None:
    """Each row's target by a network that plays its window again from the start, one step at a time."""
    learner, collector = learner_and_collector(target_action="argmax", gamma=0.5)
    for network in (learner.target_actor, learner.target_critic):  # else equal to those that act
        with torch.no_grad():
            network.mlp.flat.add_(Stream(1, "other", range(S)).uniform(*network.mlp.flat.shape[1:]) * 0.2)
    replay = replay_of(learner, 40 * E)
    stepped(collector, replay, 30)
    drawn = replay.sample(60)
    target_SNB, b, agents = learner.targets(drawn), drawn.memory.shape[2], learner.spec.num_agents
    actor, critic = learner.target_actor.prepared(), learner.target_critic.prepared()
    a_h, c_h = columns(drawn.memory[:, :agents]), columns(drawn.memory[:, agents:])
    for part in (drawn.lead, drawn):
        for t in range(part.reward.shape[2] // b):
            now = part.rows(slice(t * b, (t + 1) * b))
            keep = (~now.first).float()
            a_h = a_h * keep.repeat_interleave(agents, 0)[:, None]
            c_h = c_h * keep.repeat_interleave(len(c_h) // S, 0)[:, None]
            a_h = actor.step(actor.enter(actor_input(now.obs)), a_h)
            c_h = critic.step(critic.enter(now.joint.transpose(1, 2)), c_h)
            if part is drawn.lead:
                continue
            choice = learner.target_actor.step(now.next_obs, rows(a_h, (S, agents)), actor)[0].argmax(-1)
            action = torch.nn.functional.one_hot(choice, 3).float().flatten(-2)
            joint = torch.cat([x.transpose(1, 2).flatten(2) for x in (now.next_obs, action)], dim=2)
            q = learner.target_critic.values(joint, c_h, critic)
            expected = now.reward + now.discount * q.amin(1)
            torch.testing.assert_close(target_SNB[..., t * b : (t + 1) * b], expected)
    assert bool((drawn.discount == 0).any()) and bool((drawn.discount == 0.5).any())


def test_sums_of_n_steps_by_hand() -> None:
    """Two windows of four steps: one whole, one whose episode ends with its second step."""
    reward = torch.tensor([1.0, 10.0, 2.0, 20.0, 4.0, 40.0, 8.0, 80.0])[None, None]
    discount = torch.tensor([0.5, 0.5, 0.5, 0.0, 0.5, 0.5, 0.5, 0.5])[None, None]
    going_on = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0])[None, None]
    q = torch.full((1, 1, 1, 8), 16.0)

    def target(n: int) -> list[float]:
        return losses.window_target(reward, discount, q, going_on, 2, n)[0, 0].tolist()

    assert target(1) == [9.0, 18.0, 10.0, 20.0, 12.0, 48.0, 16.0, 88.0]
    assert target(2) == [6.0, 20.0, 8.0, 20.0, 12.0, 84.0, 16.0, 88.0]
    assert target(3) == [5.0, 20.0, 8.0, 20.0, 12.0, 84.0, 16.0, 88.0]


def test_a_truncated_agent_is_bootstrapped_and_its_sum_stops() -> None:
    learner, collector = learner_and_collector("truncated_value", n_step=3)
    replay = replay_of(learner, 40 * E)
    stepped(collector, replay, 30)
    drawn = replay.sample(60)
    assert not drawn.going_on.any()  # every step is an episode
    torch.testing.assert_close(learner.targets(drawn).shape, drawn.reward.shape)


def test_a_state_dict_continues_bit_for_bit() -> None:
    learner, collector = learner_and_collector()
    replay = replay_of(learner)
    stepped(collector, replay, 15)
    again = replay_of(learner)
    again.load_state_dict(replay.state_dict())
    stepped(collector, replay, 1)
    other, mine = again.sample(60), replay_of(learner)
    mine.load_state_dict(again.state_dict())
    assert torch.equal(mine.data_SCD, again.data_SCD) and mine.cursor == again.cursor
    assert other.memory.shape == (S, learner.memory_shape[0], 20, 7)


def test_two_windows_of_the_learner_are_independent() -> None:
    """Targets and values of a window do not depend on the others in the batch."""
    learner, collector = learner_and_collector(target_action="argmax")
    replay = replay_of(learner, 40 * E)
    stepped(collector, replay, 30)
    drawn = replay.sample(60)
    alone = _traced(
        learner.actor.prepared(),
        actor_input(drawn.lead.obs[:, :, ::20]),
        actor_input(drawn.obs[:, :, ::20]),
        drawn.memory[:, :2, :1],
        replace_first(drawn),
    )
    all_of_them = learner._acting(learner.actor, drawn)
    torch.testing.assert_close(alone.after_XWR, all_of_them.after_XWR[..., ::20])


def replace_first(drawn: Windows) -> Windows:
    """The windows' flags of their first alone."""
    return replace(drawn, first=drawn.first[:, ::20], lead=replace(drawn.lead, first=drawn.lead.first[:, ::20]))
