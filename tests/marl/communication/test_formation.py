"""When a protocol formed and how it drifted: known changes, by hand and against brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from channel_players import Scripted
from scipy.spatial.distance import jensenshannon

from envs.mpe import catalogue
from marl.communication.analysis import analyse_player
from marl.communication.formation import Formed, drift_bits, formation, snapshot
from marl.communication.measures.change_point import change_point, means_around
from marl.communication.measures.information import Resampler, Undefined
from marl.communication.verdict import formed_words

ENV = "simple_speaker_listener"
EPISODES = 40


def squares(values, cut):
    """Sum of squares around the two means of a cut."""
    return sum(((part - part.mean()) ** 2).sum() for part in (values[:cut], values[cut:]))


def test_a_known_change_by_hand():
    values = np.array([0.0, 0.1, 0.0, 1.5, 1.6, 1.5])
    assert change_point(values) == 3
    before, after = means_around(values, change_point(values))
    assert before == pytest.approx(0.1 / 3) and after == pytest.approx(4.6 / 3)
    assert change_point(np.array([2.0, 0.0])) == 1
    assert change_point(np.zeros(4)) == 1, "of equals the earliest"
    assert change_point(np.array([0.0, 1.0, 0.0])) == 1, "two cuts are alike: the earliest"
    assert change_point(np.array([1.0, 1.0, 0.0])) == 2, "a fall is a change too"


def test_the_change_is_the_best_of_all_cuts():
    series = np.random.default_rng(0).normal(size=(50, 9)) + (np.arange(9) >= 6)
    best = [min(range(1, 9), key=lambda cut, one=one: squares(one, cut)) for one in series]
    assert change_point(series).tolist() == best


def test_drift_by_hand():
    identity, swapped = np.diag([30, 30]), np.diag([30, 30])[::-1]
    assert drift_bits(identity, identity) == pytest.approx(0, abs=1e-12)
    assert drift_bits(identity, swapped) == pytest.approx(1)
    half = np.array([[30, 0], [0, 30]]), np.array([[30, 0], [30, 0]])
    assert drift_bits(*half, corrections=0) == pytest.approx(0.5), "one of two meanings lost its symbol"
    rarely = np.array([[90, 0], [0, 30]]), np.array([[90, 0], [30, 0]])
    assert drift_bits(*rarely, corrections=0) == pytest.approx(0.25), "meanings count by their frequency"


def test_drift_is_the_divergence_of_scipy():
    counts = np.array([[20, 5, 15], [1, 30, 9]]), np.array([[10, 10, 20], [12, 12, 16]])
    reference = np.mean([jensenshannon(p, q, base=2) ** 2 for p, q in zip(*counts, strict=True)])
    assert drift_bits(*counts, corrections=0) == pytest.approx(reference)


def snapshots(codes):
    """Of scripted speakers, one code a checkpoint; None babbles."""
    spec = catalogue.describe(ENV, catalogue.parallel_env(ENV))
    taken = []
    for k, code in enumerate(codes):
        result, material = analyse_player(
            Scripted(code), ENV, spec, episodes=EPISODES, resampling=(199, 9), interventions=(), backend="torch"
        )
        taken.append(snapshot(1000 * (k + 1), result, material))
    return taken


@pytest.fixture(scope="module")
def said():
    """A speaker that babbles, then one with a code, then one with the opposite code."""
    return dict(zip(("babbling", "code", "shifted"), snapshots([None, (0, 1, 2), (1, 2, 0)]), strict=True))


def sequence(said, names):
    taken = [replace(said[name], step=1000 * (k + 1)) for k, name in enumerate(names)]
    return formation(taken, 0, Resampler(EPISODES, 0, 99, 50))


def test_a_protocol_that_forms_and_changes(said):
    rows, formed = sequence(said, ["babbling", "babbling", "code", "code", "shifted"])
    assert isinstance(formed, Formed)
    assert (formed.before, formed.step, formed.low, formed.high) == (2000, 3000, 3000, 3000)
    assert [row.formed for row in rows] == [0, 0, 1, 1, 1]
    assert [round(row.synonyms) for row in rows] == [3, 3, 1, 1, 1]
    assert rows[3].drift.mean == pytest.approx(0, abs=1e-12) and rows[3].drift.high == pytest.approx(0, abs=1e-12)
    assert [rows[4].drift.mean, rows[4].drift.low, formed.drift_after] == pytest.approx([1, 1, 1])
    assert rows[2].information == pytest.approx(math.log2(3), abs=0.1) and rows[0].value is None
    assert formed.rise.low > 1 and formed.bits_after - formed.bits_before == pytest.approx(formed.rise.mean)
    first, second = formed_words(rows, formed)
    assert "formed between the checkpoints of steps 2,000 and 3,000" in first and "drifted by at most 1.00" in second


def test_other_courses_in_words(said):
    rows, formed = sequence(said, ["code", "code", "babbling"])
    assert "was lost between the checkpoints of steps 2,000 and 3,000" in formed_words(rows, formed)[0]
    rows, formed = sequence(said, ["babbling"] * 3)
    assert formed_words(rows, formed)[0].startswith("No protocol formed: at none of 3 checkpoints")
    rows, formed = sequence(said, ["code"] * 3)
    assert "no change between 3 checkpoints is measurable" in formed_words(rows, formed)[0]
    rows, formed = sequence(said, ["babbling", "code"])
    assert isinstance(formed, Undefined) and "larger --checkpoint.keep" in formed_words(rows, formed)[0]
    assert [row.formed for row in rows] == [None, None]
