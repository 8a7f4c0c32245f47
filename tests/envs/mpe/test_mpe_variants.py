"""speaker_listener_variant: equal to mpe2 by default, the port equal to the ParallelEnv, and every argument does what
it says."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from mpe2 import simple_speaker_listener_v4
from mpe_cases import real_observation, real_state, state_of
from scipy import stats
from variant_cases import GAMES, VARIANTS, label

import envs
from envs import UserError
from envs.mpe import MPE, describe, make, make_scenario, parallel_env
from envs.mpe.variants.parallel import parallel_env as by_name
from envs.mpe.variants.settings import Variant

ID, GAME = "speaker_listener_variant", "referential_game"
MODULES = {ID: "envs.mpe.variants", GAME: "envs.mpe.variants.referential_parallel"}
CASES = [(ID, kwargs) for kwargs in VARIANTS] + [(GAME, kwargs) for kwargs in GAMES]
each_variant = pytest.mark.parametrize(("env_id", "kwargs"), CASES, ids=[f"{i}-{label(k)}" for i, k in CASES])


def random_actions(env: MPE, generator: torch.Generator) -> torch.Tensor:
    sizes = env.spec.head_mask.sum(2).clamp(min=1)[:, None]
    return (torch.rand(env.spec.num_agents, env.num_envs, env.spec.num_heads, generator=generator) * sizes).long()


def ids_of(env: MPE, actions: torch.Tensor, row: int) -> dict[str, int]:
    return {name: int(ids[row]) for name, ids in env.decode_actions(actions).items()}


# ------------------------------------------------------------------ equality
def test_default_is_mpe2_number_for_number() -> None:
    mine, theirs = by_name(), simple_speaker_listener_v4.parallel_env()
    rng = np.random.default_rng(0)
    for seed in range(30):
        observed = mine.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        for steps in range(1, 26):
            for name in theirs.possible_agents:
                np.testing.assert_array_equal(observed[0][name], observed[1][name])
            actions = {"speaker_0": int(rng.integers(3)), "listener_0": int(rng.integers(5))}
            one, other = mine.step(actions), theirs.step(actions)
            assert [dict(part) for part in one[1:4]] == [dict(part) for part in other[1:4]]
            assert bool(mine.agents) == (steps < 25)
            observed = one[0], other[0]
    for name in theirs.possible_agents:
        assert mine.observation_space(name) == theirs.observation_space(name)
        assert mine.action_space(name) == theirs.action_space(name)


@each_variant
def test_port_equals_the_parallel_env(env_id: str, kwargs: dict[str, Any]) -> None:
    """Along whole episodes in float64, the channel's random numbers handed from the port to the real environment."""
    rows = 3
    env = make(env_id, rows, dtype=torch.float64, **kwargs)
    real = [parallel_env(env_id, **kwargs) for _ in range(rows)]
    generator = torch.Generator().manual_seed(0)
    for episode in range(3):
        for row, one in enumerate(real):
            one.reset(seed=10 * episode + row)
            env.load_pettingzoo(row, one)
        for _ in range(env.scenario.horizon):
            u = env._draws.step(max(1, env.scenario.step_draws)).numpy()
            actions = random_actions(env, generator)
            step = env.step(actions)
            for row, one in enumerate(real):
                one.unwrapped.world.draw = lambda row=row, u=u: u[: env.scenario.step_draws, row]
                _, rewards, terminated, truncated, _ = one.step(ids_of(env, actions, row))
                for n, (name, obs) in enumerate(env.split_obs(step.final_obs).items()):
                    assert np.abs(obs[row].numpy() - real_observation(one, name)).max() < 1e-9, name
                    assert abs(float(step.reward[n, row]) - rewards[name]) < 1e-9
                    assert bool(step.terminated[n, row]) == terminated[name]
                    assert bool(step.truncated[n, row]) == truncated[name]
                if one.agents:
                    for mine, theirs in zip(state_of(env, row), real_state(one, env.world.movers), strict=True):
                        assert np.abs(mine - theirs).max(initial=0.0) < 1e-9


