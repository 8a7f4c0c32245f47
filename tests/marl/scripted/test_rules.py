"""What scripted opponents do in scenes set by hand."""

import numpy as np
import pytest

from envs.mpe import catalogue
from marl.scripted.deception import (
    AdversaryCover,
    AdversaryDirect,
    AdversaryFollow,
    PushGuess,
    PushPlanned,
    ReflexDirect,
)
from marl.scripted.planning import MOVES
from marl.scripted.pursuit import Chase, Feed, Flee, Hunt, Surround, aim, capped
from marl.scripted.treasure import State, TreasureBest, TreasureGreedy, TreasureNearest, give_way, in_time, worth

NONE, LEFT, RIGHT, DOWN, UP = range(5)


class Scene:
    """A real environment with entities put where the test wants them."""

    def __init__(self, name, **places):
        self.env = catalogue.parallel_env(name)
        self.env.reset(seed=0)
        self.raw = self.env.unwrapped
        self.spec = catalogue.describe(name, self.env)
        for entity in self.raw.world.entities:
            entity.state.p_vel = np.zeros(2)
        for key, place in places.items():
            self.put(key, place)

    def entity(self, key):
        return next(e for e in self.raw.world.entities if e.name.replace(" ", "_") == key)

    def put(self, key, place):
        self.entity(key).state.p_pos = np.array(place, dtype=float)

    def see(self):
        return {name: self.raw.observe(name)[None] for name in self.spec.agent_names}

    def first(self, script):
        player = script(self.spec)
        player.reset(1)
        return {name: int(ids[0]) for name, ids in player.act(self.see()).items()}


def tag(**places):
    far = {"adversary_0": (-0.8, 0.8), "adversary_1": (-0.8, 0.85), "adversary_2": (-0.85, 0.8)}
    return Scene("simple_tag", **{"landmark_0": (0.8, -0.8), "landmark_1": (0.8, 0.8), **far, **places})


# ------------------------------------------------------------------ pursuit
def test_aim_overshoots_with_less_glide():
    offset, velocity = np.array([0.3, 0.0]), np.array([0.8, 0.0])  # would rest 0.02 beyond
    assert aim(offset, velocity, 5.0, 0.4) == NONE
    assert aim(offset, velocity, 5.0, 0.1) == RIGHT


def test_speeds_are_capped():
    velocity = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(capped(velocity, 1.0), [[0.6, 0.8], [0.3, 0.4], [0, 0]])


def test_chasers_run_at_the_prey_and_surrounders_from_different_sides():
    scene = tag(agent_0=(0.0, 0.0), adversary_0=(0.6, 0.0), adversary_1=(0.0, 0.6), adversary_2=(-0.6, 0.0))
    assert scene.first(Chase) == {"adversary_0": LEFT, "adversary_1": DOWN, "adversary_2": RIGHT}
    together = tag(agent_0=(0.0, 0.0), adversary_0=(-0.6, 0.0), adversary_1=(-0.6, 0.02), adversary_2=(-0.6, -0.02))
    assert set(together.first(Chase).values()) == {RIGHT}
    # from one side a chase comes in a row and a ring from several
    near = tag(agent_0=(0.0, 0.0), adversary_0=(-0.2, 0.0), adversary_1=(-0.2, 0.02), adversary_2=(-0.2, -0.02))
    ring = Surround(near.spec)
    ring.spread = 2.0
    ring.reset(1)
    assert len({int(ids[0]) for ids in ring.act(near.see()).values()}) > 1


@pytest.mark.parametrize(
    ("predators", "away"), [((-0.25, 0.0), RIGHT), ((0.25, 0.0), LEFT), ((0.0, 0.25), DOWN), ((0.0, -0.25), UP)]
)
def test_prey_runs_away(predators, away):
    around = {f"adversary_{k}": np.add(predators, (0.01 * k, 0.01 * k)) for k in range(3)}
    assert tag(agent_0=(0.0, 0.0), **around).first(Flee) == {"agent_0": away}


def test_prey_turns_back_at_the_wall():
    scene = tag(agent_0=(0.95, 0.0))
    scene.entity("agent_0").state.p_vel = np.array([0.5, 0.0])
    assert scene.first(Flee) == {"agent_0": LEFT}


def world_comm(**places):
    apart = {f"adversary_{k}": (-0.9, 0.2 * k) for k in range(3)}
    land = {"landmark_0": (0.0, 0.9), "forest_0": (0.8, 0.8), "forest_1": (-0.8, -0.8)}
    food = {"food_0": (0.5, 0.0), "food_1": (-0.5, 0.5)}
    return Scene("simple_world_comm", **{"leadadversary_0": (-0.9, 0.9), **apart, **land, **food, **places})


