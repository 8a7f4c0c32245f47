"""Every scripted policy: held to its number, to the observations that it may use, and to its name."""

import copy

import numpy as np
import pytest

from envs.mpe import catalogue
from marl.errors import UserError
from marl.evaluate.anchors import sides
from marl.play.rollout import Mixed, play
from marl.scripted.base import NoOp, Random, Script
from marl.scripted.by_name import ANYWHERE, TABLE, names, plays, scripted
from marl.scripted.measured import MEASURED
from marl.stats import mean_and_se

# (script, or one for each side; episodes here; what the number may miss beside chance)
QUICK = [
    ("simple", "coast", 150),
    ("simple", "oracle", 150),
    ("simple_speaker_listener", "coast", 150),
    ("simple_speaker_listener", "silent", 100),
    ("simple_speaker_listener", "oracle", 60),
    ("simple_reference", "coast", 100),
    ("simple_reference", "silent", 60),
    ("simple_reference", "oracle", 40),
    ("simple_spread", "coast", 60),
    ("simple_spread", "oracle", 32),
    ("simple_line", "coast", 50),
    ("simple_line", "oracle", 32),
    ("simple_formation", "coast", 50),
    ("simple_formation", "oracle", 32),
    ("simple_crypto", "plain", 60),
    ("simple_crypto", "oracle", 60),
    ("collect_treasure", "best", 16),
    ("simple_adversary", "midpoint+planned", 60),
    ("simple_adversary", "follow+cover", 60),
    ("simple_adversary", "omniscient+direct", 60),
    ("simple_adversary", "midpoint_reflex+direct_reflex", 60),
    ("simple_adversary", "follow_reflex+cover_reflex", 60),
    ("simple_push", "guess+planned", 60),
    ("simple_push", "block+direct", 60),
    ("simple_tag", "surround+flee", 50),
    ("simple_world_comm", "hunt+feed", 10),
]
ALL = [(env, name) for env, scripts in MEASURED.items() for name in scripts]


def spec_of(env, **args):
    return catalogue.describe(env, catalogue.parallel_env(env, **args))


def check(env, name, episodes, seed):
    """Within three standard errors, of this play and of the number itself, and a hundredth."""
    spec = spec_of(env)
    returns = play(env, scripted(env, name, spec=spec), episodes, seed, spec=spec).returns
    for side, agents in sides(spec).items():
        number, number_se = MEASURED[spec.id][name][side]
        mean, error = mean_and_se(returns[:, [spec.agent_names.index(agent) for agent in agents]].mean(1))
        allowed = 3 * np.hypot(error, number_se) + 0.01
        assert abs(mean - number) <= allowed, f"{side}: {mean:.3f} ± {error:.3f}, expected {number} ± {number_se}"


@pytest.mark.parametrize(("env", "name", "episodes"), QUICK)
def test_scripts_earn_their_number(env, name, episodes):
    check(env, name, episodes, seed=7_000_000)


@pytest.mark.slow
@pytest.mark.parametrize(("env", "name"), ALL)
def test_scripts_earn_their_number_in_many_episodes(env, name):
    check(env, name, 1000, seed=8_000_000)


def test_every_script_has_a_number():
    for env, scripts in TABLE.items():
        measured = {part for name in MEASURED[env] for part in name.split("+")}
        assert set(scripts) | set(ANYWHERE) == measured


# ------------------------------------------------------------------ who sees what
def recorded(env, script):
    """A player of all agents with `script` among them, and what they all saw in three episodes."""
    spec = spec_of(env)
    own = scripted(env, script, spec=spec)
    mine = plays(env, script, spec)
    player = Mixed({name: own if name in mine else Random(spec, seed=1) for name in spec.agent_names})
    return spec, mine, play(env, player, 3, 11, record=True, batch=3, spec=spec)


@pytest.mark.parametrize(("env", "script"), [(env, name) for env, scripts in TABLE.items() for name in scripts])
def test_decentralised_scripts_use_nothing_but_each_agents_own_observations(env, script):
    spec, mine, played = recorded(env, script)
    fresh = TABLE[env][script].script
    rng = np.random.default_rng(0)
    same = True
    for agent in mine:
        player = fresh(spec)
        player.reset(3)
        column = spec.agent_names.index(agent)
        for t in range(25):
            seen = {
                name: obs[t] if name == agent else rng.normal(size=obs[t].shape).astype(np.float32)
                for name, obs in played.obs.items()
            }
            heads = spec.agents[column].heads
            ids, action = player.act(seen)[agent], 0
            for h in reversed(range(len(heads))):
                action = action * heads[h].size + played.actions[t, :, column, h]
            same = same and bool((ids == action).all())
    assert same == fresh.decentralised


