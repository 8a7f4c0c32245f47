"""Bounds of the optimum: below every sequence of moves where all can be tried, and close to the best of them."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from benchmarks.bounds import goals, reach
from benchmarks.bounds.__main__ import MODULE, PAGE, RESULT, main
from benchmarks.bounds.entries import ENTRIES
from benchmarks.bounds.mover import Stage, solve
from benchmarks.bounds.page import as_module, upward, with_table
from benchmarks.bounds.prices import library, offsets, planned
from benchmarks.bounds.resets import resets
from benchmarks.bounds.silent import common_path
from benchmarks.bounds.tables import MASSES, Tables, nodes, tables
from marl.play.rollout import play
from marl.scripted.by_name import scripted
from marl.scripted.planning import MOVES, distance, mean_distance, plan, squared_distance, step

STAGES = {"squared": Stage(None), "distance": Stage(0.05)}


@pytest.fixture(scope="module", params=STAGES)
def small(request: pytest.FixtureRequest) -> tuple[Tables, bool]:
    """Tables of few multipliers, and whether they are those of squared distances."""
    stage = STAGES[request.param]
    return tables(library(offsets(4), stage, 60, 24), stage, 12, 48), stage.rounding is None


def paths(start: np.ndarray, velocity: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Positions [sequences, steps, 2] of all sequences of moves [sequences, steps]."""
    place, speed = np.tile(start, (len(moves), 1)), np.tile(velocity, (len(moves), 1))
    result = []
    for t in range(moves.shape[1]):
        place, speed = step(place, speed, MOVES[moves[:, t]])
        result.append(place)
    return np.stack(result, 1)


def every(steps: int, options: int = 5) -> np.ndarray:
    """All sequences [options ** (steps - 1), steps]; the last move changes nothing and is 0."""
    moves = np.array(list(itertools.product(range(options), repeat=steps - 1)))
    return np.concatenate([moves, np.zeros((len(moves), 1), dtype=int)], 1)


# ------------------------------------------------------------------ one axis, and two
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("cells", [8, 64])
def test_one_axis_against_every_sequence(stage: Stage, cells: int) -> None:
    """Never above the optimum, whatever the grid; the finer grid within .002 of it."""
    rng = np.random.default_rng(0)
    steps, rows = 8, 12
    base, prices = rng.uniform(-1, 1, rows), rng.uniform(0, 0.3, (rows, steps - 1))
    weights = rng.uniform(0.3, 1, (rows, steps))
    result = solve(base, prices, weights, stage, 0, cells, steps=steps).at(0, 0, 0)
    moves = every(steps, 3)  # none, left, right
    for row in range(rows):
        place = paths(np.array([base[row], 0.0]), np.zeros(2), moves)[..., 0]
        best = ((weights[row] * stage(place)).sum(1) + ((moves[:, :-1] > 0) * prices[row]).sum(1)).min()
        assert result[row] <= best + 1e-9
        assert cells == 8 or result[row] >= best - 0.002


@pytest.mark.parametrize("squared", [True, False])
def test_priced_axes_against_every_sequence_of_moves(squared: bool) -> None:
    """Two axes, five moves: weak duality for any prices and angles; without prices it is what separate axes cost."""
    rng = np.random.default_rng(1)
    steps, stage = 6, Stage(None if squared else 0.02)
    moves = every(steps)
    for _ in range(5):
        start = rng.uniform(-0.6, 0.6, 2)
        place = paths(start, np.zeros(2), moves)
        best = (np.square(place).sum(-1) if squared else np.linalg.norm(place, axis=-1)).sum(1).min()
        gaps = []
        for scale in (0.0, 0.05, 0.1, 0.2, 0.4):
            prices = np.linspace(1, 0, steps - 1) * scale
            angle = np.full(steps, math.atan2(abs(start[1]), abs(start[0])))
            weights = np.ones((2, steps)) if squared else np.stack([np.cos(angle), np.sin(angle)])
            values = solve(start, np.tile(prices, (2, 1)), weights, stage, 0, 48, steps=steps)
            gaps.append(best - (values.at(0, 0, 0).sum() - prices.sum()))
        assert min(gaps) >= -1e-9
        assert min(gaps) < 0.15 * best


def test_tables_are_below_plans_and_near_them(small: tuple[Tables, bool]) -> None:
    of, squared = small
    rng = np.random.default_rng(2)
    offset = rng.uniform(-1, 1, (20, 2)) - rng.uniform(-1, 1, (20, 2))
    gap = planned(offset, squared) - of.start(offset)
    assert gap.min() > 0
    assert gap.mean() < (0.1 if squared else 0.6)
    cost = (squared_distance if squared else distance)(-offset)
    after = of.pushed(offset)
    for move in range(5):  # what follows a first move, which has not changed the position yet
        _, total = plan(np.zeros((20, 2)), np.tile(MOVES[move] * 0.5, (20, 1)), cost, -offset, 24)
        assert (after[:, move] <= total).all()
        assert (total - after[:, move]).mean() < (0.35 if squared else 0.7)


