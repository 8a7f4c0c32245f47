"""The metrics on pairs whose protocol is known, and the causal influence against hand-worked and slow references."""

from __future__ import annotations

import json
import math
from functools import lru_cache

import numpy as np
import pytest
from channel_players import Babbling, Scripted

from envs.mpe import catalogue
from envs.spec import AgentSpec, EnvSpec, Head, Route
from marl.communication.measures.channels import channels_of, listen
from marl.communication.measures.influence import Questioned, causal_influence, counterfactuals, input_norm
from marl.communication.measures.information import Resampler
from marl.communication.measures.signalling import ChannelReport, channel_report
from marl.play.rollout import Episodes, play

ENV = "simple_speaker_listener"


@lru_cache
def spec() -> EnvSpec:
    return catalogue.describe(ENV, catalogue.parallel_env(ENV))


@lru_cache
def report(code=(0, 1, 2), listens=True, episodes=1000) -> ChannelReport:
    player = Scripted(code, listens, heard_as=None if code is None else tuple(np.argsort(code)))
    return reported(player, spec(), episodes, 1_000_000, 999)


def reported(player, spec, episodes, seed, permutations=99) -> ChannelReport:
    asked = Questioned(player, spec, channels_of(spec))
    played = play(spec.id, asked, episodes, seed, record=True)
    heard = listen(spec, channels_of(spec)[0], played)
    answers = heard.at_heard_steps(asked.answers(0))
    return channel_report(player, spec, heard, answers, Resampler(episodes, 0, permutations, 1000))


def test_a_perfect_pair():
    result = report()
    output = result.signalling.information
    assert output.low <= math.log2(3) <= output.high + 1e-9
    assert output.p == pytest.approx(0.001)
    assert result.influence["move"].cic_uniform.mean == pytest.approx(1.22, abs=0.03)
    assert result.influence["move"].flip_rate.mean == pytest.approx(0.975, abs=0.01)
    coordination = result.instantaneous_coordination
    assert coordination.information.low == 0.0 and coordination.information.p > 0.05
    assert "perfect pair" in coordination.warning
    assert result.signalling.context_independence.value == pytest.approx(1.0)
    assert result.signalling.entropy_given_meaning_bits == pytest.approx(0.0, abs=1e-9)
    assert result.usage.stability == 1.0 and result.usage.constant_symbol is None
    assert "only speaks" in result.speaker_consistency.reason
    assert "single symbol" in result.signalling.topographic_similarity.reason
    assert result.signalling.information_by_step == pytest.approx([output.corrected] * 24)


CHANNEL = [
    "channel", "sender", "receiver", "symbols", "capacity_bits", "exact", "episodes", "symbol_share", "entropy_bits",
    "used_share", "stability", "constant_symbol", "bits_per_episode",
]  # fmt: skip
TOLD = ["meanings", "table", "signalling"]
KNOWN = ["entropy_given_meaning_bits", "information_by_step"]
STRUCTURE = ["context_independence", "topographic_similarity", "positional_disentanglement"]
ARRIVED = ["lag", "confusion", "capacity_estimate_bits"]
HEARD = ["speaker_consistency", "instantaneous_coordination", "influence", "input_norm"]


def test_the_json_of_a_channel_is_the_one_that_scripts_read():
    result = report(episodes=50)
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(plain) == [*CHANNEL, *TOLD, *KNOWN, *STRUCTURE, *HEARD]
    estimate = ["plug_in", "corrected", "low", "high", "p", "entropy", "share", "episodes"]
    assert list(plain["signalling"]) == estimate
    assert list(plain["instantaneous_coordination"]) == [*estimate, "warning"]
    assert list(plain["influence"]["move"]) == ["cic_marginal", "cic_uniform", "flip_rate", "flip_rate_used", "ceiling"]
    assert list(plain["influence"]["move"]["flip_rate"]) == ["mean", "low", "high"]
    assert plain["input_norm"] == {"reason": "the player has no first layer"}
    assert plain["context_independence"] == {"value": result.signalling.context_independence.value}
    assert ChannelReport.from_json(plain) == result


def test_a_listener_that_ignores_messages_has_no_influence():
    result = report(listens=False, episodes=200).influence["move"]
    for name in ("cic_marginal", "cic_uniform", "flip_rate", "flip_rate_used"):
        assert abs(getattr(result, name).mean) <= 1e-9, name


def test_a_random_speaker_tells_nothing_but_may_be_listened_to():
    result = report(code=None, episodes=400)
    assert result.signalling.information.low == 0.0 and result.signalling.information.p > 0.05
    assert result.influence["move"].cic_uniform.mean > 1.0
    assert result.usage.stability < 0.6


def test_two_goals_under_one_symbol_and_a_constant_speaker():
    result = reported(Scripted((0, 0, 2), heard_as=(0, 1, 2)), spec(), 300, 5)
    goals = np.array(result.signalling.table).sum(axis=1) / 300
    merged = np.array([goals[0] + goals[1], goals[2]])
    assert result.signalling.information.plug_in == pytest.approx(-(merged * np.log2(merged)).sum(), abs=1e-9)
    assert result.signalling.context_independence.value == pytest.approx(2 / 3)
    assert result.influence["move"].flip_rate_used.mean < result.influence["move"].flip_rate.mean
    said = reported(Scripted((1, 1, 1), heard_as=(0, 1, 2)), spec(), 50, 5)
    assert said.usage.constant_symbol == 1 and said.usage.entropy_bits == 0.0
    assert said.signalling.information.share == 0.0
    assert math.isfinite(said.influence["move"].cic_marginal.mean)


