"""Crypto: what a friend with the key and an eavesdropper without it recover of a secret."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.spec import EnvSpec
from marl.communication import information as info
from marl.communication.channels import Heard
from marl.communication.information import Resampler, contingency
from marl.play.rollout import Episodes

_KEY = (0, 4)  # (start, size) of the key in Bob's observation


def secrecy_report(spec: EnvSpec, played: Episodes, to_bob: Heard, resampler: Resampler) -> dict[str, Any]:
    """What the message gives away, of recorded episodes of simple_crypto.

    Args:
        spec: of simple_crypto.
        played: recorded episodes.
        to_bob: what Alice said to Bob (Eve hears the same).
        resampler: made for the same episodes.

    Returns:
        `without_key`: I(M; G) in bits, what anybody can learn from the message (optimum 0);
        `with_key`: I(M; G | K), what a holder of the key can (optimum H(G) = 1 bit);
        `key_leak`: I(M; K), what the message tells about the key;
        `bob`, `eve`: `accuracy` {mean, low, high} of their guesses at the heard steps, and `recovered`: I(guess; G);
        `best_without_key`, `best_with_key`: accuracy of the best guess from the message, from the table of counts.
    """
    assert played.obs is not None and played.actions is not None and to_bob.told.values is not None
    goal_JE = to_bob.told.values
    goal, message = to_bob.drawn(goal_JE), to_bob.drawn(to_bob.sent)
    start, size = _KEY
    key = to_bob.drawn(to_bob.obs["bob_0"][..., start : start + size].argmax(axis=-1))
    goals, symbols = len(to_bob.told.labels), to_bob.channel.symbols
    sizes = (goals, symbols)
    by_key = contingency(goal, message, sizes, key, size)
    found: dict[str, Any] = {
        "without_key": info.mutual_information(goal, message, sizes, resampler).to_dict(),
        "with_key": info.mutual_information(goal, message, sizes, resampler, key, size).to_dict(),
        "key_leak": info.mutual_information(key, message, (size, symbols), resampler).to_dict(),
        "best_without_key": info.bayes_accuracy(contingency(goal, message, sizes)[0]),
        "best_with_key": float(by_key.max(axis=1).sum() / by_key.sum()),
    }
    keep = played.lengths >= 2
    for name in ("bob_0", "eve_0"):
        guess_JE = played.actions[1:, keep, spec.agent_names.index(name), 0]
        right = to_bob.episode_mean(guess_JE == goal_JE)
        low, high = resampler.mean_interval(right)
        recovered = info.mutual_information(goal, to_bob.drawn(guess_JE), (goals, symbols), resampler)
        found[name.split("_")[0]] = {
            "accuracy": {"mean": float(np.mean(right)), "low": low, "high": high},
            "recovered": recovered.to_dict(),
        }
    return found