def test_prey_feeds_on_the_nearest_food():
    assert world_comm(agent_0=(0.1, 0.0), agent_1=(-0.5, 0.2)).first(Feed) == {"agent_0": RIGHT, "agent_1": UP}


def test_the_hunted_hide_from_chasers_and_not_from_hunters_who_hear_the_leader():
    scene = world_comm(agent_0=(0.8, 0.8), agent_1=(0.75, 0.75), adversary_0=(0.8, 0.0), adversary_1=(0.3, -0.9))
    seen = scene.see()
    chase, hunt = Chase(scene.spec), Hunt(scene.spec)
    for player in (chase, hunt):
        player.reset(1)
    assert int(hunt.act(seen)["adversary_0"][0]) == UP
    _, _, hidden = chase.look("adversary_0", seen["adversary_0"].astype(float))
    np.testing.assert_array_equal(hidden[0], [False] * 4 + [True, True])


def test_chasers_remember_where_hidden_prey_was_seen_last():
    scene = world_comm(agent_0=(0.45, 0.45), agent_1=(-0.9, -0.9), adversary_0=(0.45, 0.0))
    chase = Chase(scene.spec)
    chase.reset(1)
    chase.act(scene.see())
    scene.put("agent_0", (0.8, 0.8))  # into the forest, unseen
    position, _, hidden = chase.look("adversary_0", scene.see()["adversary_0"].astype(float))
    assert hidden[0, 4]
    np.testing.assert_allclose(position[0, 4], (0.45, 0.45), atol=1e-6)


# ------------------------------------------------------------------ deception
def test_covering_agents_share_out_the_landmarks():
    scene = Scene(
        "simple_adversary", agent_0=(0.0, 0.0), agent_1=(0.1, 0.0), landmark_0=(0.9, 0.0), landmark_1=(-0.9, 0.0)
    )
    assert scene.first(AdversaryCover) == {"agent_0": LEFT, "agent_1": RIGHT}


def test_the_follower_goes_where_the_others_are():
    scene = Scene(
        "simple_adversary",
        adversary_0=(0.0, 0.0),
        agent_0=(0.6, 0.0),
        agent_1=(0.5, 0.1),
        landmark_0=(0.9, 0.0),
        landmark_1=(-0.9, 0.0),
    )
    assert scene.first(AdversaryFollow) == {"adversary_0": RIGHT}


def test_a_reflex_does_not_know_that_it_is_moving():
    """Pushed to the right three times and now at the goal: an account of the pushes says brake, no memory says stay."""
    chosen = {}
    for script in (AdversaryDirect, ReflexDirect):
        scene = Scene("simple_adversary", agent_0=(0.0, 0.0), agent_1=(0.0, 0.5), landmark_0=(0.9, 0.0))
        for agent in scene.raw.world.agents:
            agent.goal_a = scene.raw.world.landmarks[0]
        player = script(scene.spec)
        player.reset(1)
        assert [int(player.act(scene.see())["agent_0"][0]) for _ in range(3)] == [RIGHT] * 3
        scene.put("agent_0", (0.9, 0.0))
        chosen[script] = int(player.act(scene.see())["agent_0"][0])
    assert chosen == {AdversaryDirect: LEFT, ReflexDirect: NONE}


def test_the_guesser_looks_at_where_the_agent_is_heading():
    places = {"adversary_0": (0.0, 0.5), "agent_0": (0.0, 0.0), "landmark_0": (0.5, 0.5), "landmark_1": (-0.5, 0.5)}
    scene = Scene("simple_push", **places)
    player = PushGuess(scene.spec)
    player.reset(1)
    player.act(scene.see())
    scene.put("agent_0", (0.1, 0.0))  # one unit of velocity to the right
    assert int(player.act(scene.see())["adversary_0"][0]) == RIGHT
    scene.put("agent_0", (-0.1, 0.0))
    assert int(player.act(scene.see())["adversary_0"][0]) == LEFT


def test_a_pushed_agent_plans_anew_and_an_undisturbed_one_does_not():
    scene = Scene("simple_push", agent_0=(0.0, 0.0), adversary_0=(0.9, 0.9))
    player = PushPlanned(scene.spec)
    player.reset(1)
    moves = []
    for _ in range(4):
        ids = player.act(scene.see())
        moves.append(player.moves.copy())
        scene.env.step({"adversary_0": 0, "agent_0": int(ids["agent_0"][0])})
    assert all((plan == moves[0]).all() for plan in moves)
    scene.entity("agent_0").state.p_vel += np.array([0.7, -0.7])
    player.act(scene.see())
    assert (player.moves[:, 4:] != moves[0][:, 4:]).any()