@pytest.mark.parametrize(("env", "script"), [(env, name) for env, scripts in TABLE.items() for name in scripts])
def test_probabilities_are_one_hots_of_the_next_action_and_leave_the_memory_alone(env, script):
    spec, _, played = recorded(env, script)
    player = TABLE[env][script].script(spec)
    player.reset(3)
    for t in range(3):
        seen = {name: obs[t] for name, obs in played.obs.items()}
        first, second = player.probabilities(seen), player.probabilities(seen)
        chosen = player.act(seen)
        assert set(first) == set(chosen)
        for name, chances in first.items():
            assert chances.dtype == np.float64 and chances.shape == (3, spec.num_heads, spec.head_size)
            np.testing.assert_array_equal(chances, second[name])
            agent = spec.agents[spec.agent_names.index(name)]
            rest = chosen[name]
            for h, head in enumerate(agent.heads):
                np.testing.assert_array_equal(chances[:, h], np.eye(spec.head_size)[rest % head.size])
                rest = rest // head.size
            assert not chances[:, len(agent.heads) :].any()


@pytest.mark.parametrize(("env", "script"), [(env, name) for env, scripts in TABLE.items() for name in scripts])
def test_actions_are_integers_in_range_and_the_same_again_after_a_reset(env, script):
    spec, mine, played = recorded(env, script)
    player = TABLE[env][script].script(spec)
    runs = []
    for _ in range(2):
        player.reset(3)
        run = [copy.deepcopy(player.act({name: obs[t] for name, obs in played.obs.items()})) for t in range(25)]
        runs.append(run)
    for first, second in zip(*runs, strict=True):
        assert sorted(first) == sorted(mine)
        for name, ids in first.items():
            assert ids.dtype == np.int64 and ids.shape == (3,)
            assert (ids >= 0).all() and (ids < spec.agents[spec.agent_names.index(name)].num_actions).all()
            np.testing.assert_array_equal(ids, second[name])


@pytest.mark.parametrize(
    ("env", "script", "args"),
    [
        ("simple", "oracle", {"max_cycles": 4}),
        ("simple_reference", "oracle", {"max_cycles": 1}),
        ("simple_speaker_listener", "silent", {"max_cycles": 40}),
        ("simple_spread", "oracle", {"N": 2, "max_cycles": 6}),
        ("simple_spread", "coast", {"N": 4}),
        ("simple_line", "oracle", {"N": 3, "max_cycles": 5}),
        ("simple_adversary", "follow+cover", {"N": 3}),
        ("simple_tag", "surround+flee", {"num_good": 2, "num_adversaries": 2}),
        ("simple_world_comm", "hunt+feed", {"num_good": 1, "num_adversaries": 3, "max_cycles": 9}),
        ("collect_treasure", "best", {"num_collectors": 4, "num_treasures": 3, "max_cycles": 8}),
        ("collect_treasure", "greedy", {"num_deposits": 3, "max_cycles": 8}),
    ],
)
def test_other_sizes_and_lengths(env, script, args):
    spec = spec_of(env, **args)
    for known in (None, args):
        player = scripted(env, script, spec=spec, env_args=known)
        assert np.isfinite(play(env, player, 2, 0, env_args=args, spec=spec).returns).all()


@pytest.mark.parametrize(
    ("env", "script", "args", "says"),
    [
        ("simple_tag", "chase", {"num_obstacles": 1}, "num_obstacles=2.*, and got num_obstacles=1"),
        ("simple_tag", "surround+flee", {"num_agent_neighbors": 2}, "'surround' .* got num_agent_neighbors=2"),
        ("simple_tag", "flee", {"num_landmark_neighbors": 1}, "got num_landmark_neighbors=1"),
        ("simple_world_comm", "feed", {"num_food": 1}, "got num_food=1"),
        ("simple_world_comm", "hunt", {"num_forests": 0}, "got num_forests=0"),
        ("simple_spread", "fixed", {"num_landmark_neighbors": 1}, "got num_landmark_neighbors=1"),
        ("simple_spread", "oracle", {"num_agent_neighbors": 1, "N": 4}, "got num_agent_neighbors=1"),
        ("simple_adversary", "follow+cover", {"num_landmark_neighbors": 1}, "'follow' .* got num_landmark_neighbors=1"),
        ("simple_adversary", "omniscient", {"num_agent_neighbors": 1}, "got num_agent_neighbors=1"),
    ],
)
def test_what_a_script_cannot_read_is_refused(env, script, args, says):
    """By the arguments, and by the spec alone. Guard: seen failing with each of them played, in the dark."""
    spec = spec_of(env, **args)
    with pytest.raises(UserError, match=says):
        scripted(env, script, spec=spec, env_args=args)
    with pytest.raises(UserError, match=r"got observations of widths \[.*expected \[.*or take random or noop"):
        scripted(env, script, spec=spec)
    assert scripted(env, "random", spec=spec, env_args=args)


