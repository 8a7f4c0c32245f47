"""Whether a final policy has a protocol: what it says tells the goal, and it costs to hear about another one.

A replica has formed a protocol where both hold, on greedy episodes that no training has seen:

- on some channel I(M;G), message and declared meaning, is significant: p < .01 by permutation of the episodes;
- with all messages shuffled among episodes the speakers' team loses: the 95 % interval of the paired loss is above 0.

Either alone is not enough. Agents that are paid for signalling tell their goal to nobody where nothing arrives, and a
listener that was told the goal by the environment (channel oracle) loses by shuffling although nobody has said
anything: there the criterion is not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl import Policy
from marl.communication.measures.channels import channels_of, listen
from marl.communication.measures.information import Information, Resampler
from marl.communication.measures.interventions import Interference, Intervention, speakers_team, summarise
from marl.communication.measures.signalling import signalling
from marl.figures.plots import FORMED
from marl.play.rollout import play
from marl.results import Record

SIGNIFICANT = 0.01
TOLD = "oracle"


@dataclass(frozen=True)
class Protocol(Record):
    """Of one replica."""

    bits: float | None
    """Corrected I(M;G) of the channel that tells most; None where no meaning is declared."""
    share: float | None
    """The same as a share of H(G)."""
    p: float | None
    """The least p-value of the channels."""
    lost: float
    """Mean return per agent of the speakers' team that shuffled messages cost."""
    lost_interval: tuple[float, float]
    """95 % interval of it, paired by episode."""
    formed: bool | None
    """Whether the criterion holds; None where it is not applied."""


def protocol(policy: Policy, episodes: int, seed: int) -> Protocol:
    """What a policy's messages tell and are worth, in the batched port.

    Args:
        policy: greedy, of a task with messages.
        episodes: sample size, of which each has one message in the information.
        seed: of the episodes.
    """
    spec, resampler = policy.spec, Resampler(episodes, seed)
    common: dict[str, Any] = {"env_args": policy.env_args, "backend": "torch", "batch": episodes, "spec": spec}
    played = play(policy.env_id, policy, episodes, seed, record=True, **common)
    channels = channels_of(spec)
    told = [signalling(listen(spec, channel, played, seed), resampler).information for channel in channels]
    known = [one for one in told if isinstance(one, Information)]
    shuffle = Interference(spec, channels, Intervention("shuffled"), [(0,)] * len(channels), seed)
    changed = play(policy.env_id, policy, episodes, seed, intervene=shuffle, **common)
    lost = summarise(spec, changed, resampler, speakers_team(spec, channels), played).team_lost
    assert lost is not None
    p = min((one.p for one in known), default=None)
    formed = None if p is None or policy.channel == TOLD else bool(p < SIGNIFICANT and lost.low > 0)
    best = max(known, key=lambda one: one.corrected, default=None)
    return Protocol(
        bits=None if best is None else best.corrected,
        share=None if best is None else best.share,
        p=p,
        lost=lost.mean,
        lost_interval=(lost.low, lost.high),
        formed=formed,
    )


def formed_at(curve: dict[str, Any], formed: Sequence[bool | None]) -> list[float] | None:
    """Steps of every replica until its protocol paid for good; infinity for one without. None: the task has no gain.

    That is the first evaluation during training from which on the gain stays above .1, of a replica whose final policy
    has a protocol.
    """
    if "gain" not in curve:
        return None
    gain_nR, step_n = np.array(curve["gain"], dtype=float), np.array(curve["step"], dtype=float)
    results = []
    for gain_n, has in zip(gain_nR.T, formed, strict=True):
        below = np.flatnonzero(~(gain_n > FORMED))
        first = 0 if len(below) == 0 else int(below[-1]) + 1
        results.append(float(step_n[first]) if has and first < len(step_n) else float("inf"))
    return results
