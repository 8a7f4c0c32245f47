"""The rollout against plain PettingZoo loops, and what a player sees and may do."""

import numpy as np
import pytest
import strange_envs
from gymnasium import spaces
from pettingzoo import ParallelEnv

from envs.batched import encode_actions
from envs.mpe import catalogue
from envs.pettingzoo.construct import parallel_env
from envs.pettingzoo.describe import describe
from envs.pettingzoo.env import PettingZooEnv
from marl.errors import RunFailed, UserError
from marl.play.rollout import Mixed, play
from marl.scripted.base import NoOp, Random


class Reactive:
    """A deterministic function of the observations and of the time since reset."""

    def __init__(self, spec):
        self.spec = spec
        self.resets = []

    def reset(self, num_envs):
        self.resets.append(num_envs)
        self.t = 0

    def act(self, observations, masks=None):
        self.t += 1
        assert all(obs.dtype == np.float32 for obs in observations.values())
        return {
            agent.name: (np.abs(observations[agent.name]).sum(1) * 97 + self.t).astype(np.int64) % agent.num_actions
            for agent in self.spec.agents
        }


def by_hand(name, player, episodes, seed, **env_args):
    """Returns [episodes, N] and lengths of a plain PettingZoo loop, one environment, one episode after another."""
    env = catalogue.parallel_env(name, **env_args)
    returns, lengths = np.zeros((episodes, len(env.possible_agents))), np.zeros(episodes, dtype=int)
    for i in range(episodes):
        observations, _ = env.reset(seed=seed + i)
        player.reset(1)
        while env.agents:
            actions = player.act({agent: obs[None] for agent, obs in observations.items()})
            observations, rewards, *_ = env.step({agent: int(ids[0]) for agent, ids in actions.items()})
            returns[i] += [rewards[agent] for agent in env.possible_agents]
            lengths[i] += 1
    return returns, lengths


@pytest.mark.parametrize("name", ["simple_speaker_listener", *catalogue.MPE_IDS])
def test_returns_equal_those_of_a_plain_loop(name):
    spec = catalogue.describe(name, catalogue.parallel_env(name))
    returns, lengths = by_hand(name, Reactive(spec), 5, 40)
    played = play(name, Reactive(spec), 5, 40, batch=3)
    np.testing.assert_array_equal(played.returns, returns)
    np.testing.assert_array_equal(played.lengths, lengths)
    assert played.returns.dtype == np.float64 and played.lengths.dtype == np.int64
    assert played.obs is None and played.actions is None and played.rewards is None


def test_arguments_reach_the_environment_and_episodes_may_end_early():
    args = {"N": 1, "terminate_on_success": True, "max_cycles": 60}
    spec = catalogue.describe("simple_spread", catalogue.parallel_env("simple_spread", **args))

    class ToLandmark(Reactive):
        def act(self, observations, masks=None):
            gap = observations["agent_0"][:, 4:6] - 0.4 * observations["agent_0"][:, 0:2]
            across = np.abs(gap[:, 0]) > np.abs(gap[:, 1])
            move = np.where(across, np.where(gap[:, 0] > 0, 2, 1), np.where(gap[:, 1] > 0, 4, 3))
            return {"agent_0": move}

    returns, lengths = by_hand("simple_spread", ToLandmark(spec), 6, 0, **args)
    played = play("simple_spread", ToLandmark(spec), 6, 0, env_args=args, record=True)
    np.testing.assert_array_equal(played.returns, returns)
    np.testing.assert_array_equal(played.lengths, lengths)
    assert len(set(lengths)) > 1 and max(lengths) < 60
    for i, length in enumerate(lengths):
        assert np.abs(played.obs["agent_0"][:length, i]).sum(1).min() > 0
        assert not played.obs["agent_0"][length:, i].any()
        assert not played.actions[length:, i].any()
        assert not played.rewards[length:, i].any()


@pytest.mark.parametrize("batch", [1, 3, 7, 32])
def test_the_batch_changes_nothing(batch):
    spec = catalogue.describe("simple_push", catalogue.parallel_env("simple_push"))
    player = Reactive(spec)
    played = play("simple_push", player, 7, 3, batch=batch, spec=spec)
    np.testing.assert_array_equal(played.returns, play("simple_push", Reactive(spec), 7, 3, batch=2).returns)
    sizes = [min(batch, 7 - start) for start in range(0, 7, min(batch, 7))]
    assert player.resets == sizes