# ------------------------------------------------------------------ collect_treasure
def treasure(**places):
    corners = {f"collector_{k}": (-0.9 + 0.3 * k, -0.9) for k in range(6)}
    deposits = {"deposit_0": (-0.9, 0.9), "deposit_1": (0.9, 0.9)}
    heap = {f"treasure_{k}": (-0.9 + 0.3 * k, -0.6) for k in range(6)}
    return Scene("collect_treasure", **{**corners, **deposits, **heap, **places})


def test_state_is_read_from_the_observations():
    scene = treasure(treasure_2=(0.0, 0.0))
    world = scene.raw.world
    world.agents[1].holding = 1
    world.landmarks[3].alive = False
    state = State(scene.spec, scene.see())
    np.testing.assert_allclose(state.position[0], [agent.state.p_pos for agent in world.agents[:6]], atol=1e-6)
    np.testing.assert_allclose(state.place[0], [agent.state.p_pos for agent in world.agents[6:]], atol=1e-6)
    np.testing.assert_array_equal(state.holding[0], [-1, 1, -1, -1, -1, -1])
    living = [landmark for landmark in world.landmarks if landmark.alive]
    assert state.alive.sum() == len(living) == 5
    for landmark in living:
        k = int(np.square(state.treasure[0] - landmark.state.p_pos).sum(-1).argmin())
        np.testing.assert_allclose(state.treasure[0, k], landmark.state.p_pos, atol=1e-6)
        assert state.type[0, k] == landmark.type


@pytest.mark.parametrize("script", [TreasureNearest, TreasureGreedy, TreasureBest])
def test_collectors_go_to_treasures_and_bring_them_home(script):
    scene = treasure(collector_0=(-0.9, 0.0), treasure_0=(-0.5, 0.0))
    assert scene.first(script)["collector_0"] == RIGHT
    scene.raw.world.agents[0].holding = 0
    assert scene.first(script)["collector_0"] == UP


def test_two_collectors_want_the_same_treasure_and_greedy_ones_share():
    scene = treasure(collector_0=(-0.4, 0.3), collector_1=(0.1, 0.3), treasure_0=(-0.2, 0.3), treasure_1=(0.6, 0.3))
    both, shared = scene.first(TreasureNearest), scene.first(TreasureGreedy)
    assert (both["collector_0"], both["collector_1"]) == (RIGHT, LEFT)
    assert (shared["collector_0"], shared["collector_1"]) == (RIGHT, RIGHT)


def test_deposits_meet_their_carriers():
    scene = treasure(deposit_1=(0.5, 0.2), collector_5=(0.1, 0.2))
    scene.raw.world.agents[5].holding = 1
    assert scene.first(TreasureGreedy)["deposit_1"] == LEFT


def test_no_way_leads_to_a_treasure_that_cannot_be_reached_in_time():
    scene = treasure(collector_0=(-0.9, 0.0), treasure_0=(-0.7, 0.0), treasure_1=(0.9, 0.0))
    state = State(scene.spec, scene.see())
    near = int(np.square(state.treasure[0] - (-0.7, 0.0)).sum(-1).argmin())
    far = int(np.square(state.treasure[0] - (0.9, 0.0)).sum(-1).argmin())
    assert worth(state, 24)[0, 0, near] > worth(state, 24)[0, 0, far]
    assert worth(state, 24)[0, 0, near] > worth(state, 3)[0, 0, near] + 1
    np.testing.assert_allclose(in_time(np.array([-40.0, 0.0, 40.0])), [0, 0.5, 1], atol=1e-6)


def test_collectors_give_way():
    """Two at rest that would walk into each other."""
    scene = treasure(collector_0=(-0.07, 0.0), collector_1=(0.07, 0.0))
    state = State(scene.spec, scene.see())
    goal = state.position.copy()
    goal[0, 0], goal[0, 1] = (0.5, 0.0), (-0.5, 0.0)
    assert give_way(state, goal, weight=0.0)[0, :2].tolist() == [RIGHT, LEFT]
    moves = give_way(state, goal)[0]
    reached = state.position[0] + (0.1 + 0.075 + 0.05625) * 0.15 * MOVES[moves]  # three steps after the push
    assert np.hypot(*(reached[0] - reached[1])) >= 0.1
