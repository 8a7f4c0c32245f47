"""Layout, frame store and normaliser: nothing shifted, nothing lost, no episode mixed with another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from world_model_data import play, random_transitions, two_agents

import envs
from envs.streams import Stream
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.sequences import FrameStore, Normaliser


def test_layout_inverts_and_copies_messages_by_hand() -> None:
    layout = Layout(two_agents())
    obs = torch.zeros(1, 2, 1, 5)
    obs[0, 0, 0, :2] = torch.tensor([1.0, 2.0])
    obs[0, 1, 0] = torch.tensor([3.0, 4.0, 0.0, 1.0, 0.0])
    rows = layout.join(obs)
    assert rows.tolist() == [[[1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 0.0]]]
    assert torch.equal(layout.split(rows), obs)
    assert layout.dynamic_J.tolist() == [0, 1, 2, 3]  # the slot is not predicted
    action = torch.zeros(1, 2, 1, 8)  # heads of 4 choices, the speaker has one of 3
    action[0, 0, 0, 2] = action[0, 1, 0, 1] = action[0, 1, 0, 7] = 1.0
    flat = layout.join_action(action)
    assert flat.tolist() == [[[0, 0, 1, 0, 1, 0, 0, 0, 1]]]
    assembled = layout.assemble(rows[..., layout.dynamic_J], flat)
    assert assembled[0, 1, 0].tolist() == [3.0, 4.0, 0.0, 0.0, 1.0]  # the message just sent, not the one before
    assert assembled[0, 0, 0].tolist() == [1.0, 2.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("env_id", ["simple_speaker_listener", "simple_reference", "simple_spread", "simple_crypto"])
def test_assembled_observations_of_mpe_are_the_true_ones(env_id: str) -> None:
    """With the true predicted entries, messages included, exactly: what is hard-wired is 100 % right."""
    env = envs.make(env_id, num_envs=6)
    layout = Layout(env.spec)
    for t in play(env, 30, replicas=2):
        rows = layout.join(t.next_obs)
        assert torch.equal(layout.assemble(rows[..., layout.dynamic_J], layout.join_action(t.action)), t.next_obs)


def test_inexact_routes_are_predicted() -> None:
    spec = two_agents()
    noisy = replace(spec, routes=(replace(spec.routes[0], exact=False),))
    assert Layout(noisy).obs_size == Layout(spec).obs_size + 3


def store_of(steps: int, num_envs: int = 3, capacity: int = 600, replicas: int = 2) -> tuple[FrameStore, list, Layout]:
    layout = Layout(two_agents())
    store = FrameStore((layout.full_size, layout.action_size, 2), replicas, num_envs, capacity, "cpu")
    rows = [rows_of(layout, t) for t in random_transitions(two_agents(), num_envs, steps, replicas)]
    for row in rows:
        store.add(row, torch.ones(replicas, num_envs, dtype=torch.bool))
    return store, rows, layout


def test_windows_hold_transitions_as_they_happened() -> None:
    """Each frame with a predecessor is found among the transitions: obs, action, reward, next obs belong together."""
    store, rows, _ = store_of(steps=21)
    seq = store.windows(7, 40, Stream(0, "windows", [0, 1]))
    table = {tuple(row.obs[s, e].tolist()): (row, s, e) for row in rows for s in range(2) for e in range(3)}
    checked = 0
    for s, t, b in (seq.follows[:, 1:]).nonzero().tolist():
        row, replica, e = table[tuple(seq.obs[s, t, b].tolist())]
        assert replica == s
        assert torch.equal(row.next_obs[s, e], seq.obs[s, t + 1, b])
        assert torch.equal(row.action[s, e], seq.action[s, t + 1, b])
        assert torch.equal(row.reward[s, e], seq.reward[s, t + 1, b])
        assert row.last[s, e] == seq.last[s, t + 1, b]
        checked += 1
    assert checked > 200
    assert not seq.action[seq.first].any() and not seq.reward[:, 1:][seq.first[:, 1:]].any()


def test_short_episodes_are_whole_windows() -> None:
    store, _, _ = store_of(steps=20)
    seq = store.windows(5, 64, Stream(0, "windows", [0, 1]))  # 4 steps are 5 frames
    whole = seq.valid.all(1) & (seq.last[:, -1])
    assert whole.float().mean() > 0.7  # all but the first ones of late starters and the running ones
    assert not seq.first[:, 1:].transpose(1, 2)[whole].any()


def test_single_frames_are_first_frames_in_the_order_of_states() -> None:
    store, _, _ = store_of(8)
    seq = store.windows(5, 4, Stream(0, "windows", [0, 1]))
    alone = seq.single_frames()
    assert alone.obs.shape == (2, 1, 20, seq.obs.shape[3]) and bool(alone.first.all())
    assert torch.equal(alone.obs[1, 0, 2 * 4 + 3], seq.obs[1, 2, 3])
    assert torch.equal(alone.valid[:, 0], seq.valid.flatten(1, 2))
    assert bool(seq.action.any()) and not bool(alone.action.any()) and not bool(alone.reward.any())
    picked = alone.pick(torch.tensor([[11, 0, 11], [3, 4, 5]]))
    assert torch.equal(picked.obs[0, 0], alone.obs[0, 0, [11, 0, 11]])
    assert torch.equal(picked.obs[1, 0], alone.obs[1, 0, 3:6])


def test_frames_behind_the_newest_are_invalid() -> None:
    store, _, _ = store_of(steps=2)  # environment 0 has three frames of its first episode
    seq = store.windows(5, 200, Stream(0, "windows", [0, 1]))
    assert seq.valid.any(1).all() and not seq.valid.all()
    assert not (seq.follows & ~seq.valid).any()


def test_the_ring_forgets_the_oldest() -> None:
    store, rows, _ = store_of(steps=40, capacity=30)  # 10 frames an environment
    newest = {tuple(row.next_obs[s, e].tolist()) for row in rows[-10:] for s in range(2) for e in range(3)}
    newest |= {tuple(row.obs[s, e].tolist()) for row in rows[-10:] for s in range(2) for e in range(3)}
    seq = store.windows(5, 100, Stream(0, "windows", [0, 1]))
    assert int(store.frames_S[0]) == 30
    assert all(tuple(obs.tolist()) in newest for obs in seq.obs[seq.valid])


def test_first_frames_of_every_environment() -> None:
    store, rows, _ = store_of(steps=6)
    seq = store.from_start(9)
    assert torch.equal(seq.obs[:, 0], rows[0].obs) and torch.equal(seq.obs[:, 1], rows[0].next_obs)
    assert torch.equal(seq.action[:, 1], rows[0].action) and not seq.action[:, 0].any()
    assert seq.first[0, :, 0].nonzero().flatten().tolist() == [0, 5]  # 4 steps are 5 frames
    assert seq.valid[0, :, 0].tolist() == [True] * 8 + [False]
    with pytest.raises(ValueError, match="ring of 3"):
        store_of(steps=6, capacity=9)[0].from_start(3)


def test_masked_environments_are_not_written() -> None:
    layout = Layout(two_agents())
    store = FrameStore((layout.full_size, layout.action_size, 2), 1, 2, 100, "cpu")
    for t in random_transitions(two_agents(), 2, 6):
        store.add(rows_of(layout, t), torch.tensor([[True, False]]))
    assert store.written_SE.tolist() == [[8, 0]]  # 6 transitions and the first frames of two episodes
    assert (store.data_SECD[0, 1] == 0).all()
    assert store.windows(5, 50, Stream(0, "w", [0])).valid.any(1).all()  # never the empty one


def test_truncation_is_labelled_continue_and_termination_is_not() -> None:
    layout = Layout(two_agents())
    t = next(random_transitions(replace(two_agents(), horizon=1), 2, 1))
    assert bool(t.truncated.all())
    assert rows_of(layout, t).alive.tolist() == [[[1.0, 1.0], [1.0, 1.0]]] and bool(rows_of(layout, t).last.all())
    t.terminated[0, 1, 0] = True
    assert rows_of(layout, t).alive.tolist() == [[[1.0, 0.0], [1.0, 1.0]]]


def test_store_continues_from_its_state() -> None:
    store, _, layout = store_of(steps=11)
    twin = FrameStore((layout.full_size, layout.action_size, 2), 2, 3, 600, "cpu")
    twin.load_state_dict(store.state_dict())
    for t in random_transitions(two_agents(), 3, 5, 2):
        for s in (store, twin):
            s.add(rows_of(layout, t), torch.ones(2, 3, dtype=torch.bool))
    a, b = (s.windows(6, 20, Stream(1, "w", [0, 1])) for s in (store, twin))
    assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_normaliser_matches_the_slow_way_and_leaves_constants() -> None:
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)) * 4 + 7
    x[..., 2] = 0.15
    weight = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) > 0.3
    scale = Normaliser(2, 3, "cpu")
    for part, w in zip(x.split(20, 1), weight.split(20, 1), strict=True):
        scale.add(part, w)
    for s in range(2):
        seen = x[s][weight[s]]
        torch.testing.assert_close(scale.mean_S1X[s, 0], seen.mean(0))
        torch.testing.assert_close(scale.std_S1X[s, 0, :2], seen[:, :2].std(0, correction=0))
    assert (scale.std_S1X[..., 2] == 1.0).all()
    torch.testing.assert_close(scale.invert(scale.apply(x)), x)