def test_the_record_is_what_was_seen_played_and_paid():
    name = "simple_reference"
    spec = catalogue.describe(name, catalogue.parallel_env(name))
    played = play(name, Reactive(spec), 5, 9, record=True, batch=2)
    assert played.actions.shape == (25, 5, 2, 2) and played.actions.dtype == np.int64
    assert {agent: obs.shape for agent, obs in played.obs.items()} == dict.fromkeys(spec.agent_names, (25, 5, 21))
    np.testing.assert_allclose(played.rewards.sum(0), played.returns, rtol=1e-12)
    env = catalogue.parallel_env(name)
    for i in range(5):
        observations, _ = env.reset(seed=9 + i)
        for t in range(25):
            for agent in spec.agent_names:
                np.testing.assert_array_equal(played.obs[agent][t, i], observations[agent])
            heads = played.actions[t, i]
            ids = {agent: int(heads[n, 0] + 5 * heads[n, 1]) for n, agent in enumerate(spec.agent_names)}
            observations, rewards, *_ = env.step(ids)
            np.testing.assert_array_equal(played.rewards[t, i], [rewards[agent] for agent in spec.agent_names])


def test_an_intervention_changes_what_the_player_sees_and_the_record():
    name = "simple_speaker_listener"
    spec = catalogue.describe(name, catalogue.parallel_env(name))
    times = []

    def deafen(t, observations):
        times.append(t)
        listener = observations["listener_0"].copy()
        listener[:, 8:] = 0
        return {**observations, "listener_0": listener}

    deaf = play(name, Reactive(spec), 4, 0, intervene=deafen, record=True, batch=2)
    assert times == [*range(25), *range(25)]
    assert not deaf.obs["listener_0"][:, :, 8:].any()
    hearing = play(name, Reactive(spec), 4, 0, record=True)
    assert hearing.obs["listener_0"][1:, :, 8:].any()
    assert (deaf.returns != hearing.returns).any()


def test_mixed_takes_each_agents_action_from_its_player_and_asks_a_shared_player_once():
    name = "simple_spread"
    spec = catalogue.describe(name, catalogue.parallel_env(name))

    class Counting(NoOp):
        calls = 0

        def act(self, observations, masks=None):
            type(self).calls += 1
            return super().act(observations, masks)

    mixed = Mixed(dict.fromkeys(("agent_0", "agent_2"), Counting(spec)) | {"agent_1": Random(spec, seed=5)})
    played = play(name, mixed, 4, 0, record=True)
    assert not played.actions[:, :, [0, 2]].any()
    assert set(np.unique(played.actions[:, :, 1])) == {0, 1, 2, 3, 4}
    assert Counting.calls == 25
    chances = mixed.probabilities({agent: obs[0] for agent, obs in played.obs.items()})
    np.testing.assert_array_equal(chances["agent_2"][:, 0], np.tile([1.0, 0, 0, 0, 0], (4, 1)))
    np.testing.assert_allclose(chances["agent_1"], 0.2)


