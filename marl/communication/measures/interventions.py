"""What is the channel worth? Episodes replayed with the messages changed on their way.

Each intervention replays the same episodes (the same seeds) in the same environment and changes only what stands in
the receivers' slots. The difference to the untouched episodes, episode by episode, is the causal worth of what was
taken away. Right after a reset no message stands in any slot, and none is put there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.communication.measures.channels import Channel
from marl.communication.measures.influence import interval_of
from marl.communication.measures.information import Floats, Ints, Resampler
from marl.errors import UserError, did_you_mean
from marl.play.rollout import Episodes, Observations
from marl.results import LEFT_OUT, Record
from marl.stats import MeanInterval

Lines = Mapping[str, float | None]
"""Returns per agent to compare with: "oracle", "no communication", "random"; None or absent where unknown."""

KINDS = {
    "mute": "the slot holds zeros: nothing is heard",
    "fixed": "always the symbol that the sender uses most (fixed:2: always symbol 2)",
    "uniform": "a fresh uniformly random symbol at every step",
    "shuffled": "what is heard at the same time in another episode: a message like always, about another goal",
    "swapped": "each symbol that the sender uses arrives as the next one that it uses",
    "noise": "noise:0.1 replaces a symbol with probability 0.1 by a uniformly random other one",
    "self": "the receiver hears what it said itself, where the pair talks both ways",
}


@dataclass(frozen=True)
class Intervention:
    """One way to change messages. `value` is the symbol of `fixed` and the rate of `noise`."""

    kind: str
    value: float | None = None

    @property
    def name(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value:g}"

    @classmethod
    def parse(cls, text: str) -> Intervention:
        """From `kind` or `kind:value`; `UserError` names what is wrong."""
        kind, colon, number = text.partition(":")
        if kind not in KINDS:
            listed = "; ".join(f"{name} ({what})" for name, what in KINDS.items())
            raise UserError(f"unknown intervention {text!r}.{did_you_mean(kind, KINDS)} Expected one of: {listed}.")
        if not colon and kind != "noise":
            return cls(kind)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if kind == "noise" and 0.0 <= value <= 1.0:
            return cls(kind, value)
        if kind == "fixed" and value >= 0 and value == int(value):
            return cls(kind, value)
        raise UserError(
            f"intervention {text!r}: expected noise:RATE with a rate in [0, 1], fixed:SYMBOL with a symbol from 0 on, "
            f"or one of {', '.join(name for name in KINDS if name != 'noise')} by itself."
        )


class Interference:
    """The `intervene` argument of `play`: rewrites the slots of some channels at every step.

    Args:
        spec: the environment's.
        channels: those that are changed.
        intervention: how.
        used: for each channel the symbols that its sender uses, the most frequent first.
        seed: of the random numbers; those of an episode do not depend on how episodes are batched (but `shuffled`
            takes its other episode from the same batch).
    """

    def __init__(
        self,
        spec: EnvSpec,
        channels: Sequence[Channel],
        intervention: Intervention,
        used: Sequence[Sequence[int]],
        seed: int = 0,
    ) -> None:
        self.spec, self.channels, self.intervention, self.used, self.seed = spec, channels, intervention, used, seed
        self._first = 0  # index of the batch's first episode
        self._count = 0
        for channel in channels:
            if intervention.kind == "fixed" and (intervention.value or 0) >= channel.symbols:
                raise UserError(
                    f"intervention {intervention.name}: {channel.name(spec)} has the symbols 0 to "
                    f"{channel.symbols - 1}."
                )

    def __call__(self, t: int, observations: Observations) -> Observations:
        if t == 0:
            self._start(len(next(iter(observations.values()))))
            return observations
        changed = dict(observations)
        for k, channel in enumerate(self.channels):
            name = self.spec.agent_names[channel.receiver]
            heard = channel.read(observations[name])
            new = np.where(heard < channel.symbols, self._rewrite(k, channel, heard, observations), heard)
            if self.intervention.kind == "shuffled":
                new = heard[self._partner]
            changed[name] = channel.write(changed[name], new)
        return changed

    def _start(self, episodes: int) -> None:
        self._first, self._count = self._first + self._count, episodes
        rows = range(self._first, self._first + episodes)
        self._streams = [
            Stream(self.seed, f"intervention/{self.intervention.kind}/{k}", rows) for k in range(len(self.channels))
        ]
        order = np.argsort(Stream(self.seed, "intervention/partner", rows).uniform().numpy())
        self._partner = np.empty(episodes, dtype=np.int64)
        self._partner[order] = np.roll(order, 1)  # one cycle: nobody is its own partner where there are two

    def _rewrite(self, k: int, channel: Channel, heard: Ints, observations: Observations) -> Ints:
        """The symbols [E] to write instead of `heard`; where nothing was heard the caller writes nothing."""
        kind, value, size = self.intervention.kind, self.intervention.value, channel.symbols
        if kind == "mute":
            return np.full_like(heard, size)
        if kind == "fixed":
            return np.full_like(heard, self.used[k][0] if value is None else int(value))
        if kind == "uniform":
            return self._streams[k].integers(size).numpy()
        if kind == "swapped":
            return next_used(size, self.used[k])[heard]
        if kind == "noise":
            shift = self._streams[k].integers(max(size - 1, 1)).numpy() + 1
            flip = self._streams[k].uniform().numpy() < (value or 0.0)
            return np.where(flip, (heard + shift) % size, heard)
        if kind == "self":
            back = reverse(channel, self.channels)
            assert back is not None, "`self` on a channel without a way back"
            return back.read(observations[self.spec.agent_names[channel.sender]])
        return heard


def next_used(size: int, used: Sequence[int]) -> Ints:
    """Int64 [V + 1]: where each symbol goes when used symbols move on to the next used one.

    A sender with one used symbol: every symbol moves on to the next of the vocabulary.
    """
    cycle = sorted(used) if len(used) > 1 else list(range(size))
    after = np.arange(size + 1)
    after[cycle] = np.roll(cycle, -1)
    return after


def reverse(channel: Channel, channels: Sequence[Channel]) -> Channel | None:
    """The channel from the receiver back to the sender, with the same symbols; None where there is none."""
    for other in channels:
        if (other.sender, other.receiver) == (channel.receiver, channel.sender) and other.sizes == channel.sizes:
            return other if other is not channel else None
    return None


def possible(spec: EnvSpec, channels: Sequence[Channel], names: Sequence[str]) -> list[Intervention]:
    """Parsed and checked interventions.

    Raises:
        UserError: an unknown name, a symbol or rate that cannot be, or `self` where a channel has no way back.
    """
    parsed = [Intervention.parse(name) for name in names]
    one_way = [channel.name(spec) for channel in channels if reverse(channel, channels) is None]
    for one in parsed:
        Interference(spec, channels, one, [(0,)] * len(channels))
        if one.kind == "self" and one_way:
            raise UserError(
                f"intervention self: expected agents that answer each other with the same symbols, but there is no way "
                f"back from {', '.join(one_way)}. Leave it out."
            )
    return parsed


# --------------------------------------------------------------------------------------------------- what it costs
def speakers_team(spec: EnvSpec, channels: Sequence[Channel]) -> list[int]:
    """The agents whose mean return tells what a channel is worth: the team of the first sender."""
    return list(next(team for team in spec.teams if channels[0].sender in team))


@dataclass(frozen=True)
class Outcome(Record):
    """Returns of one way to play, with 95 % intervals over episodes; losses are paired by episode."""

    returns: Mapping[str, MeanInterval]
    """{agent: return of one episode}."""
    team_return: MeanInterval
    """Mean over the agents of the speakers' team."""
    lost: Mapping[str, MeanInterval] | None = field(metadata=LEFT_OUT)
    """{agent: untouched return - this}; None of untouched episodes."""
    team_lost: MeanInterval | None = field(metadata=LEFT_OUT)
    """Mean over the agents of the speakers' team; None of untouched episodes."""
    score: MeanInterval | None
    """`team_return` on the scale where random is 0 and the oracle 1; None where these are not known."""
    gain: MeanInterval | None
    """On the scale where the best without communication is 0 and the oracle 1; None where these are not known."""


