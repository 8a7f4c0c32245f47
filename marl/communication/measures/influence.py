"""Does the receiver listen? What it would do, had it heard another message.

While episodes are played, at every step every symbol in turn is written into the receiver's slot and the player is
asked for the distribution of each head; then it acts on what it really heard. Nothing else is stepped, and a player
with memory is asked in the state of mind that it has at that moment.

Legend: `T` steps, `J` heard steps, `E` episodes, `W` width of an observation, `V` symbols, `H` heads, `K` choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from envs.spec import EnvSpec
from marl.communication.measures.channels import Channel, Heard, responses_of, used_symbols
from marl.communication.measures.information import Floats, Resampler
from marl.play.channel import condition_of
from marl.play.rollout import Actions, Masks, Observations
from marl.results import Record
from marl.stats import MeanInterval

Answers = NDArray[np.float32]  # [..., V, H, K]: distribution of each head under every symbol


@dataclass(frozen=True)
class HeadInfluence(Record):
    """What a receiver's head makes of the messages: means over an episode's heard steps, then over episodes."""

    cic_marginal: MeanInterval
    """Causal influence in bits with the sender's own shares of symbols; 0 to `ceiling`."""
    cic_uniform: MeanInterval
    """The same with all symbols alike."""
    flip_rate: MeanInterval
    """Share of the situations in which another symbol of the vocabulary changes the greedy choice."""
    flip_rate_used: MeanInterval
    """The same, of the symbols that the sender uses."""
    ceiling: float
    """The largest possible causal influence: log2 of the fewer of symbols and choices."""


@dataclass(frozen=True)
class InputNorm(Record):
    """How large the first layer's weights on the message are: norms of an input's weights, root mean squares."""

    message: float
    """Over the inputs of the slot."""
    rest: float
    """Over all other inputs; 0 where there are none."""
    ratio: float
    """message / rest; 0 where the rest is 0."""


class Predictable(Protocol):
    """A player that tells the distribution of its choices."""

    def reset(self, num_envs: int) -> None: ...

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions: ...

    def probabilities(self, observations: Observations, masks: Masks | None = None) -> dict[str, Floats]:
        """{agent: float64 [E, H, K]}, each head's choices first and zeros behind them; leaves the memory alone."""
        ...


class Questioned:
    """A player that is asked at every step what it would do under every symbol, and then acts as it would anyway.

    Args:
        player: is asked and acts.
        spec: of the environment.
        channels: whose receivers are asked.
    """

    def __init__(self, player: Predictable, spec: EnvSpec, channels: Sequence[Channel]) -> None:
        self.player, self.spec, self.channels = player, spec, channels
        self.condition = condition_of([player])
        self._batches: list[list[list[Answers]]] = []  # a batch of episodes, a step, a channel: [E, V, H, K]

    def reset(self, num_envs: int) -> None:
        self.player.reset(num_envs)
        self._batches.append([])

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions:
        asked = [counterfactuals(self.player, self.spec, channel, observations, masks) for channel in self.channels]
        self._batches[-1].append(asked)
        return self.player.act(observations, masks)

    def answers(self, k: int) -> Answers:
        """Float32 [T, E, V, H, K] of channel k, of all episodes so far; zeros after a batch's last step."""
        longest = max(len(batch) for batch in self._batches)
        stacked = [np.stack([step[k] for step in batch]) for batch in self._batches]
        padded = [np.pad(one, [(0, longest - len(one))] + [(0, 0)] * 4) for one in stacked]
        return np.concatenate(padded, axis=1)


def counterfactuals(
    player: Predictable, spec: EnvSpec, channel: Channel, obs: Observations, masks: Masks | None = None
) -> Answers:
    """The receiver's distributions now, under every symbol: {agent: [E, W]} of all agents to float32 [E, V, H, K]."""
    name = spec.agent_names[channel.receiver]
    answers = [
        player.probabilities({**obs, name: channel.write(obs[name], symbol)}, masks)[name]
        for symbol in range(channel.symbols)
    ]
    return np.stack(answers, axis=1).astype(np.float32)


def causal_influence(answers: Floats, weights: Floats) -> Floats:
    """sum_m p(m) KL(pi(. | o, do m) || sum_m' p(m') pi(. | o, do m')) in bits: [..., V, K] and p [V] to [...].

    It is the information that a message drawn from p carries about the action: 0 where the receiver ignores it, at
    most min(H(p), log2 K). With p(m | s) of a deterministic speaker it would always be 0, so p is the marginal of the
    sender or uniform.

    Source: Lowe et al., "On the pitfalls of measuring emergent communication", AAMAS 2019, section 4.2.
    Differs from source: their code averages over symbols where the formula sums, which adds log2 V bits.
    """
    mixture = np.einsum("m,...mk->...k", weights, answers)[..., None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((answers > 0) & (mixture > 0), np.log2(answers / mixture), 0.0)
    return np.einsum("m,...mk->...", weights, answers * ratio)


def listening(spec: EnvSpec, heard: Heard, answers: Answers, resampler: Resampler) -> dict[str, HeadInfluence]:
    """{head: influence of the messages on it} for every head of the receiver, the head that answers first; empty where
    its moves are continuous.

    Args:
        spec: of the environment.
        heard: what was sent.
        answers: float32 [J, E, V, H, K] of the same heard steps.
        resampler: made for the same episodes.
    """
    channel = heard.channel
    marginal = np.bincount(heard.sent[heard.valid], minlength=channel.symbols) / heard.valid.sum()
    uniform = np.full(channel.symbols, 1 / channel.symbols)
    used = used_symbols(heard)
    first = responses_of(spec, channel.receiver)
    heads = spec.agents[channel.receiver].heads

    def over_episodes(values: np.ndarray) -> MeanInterval:
        return interval_of(heard.episode_mean(values), resampler)

    results: dict[str, HeadInfluence] = {}
    for h in [*first, *(h for h in range(len(heads)) if h not in first)] if first else []:
        pi = answers[..., h, : heads[h].size].astype(np.float64)
        greedy = pi.argmax(axis=-1)
        results[heads[h].name] = HeadInfluence(
            cic_marginal=over_episodes(causal_influence(pi, marginal)),
            cic_uniform=over_episodes(causal_influence(pi, uniform)),
            flip_rate=over_episodes((greedy != greedy[..., :1]).any(axis=-1)),
            flip_rate_used=over_episodes((greedy[..., used] != greedy[..., used[:1]]).any(axis=-1)),
            ceiling=float(np.log2(min(channel.symbols, heads[h].size))),
        )
    return results


def interval_of(values: Floats, resampler: Resampler) -> MeanInterval:
    """Of one number an episode [E]."""
    low, high = resampler.mean_interval(values)
    return MeanInterval(float(np.mean(values)), low, high)


def input_norm(weight: np.ndarray, channel: Channel) -> InputNorm:
    """How large the first layer's weights on the message are, of its weight [W, hidden]. A diagnostic only.

    Root mean squares over inputs can be compared whatever the number of inputs.
    Source: the "message input norm" of Lowe et al., AAMAS 2019. Differs from source: per input, not summed.
    """
    norms = np.linalg.norm(np.asarray(weight, dtype=np.float64), axis=1)
    slot = np.zeros(len(norms), dtype=bool)
    for route in channel.routes:
        slot[route.slot] = True
    message = float(np.sqrt(np.mean(norms[slot] ** 2)))
    rest = float(np.sqrt(np.mean(norms[~slot] ** 2))) if (~slot).any() else 0.0
    return InputNorm(message, rest, message / rest if rest > 0 else 0.0)