# ------------------------------------------------------------------ environments that are not MPE
class Leavers(ParallelEnv):
    """Three agents; b leaves after `seed % 3 + 1` steps, the episode ends after `length`, or `length + seed % 3` where
    it is `ragged`. The reward is the action's sum."""

    metadata = {"name": "leavers", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, length=4, ragged=False):
        self.ragged = ragged
        self.possible_agents = ["a", "b", "c"]
        self.length = length
        box = spaces.Box(0.0, 2.0**32, (2,), np.float32)
        mask = spaces.Dict({"observation": box, "action_mask": spaces.MultiBinary(4)})
        self.obs_spaces = {"a": mask, "b": mask, "c": spaces.Discrete(5)}
        self.act_spaces = {"a": spaces.Discrete(4), "b": spaces.Discrete(4), "c": spaces.MultiDiscrete([2, 3])}

    def observation_space(self, agent):
        return self.obs_spaces[agent]

    def action_space(self, agent):
        return self.act_spaces[agent]

    def look(self, agent):
        if agent == "c":
            return self.t
        mask = (np.arange(4) <= self.t % 4).astype(np.int8)
        return {"observation": np.array([self.seed, self.t], np.float32), "action_mask": mask}

    def reset(self, seed=None, options=None):
        self.seed, self.t, self.agents = seed or 0, 0, self.possible_agents[:]
        return {agent: self.look(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        acting = self.agents
        assert set(actions) == set(acting)
        for agent in ("a", "b"):
            assert agent not in actions or actions[agent] <= self.t % 4, "a forbidden choice"
        self.t += 1
        observations = {agent: self.look(agent) for agent in acting}
        rewards = {agent: float(np.sum(actions[agent])) for agent in acting}
        gone = {agent: agent == "b" and self.t == self.seed % 3 + 1 for agent in acting}
        cut = dict.fromkeys(acting, self.t >= self.length + self.ragged * (self.seed % 3))
        self.agents = [agent for agent in acting if not (gone[agent] or cut[agent])]
        return observations, rewards, gone, cut, {agent: {} for agent in acting}


class Greatest:
    """The greatest allowed choice of every head."""

    def reset(self, num_envs):
        self.saw = []

    def act(self, observations, masks=None):
        self.saw.append({agent: obs.copy() for agent, obs in observations.items()})
        top = {agent: mask.shape[-1] - 1 - mask[:, 0, ::-1].argmax(-1) for agent, mask in masks.items()}
        return {"a": top["a"], "b": top["b"], "c": np.tile([1, 2], (len(top["a"]), 1))}


@pytest.mark.parametrize("batch", [2, 5])
def test_agents_that_leave_masks_and_several_heads(batch):
    player = Greatest()
    played = play("leavers", player, 5, 10, make=Leavers, env_args={"length": 3}, batch=batch, record=True)
    # the greatest allowed choices are 0, 1, 2; b plays (seed % 3) + 1 of them; c is paid 3 a step
    leaves = [(10 + i) % 3 + 1 for i in range(5)]
    np.testing.assert_array_equal(played.returns[:, 0], 0 + 1 + 2)
    np.testing.assert_array_equal(played.returns[:, 1], [sum(range(n)) for n in leaves])
    np.testing.assert_array_equal(played.returns[:, 2], 9)
    np.testing.assert_array_equal(played.lengths, 3)
    np.testing.assert_array_equal(played.obs["a"][:, :, 0], np.tile(np.arange(10, 15), (3, 1)))
    assert played.obs["c"].shape == (3, 5, 5)  # a one-hot of Discrete(5)
    for i, steps in enumerate(leaves):
        assert not played.obs["b"][steps:, i].any()
        assert played.present[:, i, 1].tolist() == [t < steps for t in range(3)] and played.present[:, i, 0].all()
    np.testing.assert_array_equal(played.actions[:, :, 2], np.tile([1, 2], (3, 5, 1)))


def test_masks_beside_continuous_actions():
    """Guard: seen failing where the rows of a short last batch were filled with choices instead of one-hots."""
    make = strange_envs.MaskBesideBox
    spec = PettingZooEnv(make=make).spec
    assert spec.has_masks and spec.continuous
    played = play("beside", Random(spec), 3, 0, make=make, batch=2, record=True)
    np.testing.assert_array_equal(played.lengths, [5, 5, 5])
    numbers = played.rows.reshape(5, 3, 2, -1)[:, :, 1, :2]  # in the bounds of the environment already
    np.testing.assert_allclose(played.rewards[:, :, 1], numbers.sum(-1), atol=1e-6)


def test_a_noop_obeys_masks_beside_continuous_actions():
    """Guard: seen failing where one continuous head made it choose 0 whatever is forbidden."""
    make = strange_envs.MaskBesideBox
    spec = PettingZooEnv(make=make).spec
    one, two = (play("beside", NoOp(spec), 3, 0, make=make, batch=batch, record=True) for batch in (1, 2))
    np.testing.assert_array_equal(one.actions, two.actions)
    assert set(np.unique(one.actions[:, :, 0])) == {0, 1}, "the first that is allowed"
    assert not one.rewards[:, :, 1].any(), "the middle of both numbers"


def test_what_is_played_after_an_episodes_end_does_not_count():
    played = play(
        "leavers", Greatest(), 5, 0, make=Leavers, env_args={"length": 2, "ragged": True}, batch=3, record=True
    )
    np.testing.assert_array_equal(played.lengths, [2, 3, 4, 2, 3])
    np.testing.assert_array_equal(played.returns[:, 2], 3 * played.lengths)
    np.testing.assert_array_equal(played.rewards.sum(0), played.returns)
    assert played.rewards.shape == (4, 5, 3)
    for i, length in enumerate(played.lengths):
        assert not played.rewards[length:, i].any() and not played.actions[length:, i].any()


def test_any_environment_by_name_and_the_generic_path_equal_the_fast_one():
    spec = catalogue.describe("simple_spread", catalogue.parallel_env("simple_spread"))
    fast = play("simple_spread", Reactive(spec), 5, 2, record=True)
    named = play("mpe2.simple_spread_v3:parallel_env", Reactive(spec), 5, 2, record=True, batch=2)
    np.testing.assert_array_equal(named.returns, fast.returns)
    np.testing.assert_array_equal(named.actions, fast.actions)
    for agent in spec.agent_names:
        np.testing.assert_array_equal(named.obs[agent], fast.obs[agent])


def test_the_torch_backend_on_request():
    spec = catalogue.describe("simple_spread", catalogue.parallel_env("simple_spread"))
    played = play("simple_spread", NoOp(spec), 6, 0, backend="torch", batch=4, record=True)
    assert played.returns.shape == (6, 3) and (played.returns < 0).all()
    np.testing.assert_array_equal(played.lengths, 25)
    np.testing.assert_allclose(played.rewards.sum(0), played.returns)
    again = play("simple_spread", NoOp(spec), 6, 0, backend="torch", batch=4)
    np.testing.assert_array_equal(played.returns, again.returns)


# ------------------------------------------------------------------ faults
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"env_id": "simple_spraed"}, "simple_spread"),
        ({"env_args": {"n": 2}}, "no argument 'n'"),
        ({"backend": "jax"}, "'jax'"),
        ({"episodes": 0}, "got 0"),
        ({"batch": 0}, "got 1 and 0"),
        ({"backend": "torch", "make": Leavers}, "'torch'"),
    ],
)
def test_bad_input(arguments, says):
    spec = catalogue.describe("simple", catalogue.parallel_env("simple"))
    arguments = {"env_id": "simple", "episodes": 1, "seed": 0} | arguments
    with pytest.raises(UserError, match=says):
        play(player=NoOp(spec), **arguments)


