"""Crypto: what a friend with the key and an eavesdropper without it recover of a secret."""

from __future__ import annotations

from dataclasses import dataclass

from envs.spec import EnvSpec
from marl.communication.measures import information as info
from marl.communication.measures.channels import Heard
from marl.communication.measures.influence import interval_of
from marl.communication.measures.information import Information, Resampler, contingency
from marl.play.rollout import Episodes
from marl.results import Record
from marl.stats import MeanInterval

_KEY = (0, 4)  # (start, size) of the key in Bob's observation


@dataclass(frozen=True)
class Guesses(Record):
    """How well somebody guesses the secret G."""

    accuracy: MeanInterval
    """Share of right guesses at the heard steps, in [0, 1]."""
    recovered: Information
    """I(guess; G)."""


@dataclass(frozen=True)
class Secrecy(Record):
    """What the message M gives away of the secret G, and of the key K."""

    without_key: Information
    """I(M; G): what anybody can learn from the message (optimum 0)."""
    with_key: Information
    """I(M; G | K): what a holder of the key can (optimum H(G) = 1 bit)."""
    key_leak: Information
    """I(M; K): what the message tells about the key."""
    best_without_key: float
    """Accuracy in [0, 1] of the best guess from the message, from the table of counts."""
    best_with_key: float
    """Of the best guess from message and key."""
    bob: Guesses
    """The friend, who has the key."""
    eve: Guesses
    """The eavesdropper, who has not."""


def secrecy_report(spec: EnvSpec, played: Episodes, to_bob: Heard, resampler: Resampler) -> Secrecy:
    """What the message gives away, of recorded episodes of simple_crypto.

    Args:
        spec: of simple_crypto.
        played: recorded episodes.
        to_bob: what Alice said to Bob (Eve hears the same).
        resampler: made for the same episodes.
    """
    assert played.obs is not None and played.actions is not None and to_bob.meanings.values is not None
    goal_JE = to_bob.meanings.values
    goal, message = to_bob.drawn(goal_JE), to_bob.drawn(to_bob.sent)
    start, size = _KEY
    key = to_bob.drawn(to_bob.obs["bob_0"][..., start : start + size].argmax(axis=-1))
    goals, symbols = len(to_bob.meanings.labels), to_bob.channel.symbols
    sizes = (goals, symbols)
    by_key = contingency(goal, message, sizes, key, size)
    guessed = to_bob.at_heard_steps(played.actions)[..., 0]  # [J, E, N]

    def guesses(name: str) -> Guesses:
        guess_JE = guessed[:, :, spec.agent_names.index(name)]
        right = to_bob.episode_mean(guess_JE == goal_JE)
        recovered = info.mutual_information(goal, to_bob.drawn(guess_JE), (goals, symbols), resampler)
        return Guesses(interval_of(right, resampler), recovered)

    return Secrecy(
        without_key=info.mutual_information(goal, message, sizes, resampler),
        with_key=info.mutual_information(goal, message, sizes, resampler, key, size),
        key_leak=info.mutual_information(key, message, (size, symbols), resampler),
        best_without_key=info.bayes_accuracy(contingency(goal, message, sizes)[0]),
        best_with_key=float(by_key.max(axis=1).sum() / by_key.sum()),
        bob=guesses("bob_0"),
        eve=guesses("eve_0"),
    )
