"""Speakers of one run with listeners of another, as they are and after relabelling."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from channel_players import Babbling, Scripted

from envs.mpe import catalogue
from envs.spec import EnvSpec
from marl.communication.measures.channels import channels_of
from marl.communication.measures.crossplay import (
    Participant,
    Relabelled,
    best_relabelling,
    cross_play,
    sides,
    symbol_agreement,
)
from marl.errors import UserError
from marl.play.rollout import play

ENV = "simple_speaker_listener"


@lru_cache
def spec_of(name: str = ENV) -> EnvSpec:
    return catalogue.describe(name, catalogue.parallel_env(name))


def team(code) -> Participant:
    return Participant(str(code), Scripted(code, heard_as=np.argsort(code)), spec_of())


def test_who_comes_from_where():
    assert sides(spec_of()) == (("speaker_0",), ("listener_0",))
    assert sides(spec_of("simple_reference")) == (("agent_0",), ("agent_1",))
    assert sides(spec_of("simple_crypto")) == (("alice_0",), ("eve_0", "bob_0"))


def test_relabelling_by_hand():
    agreement = np.array([[0.0, 0.3, 0.0], [0.1, 0.0, 0.2], [0.3, 0.05, 0.05]])
    assert best_relabelling(agreement).tolist() == [1, 2, 0]


def test_permuted_copies_of_one_protocol_recover_everything():
    teams = [team((0, 1, 2)), team((1, 2, 0)), team((0, 2, 1))]
    result = cross_play(teams, ENV, episodes=60, seed=3)
    raw, relabelled = np.array(result.raw), np.array(result.relabelled)
    assert np.ptp(relabelled) == 0.0, "every pair plays as one team"
    assert np.array_equal(np.diag(raw), np.diag(relabelled))
    off = ~np.eye(3, dtype=bool)
    assert (raw[off] < relabelled[off] - 3).all()
    assert result.agreement_relabelled == pytest.approx(np.ones((3, 3)))
    # (0 1 2) and (0 2 1) share one symbol, (0 1 2) and (1 2 0) none.
    assert result.agreement_raw[0][1] == 0.0 and 0.2 < result.agreement_raw[0][2] < 0.5
    assert result.participants == ("(0, 1, 2)", "(1, 2, 0)", "(0, 2, 1)") and result.rows == ("speaker_0",)


def test_agreement_uses_the_episodes_that_both_teams_played():
    channel = channels_of(spec_of())[0]
    first, second = (play(ENV, Scripted(code), 50, 9, record=True) for code in ((0, 1, 2), (2, 0, 1)))
    agreement = symbol_agreement(spec_of(), channel, first, second)
    assert agreement.sum() == pytest.approx(1.0)
    assert best_relabelling(agreement).tolist() == [2, 0, 1]
    assert agreement[[0, 1, 2], [2, 0, 1]].sum() == pytest.approx(1.0)


def cut(played, lengths):
    """The same episodes, over after so many steps."""
    return replace(played, lengths=np.array(lengths))


def test_agreement_compares_the_same_episodes_where_some_end_at_once():
    """Guard: seen failing when each team left out its own episodes of one step: the first team's goals were compared
    with other goals of the second, and other numbers of episodes broke."""
    channel, spec = channels_of(spec_of())[0], spec_of()
    whole = play(ENV, Scripted(), 6, 9, record=True)
    goals = whole.obs["speaker_0"][0].argmax(-1)
    assert len(set(goals[1:5])) > 1 and (goals[1:] != goals[:-1]).any()
    agreement = symbol_agreement(spec, channel, cut(whole, [1, 25, 25, 25, 25, 25]), cut(whole, [25] * 5 + [1]))
    assert agreement == pytest.approx(np.diag(np.bincount(goals[1:5], minlength=3) / 4))
    agreement = symbol_agreement(spec, channel, cut(whole, [1, 25, 25, 25, 25, 25]), whole)
    assert np.trace(agreement) == pytest.approx(1.0)
    with pytest.raises(UserError, match="no episode in which both teams heard"):
        symbol_agreement(spec, channel, cut(whole, [25] * 3 + [1] * 3), cut(whole, [1] * 3 + [25] * 3))


def test_nothing_heard_stays_nothing():
    channel = channels_of(spec_of())[0]
    obs = {"listener_0": channel.write(np.ones((4, 11), np.float32), np.arange(4))}
    after = Relabelled(spec_of(), [(channel, np.array([1, 2, 0]))])(1, obs)["listener_0"]
    assert channel.read(after).tolist() == [1, 2, 0, 3]


def test_both_directions_are_relabelled_where_both_speak():
    spec = spec_of("simple_reference")
    pair = [Participant("a", Babbling(spec), spec), Participant("b", Babbling(spec, 1), spec)]
    result = cross_play(pair, "simple_reference", episodes=4, seed=0)
    assert np.isfinite(result.relabelled).all()
    assert 0.0 <= result.agreement_raw[0][1] <= result.agreement_relabelled[0][1] <= 1.0


def test_what_cannot_play_together():
    with pytest.raises(UserError, match="at least two participants, got 1"):
        cross_play([team((0, 1, 2))], ENV, episodes=2, seed=0)
    other = Participant("other", Babbling(spec_of("simple_crypto")), spec_of("simple_crypto"))
    with pytest.raises(UserError, match="other cannot play together: their environments differ in id"):
        cross_play([team((0, 1, 2)), other], ENV, episodes=2, seed=0)