def test_arguments_tell_what_widths_do_not():
    """An obstacle more and a food less look alike, as do two neighbours of two in another order."""
    args = {"num_obstacles": 2, "num_food": 1}
    spec = spec_of("simple_world_comm", **args)
    assert [agent.obs_size for agent in spec.agents] == [
        agent.obs_size for agent in spec_of("simple_world_comm").agents
    ]
    with pytest.raises(UserError, match="got num_obstacles=2, num_food=1"):
        scripted("simple_world_comm", "flee", spec=spec, env_args=args)
    with pytest.raises(UserError, match="got num_agent_neighbors=2"):
        scripted("simple_spread", "oracle", env_args={"num_agent_neighbors": 2})


@pytest.mark.parametrize(
    ("env", "script", "args"),
    [
        ("simple_adversary", "direct", {"num_agent_neighbors": 1, "num_landmark_neighbors": 1}),
        ("simple_spread", "fixed", {"num_agent_neighbors": 1}),
        ("simple_world_comm", "feed", {"num_forests": 1}),
        ("simple_tag", "chase", {"num_obstacles": 2, "max_cycles": 3, "num_agent_neighbors": None}),
    ],
)
def test_arguments_that_change_nothing_for_a_script_are_taken(env, script, args):
    assert scripted(env, script, spec=spec_of(env, **args), env_args=args)


def test_too_many_agents_for_all_assignments():
    with pytest.raises(UserError, match="up to 5 agents, got 6"):
        scripted("simple_spread", "oracle", spec=spec_of("simple_spread", N=6))


# ------------------------------------------------------------------ random and no-op
def test_random_is_uniform_over_every_head_and_a_function_of_its_seed():
    spec = spec_of("simple_reference")
    player = Random(spec, seed=3)
    player.reset(20_000)
    seen = {agent.name: np.zeros((20_000, agent.obs_size), np.float32) for agent in spec.agents}
    drawn = player.act(seen)
    for name in spec.agent_names:
        counts = np.bincount(drawn[name], minlength=50)
        assert np.abs(counts - 400).max() < 5 * 20  # standard deviation 20
    again = Random(spec, seed=3)
    again.reset(20_000)
    np.testing.assert_array_equal(again.act(seen)["agent_1"], drawn["agent_1"])
    assert (Random(spec, seed=4).act(seen)["agent_1"] != drawn["agent_1"]).any()
    chances = player.probabilities(seen)["agent_0"]
    np.testing.assert_allclose(chances[0], [[0.2] * 5 + [0] * 5, [0.1] * 10])


def test_random_and_noop_obey_masks():
    spec = spec_of("simple_spread")
    mask = np.zeros((500, 1, 5), dtype=bool)
    mask[:, 0, [2, 4]] = True
    masks = dict.fromkeys(spec.agent_names, mask)
    seen = {agent.name: np.zeros((500, agent.obs_size), np.float32) for agent in spec.agents}
    random = Random(spec)
    assert set(np.unique(random.act(seen, masks)["agent_1"])) == {2, 4}
    np.testing.assert_allclose(random.probabilities(seen, masks)["agent_1"][0], [[0, 0, 0.5, 0, 0.5]])
    assert set(np.unique(NoOp(spec).act(seen, masks)["agent_1"])) == {2}


# ------------------------------------------------------------------ by name
def test_two_scripts_play_both_sides_and_random_what_is_left():
    spec = spec_of("simple_tag")
    both = scripted("simple_tag", "chase+flee", spec=spec)
    assert {name: type(player).__name__ for name, player in both.players.items()} == {
        "adversary_0": "Chase",
        "adversary_1": "Chase",
        "adversary_2": "Chase",
        "agent_0": "Flee",
    }
    left = scripted("simple_tag_v3", "random + flee", spec=spec)
    assert type(left.players["adversary_1"]) is Random and type(left.players["agent_0"]).__name__ == "Flee"
    assert plays("simple_tag", "chase", spec) == ["adversary_0", "adversary_1", "adversary_2"]
    assert plays("simple_tag", "chase+flee", spec) == list(spec.agent_names)


@pytest.mark.parametrize(
    ("env", "name", "says"),
    [
        ("simple_spread", "orcale", "'orcale'.*Did you mean 'oracle'.*fixed, coast, oracle, random, noop"),
        ("simple_spread", "chase", "no scripted policy 'chase'"),
        ("simple_tag", "chase+surround", "already"),
        ("simple_tag", "chase+random+noop", "already"),
        ("simple_spraed", "random", "simple_spread"),
    ],
)
def test_names_that_are_none(env, name, says):
    with pytest.raises(UserError, match=says):
        scripted(env, name)


def test_every_script_says_what_it_does():
    for env in TABLE:
        for name, entry in names(env).items():
            assert len(entry.rule) > 20 and "\n" not in entry.rule, (env, name)
            assert issubclass(entry.script, Script)