@each_variant
def test_spec_is_that_of_the_real_environment(env_id: str, kwargs: dict[str, Any]) -> None:
    real = parallel_env(env_id, **kwargs)
    spec = describe(env_id, real)
    assert spec == make_scenario(env_id, **kwargs).spec()
    for agent in spec.agents:
        assert agent.num_actions == real.action_space(agent.name).n
        assert agent.obs_size == real.observation_space(agent.name).shape[0]
    # as package.module:function: read from its metadata, and exact routes are tried
    named = envs.make(f"{MODULES[env_id]}:parallel_env", backend="pettingzoo", **kwargs)
    assert [line[:3] for line in spec.differences(named.spec)] == ["id:"]
    named.close()


@each_variant
def test_store_is_the_inverse_of_load(env_id: str, kwargs: dict[str, Any]) -> None:
    source, copy = parallel_env(env_id, **kwargs), parallel_env(env_id, **kwargs)
    source.reset(seed=1)
    copy.reset(seed=2)
    rng = np.random.default_rng(0)

    def choose() -> dict[str, int]:
        return {name: int(rng.integers(source.action_space(name).n)) for name in source.agents}

    for _ in range(min(3, source.unwrapped.variant.max_cycles - 1)):
        source.step(choose())
    env = make(env_id, 2, dtype=torch.float64, **kwargs)
    env.load_pettingzoo(1, source)
    env.store_pettingzoo(1, copy)
    for one in (source, copy):
        one.unwrapped.world.np_random = np.random.default_rng(5)
    while source.agents:
        for name in source.agents:
            np.testing.assert_array_equal(real_observation(source, name), real_observation(copy, name))
        actions = choose()
        assert dict(source.step(actions)[1]) == dict(copy.step(actions)[1])
    assert not copy.agents