def test_a_coarse_lattice_of_starts_gives_smaller_bounds_not_wrong_ones() -> None:
    of = tables(library(offsets(4), Stage(None), 60, 24), Stage(None), 1, 48)  # starts .2 apart
    rng = np.random.default_rng(8)
    offset = rng.uniform(-1, 1, (40, 2)) - rng.uniform(-1, 1, (40, 2))
    assert (of.start(offset) < planned(offset, True)).all()


def test_exact_mean_is_that_of_many_starts(small: tuple[Tables, bool]) -> None:
    of, _ = small
    rng = np.random.default_rng(3)
    for density, spread in ((goals.triangular, 1), (goals.to_the_mean, 3)):
        chances = density(of.width)
        assert (chances * MASSES * of.width / 2).sum() == pytest.approx(1)
        drawn = of.start(rng.uniform(-1, 1, (100_000, 2)) - rng.uniform(-1, 1, (100_000, spread, 2)).mean(1))
        assert of.mean(chances) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 316)


def test_density_of_the_way_to_the_mean_by_its_variance() -> None:
    width = 1 / 60
    x = nodes(width)
    variance = (x**2 * goals.to_the_mean(width) * MASSES * width / 2).sum()
    assert variance == pytest.approx(1 / 3 + 1 / 9)


# ------------------------------------------------------------------ information
def test_first_move_is_common_to_the_goals(small: tuple[Tables, bool]) -> None:
    """Above what each goal costs on its own, below a plan for three goals whose first move is common."""
    of, squared = small
    rng = np.random.default_rng(4)
    offset = rng.uniform(-1, 1, (12, 1, 2)) - rng.uniform(-1, 1, (12, 3, 2))
    late = goals.heard_late(of, offset, squared).mean(1)
    assert (late - of.start(offset).mean(1)).mean() > 0.05
    totals = []
    for move in range(5):
        goal = -offset.reshape(-1, 2)
        cost = (squared_distance if squared else distance)(goal)
        _, total = plan(np.zeros_like(goal), np.tile(MOVES[move] * 0.5, (len(goal), 1)), cost, goal, 24)
        totals.append(total.reshape(12, 3).mean(1))
    first = np.square(offset).sum(-1) if squared else np.linalg.norm(offset, axis=-1)
    assert (late <= first.mean(1) + np.min(totals, 0)).all()


def test_common_path_against_every_sequence() -> None:
    rng = np.random.default_rng(5)
    steps = 7
    moves = every(steps)
    landmarks = rng.uniform(-1, 1, (8, 3, 2)) - rng.uniform(-1, 1, (8, 1, 2))
    bound = common_path(landmarks, rounds=400, steps=steps)
    place = paths(np.zeros(2), np.zeros(2), moves)
    for row in range(len(landmarks)):
        best = mean_distance(np.tile(landmarks[row], (len(place), 1, 1)))(place).sum(1).min()
        assert best - 0.1 < bound[row] <= best


