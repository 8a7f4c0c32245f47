"""Bounds of speaker_listener_variant: by hand, against exhaustive search, and never exceeded by scripts."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs import UserError
from envs.mpe import make
from envs.mpe.variants.floors import capacity, distance_floor, faithful_chance, known_share, return_bound
from envs.mpe.variants.settings import Variant
from marl.evaluate.bounds import BOUNDS


def channel_matrix(size: int, noise: float, erasure: float) -> np.ndarray:
    """P(heard | said) [K, K + 1] of one symbol, the last column nothing."""
    wrong = noise / (size - 1) if size > 1 else 0.0
    kept = np.full((size, size), wrong)
    np.fill_diagonal(kept, 1 - noise)
    return np.hstack([kept * (1 - erasure), np.full((size, 1), erasure)])


def best_code(goals: int, variant: Variant, messages: int) -> tuple[float, float]:
    """Exhaustive search over all fixed codes goal -> message: best chance to name the goal and best expected sum of
    squared posterior probabilities, after the same message was sent `messages` times."""
    one = channel_matrix(variant.vocabulary, variant.noise, variant.erasure)
    whole = np.ones((1, 1))
    for _ in range(variant.message_length):
        whole = np.kron(whole, one)  # [messages, outputs]
    repeated = whole
    for _ in range(messages - 1):
        repeated = (repeated[:, :, None] * whole[:, None, :]).reshape(len(whole), -1)
    named = squared = 0.0
    for code in itertools.product(range(len(repeated)), repeat=goals):
        joint = repeated[list(code)] / goals  # [goal, output]
        total = joint.sum(0)
        seen = total > 0
        named = max(named, joint.max(0).sum())
        squared = max(squared, (joint[:, seen] ** 2 / total[seen]).sum())
    return named, squared


def blahut_arimoto(matrix: np.ndarray) -> float:
    """Capacity in bits of a channel P(y | x) [x, y]."""
    p = np.full(len(matrix), 1 / len(matrix))
    for _ in range(2000):
        ratio = np.where(matrix > 0, matrix * np.log(np.where(matrix > 0, matrix, 1) / (p @ matrix + 1e-300)), 0)
        weight = p * np.exp(ratio.sum(1))
        p = weight / weight.sum()
    return math.log2(weight.sum())


# ------------------------------------------------------------------ information
def test_capacity_by_hand() -> None:
    assert capacity(Variant()) == pytest.approx(math.log2(3))
    assert capacity(Variant(num_symbols=2, noise=0.11)) == pytest.approx(0.5, abs=1e-3)  # h(0.11) = 0.4999
    assert capacity(Variant(num_symbols=2, noise=0.5)) == 0.0
    assert capacity(Variant(num_symbols=2, noise=1.0)) == 1.0  # always turned round
    assert capacity(Variant(num_symbols=4, erasure=0.25, message_length=3)) == pytest.approx(4.5)
    assert capacity(Variant(num_symbols=1)) == 0.0
    assert capacity(Variant(num_symbols=3, silence=True)) == 2.0


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(("noise", "erasure"), [(0.0, 0.3), (0.2, 0.0), (0.6, 0.1), (0.95, 0.0)])
def test_capacity_is_that_of_blahut_and_arimoto(size: int, noise: float, erasure: float) -> None:
    expected = blahut_arimoto(channel_matrix(size, noise, erasure))
    assert capacity(Variant(num_symbols=size, noise=noise, erasure=erasure)) == pytest.approx(expected, abs=1e-6)


def test_faithful_chance_by_hand() -> None:
    assert faithful_chance(Variant(num_symbols=3, noise=0.2)) == pytest.approx(0.7)  # 1 - 3 * 0.1
    assert faithful_chance(Variant(num_symbols=2, noise=1.0)) == 1.0
    assert faithful_chance(Variant(num_symbols=4, noise=0.75)) == pytest.approx(0.0)
    assert faithful_chance(Variant(erasure=0.4)) == pytest.approx(0.6)


def test_told_share_by_hand() -> None:
    assert known_share(Variant()) == 1.0
    assert known_share(Variant(), messages=0) == pytest.approx(1 / 3)
    assert known_share(Variant(num_symbols=2)) == pytest.approx(2 / 3)
    assert known_share(Variant(num_symbols=2), messages=5) == pytest.approx(2 / 3)
    assert known_share(Variant(num_symbols=2), messages=2, memory=True) == 1.0
    assert known_share(Variant(erasure=0.4)) == pytest.approx(0.6 + 0.4 / 3)
    assert known_share(Variant(erasure=0.4), messages=2) == pytest.approx(0.84 + 0.16 / 3)
    # two places of two symbols for four goals, half of them lost: 1/4 both, 1/2 one, 1/4 none
    assert known_share(Variant(num_landmarks=4, num_symbols=2, message_length=2, erasure=0.5)) == pytest.approx(
        0.25 * 1 + 0.5 * 0.5 + 0.25 * 0.25
    )
    # of three speakers two tell of listener 0, one of listener 1
    several = Variant(num_speakers=3, num_listeners=2, num_landmarks=4, num_symbols=2)
    assert known_share(several) == pytest.approx((1.0 + 0.5) / 2)


@pytest.mark.parametrize(
    ("kwargs", "messages", "tight"),
    [
        ({}, 1, True),
        ({"num_landmarks": 5, "num_symbols": 2}, 1, True),
        ({"num_landmarks": 4, "num_symbols": 2, "message_length": 2}, 1, True),
        ({"num_landmarks": 4, "num_symbols": 3, "erasure": 0.3}, 2, True),
        ({"num_landmarks": 3, "num_symbols": 3, "noise": 0.3}, 1, False),
        ({"num_landmarks": 3, "num_symbols": 2, "noise": 0.2, "erasure": 0.2}, 2, False),
        ({"num_landmarks": 4, "num_symbols": 2, "message_length": 2, "noise": 0.1}, 1, False),
        ({"num_landmarks": 2, "num_symbols": 3, "noise": 0.9}, 2, False),
        ({"num_landmarks": 4, "num_symbols": 2, "noise": 1.0}, 1, True),
    ],
)
def test_no_code_tells_more(kwargs: dict[str, Any], messages: int, tight: bool) -> None:
    """Every fixed code, every output of the channel: at most the bound, and the bound itself where it is tight."""
    variant = Variant(**kwargs)
    bound = known_share(variant, messages)
    for best in best_code(variant.num_landmarks, variant, messages):
        assert best <= bound + 1e-12
        assert not tight or best == pytest.approx(bound)


# ------------------------------------------------------------------ distance and return
@pytest.mark.parametrize(("symbols", "goals"), [(1, 3), (2, 3), (3, 3), (2, 5)])
def test_distance_floor_against_landmarks(symbols: int, goals: int) -> None:
    """(2/3) (1 - V / n): a listener at the mean of the landmarks of its goal's cell, over many worlds."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (200_000, goals, 2))
    cells = np.arange(goals) % symbols
    total = 0.0
    for goal in range(goals):
        mean = places[:, cells == cells[goal]].mean(1)
        total += np.square(places[:, goal] - mean).sum(1).mean() / goals
    floor = distance_floor(Variant(num_landmarks=goals, num_symbols=symbols))
    assert floor == pytest.approx(2 / 3 * (1 - symbols / goals))
    assert total == pytest.approx(floor, abs=0.01)