# ------------------------------------------------------------------------------------------------------ influence
def test_causal_influence_by_hand():
    uniform = np.full(3, 1 / 3)
    assert causal_influence(np.eye(3), uniform) == pytest.approx(math.log2(3), abs=1e-12)
    two_alike = np.eye(3)[[0, 0, 1]]
    assert causal_influence(two_alike, uniform) == pytest.approx(math.log2(3) - 2 / 3, abs=1e-12)
    ignoring = np.tile([0.2, 0.5, 0.3], (3, 1))
    assert abs(causal_influence(ignoring, uniform)) < 1e-12, "the reference code gives log2 3 here"
    assert causal_influence(np.eye(3), np.array([1.0, 0.0, 0.0])) == 0.0, "one symbol carries nothing"


def test_causal_influence_equals_a_slow_reference():
    generator = np.random.default_rng(0)
    pi = generator.dirichlet(np.ones(5), size=(2, 7, 4))
    weights = generator.dirichlet(np.ones(4))
    slow = np.zeros((2, 7))
    for i, j in np.ndindex(2, 7):
        mixture = [sum(weights[m] * pi[i, j, m, k] for m in range(4)) for k in range(5)]
        slow[i, j] = sum(
            weights[m] * pi[i, j, m, k] * math.log2(pi[i, j, m, k] / mixture[k]) for m in range(4) for k in range(5)
        )
    assert causal_influence(pi, weights) == pytest.approx(slow, abs=1e-12)


def test_counterfactuals_change_the_slot_only():
    seen = []

    class Spy(Scripted):
        def probabilities(self, observations, masks=None):
            seen.append({name: obs.copy() for name, obs in observations.items()})
            return super().probabilities(observations, masks)

    obs = {"speaker_0": np.ones((6, 3), np.float32), "listener_0": np.ones((6, 11), np.float32)}
    answers = counterfactuals(Spy(), spec(), channels_of(spec())[0], obs)
    assert answers.shape == (6, 3, 1, 5)
    assert len(seen) == 3
    for symbol, asked in enumerate(seen):
        assert (asked["speaker_0"] == 1).all() and (asked["listener_0"][:, :8] == 1).all()
        assert np.array_equal(asked["listener_0"][:, 8:], np.tile(np.eye(3)[symbol], (6, 1)))


def test_a_player_with_memory_is_asked_in_its_state_of_mind():
    """This listener waits for three steps; its answers are those of the step at which it is asked."""

    class Waiting(Scripted):
        def reset(self, num_envs):
            self.t = 0

        def act(self, observations, masks=None):
            actions = super().act(observations, masks)
            self.t += 1
            return actions

        def move(self, obs):
            return super().move(obs) if self.t >= 3 else np.zeros(len(obs), dtype=np.int64)

    player = Waiting()
    asked = Questioned(player, spec(), channels_of(spec()))
    played = play(ENV, asked, 5, 3, record=True, batch=2)
    answers = asked.answers(0)
    assert answers.shape == (25, 5, 3, 1, 5) and len(answers) == len(played.actions)
    greedy = answers[..., 0, :].argmax(-1)
    assert (greedy[:3] == 0).all() and (greedy[3:] != greedy[3:, :, :1]).any()
    heard = listen(spec(), channels_of(spec())[0], played)
    said = np.take_along_axis(heard.at_heard_steps(greedy), heard.heard[..., None], axis=-1)[..., 0]
    assert np.array_equal(said, heard.answer.values), "under the symbol that it heard it would do what it did"


def test_input_norm_is_per_input():
    weight = np.ones((11, 4))
    weight[8:11] = 3.0
    result = input_norm(weight, channels_of(spec())[0])
    assert result.to_json() == {"message": pytest.approx(6.0), "rest": pytest.approx(2.0), "ratio": pytest.approx(3.0)}


# ------------------------------------------------------------------------------------------------ noise and delay
def test_a_noisy_delayed_channel():
    """Symbols arrive two steps after they were chosen, one in five erased: the lag and the capacity are found."""
    steps, episodes = 12, 600
    generator = np.random.default_rng(1)
    said = generator.integers(4, size=(steps, episodes))
    actions = np.zeros((steps, episodes, 2, 1), dtype=np.int64)
    actions[..., 0, 0] = said
    slot = np.zeros((steps, episodes, 4), np.float32)
    slot[2:] = np.eye(4, dtype=np.float32)[said[:-2]]
    slot *= generator.random((steps, episodes, 1)) >= 0.2
    agents = (AgentSpec("a", 1, (Head("message", 4),)), AgentSpec("b", 4, (Head("move", 4),)))
    noisy = EnvSpec("noisy", agents, routes=(Route(0, 0, 1, 0, 4, exact=False),))
    goal = said[:1].repeat(steps, axis=0).astype(np.float32)[..., None]
    unpaid = np.zeros((steps, episodes, 2))
    played = Episodes(unpaid[0], np.full(episodes, steps), {"a": goal, "b": slot}, actions, unpaid)
    heard = listen(noisy, channels_of(noisy)[0], played)
    nobody = np.full((steps - 1, episodes, 4, 1, 4), 0.25)
    result = channel_report(Babbling(noisy), noisy, heard, nobody, Resampler(episodes, 0, 99, 99))
    assert result.reception.lag == 2 and result.capacity_bits == 2.0
    assert result.reception.capacity_estimate_bits == pytest.approx(0.8 * 2, abs=0.05)
    assert result.reception.received is None, "nothing to tell was declared"
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(plain) == [*CHANNEL, *TOLD, *STRUCTURE, *ARRIVED, *HEARD]
    assert ChannelReport.from_json(plain) == result