def test_silent_listener_by_a_path_for_all_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 (4/9) and the way to the mean: below the plans of many resets for the mean squared distance."""
    stage = Stage(None)
    of = tables(library(offsets(4), stage, 60, 24), stage, 12, 48)
    monkeypatch.setattr(goals, "squared", lambda: of)
    rng = np.random.default_rng(6)
    landmarks, start = rng.uniform(-1, 1, (100_000, 3, 2)), rng.uniform(-1, 1, (100_000, 2))
    middle = landmarks.mean(1)
    spread = 25 * np.square(landmarks - middle[:, None]).sum(-1).mean(1)
    assert spread.mean() == pytest.approx(25 * 4 / 9, abs=0.1)
    cost = of.start(start - middle) + spread
    assert -goals.speaker_listener_silent().value == pytest.approx(cost.mean(), abs=4 * cost.std() / 316)
    goal = (landmarks - start[:, None])[:30]  # a path for all goals costs no less on average over them
    way = goal.mean(1)
    _, total = plan(np.zeros_like(way), np.zeros_like(way), lambda p: _mean_square(p, goal), way, 25)
    assert (cost[:30] <= total).all()
    assert (total - cost[:30]).mean() < 0.1


def _mean_square(place: np.ndarray, goal: np.ndarray) -> np.ndarray:
    return np.square(place[:, :, None] - goal[:, None]).sum(-1).mean(-1)


# ------------------------------------------------------------------ contact
def test_least_distance_against_many_points() -> None:
    rng = np.random.default_rng(7)
    ball = rng.uniform(-1, 1, (20_000, 2))
    ball = np.concatenate(
        [ball[np.abs(ball).sum(1) <= 1], np.stack([np.linspace(-1, 1, 2001), 1 - np.abs(np.linspace(-1, 1, 2001))], 1)]
    )
    for apart in rng.uniform(-2, 2, (20, 2)):
        near = np.minimum(np.linalg.norm(apart - 0.7 * ball, axis=1), np.linalg.norm(apart + 0.7 * ball, axis=1)).min()
        assert near - 0.02 <= reach.least_distance(apart, 0.7) <= near + 1e-9


@pytest.mark.parametrize(
    ("env", "bound", "scripts"),
    [
        ("simple_spread", reach.spread, ("oracle", "random")),
        ("simple_line", reach.line, ("oracle", "random")),
        ("simple_formation", reach.formation, ("oracle", "random")),
    ],
)
def test_no_played_episode_of_a_team_is_better(env: str, bound: Any, scripts: tuple[str, ...]) -> None:
    starts = resets(env, 500, 12)
    cost = bound(starts.agents, starts.landmarks)
    assert cost.min() > 0
    for name in scripts:
        assert (-play(env, scripted(env, name), 12, 500).returns.mean(1) >= cost).all()


def test_a_team_of_three_steps_against_every_joint_move() -> None:
    """Two agents of simple_spread that overlap: contact carries them further than they can go alone, within E."""
    agents = np.array([[[0.0, 0.0], [0.12, 0.05]]])
    steps, radius = 4, 0.3
    alone, extra = reach.travel(steps), reach.pushed(agents, radius, True, steps)[0]
    furthest = np.zeros(steps)
    for first in itertools.product(range(5), repeat=4):
        place, speed = agents[0].copy(), np.zeros((2, 2))
        for t in range(steps):
            apart = place[0] - place[1]
            gap = float(np.linalg.norm(apart))
            force = 100 * np.logaddexp(0, -(gap - radius) / 1e-3) * 1e-3 * apart / gap
            control = MOVES[[first[t % 2], first[2 + t % 2]]] * 5
            place = place + 0.1 * speed
            speed = 0.75 * speed + 0.1 * (control + np.stack([force, -force]))
            gone = np.abs(place - agents[0]).sum(1)
            furthest[t] = max(furthest[t], gone.max())
            over = reach.least_distance(place - agents[0], alone[t])
            assert (over <= extra[t] + 1e-9).all()
    assert (furthest[1:] > alone[1:] + 0.1).all()  # what a bound that drops contact would miss


def test_contact_as_soon_as_a_pair_can_meet() -> None:
    """.45 apart and touching at .08 (.06 and the margin): each must go .185. At position 4 each can have gone .2525 and
    at position 3 only .1375, so that the first force acts at position 4 and moves an agent from position 6 on."""
    extra = reach.pushed(np.array([[[0.0, 0.0], [0.45, 0.0]]]), 0.06, True, 8)[0, :, 0]
    assert (extra[:5] == 0).all() and extra[5] > 0


def test_formation_has_every_rotation() -> None:
    """Agents that stand on any rotated square cost nothing; off the circle they cost their distance to it."""
    for turn in (0.0, 0.3, 1.1):
        angle = turn + np.arange(4) * math.pi / 2
        circle = np.stack([np.cos(angle), np.sin(angle)], -1)[None]
        assert reach.formation(0.5 * circle, np.zeros((1, 1, 2)), steps=1)[0] == pytest.approx(0, abs=1e-8)
        assert reach.formation(0.9 * circle, np.zeros((1, 1, 2)), steps=1)[0] == pytest.approx(0.4, abs=0.004)


# ------------------------------------------------------------------ record
def test_margin_by_hand() -> None:
    result = goals.drawn(np.array([1.0, 2.0, 3.0]), 5.0, "")
    assert result.margin == pytest.approx(3.0902 / math.sqrt(3))
    assert result.value == pytest.approx(-7 + result.margin)


def test_page_is_that_of_the_record_and_no_script_exceeds_its_bound() -> None:
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, record)
    assert MODULE.read_text(encoding="utf-8") == as_module(record)
    assert {(env, kind) for env, kinds in record["bounds"].items() for kind in kinds} == {
        (entry.env, entry.kind) for entry in ENTRIES
    }
    for kinds in record["bounds"].values():
        for one in kinds.values():
            assert one["gap"] > -3 * one["gap_se"]
            assert one["return"] < one["bound"] + 3.1 * one["se"]


def test_a_printed_bound_is_never_below_the_computed_one() -> None:
    assert upward(-7.4128) == -7.412 and upward(-16.5741) == -16.574
    for bound in np.random.default_rng(0).uniform(-20, 0, 2000):
        assert bound <= upward(round(bound, 4)) < bound + 0.0012


def test_a_trial_does_not_replace_the_published_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bounds", "--scale", "0.1"])
    with pytest.raises(SystemExit):
        main()
    assert "--out FILE" in capsys.readouterr().err