def summarise(
    spec: EnvSpec,
    played: Episodes,
    resampler: Resampler,
    team: Sequence[int],
    intact: Episodes | None = None,
    lines: Lines | None = None,
) -> Outcome:
    """Returns with 95 % intervals over episodes.

    Args:
        spec: the environment's.
        played: what is summed up.
        resampler: made for as many episodes.
        team: the speakers' team.
        intact: the same episodes untouched, to measure what was lost.
        lines: returns that score and gain are measured by.
    """
    lost = None if intact is None else intact.returns - played.returns
    lines = lines or {}
    team_return = interval_of(played.returns[:, team].mean(axis=1), resampler)
    return Outcome(
        returns=_per_agent(spec, played.returns, resampler),
        team_return=team_return,
        lost=None if lost is None else _per_agent(spec, lost, resampler),
        team_lost=None if lost is None else interval_of(lost[:, team].mean(axis=1), resampler),
        score=_scaled(team_return, lines.get("random"), lines.get("oracle")),
        gain=_scaled(team_return, lines.get("no communication"), lines.get("oracle")),
    )


def _per_agent(spec: EnvSpec, values: Floats, resampler: Resampler) -> dict[str, MeanInterval]:
    return {name: interval_of(values[:, n], resampler) for n, name in enumerate(spec.agent_names)}


def _scaled(value: MeanInterval, zero: float | None, one: float | None) -> MeanInterval | None:
    """On the scale from `zero` to `one`; None where one of them is not known."""
    if zero is None or one is None:
        return None
    mean, low, high = ((number - zero) / (one - zero) for number in (value.mean, value.low, value.high))
    return MeanInterval(mean, low, high)
