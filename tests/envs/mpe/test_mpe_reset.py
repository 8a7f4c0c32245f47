"""Resets: their distribution, their independence of the rows beside, when they happen, and exact continuation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from envs.mpe import MPE, MPE_IDS, make, parallel_env
from envs.mpe.schedule import Schedule, as_spans
from envs.streams import name_key

ROWS = 8_000
REAL = 1_000
ALPHA = 1e-5  # of a single test; the seeds are fixed


def random_actions(env: MPE, generator: torch.Generator) -> torch.Tensor:
    actions = torch.zeros(env.spec.num_agents, env.num_envs, env.spec.num_heads, dtype=torch.int64)
    for n, agent in enumerate(env.spec.agents):
        for h, head in enumerate(agent.heads):
            actions[n, :, h] = torch.randint(head.size, (env.num_envs,), generator=generator)
    return actions


# ------------------------------------------------------------------ distribution
def chosen_of(mpe_id: str, raw: Any) -> list[int]:
    """The discrete draws of a real reset, in the order of the port's facts."""
    agents, landmarks = raw.world.agents, raw.world.landmarks
    if mpe_id == "simple_speaker_listener_v4":
        return [landmarks.index(agents[0].goal_b)]
    if mpe_id == "simple_reference_v3":
        return [landmarks.index(agent.goal_b) for agent in agents]
    if mpe_id == "simple_crypto_v3":
        return [landmarks.index(agents[2].goal_a), int(agents[2].key.argmax())]
    if mpe_id in ("simple_adversary_v3", "simple_push_v3"):
        return [landmarks.index(agents[0].goal_a)]
    return [landmark.type for landmark in landmarks] if mpe_id == "collect_treasure_v1" else []


def chosen_rows(env: MPE) -> torch.Tensor:
    """The discrete draws of the port, [draws, E]."""
    facts = env.world.facts
    for name in ("goal", "known", "chosen"):
        if name in facts:
            return facts[name]
    return facts["type"].argmax(1) if "type" in facts else torch.zeros(0, env.num_envs)


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_resets_are_distributed_as_in_mpe2(mpe_id: str) -> None:
    env = make(mpe_id, ROWS, dtype=torch.float64)
    env.reset(11)
    real = parallel_env(mpe_id)
    raw, places, choices = real.unwrapped, [], []
    for seed in range(REAL):
        real.reset(seed=seed)
        places.append([entity.state.p_pos.copy() for entity in raw.world.entities])
        choices.append(chosen_of(mpe_id, raw))
    theirs, mine = np.array(places), env.world.pos.numpy()
    for entity in range(theirs.shape[1]):
        for axis in range(2):
            p = stats.ks_2samp(theirs[:, entity, axis], mine[entity, axis]).pvalue
            assert p > ALPHA, (entity, axis, p)
            edge = np.ceil(np.abs(theirs[:, entity, axis]).max() * 20) / 20  # all ranges are multiples of .05
            assert 0.97 * edge < np.abs(mine[entity, axis]).max() < edge
    drawn, given = chosen_rows(env).numpy(), np.array(choices).reshape(REAL, -1).T
    assert len(drawn) == len(given)
    for mine_of, theirs_of in zip(drawn, given, strict=True):
        kinds = int(theirs_of.max()) + 1
        counts = [np.bincount(values, minlength=kinds) for values in (mine_of, theirs_of)]
        assert stats.chi2_contingency(np.array(counts)).pvalue > ALPHA
        assert stats.chisquare(counts[0]).pvalue > ALPHA  # all equally likely
    assert not env.world.vel.any() and not env.world.said.any()


def test_draws_of_a_reset_are_uncorrelated() -> None:
    env = make("simple_world_comm", ROWS, dtype=torch.float64)
    first = env.world.pos.flatten(0, 1).numpy().copy()
    env.reset(1)
    second = env.world.pos.flatten(0, 1).numpy()
    correlation = np.corrcoef(np.concatenate((first, second)))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 5.5 / np.sqrt(ROWS)
    neighbours = np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(first.size)


