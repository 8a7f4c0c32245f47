"""Physics, geometry and rewards against cases worked by hand and slow references."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import envs
from envs.mpe import MPE, make
from envs.mpe.assignment import Assignment
from envs.mpe.core import Body, Physics, World, contiguous_range, length, less, squared_length
from envs.mpe.neighbors import nearest
from envs.mpe.tasks.simple_tag import outside

F64 = torch.float64
RIGHT = 2


def one(mpe_id: str, positions: list[list[float]], **kwargs: object) -> MPE:
    """One environment with every body at the given place, at rest."""
    env = make(mpe_id, 1, dtype=F64, **kwargs)
    env.world.pos[..., 0] = torch.tensor(positions, dtype=F64)
    return env


def moves(env: MPE, *choices: int) -> torch.Tensor:
    actions = torch.zeros(env.spec.num_agents, 1, env.spec.num_heads, dtype=torch.int64)
    actions[:, 0, 0] = torch.tensor(choices)
    return actions


def test_a_push_moves_one_step_later() -> None:
    env = one("simple", [[0.0, 0.0], [1.0, 0.0]])
    step = env.step(moves(env, RIGHT))
    assert step.obs[0, 0].tolist() == pytest.approx([0.5, 0.0, 1.0, 0.0])  # velocity 5 * .1; not moved yet
    assert float(step.reward) == pytest.approx(-1.0)  # the first reward cannot depend on the first action
    step = env.step(moves(env, 0))
    assert step.obs[0, 0].tolist() == pytest.approx([0.375, 0.0, 0.95, 0.0])  # old velocity * .1; three quarters left
    for _ in range(20):
        step = env.step(moves(env, 0))
    assert float(step.obs[0, 0, 2]) == pytest.approx(1 - 0.2, abs=1e-3)  # it coasts .2 in all


@pytest.mark.parametrize(("move", "direction"), [(0, (0, 0)), (1, (-1, 0)), (2, (1, 0)), (3, (0, -1)), (4, (0, 1))])
def test_directions(move: int, direction: tuple[int, int]) -> None:
    env = one("simple", [[0.0, 0.0], [1.0, 0.0]])
    assert env.step(moves(env, move)).obs[0, 0, :2].tolist() == [0.5 * d for d in direction]


def test_contact_by_hand() -> None:
    # two agents of radius .15 at distance .2: depth .1, force 10, velocity 1 in a step, apart along x
    env = one("simple_spread", [[-0.1, 0.0], [0.1, 0.0], [0.9, 0.9], [0, 0.5], [0, 0.6], [0, 0.7]])
    env.step(moves(env, 0, 0, 0))
    assert env.world.vel[:, 0, 0].tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-9)
    # at the very reach the soft contact is k log 2
    env = one("simple_spread", [[-0.15, 0.0], [0.15, 0.0], [0.9, 0.9], [0, 0.5], [0, 0.6], [0, 0.7]])
    env.step(moves(env, 0, 0, 0))
    assert float(env.world.vel[1, 0, 0]) == pytest.approx(100 * 1e-3 * math.log(2) * 0.1, abs=1e-9)


def test_contact_with_an_obstacle_moves_only_the_agent() -> None:
    bodies = [[0.2, 0.0], [0.9, 0.9], [0.9, -0.9], [-0.9, 0.9], [0.0, 0.0], [-0.9, -0.9]]
    env = one("simple_tag", bodies)
    env.step(moves(env, 0, 0, 0, 0))
    # depth .2 + .075 - .2 = .075, force 7.5, velocity .75, below the limit of 1
    assert env.world.vel[0, :, 0].tolist() == pytest.approx([0.75, 0.0], abs=1e-9)
    assert env.world.pos[4, :, 0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bodies_at_the_same_place_do_not_make_nan(dtype: torch.dtype) -> None:
    env = make("simple_spread", 4, dtype=dtype)
    env.world.pos[1] = env.world.pos[0]
    for move in (0, 1, 2, 0):
        step = env.step(torch.full((3, 4, 1), move))
        assert bool(torch.isfinite(step.obs).all()) and bool(torch.isfinite(step.reward).all())
    # exactly together: no direction, no force; both moved alike, so they still are together
    assert torch.equal(env.world.pos[0], env.world.pos[1])


def test_speed_limit() -> None:
    env = one("simple_tag", [[0.9, 0.9], [-0.9, 0.9], [0.9, -0.9], [-0.9, -0.9], [9.0, 9.0], [-9.0, 9.0]])
    for _ in range(20):
        env.step(moves(env, 1, 1, 1, 2))
    speed = length(env.world.vel)[:, 0]
    assert speed.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.3])
    env.world.vel[:, :, 0] = torch.tensor([[3.0, 4.0]] * 4, dtype=F64)  # far too fast, aslant: the direction stays
    env.step(moves(env, 0, 0, 0, 0))
    assert env.world.vel[0, :, 0].tolist() == pytest.approx([0.6, 0.8])
    assert env.world.vel[3, :, 0].tolist() == pytest.approx([1.3 * 0.6, 1.3 * 0.8])


def test_at_rest_under_a_speed_limit() -> None:
    env = one("simple_tag", [[0.9, 0.9], [-0.9, 0.9], [0.9, -0.9], [-0.9, -0.9], [9.0, 9.0], [-9.0, 9.0]])
    env.step(moves(env, 0, 0, 0, 0))
    assert torch.equal(env.world.vel, torch.zeros(4, 2, 1, dtype=F64))


def test_mass() -> None:
    # a deposit weighs 2.25: acceleration 1.5 / 2.25
    env = make("collect_treasure", 1, dtype=F64)
    env.step(moves(env, *[RIGHT] * 8))
    assert env.world.vel[:, 0, 0].tolist() == pytest.approx([0.15] * 6 + [0.15 / 2.25] * 2)


def test_movers_must_stand_side_by_side() -> None:
    assert contiguous_range([False, True, True]) == (1, 3)
    assert contiguous_range([False, False]) == (0, 0)
    with pytest.raises(AssertionError):
        contiguous_range([True, False, True])


def test_physics_against_a_slow_reference() -> None:
    """Random bodies, contacts among three movable agents and two landmarks, in plain loops."""
    generator = torch.Generator().manual_seed(0)
    sizes, masses, limits = [0.2, 0.3, 0.25], [1.0, 2.0, 0.5], [float("inf"), 0.7, float("inf")]
    agents = [
        Body(f"a{i}", size=sizes[i], mass=masses[i], max_speed=limits[i], accel=3.0 + i, movable=True, collide=True)
        for i in range(3)
    ]
    landmarks = [Body("wall", size=0.3, collide=True), Body("mark", size=0.3)]
    physics = Physics(agents, landmarks, torch.device("cpu"), F64)
    envs_count = 50
    pos = torch.rand(5, 2, envs_count, dtype=F64, generator=generator) * 1.2
    vel = torch.rand(3, 2, envs_count, dtype=F64, generator=generator) - 0.5
    move = torch.randint(5, (3, envs_count), generator=generator)
    world = World(3, physics.movers, pos.clone(), vel.clone(), torch.zeros(0, 0, envs_count))
    physics.move(world, physics.thrust(move))
    directions = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
    bodies = [*agents, *landmarks]
    for e in range(envs_count):
        force = np.array([np.array(directions[move[i, e]]) * agents[i].accel for i in range(3)], dtype=float)
        for a in range(5):
            for b in range(a + 1, 5):
                if bodies[a].collide and bodies[b].collide:
                    delta = (pos[a, :, e] - pos[b, :, e]).numpy()
                    distance = np.linalg.norm(delta)
                    depth = 1e-3 * np.logaddexp(0, (bodies[a].size + bodies[b].size - distance) / 1e-3)
                    push = 100 * depth * delta / distance
                    for index, sign in ((a, 1), (b, -1)):
                        if bodies[index].movable:
                            force[index] += sign * push
        for i in range(3):
            new_pos = pos[i, :, e].numpy() + 0.1 * vel[i, :, e].numpy()
            new_vel = 0.75 * vel[i, :, e].numpy() + 0.1 * force[i] / masses[i]
            speed = np.linalg.norm(new_vel)
            new_vel *= min(1.0, limits[i] / speed)
            np.testing.assert_allclose(world.pos[i, :, e].numpy(), new_pos, atol=1e-12)
            np.testing.assert_allclose(world.vel[i, :, e].numpy(), new_vel, atol=1e-12)
    assert torch.equal(world.pos[3:], pos[3:])


# ------------------------------------------------------------------ pieces
def test_lengths() -> None:
    vector = torch.tensor([[3.0, 0.0], [4.0, 0.0]])  # [2, e]
    assert squared_length(vector).tolist() == [25.0, 0.0]
    assert length(vector).tolist() == [5.0, 0.0]


def test_less() -> None:
    value = torch.tensor([0.1, 0.3, 0.5], dtype=F64)
    assert less(value, 0.3).tolist() == [1.0, 0.0, 0.0]
    assert less(value, torch.tensor([[1.0]], dtype=F64)[0]).dtype == F64


@pytest.mark.parametrize(
    ("x", "penalty"),
    [(0.0, 0.0), (0.9, 0.0), (-0.95, 0.5), (1.0, 1.0), (1.5, math.e), (-2.0, math.exp(2)), (3.0, 10.0), (-50.0, 10.0)],
)
def test_penalty_for_leaving_the_field(x: float, penalty: float) -> None:
    position = torch.tensor([[x], [0.0]], dtype=F64)
    assert outside(position).tolist() == pytest.approx([penalty])
    assert outside(position.flip(0)).tolist() == pytest.approx([penalty])
    assert outside(position[[0, 0]]).tolist() == pytest.approx([2 * penalty])


@pytest.mark.parametrize("count", range(1, 8))
def test_assignment(count: int) -> None:
    """Against scipy, and by enumeration where that is cheap."""
    generator = torch.Generator().manual_seed(count)
    cost = torch.rand(count, count, 40, dtype=F64, generator=generator)
    matched = Assignment(count, torch.device("cpu"))(cost)
    assert matched.shape == (count, 40)
    for e in range(40):
        table = cost[..., e].numpy()
        rows, columns = linear_sum_assignment(table)
        np.testing.assert_allclose(matched[:, e].numpy(), table[rows, columns])
        if count <= 5:
            least = min(sum(table[i, p[i]] for i in range(count)) for p in permutations(range(count)))
            assert float(matched[:, e].sum()) == pytest.approx(least)


def test_nearest() -> None:
    distance = torch.tensor([[3.0, 1.0, 2.0, 1.0]]).unsqueeze(2)  # one agent, four candidates
    values = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(1, 4, 1, 1)
    assert nearest(values, distance, 3).flatten().tolist() == [20.0, 40.0, 30.0]  # equal ones keep their order
    assert nearest(values, distance, 6).flatten().tolist() == [20.0, 40.0, 30.0, 10.0, 0.0, 0.0]
    assert nearest(values[:, :0], distance[:, :0], 2).flatten().tolist() == [0.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    distance = torch.randint(4, (3, 6, 20), generator=generator).double()
    values = torch.rand(3, 6, 2, 20, dtype=F64, generator=generator)
    order = distance.numpy().argsort(1, kind="stable")
    expected = np.take_along_axis(values.numpy(), order[:, :, None].repeat(2, 2), 1)[:, :4]
    np.testing.assert_array_equal(nearest(values, distance, 4).numpy(), expected)


# ------------------------------------------------------------------ scenarios by hand
def test_spread_is_done_when_all_landmarks_are_covered() -> None:
    bodies = [[0.0, 0.0], [0.5, 0.5], [0.05, 0.0], [0.5, 0.57]]
    env = one("simple_spread", bodies, N=2, terminate_on_success=True)
    step = env.step(moves(env, 0, 0))
    assert step.terminated.all() and not step.truncated.any()
    assert float(step.reward[0]) == pytest.approx(0.5 * -(0.05 + 0.07))
    # success in the very last step is a truncation, as in mpe2
    env = one("simple_spread", bodies, N=2, terminate_on_success=True, max_cycles=1)
    step = env.step(moves(env, 0, 0))
    assert step.truncated.all() and not step.terminated.any()
    bodies[3] = [0.5, 0.61]
    env = one("simple_spread", bodies, N=2, terminate_on_success=True)
    assert not env.step(moves(env, 0, 0)).terminated.any()


def test_crypto_rewards() -> None:
    env = make("simple_crypto", 1, dtype=F64)
    secret = int(env.world.facts["chosen"][0])
    for eve, bob, expected in [(0, 0, (0, 0)), (1, 0, (-2, 2)), (0, 1, (0, -2)), (1, 1, (-2, 0))]:
        guess = [secret if right == 0 else 3 for right in (eve, bob)]
        reward = env.step(torch.tensor([[[guess[0]]], [[guess[1]]], [[1]]])).reward[:, 0].tolist()
        assert reward == [expected[0], expected[1], expected[1]]


def test_treasure_is_gone_for_one_observation_and_pays_everyone() -> None:
    env = make("collect_treasure", 1, dtype=F64, num_collectors=1, num_deposits=1, num_treasures=1)
    env.world.pos[..., 0] = torch.tensor([[0.0, 0.0], [0.9, 0.9], [0.05, 0.0]], dtype=F64)
    nothing = moves(env, 0, 0)
    step = env.step(nothing)
    distance = math.hypot(0.9, 0.9)
    assert step.reward[:, 0].tolist() == pytest.approx([5 - 0.1 * distance] * 2)
    collector = step.obs[0, 0]
    assert collector[4] == 1.0  # carries type 0
    assert collector[-3:].tolist() == [0.0, 0.0, 0.0]  # no treasure to see
    step = env.step(nothing)
    assert step.obs[0, 0, -1] == 1.0  # a new one
    assert bool((env.world.landmarks.abs() < 0.95).all())
    env.world.pos[0, :, 0] = torch.tensor([0.8, 0.9], dtype=F64)  # carried to the deposit
    step = env.step(nothing)
    assert float(step.reward[1]) == pytest.approx(5 - 0.1 * 0.1)
    assert float(env.world.facts["holding"].sum()) == 0.0


def test_leader_sees_into_forests() -> None:
    env = make("simple_world_comm", 1, dtype=F64)
    corner = [[-0.9, -0.9]] * 3
    # leader and followers in one corner, first prey in a forest at (.5, .5), second in the open
    bodies = [[-0.5, -0.5], *corner, [0.5, 0.5], [0.9, -0.9], [9, 9], [5, 5], [6, 6], [0.5, 0.5], [-5.0, -5.0]]
    env.world.pos[..., 0] = torch.tensor(bodies, dtype=F64)
    env.world.vel[4:] = 0.25
    obs = env.observe()[:, 0]
    to_prey, velocity = slice(20, 22), slice(24, 26)
    assert obs[0, to_prey].tolist() == [1.0, 1.0] and obs[0, velocity].tolist() == [0.25, 0.25]
    assert obs[1, to_prey].tolist() == [0.0, 0.0] and obs[1, velocity].tolist() == [0.0, 0.0]
    assert obs[1, 22:24].tolist() == pytest.approx([1.8, 0.0])  # the one in the open is seen
    assert obs[1, 28:30].tolist() == [-1.0, -1.0]  # not in a forest
    assert obs[4, 24:26].tolist() == [1.0, -1.0]  # the prey is in the first forest


def test_slots_of_the_formation_start_at_the_smallest_angle() -> None:
    # two agents on the circle of radius .5, at angles 10 and 190 degrees: both are in place
    angles = torch.deg2rad(torch.tensor([10.0, 190.0], dtype=F64))
    bodies = (0.5 * torch.stack((angles.cos(), angles.sin()), 1)).tolist()
    env = one("simple_formation", [*bodies, [0.0, 0.0]], N=2)
    assert float(env.step(moves(env, 0, 0)).reward[0]) == pytest.approx(0.0, abs=1e-12)
    # at 10 and 100 degrees: the second slot is at 190, 90 degrees away on the circle
    angles = torch.deg2rad(torch.tensor([10.0, 100.0], dtype=F64))
    bodies = (0.5 * torch.stack((angles.cos(), angles.sin()), 1)).tolist()
    env = one("simple_formation", [*bodies, [0.0, 0.0]], N=2)
    assert float(env.step(moves(env, 0, 0)).reward[0]) == pytest.approx(-0.5 * math.sqrt(0.5))


def test_curriculum_of_tag_takes_effect_at_the_next_reset() -> None:
    env = envs.make("simple_tag", 2, dtype=F64, curriculum=True, max_cycles=3)
    assert isinstance(env, MPE)
    actions = torch.full((4, 2, 1), RIGHT)

    def prey_velocity() -> float:
        env.world.pos[:] = torch.arange(6, dtype=F64).view(6, 1, 1) * 9  # nothing touches
        env.world.vel.zero_()
        env.step(actions)
        return float(env.world.vel[3, 0, 0])

    assert prey_velocity() == pytest.approx(0.5 * 0.4)
    env.set_curriculum_stage(7)
    assert env.curriculum_stage == 2
    assert prey_velocity() == pytest.approx(0.5 * 0.4)
    env.step(actions)  # the horizon
    assert prey_velocity() == pytest.approx(0.4)