def coasting_return(rows: int, cell_of: list[int], listens: bool = True, **kwargs: Any) -> float:
    """A speaker that says its goal's cell; a listener that, once it was told, goes to the mean of the cell's landmarks
    and before that to the mean of all. Mean return of one episode."""
    env = make("speaker_listener_variant", rows, dtype=torch.float64, **kwargs)
    obs = env.reset(seed=1)
    goals, start = env.scenario.variant.num_landmarks, 2 + 2 * env.scenario.variant.num_landmarks
    cells = torch.tensor(cell_of)
    belief = torch.full((rows, goals), 1 / goals, dtype=torch.float64)
    pushes = torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=torch.float64) * 0.5
    total = torch.zeros(rows, dtype=torch.float64)
    for _ in range(env.scenario.horizon):
        own = obs[1]
        heard = own[:, start:]
        output = (heard.sum(1, keepdim=True) > 0) & listens
        same = (cells == heard.argmax(1, keepdim=True)).double()
        belief = torch.where(output, same / same.sum(1, keepdim=True).clamp(min=1), belief)
        target = (own[:, 2:start].view(rows, goals, 2) * belief[..., None]).sum(1)
        # at rest after a push u: velocity v travels 0.4 v, the push one step later 0.4 u
        rest = 0.4 * own[:, None, :2] + 0.4 * pushes - target[:, None]
        actions = torch.stack([cells[env.world.facts["goal"][0]], rest.square().sum(2).argmin(1)])
        step = env.step(actions[..., None])
        total += step.reward[0]
        obs = step.final_obs
    return float(total.mean())