def test_new_treasures_are_uniform() -> None:
    env = make("collect_treasure", ROWS // 4, dtype=torch.float64)
    before = env.world.facts["alive"].clone()
    env.world.facts["alive"].zero_()
    env.step(torch.zeros(8, ROWS // 4, 1, dtype=torch.int64))
    assert before.all() and env.world.facts["alive"].all()
    for values in env.world.landmarks.flatten(0, 1).numpy():
        assert stats.kstest(values, stats.uniform(-0.95, 1.9).cdf).pvalue > ALPHA
    assert stats.chisquare(env.world.facts["type"].sum((0, 2)).numpy()).pvalue > ALPHA


def test_the_second_landmark_of_a_line_lies_in_the_field() -> None:
    env = make("simple_line", ROWS, dtype=torch.float64)
    first, second = env.world.landmarks
    assert bool((second.abs() < 1).all())
    torch.testing.assert_close((second - first).square().sum(0).sqrt(), torch.full((ROWS,), 1.25, dtype=torch.float64))


# ------------------------------------------------------------------ a pure function of seed, row, episode, draw
def split_mix(z: int) -> int:
    """SplitMix64's finaliser on Python integers."""
    mask = (1 << 64) - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize("episode", [0, 1, 5])
def test_reset_values_against_a_slow_reference(episode: int) -> None:
    env = make("simple", 2, dtype=torch.float64, rows=[3, 70], max_cycles=2)
    env.reset(9)
    for _ in range(2 * episode):
        env.step(torch.zeros(1, 2, 1, dtype=torch.int64))
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    for index, row in enumerate((3, 70)):
        key = split_mix((name_key(9, "simple_v3 reset") + golden * (row + 1)) & mask)
        start = split_mix((key + golden * (episode + 1)) & mask)
        words = [split_mix((start + golden * (draw + 1)) & mask) for draw in range(4)]
        expected = [2 * (((word >> 12) + 0.5) * 2.0**-52 - 0.5) for word in words]
        assert env.world.pos[..., index].flatten().tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("stagger", [False, True])
@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_a_row_does_not_depend_on_the_rows_beside_it(mpe_id: str, stagger: bool) -> None:
    """Row 5 of 8 plays as row 5 alone, resets included."""
    many = make(mpe_id, 8, stagger=stagger)
    alone = make(mpe_id, 1, rows=[5], stagger=stagger)
    assert torch.equal(many.reset(3)[:, 5:6], alone.reset(3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(55):
        actions = random_actions(many, generator)
        one, other = many.step(actions), alone.step(actions[:, 5:6])
        for field in ("obs", "final_obs", "reward", "terminated", "truncated"):
            torch.testing.assert_close(getattr(one, field)[:, 5:6], getattr(other, field), rtol=0, atol=1e-5)
        assert bool(one.done[5]) == bool(other.done[0])


def test_episodes_and_seeds_differ() -> None:
    env = make("simple_spread", 3, max_cycles=1)
    starts = [env.reset(0).clone()]
    for _ in range(3):
        starts.append(env.step(torch.zeros(3, 3, 1, dtype=torch.int64)).obs)
    starts.append(env.reset(1))
    for i, one in enumerate(starts):
        for other in starts[i + 1 :]:
            assert not torch.equal(one, other)
    assert torch.equal(env.reset(0), starts[0])
    assert torch.equal(env.reset(), starts[0])  # the seed given before


# ------------------------------------------------------------------ when rows end
def test_all_rows_end_together() -> None:
    env = make("simple_reference", 4)
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 76):
        step = env.step(random_actions(env, generator))
        assert not step.terminated.any()
        ended = count % 25 == 0
        assert bool(step.truncated.all()) == bool(step.truncated.any()) == ended
        assert step.done.tolist() == [ended] * 4
        assert torch.equal(step.obs, env.observe())
        assert torch.equal(step.obs, step.final_obs) != ended
        assert bool((step.obs[..., :2] == 0).all()) == ended or bool((step.obs[..., 11:] != 0).any())
        if ended:
            assert not step.obs[..., :2].any() and not step.obs[..., 11:].any()  # at rest, nothing said
            assert step.final_obs[..., 11:].sum() == 8  # the last messages are still seen


def test_staggered_rows() -> None:
    """Row r starts r mod horizon steps into its first episode; every later one is full."""
    env = make("simple_spread", 12, stagger=True, max_cycles=5, rows=range(3, 15))
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 21):
        step = env.step(random_actions(env, generator))
        expected = [(count + row) % 5 == 0 for row in range(3, 15)]
        assert step.done.tolist() == expected
        assert step.truncated.tolist() == [expected] * 3
        for row, ended in enumerate(expected):
            assert torch.equal(step.obs[:, row], step.final_obs[:, row]) != ended
        assert torch.equal(step.obs, env.observe())


def test_ends_that_only_the_device_knows() -> None:
    """terminate_on_success: rows end on their own and at the horizon, with the truth in `final_obs`."""
    kwargs = {"num_adversaries": 4, "num_good": 1, "terminate_on_success": True}
    env = make("simple_tag", 64, stagger=True, **kwargs)
    age = torch.arange(64) % 25
    generator = torch.Generator().manual_seed(1)
    ends = 0
    for _ in range(60):
        step = env.step(random_actions(env, generator))
        age += 1
        assert torch.equal(step.truncated[0], age >= 25)
        caught = step.reward[0] > 0
        assert torch.equal(step.terminated[0], caught & (age < 25))
        assert torch.equal(step.done, step.truncated[0] | step.terminated[0])
        assert torch.equal(step.obs, env.observe())
        assert not step.obs[:, step.done][..., :2].any()  # at rest after a reset
        assert torch.equal(step.obs[:, ~step.done], step.final_obs[:, ~step.done])
        ends += int(step.terminated[0].sum())
        age[step.done] = 0
    assert ends > 0


AGES = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), AGES, st.lists(st.integers(0, 29), max_size=4))
def test_schedule_against_a_counter_for_every_row(horizon: int, starts: list[int], touched: list[int]) -> None:
    ages = np.array(starts) % horizon
    schedule = Schedule(horizon, ages)
    for count in range(20):
        if count < len(touched) and touched[count] < len(ages):
            ages[touched[count]] = count % horizon
            schedule.set_age(touched[count], count % horizon)
        np.testing.assert_array_equal(schedule.ages(), ages)
        ages = ages + 1
        ended = np.zeros(len(ages), dtype=bool)
        for span in schedule.tick():
            ended[slice(*span)] = True
        np.testing.assert_array_equal(ended, ages == horizon)
        ages[ended] = 0


@settings(deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_spans_cover_exactly(rows: set[int]) -> None:
    spans = as_spans(np.array(sorted(rows), dtype=np.int64))
    covered = [row for span in spans for row in range(*span)]
    assert sorted(covered) == sorted(rows) and len(covered) == len(rows)
    assert len(as_spans(np.arange(3, 100, 7))) == 1


# ------------------------------------------------------------------ continuation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_state_dict_continues_bit_for_bit(mpe_id: str, dtype: torch.dtype) -> None:
    env = make(mpe_id, 7, dtype=dtype, stagger=True, rows=range(30, 37))
    generator = torch.Generator().manual_seed(0)
    env.reset(5)
    for _ in range(33):
        env.step(random_actions(env, generator))
    state = env.state_dict()
    actions = [random_actions(env, generator) for _ in range(30)]
    expected = [env.step(action) for action in actions]
    other = make(mpe_id, 7, dtype=dtype)
    other.load_state_dict(state)
    for action, step in zip(actions, expected, strict=True):
        again = other.step(action)
        for field in ("obs", "final_obs", "reward", "terminated", "truncated", "done"):
            assert torch.equal(getattr(step, field), getattr(again, field))
    other.load_state_dict(state)  # the state was not touched by playing on
    assert torch.equal(other.step(actions[0]).obs, expected[0].obs)


def test_state_dict_with_termination_and_curriculum() -> None:
    kwargs = {"curriculum": True, "terminate_on_success": True, "num_adversaries": 4}
    env = make("simple_tag", 16, **kwargs)
    env.set_curriculum_stage(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        env.step(random_actions(env, generator))
    other = make("simple_tag", 16, **kwargs)
    other.load_state_dict(env.state_dict())
    assert other.curriculum_stage == 1
    for _ in range(30):
        actions = random_actions(env, generator)
        assert torch.equal(env.step(actions).obs, other.step(actions).obs)


def test_what_step_returns_may_be_kept() -> None:
    env = make("simple_speaker_listener", 3, stagger=True)
    generator = torch.Generator().manual_seed(0)
    steps = [env.step(random_actions(env, generator)) for _ in range(30)]
    copies = [step.obs.clone() for step in steps]
    for _ in range(30):
        env.step(random_actions(env, generator))
    assert all(torch.equal(step.obs, copy) for step, copy in zip(steps, copies, strict=True))
    assert len({step.obs.data_ptr() for step in steps}) == 30
