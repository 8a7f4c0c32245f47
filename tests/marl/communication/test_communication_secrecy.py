"""Crypto: the one-time pad tells an eavesdropper nothing and a friend everything; plain text tells both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from envs.mpe import catalogue
from marl.communication.measures.channels import channels_of, listen
from marl.communication.measures.information import Resampler
from marl.communication.measures.secrecy import secrecy_report
from marl.play.rollout import play

ENV = "simple_crypto"


class Alice:
    """Alice says goal xor key (or the plain goal); Bob decodes; Eve repeats what she hears."""

    def __init__(self, secret=True):
        self.secret = secret

    def reset(self, num_envs):
        pass

    def act(self, observations, masks=None):
        alice, bob, eve = (observations[name] for name in ("alice_0", "bob_0", "eve_0"))
        key = alice[:, 4:].argmax(-1) * self.secret
        return {
            "alice_0": alice[:, :4].argmax(-1) ^ key,
            "bob_0": bob[:, 4:].argmax(-1) ^ (bob[:, :4].argmax(-1) * self.secret),
            "eve_0": eve.argmax(-1),
        }


def report(secret):
    spec = catalogue.describe(ENV, catalogue.parallel_env(ENV))
    played = play(ENV, Alice(secret), 600, 1_000_000, record=True)
    to_bob = listen(spec, channels_of(spec)[1], played)
    return secrecy_report(spec, played, to_bob, Resampler(600, 0, 199, 400))


def test_the_one_time_pad():
    result = report(secret=True)
    assert result.without_key.low == 0.0 and result.without_key.p > 0.01
    assert result.with_key.low <= 1.0 <= result.with_key.high + 1e-9
    assert result.with_key.p < 0.01
    assert result.key_leak.low == 0.0
    assert result.bob.accuracy.mean == 1.0 and result.bob.recovered.low > 0.95
    assert result.eve.accuracy.mean == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / 600))
    assert result.eve.accuracy.low < 0.5 < result.eve.accuracy.high
    assert result.best_with_key == 1.0 and result.best_without_key < 0.57


def test_plain_text():
    result = report(secret=False)
    assert result.without_key.high >= 0.99 and result.without_key.p < 0.01
    assert result.eve.accuracy.mean == 1.0 and result.bob.accuracy.mean == 1.0
    assert np.isclose(result.best_without_key, 1.0)
