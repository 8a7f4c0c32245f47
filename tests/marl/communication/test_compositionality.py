"""Measures of structure on codes whose values are known by hand, their chance levels, and slow references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from parts_players import ENV, Naming
from scipy.stats import spearmanr

from marl.communication.analysis import PlayerAnalysis, analyse_player
from marl.communication.measures import information as info
from marl.communication.measures.compositionality import Compared, compositionality
from marl.communication.verdict import describe

NINE = np.array(list(itertools.product(range(3), range(3))))  # every meaning of 3 x 3 once
POSITIONAL = NINE  # a place for each attribute
# Any two of a, b, a + b and a - b (mod 3) tell each other nothing: no place of this code tells of any attribute.
HOLISTIC = np.stack([NINE.sum(axis=1) % 3, (NINE[:, 0] - NINE[:, 1]) % 3], axis=1)
# Symbols 0 to 2 for the first attribute, 3 to 5 for the second; their order turns with the meaning.
BAG = np.array([(a, 3 + b) if (a + b) % 2 else (3 + b, a) for a, b in NINE])


def measured(messages: np.ndarray, size: int, meanings: np.ndarray = NINE):
    return compositionality(meanings, messages, [size] * messages.shape[1], info.Resampler(len(meanings), 0, 999, 1))


def values(found) -> dict[str, float]:
    return {name: one.value for name, one in vars(found).items() if isinstance(one, Compared)}


def test_a_compositional_code_by_hand():
    """A place an attribute: distances agree. The symbol v is said for a = v and for b = v alike, so that its number
    tells of both attributes the same, and a translation without places covers one of its two senses."""
    found = measured(POSITIONAL, 3)
    assert values(found) == pytest.approx(
        {
            "topographic_similarity": 1.0,
            "positional_disentanglement": 1.0,
            "bag_of_symbols_disentanglement": 0.0,
            "concept_best_matching": 1 / 2,
            "positional_best_matching": 1.0,
        },
        abs=1e-12,
    )
    assert [tuple(vars(word).values()) for word in found.dictionary] == [
        (place, symbol, place, symbol, 3, 3) for place in range(2) for symbol in range(3)
    ]
    assert max(one.p for one in (found.topographic_similarity, found.positional_best_matching)) < 0.01


def test_a_holistic_code_by_hand():
    """Meanings that share an attribute never share a symbol (of the 36 pairs 18 do either): correlation -1. A symbol in
    its place meets each value once in 9 episodes: six pairs of 1 in 18."""
    found = measured(HOLISTIC, 3)
    assert values(found) == pytest.approx(
        {
            "topographic_similarity": -1.0,
            "positional_disentanglement": 0.0,
            "bag_of_symbols_disentanglement": 0.0,
            "concept_best_matching": 1 / 3,
            "positional_best_matching": 1 / 3,
        },
        abs=1e-12,
    )
    assert found.topographic_similarity.p == 1.0 and found.positional_best_matching.p == 1.0


def test_a_bag_of_symbols_by_hand():
    """Symbol v tells of one attribute only, wherever it stands. The first place is a's symbol in 4 of 9 episodes."""
    found = measured(BAG, 6)
    assert found.bag_of_symbols_disentanglement.value == pytest.approx(1.0)
    assert found.bag_of_symbols_disentanglement.p < 0.01
    assert found.concept_best_matching.value == pytest.approx(1.0) and found.concept_best_matching.p < 0.01
    assert found.positional_disentanglement.value < 0.5
    assert found.positional_best_matching.value == pytest.approx(matched_slowly(NINE, BAG, True))
    assert found.positional_best_matching.value < 1.0


def matched_slowly(meanings: np.ndarray, messages: np.ndarray, places: bool) -> float:
    """The best of all one-to-one translations, tried one by one from the matched pairs' counts."""
    said = [{(j if places else 0, int(s)) for j, s in enumerate(row)} for row in messages]
    meant = [{(k, int(v)) for k, v in enumerate(row)} for row in meanings]
    words, concepts = sorted(set().union(*said)), sorted(set().union(*meant))
    count = {(w, c): sum(w in s and c in m for s, m in zip(said, meant, strict=True)) for w in words for c in concepts}
    best: dict[frozenset, int] = {frozenset(): 0}
    for word in words:  # a word goes to a free concept, or to none
        later = dict(best)
        for taken, score in best.items():
            for concept in set(concepts) - taken:
                key = taken | {concept}
                later[key] = max(later.get(key, 0), score + count[word, concept])
        best = later
    return max(best.values()) / sum(max(len(row), len(m)) for row, m in zip(messages, meant, strict=True))


def gap_slowly(meanings: np.ndarray, units: np.ndarray) -> float:
    def entropy(*columns: np.ndarray) -> float:
        share = np.unique(np.stack(columns), axis=1, return_counts=True)[1] / len(columns[0])
        return -sum(p * math.log2(p) for p in share)

    gaps = []
    for unit in units.T:
        if len(set(unit)) > 1:
            told = sorted(entropy(unit) + entropy(a) - entropy(unit, a) for a in meanings.T)
            gaps.append((told[-1] - told[-2]) / entropy(unit))
    return float(np.mean(gaps))


