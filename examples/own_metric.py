"""A metric of messages of your own, measured on a trained run in the real environment.

    python run.py --env simple_speaker_listener --run-dir runs/pair
    python -m examples.own_metric runs/pair

The metric is the *purity* of a language: of all messages about one goal, the share that is that goal's most frequent
symbol, averaged over goals. It is 1 where every goal has one symbol, and one over the number of symbols for a speaker
that draws them evenly. It does not notice two goals that share a symbol: the information about the goal does
(`python -m marl.communication`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mpe2 import simple_speaker_listener_v4

from marl import Policy

SPEAKER, GOALS, SYMBOLS = "speaker_0", 3, 3


def purity(counts: np.ndarray) -> float:
    """The metric by itself, a pure function, so that a test can check it by hand.

    Args:
        counts: int [goals, symbols] of messages; goals that never came up do not count.
    """
    met = counts[counts.sum(1) > 0]
    if not len(met):
        raise ValueError("purity needs at least one message, got none.")
    return float((met.max(1) / met.sum(1)).mean())


def count_messages(policy: Policy, episodes: int, seed: int = 0) -> np.ndarray:
    """Play `episodes` of `mpe2`'s speaker and listener, episode i reset with `seed + i`.

    Returns:
        int [goals, symbols]: how often each symbol was said about each goal.
    """
    counts = np.zeros((GOALS, SYMBOLS), dtype=np.int64)
    env = simple_speaker_listener_v4.parallel_env()
    for episode in range(episodes):
        observations, _ = env.reset(seed=seed + episode)
        policy.reset(1)  # a policy with memory forgets the episode before
        while env.agents:
            goal = int(np.argmax(observations[SPEAKER]))  # the speaker sees the goal's colour and nothing else
            actions = policy(observations)
            counts[goal, int(actions[SPEAKER])] += 1
            observations, *_ = env.step(actions)
    env.close()
    return counts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Purity of the language of a run of simple_speaker_listener.")
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--replica", type=int, default=0)
    options = parser.parse_args(arguments)
    counts = count_messages(Policy.load(options.run, replica=options.replica, greedy=True), options.episodes)
    print(f"messages [goal, symbol]:\n{counts}")
    print(f"purity {purity(counts):.3f}   ({1 / SYMBOLS:.3f}: symbols at random; 1: one symbol a goal)")


if __name__ == "__main__":
    main()
