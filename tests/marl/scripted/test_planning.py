"""Plans against exhaustive search, the coasting rule against its words, the joint model against mpe2."""

import itertools

import numpy as np
import pytest

from envs.mpe import catalogue
from marl.play.rollout import play
from marl.scripted.cooperative import first_move, geometric_median
from marl.scripted.planning import (
    GLIDE,
    MOVES,
    coast,
    distance,
    mean_distance,
    plan,
    squared_distance,
    step,
)
from marl.scripted.spread import Model, SpreadOracle, assignments, coasting_push, joint_plan, match, world

RNG = np.random.default_rng(7)


def cost_of(position, velocity, moves, cost):
    """Sum of costs of the positions after each of `moves`, one step at a time."""
    total = 0.0
    for move in moves:
        position, velocity = step(position, velocity, MOVES[move])
        total += cost(position)
    return total


# ------------------------------------------------------------------ one agent
def test_a_push_from_rest_is_seen_two_steps_later_and_carries_a_fifth():
    position, velocity = np.zeros(2), np.zeros(2)
    position, velocity = step(position, velocity, MOVES[2])
    np.testing.assert_array_equal(position, [0, 0])
    np.testing.assert_array_equal(velocity, [0.5, 0])
    position, velocity = step(position, velocity, MOVES[0])
    np.testing.assert_allclose(position, [0.05, 0])
    for _ in range(200):
        position, velocity = step(position, velocity, MOVES[0])
    np.testing.assert_allclose(position, [0.2, 0], atol=1e-12)


def test_step_is_mpe2s_own():
    env = catalogue.parallel_env("simple")
    env.reset(seed=3)
    agent = env.unwrapped.world.agents[0]
    position, velocity = agent.state.p_pos.copy(), agent.state.p_vel.copy()
    for t in range(25):
        move = (3 * t + 1) % 5
        env.step({"agent_0": move})
        position, velocity = step(position, velocity, MOVES[move])
        np.testing.assert_allclose(agent.state.p_pos, position, atol=1e-12)
        np.testing.assert_allclose(agent.state.p_vel, velocity, atol=1e-12)


def test_coasting_rule_is_what_its_words_say():
    """Of the five moves, the one after which an agent that then does nothing ends nearest to the target."""
    for _ in range(20):
        offset, velocity = RNG.uniform(-1, 1, 2), RNG.uniform(-2, 2, 2)
        rests = []
        for move in range(5):
            position, v = step(np.zeros(2), velocity, MOVES[move])
            for _ in range(300):
                position, v = step(position, v, MOVES[0])
            rests.append(np.square(offset - position).sum())
        assert coast(offset, velocity) == int(np.argmin(rests))