@each_variant
def test_pettingzoo_api(env_id: str, kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package's tests import its own deprecated modules
        from pettingzoo.test import parallel_api_test
    parallel_api_test(parallel_env(env_id, **kwargs), num_cycles=30)


def test_seeds_and_copies() -> None:
    kwargs = {"noise": 0.4, "erasure": 0.3, "delay": 1}
    one = by_name(**kwargs)
    other = pickle.loads(pickle.dumps(one.unwrapped))  # worker processes are given it so
    assert other.variant == one.unwrapped.variant

    def heard(env: Any) -> list[Any]:
        env.reset(seed=3)
        return [env.step({"speaker_0": 1, "listener_0": 0})[0]["listener_0"].tolist() for _ in range(20)]

    assert heard(one) == heard(one) == heard(by_name(**kwargs))


def test_pictures_beyond_26_symbols() -> None:
    env = by_name(num_symbols=40, num_landmarks=7, num_speakers=2, render_mode="rgb_array")
    env.reset(seed=0)
    env.step({"speaker_0": 39, "speaker_1": 0, "listener_0": 1})
    said = [agent.state.c.copy() for agent in env.unwrapped.world.speakers]
    assert env.render().shape == (700, 700, 3)
    for agent, before in zip(env.unwrapped.world.speakers, said, strict=True):
        np.testing.assert_array_equal(agent.state.c, before)


# ------------------------------------------------------------------ the port as a batched environment
@each_variant
def test_continues_bit_for_bit(env_id: str, kwargs: dict[str, Any]) -> None:
    env, other = make(env_id, 5, stagger=True, **kwargs), make(env_id, 5, **kwargs)
    generator = torch.Generator().manual_seed(0)
    env.reset(4)
    for _ in range(7):
        env.step(random_actions(env, generator))
    other.load_state_dict(env.state_dict())
    for _ in range(27):
        actions = random_actions(env, generator)
        one, two = env.step(actions), other.step(actions)
        assert torch.equal(one.obs, two.obs) and torch.equal(one.reward, two.reward)
        assert bool(torch.isfinite(one.obs).all())


def test_the_last_step_of_a_staggered_episode_pays() -> None:
    """The right pick is paid 1 in whatever step an episode ends. Guard: seen failing where shortened first episodes
    paid nothing."""
    env = make(GAME, 4, stagger=True)
    env.reset(0)
    assert env.spec.horizon == 2
    actions = torch.zeros(2, 4, env.spec.num_heads, dtype=torch.int64)
    for t in range(4):
        actions[1, :, 0] = env.world.facts["goal"][0]
        step = env.step(actions)
        assert step.done.tolist() == [t % 2 == 1, t % 2 == 0] * 2
        assert torch.equal(step.reward, step.done.to(step.reward.dtype).expand(2, -1))


@each_variant
def test_step_never_asks_the_device_and_is_one_graph(env_id: str, kwargs: dict[str, Any]) -> None:
    short = {**kwargs, "max_cycles": 5} if env_id == ID else kwargs
    env = make(env_id, 3, device="meta", stagger=True, **short)
    env._check_next = False
    actions = torch.zeros(env.spec.num_agents, 3, env.spec.num_heads, dtype=torch.int64, device="meta")
    for _ in range(6):
        env.step(actions)
    torch._dynamo.reset()
    one, plain = make(env_id, 3, **kwargs), make(env_id, 3, **kwargs)
    traced = torch.compile(one._advance, backend="eager", fullgraph=True, dynamic=False)
    actions = torch.zeros(actions.shape, dtype=torch.int64)
    for mine, theirs in zip(traced(actions)[:2], plain._advance(actions)[:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_actions_out_of_range_are_named() -> None:
    env = make(ID, 3, message_length=2, noise=0.5, delay=1)
    good = torch.zeros(2, 3, 2, dtype=torch.int64)
    env.step(good)
    before = env.world.facts["under_way"].clone()
    for bad in (-1, 3):  # 3 stands for nothing on the channel: nobody may say it
        actions = good.clone()
        actions[0, 1, 1] = bad
        with pytest.raises(UserError, match=rf"agent 'speaker_0', head 'message_1' .* \[0, 2\], got {bad}"):
            env.step(actions)
    assert torch.equal(env.world.facts["under_way"], before)


# ------------------------------------------------------------------ who is told what
def test_who_knows_whose_goal() -> None:
    two_three = Variant(num_speakers=2, num_listeners=3)
    assert [two_three.listeners_of(speaker) for speaker in range(2)] == [[0, 2], [1]]
    three_two = Variant(num_speakers=3, num_listeners=2)
    assert [three_two.listeners_of(speaker) for speaker in range(3)] == [[0], [1], [0]]
    assert three_two.speakers_of(0) == [0, 2]


def test_observations_by_hand() -> None:
    """Two speakers, three listeners, four landmarks: goals as one-hots, every listener hears both."""
    env = by_name(num_speakers=2, num_listeners=3, num_landmarks=4, num_symbols=2)
    env.reset(seed=0)
    world = env.unwrapped.world
    world.goals = [3, 0, 1]
    observed = env.step({"speaker_0": 1, "speaker_1": 0, **{f"listener_{i}": 0 for i in range(3)}})[0]
    assert observed["speaker_0"].tolist() == [0, 0, 0, 1, 0, 1, 0, 0]
    assert observed["speaker_1"].tolist() == [1, 0, 0, 0]
    for index in range(3):
        own = observed[f"listener_{index}"]
        assert own.shape == (2 + 8 + 4,) and own[10:].tolist() == [0, 1, 1, 0]
        to_third = world.landmarks[3].state.p_pos - world.listeners[index].state.p_pos
        np.testing.assert_allclose(own[8:10], to_third, rtol=1e-6)
    assert [agent.name for agent in world.agents] == env.possible_agents
    routes = describe(ID, env).routes
    assert [(r.sender, r.receiver, r.start, r.meaning) for r in routes] == [
        (0, 2, 10, (0, 4)),
        (0, 3, 10, None),
        (0, 4, 10, (4, 4)),
        (1, 2, 12, None),
        (1, 3, 12, (0, 4)),
        (1, 4, 12, None),
    ]


def test_reward_is_the_mean_over_listeners() -> None:
    env = by_name(num_listeners=2)
    env.reset(seed=0)
    world = env.unwrapped.world
    for listener, place in zip(world.listeners, ([0.0, 0.0], [1.0, 0.0]), strict=True):
        listener.state.p_pos = np.array(place)
    for landmark in world.landmarks:
        landmark.state.p_pos = np.array([0.0, 2.0])
    rewards = env.step({"speaker_0": 0, "listener_0": 0, "listener_1": 0})[1]
    assert set(rewards.values()) == {-(4.0 + 5.0) / 2}


def test_goals_are_uniform() -> None:
    goals = make(ID, 20_000, num_listeners=2, num_landmarks=5).world.facts["goal"]
    for row in goals:
        assert stats.chisquare(torch.bincount(row, minlength=5).numpy()).pvalue > 1e-4
    joint = torch.bincount(goals[0] * 5 + goals[1], minlength=25)
    assert stats.chisquare(joint.numpy()).pvalue > 1e-4


def test_places_are_uniform_and_independent_of_goals() -> None:
    world = make(ID, 6000, num_speakers=2, num_listeners=2, num_landmarks=4).world
    places = world.pos.reshape(-1, 6000).numpy()
    for coordinate in places:
        assert stats.kstest(coordinate, stats.uniform(-1, 2).cdf).pvalue > 1e-4
        for goal in world.facts["goal"].numpy():
            groups = [coordinate[goal == value] for value in range(4)]
            assert stats.kruskal(*groups).pvalue > 1e-4
    correlation = np.corrcoef(places) - np.eye(len(places))
    assert np.abs(correlation).max() < 5 / 6000**0.5


# ------------------------------------------------------------------ bad arguments
@pytest.mark.parametrize("build", [make_scenario, parallel_env])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_speakers": 0}, "num_speakers must be an integer of at least 1, got 0"),
        ({"num_listeners": 1.5}, "num_listeners must be an integer of at least 1, got 1.5"),
        ({"num_landmarks": True}, "num_landmarks must be an integer of at least 1, got True"),
        ({"num_symbols": -1}, "num_symbols must be an integer of at least 1, got -1"),
        ({"message_length": "2"}, "message_length must be an integer of at least 1, got '2'"),
        ({"noise": 1.1}, r"noise must be a number in \[0, 1\], got 1.1"),
        ({"noise": float("nan")}, r"noise must be a number in \[0, 1\], got nan"),
        ({"erasure": -0.1}, r"erasure must be a number in \[0, 1\], got -0.1"),
        ({"erasure": None}, r"erasure must be a number in \[0, 1\], got None"),
        ({"delay": 25}, r"delay must be an integer in \[0, 24\], got 25"),
        ({"delay": 3, "max_cycles": 3}, r"delay must be an integer in \[0, 2\], got 3"),
        ({"max_cycles": 0}, "max_cycles must be an integer of at least 1, got 0"),
        ({"message_cost": -1.0, "silence": True}, "message_cost must be a number of at least 0, got -1.0"),
        ({"message_cost": float("inf"), "silence": True}, "message_cost must be a number of at least 0, got inf"),
        ({"message_cost": 0.1}, "message_cost=0.1 needs silence=True"),
        ({"silence": 1}, "silence must be true or false, got 1"),
        ({"noise": 0.1, "num_symbols": 1}, "noise=0.1 needs at least two symbols"),
        ({"num_symbols": 17, "message_length": 3}, r"at most 4096, got 17 symbols .* in 3 places"),
        ({"num_landmark": 4}, "no argument 'num_landmark'.*Did you mean 'num_landmarks'"),
        ({"attributes": [3, 1]}, r"attributes must be a list of the numbers of values.*got \[3, 1\]"),
        ({"attributes": 3}, "attributes must be a list of the numbers of values.*got 3"),
        ({"attributes": [40, 40]}, "at most 1024 combinations, got 1600"),
        ({"attributes": [3, 3], "num_listeners": 2}, r"attributes=\[3, 3\] need num_listeners=1, got 2"),
        ({"attributes": [2, 2], "held_out": 2}, r"num_landmarks must be an integer in \[1, 2\], got 3"),
        ({"attributes": [2, 2], "held_out": 3, "num_landmarks": 1}, "leaves a value of attribute 0 without"),
        ({"held_out": 1}, "held_out=1 needs attributes"),
        ({"attributes": [3, 3], "held_out": -1}, "held_out must be an integer of at least 0, got -1"),
        ({"attributes": [3, 3], "goals": "held_out"}, "goals=held_out needs held_out of at least 1"),
        ({"attributes": [3, 3], "goals": "test"}, "goals must be one of training, held_out, got 'test'"),
    ],
)
def test_bad_arguments(build: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(ID, **kwargs)


def test_another_environment_is_refused() -> None:
    with pytest.raises(UserError, match="expected an environment speaker_listener_variant_v0, got mpe2"):
        describe(ID, simple_speaker_listener_v4.parallel_env())
    with pytest.raises(UserError, match=r"routes|listener_0"):
        make(ID, 1).load_pettingzoo(0, parallel_env(ID, num_symbols=4))