def test_rewards_that_are_not_finite_end_the_run(monkeypatch):
    """Two agents on one point: mpe2 divides by their distance."""
    from mpe2.simple_spread.simple_spread import Scenario

    def together(self, world, np_random):
        for entity in world.entities:
            entity.state.p_pos, entity.state.p_vel, entity.color = np.zeros(2), np.zeros(2), np.zeros(3)
        for agent in world.agents:
            agent.state.c = np.zeros(2)

    monkeypatch.setattr(Scenario, "reset_world", together)
    spec = catalogue.describe("simple_spread", catalogue.parallel_env("simple_spread"))
    with np.errstate(all="ignore"), pytest.raises(RunFailed, match=r"'agent_0' a return of nan.*seed 7"):
        play("simple_spread", NoOp(spec), 2, 7)


def test_encoding_of_the_record_is_the_envs_own():
    spec = catalogue.describe("simple_world_comm", catalogue.parallel_env("simple_world_comm"))
    played = play("simple_world_comm", Reactive(spec), 1, 0, record=True)
    ids = {name: Reactive(spec) for name in spec.agent_names}
    player = Reactive(spec)
    player.reset(1)
    ids = player.act({name: obs[0] for name, obs in played.obs.items()})
    np.testing.assert_array_equal(played.actions[0, 0], encode_actions(spec, ids)[:, 0].numpy())


def test_a_short_last_batch_plays_no_forbidden_action() -> None:
    """The rows that fill it up go on with episodes of their own, whose masks are not those of the last row."""
    env_id = "examples.own_environment:make"
    episodes = play(env_id, Random(describe(env_id, parallel_env(env_id))), 40, 0, batch=32)
    assert len(episodes.lengths) == 40