def test_coast_stands_still_at_its_target():
    assert coast(np.zeros(2), np.zeros(2)) == 0
    assert coast(GLIDE * np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0


@pytest.mark.parametrize("make_cost", [squared_distance, distance])
def test_a_wide_plan_is_the_optimum(make_cost):
    steps = 6
    position, velocity = RNG.uniform(-1, 1, (4, 2)), RNG.uniform(-1, 1, (4, 2))
    target = RNG.uniform(-0.3, 0.3, (4, 2))
    moves, result = plan(position, velocity, make_cost(target), target, steps, width=5**steps)
    for r in range(4):
        cost = make_cost(target[r : r + 1])

        def single(p, cost=cost):
            return cost(p[None, None])[0, 0]

        # the last move changes nothing: sequences of steps - 1 moves, then one more position
        best = min(
            cost_of(position[r], velocity[r], (*sequence, 0), single)
            for sequence in itertools.product(range(5), repeat=steps - 1)
        )
        assert result[r] == pytest.approx(best, abs=1e-12)
        assert cost_of(position[r], velocity[r], moves[r], single) == pytest.approx(best, abs=1e-12)


def test_a_narrow_plan_is_near_the_optimum_and_better_than_coasting():
    position, target = RNG.uniform(-1, 1, (50, 2)), RNG.uniform(-1, 1, (50, 2))
    start = np.zeros((50, 2))
    cost = squared_distance(target)
    _, narrow = plan(position, start, cost, target, 25, width=16)
    _, wide = plan(position, start, cost, target, 25, width=256)
    p, v, coasting = position, start, 0.0
    for _ in range(25):
        p, v = step(p, v, MOVES[coast(target - p, v)])
        coasting = coasting + np.square(p - target).sum(-1)
    assert (wide <= narrow + 0.02).all()
    assert narrow.mean() < wide.mean() + 0.01
    assert narrow.mean() < coasting.mean() - 0.15
    assert (narrow <= coasting + 1e-9).mean() > 0.95


def test_mean_distance_and_geometric_median():
    points = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert mean_distance(points)(np.zeros((1, 1, 2)))[0, 0] == pytest.approx(2 / 3)
    centre = geometric_median(points)[0]
    # Fermat's point of this triangle: all three see each other under 120 degrees
    toward = points[0] - centre
    unit = toward / np.sqrt(np.square(toward).sum(-1, keepdims=True))
    np.testing.assert_allclose(unit.sum(0), 0, atol=1e-3)


def test_first_move_hedges_between_the_goals():
    right = np.array([[[1.0, 0.0], [1.0, 0.2], [1.0, -0.2]]])
    assert first_move(right, 25, squared=True)[0] == 2
    around = np.array([[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]])
    assert first_move(around, 25, squared=True)[0] == 0


# ------------------------------------------------------------------ simple_spread
def test_world_reads_the_same_state_from_every_agent():
    env = catalogue.parallel_env("simple_spread")
    observations, _ = env.reset(seed=5)
    truth = [agent.state.p_pos for agent in env.unwrapped.world.agents]
    places = [landmark.state.p_pos for landmark in env.unwrapped.world.landmarks]
    for n, name in enumerate(env.agents):
        agents, landmarks = world(observations[name][None].astype(np.float64), n, 3)
        np.testing.assert_allclose(agents[0], truth, atol=1e-6)
        np.testing.assert_allclose(landmarks[0], places, atol=1e-6)


def test_match_is_the_cheapest_assignment():
    from scipy.optimize import linear_sum_assignment

    agents, landmarks = RNG.uniform(-1, 1, (20, 3, 2)), RNG.uniform(-1, 1, (20, 3, 2))
    goals = match(agents, landmarks, assignments(3))
    for e in range(20):
        apart = np.sqrt(np.square(agents[e][:, None] - landmarks[e]).sum(-1))
        _, columns = linear_sum_assignment(apart)
        np.testing.assert_array_equal(goals[e], landmarks[e][columns])


def test_coasting_push_is_the_coasting_rule():
    goal, position = RNG.uniform(-1, 1, (2, 2, 500)), RNG.uniform(-1, 1, (2, 2, 500))
    velocity = RNG.uniform(-1, 1, (2, 2, 500))
    pushes = coasting_push(goal, position, velocity)
    moves = coast((goal - position).transpose(1, 2, 0), velocity.transpose(1, 2, 0))
    np.testing.assert_array_equal(pushes.transpose(1, 2, 0), MOVES[moves])


def test_the_joint_model_is_mpe2s_even_where_agents_overlap():
    env = catalogue.parallel_env("simple_spread")
    model = Model(3)
    for seed in range(30):
        env.reset(seed=seed)
        raw = env.unwrapped.world
        start = np.array([agent.state.p_pos for agent in raw.agents]).T[:, :, None]
        places = np.array([landmark.state.p_pos for landmark in raw.landmarks]).T[:, :, None]
        moves = np.random.default_rng(seed).integers(0, 5, (3, 25, 1))
        paid = 0.0
        for t in range(25):
            _, rewards, *_ = env.step({f"agent_{n}": int(moves[n, t, 0]) for n in range(3)})
            paid += np.mean([rewards[f"agent_{n}"] for n in range(3)])
        assert model.play(start, moves, places)[0] == pytest.approx(paid, abs=1e-8)


def test_the_joint_plan_earns_in_mpe2_what_the_model_foresees_and_wider_is_better():
    spec = catalogue.describe("simple_spread", catalogue.parallel_env("simple_spread"))
    played = play("simple_spread", SpreadOracle(spec), 12, 0, record=True)
    agents, landmarks = world(played.obs["agent_0"][0].astype(np.float64), 0, 3)
    moves, foreseen = joint_plan(agents, landmarks, 25)
    np.testing.assert_allclose(played.returns.mean(1), foreseen, atol=1e-3)
    np.testing.assert_array_equal(played.actions[:, :, :, 0].transpose(1, 2, 0), moves)
    _, hasty = joint_plan(agents, landmarks, 25, width=1, rounds=0)
    assert foreseen.mean() > hasty.mean() + 0.1


def test_a_joint_plan_of_one_agent_is_near_the_single_plan():
    agents, landmarks = RNG.uniform(-1, 1, (10, 1, 2)), RNG.uniform(-1, 1, (10, 1, 2))
    _, value = joint_plan(agents, landmarks, 25)
    _, cost = plan(agents[:, 0], np.zeros((10, 2)), distance(landmarks[:, 0]), landmarks[:, 0], 25, width=256)
    assert -2 * value.mean() == pytest.approx(cost.mean(), rel=0.01)