@pytest.mark.parametrize(
    ("kwargs", "cell_of", "gap"),
    [
        ({}, [0, 1, 2], 0.5),
        ({"num_symbols": 2}, [0, 1, 1], 0.5),
        ({"num_symbols": 1}, [0, 0, 0], 0.5),
        ({"num_landmarks": 5, "num_symbols": 5}, [0, 1, 2, 3, 4], 0.5),
        ({"delay": 4}, [0, 1, 2], 1.5),
        ({"erasure": 0.5}, [0, 1, 2], 1.0),
    ],
)
def test_bound_on_returns_is_close_above_a_script(kwargs: dict[str, Any], cell_of: list[int], gap: float) -> None:
    played = coasting_return(4000, cell_of, **kwargs)
    bound = return_bound(Variant(**kwargs))
    assert played < bound + 0.3  # its standard error is about 0.1
    assert played > bound - gap


def test_bound_on_returns_against_the_sharper_one() -> None:
    """simple_speaker_listener's optima, by dynamic programming: -7.46 and without messages -15.36."""
    heard, silent = BOUNDS["simple_speaker_listener_v4"].values()
    assert heard - 0.02 < return_bound(Variant()) < heard + 0.2
    assert silent - 0.02 < return_bound(Variant(), channel=False) < silent + 0.1
    assert return_bound(Variant(num_symbols=1)) == return_bound(Variant(), channel=False)


def test_bounds_are_ordered() -> None:
    best = return_bound(Variant())
    for worse in ({"noise": 0.2}, {"erasure": 0.2}, {"delay": 2}, {"num_symbols": 2}, {"num_landmarks": 4}):
        variant = Variant(**worse)
        assert return_bound(variant, channel=False) < return_bound(variant) < best
        assert return_bound(variant) <= return_bound(variant, memory=True)
    assert return_bound(Variant(num_listeners=2)) == pytest.approx(best)
    assert return_bound(Variant(num_speakers=2, erasure=0.2)) > return_bound(Variant(erasure=0.2))


def test_bad_arguments() -> None:
    with pytest.raises(UserError, match="noise must be"):
        Variant(noise=2.0)


def test_the_page_tells_these_numbers() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "variants.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("| return bound |")[1].splitlines() if line.startswith(("| (default)", "| `"))]
    assert len(rows) == 10
    for row in rows:
        name, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        pairs = [pair.split("=") for pair in name.strip("`").split() if "=" in pair]
        variant = Variant(**{key: float(value) if "." in value else int(value) for key, value in pairs})
        bits, output, distance, bound, played = (float(cell.replace("−", "-")) for cell in cells)
        assert bits == pytest.approx(capacity(variant), abs=6e-4)
        assert output == pytest.approx(known_share(variant), abs=6e-4)
        assert distance == pytest.approx(distance_floor(variant), abs=6e-4)
        assert bound == pytest.approx(return_bound(variant), abs=6e-3)
        assert played < bound