def test_measures_equal_slow_references_on_an_uneven_sample():
    rng = np.random.default_rng(0)
    meanings = np.stack([rng.integers(0, 3, 150), rng.integers(0, 2, 150), rng.integers(0, 2, 150)], axis=1)
    code = rng.integers(0, 4, (12, 2))
    messages = code[meanings @ [4, 2, 1]]
    messages[:40, 1] = rng.integers(0, 4, 40)
    found = values(measured(messages, 4, meanings))
    bag = np.stack([(messages == symbol).sum(axis=1) for symbol in range(4)], axis=1)
    pairs = list(itertools.combinations(range(150), 2))
    far = [[(rows[i] != rows[j]).sum() for i, j in pairs] for rows in (meanings, messages)]
    assert found["topographic_similarity"] == pytest.approx(spearmanr(*far).statistic, abs=1e-9)
    assert found["topographic_similarity"] == pytest.approx(info.topographic_similarity(meanings, messages).value)
    assert found["positional_disentanglement"] == pytest.approx(gap_slowly(meanings, messages), abs=1e-9)
    assert found["positional_disentanglement"] == pytest.approx(
        info.positional_disentanglement(meanings, messages).value
    )
    assert found["bag_of_symbols_disentanglement"] == pytest.approx(gap_slowly(meanings, bag), abs=1e-9)
    assert found["concept_best_matching"] == pytest.approx(matched_slowly(meanings, messages, False), abs=1e-9)
    assert found["positional_best_matching"] == pytest.approx(matched_slowly(meanings, messages, True), abs=1e-9)


def test_the_chance_level_is_that_of_holistic_codes():
    """The null of a code is what the measures give its messages dealt out anew; random codes reach p < .05 rarely."""
    rng = np.random.default_rng(1)
    dealt = [measured(POSITIONAL[rng.permutation(9)], 3) for _ in range(60)]
    one = measured(POSITIONAL, 3)
    for name in ("topographic_similarity", "positional_disentanglement", "positional_best_matching"):
        drawn = np.array([getattr(found, name).value for found in dealt])
        compared = getattr(one, name)
        assert abs(compared.null_mean - drawn.mean()) < 4 * drawn.std() / 60**0.5
        assert np.mean(drawn > compared.null_high) < 0.13
        assert np.mean([getattr(found, name).p < 0.05 for found in dealt]) < 0.13


def test_few_meanings_allow_no_small_p():
    """8 of the 24 codes of 2 x 2 are as compositional as this one, 12 of the 720 of 3 x 3 without its diagonal."""
    four = np.array(list(itertools.product(range(2), range(2))))
    assert measured(four, 2, four).topographic_similarity.p == pytest.approx(1 / 3, abs=0.06)
    six = NINE[NINE[:, 0] != NINE[:, 1]]
    assert measured(six, 3, six).positional_best_matching.p == pytest.approx(12 / 720, abs=0.012)


def test_single_parts_and_constant_messages():
    assert measured(NINE[:, :1], 3) is None
    assert measured(NINE, 3, NINE[:, :1]) is None
    constant = measured(np.zeros((9, 2), dtype=np.int64), 3)
    assert "nothing to disentangle" in constant.positional_disentanglement.reason
    assert "equally far apart" in constant.topographic_similarity.reason
    assert constant.concept_best_matching.value == pytest.approx(3 / 18)


def test_the_analysis_of_a_code_with_parts_and_of_one_word():
    """Declared attributes become the meaning; one message of two an episode is heard, log2 6 bits of six goals."""
    args = {"attributes": [3, 3], "held_out": 3}
    lines = {"oracle": None, "no communication": None, "random": None}
    told = {}
    for constant in (False, True):
        player = Naming(args, constant=constant)
        told[constant], _ = analyse_player(
            player, ENV, player.spec, episodes=150, env_args=args, lines=lines, interventions=(), resampling=(199, 20)
        )
    signalling = told[False].channels[0].signalling
    assert signalling.meanings == ("goal 0 1", "goal 0 2", "goal 1 0", "goal 1 2", "goal 2 0", "goal 2 1")
    assert signalling.compositionality.positional_best_matching.value == 1.0
    assert len(signalling.compositionality.dictionary) == 6
    assert told[False].channels[0].usage.bits_per_episode == pytest.approx(math.log2(6), abs=0.03)
    words = describe(told[False], "a code")
    assert "The parts of messages stand for parts of goals" in words
    assert "2 in place 1 = attribute 1 is 2" in words
    assert PlayerAnalysis.from_json(told[False].to_json()) == told[False]
    assert told[True].channels[0].usage.bits_per_episode == 0.0
    assert "parts" not in describe(told[True], "one word")
