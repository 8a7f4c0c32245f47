"""What one agent tells another: every metric of one channel.

Formulas, units, bias and limits of each stand in docs/communication.md.

Legend: `G` meanings, `V` symbols, `J` heard steps, `E` episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from envs.spec import EnvSpec
from marl.communication.measures import information as info
from marl.communication.measures.channels import Choice, Heard
from marl.communication.measures.compositionality import Compositionality, compositionality
from marl.communication.measures.influence import Answers, HeadInfluence, InputNorm, Predictable, input_norm, listening
from marl.communication.measures.information import Information, Ints, Resampler, Undefined, Value, contingency
from marl.results import INLINE, LEFT_OUT, Record, key

CONSTANT = 0.99  # a sender with one symbol in at least this share of its messages says nothing
COORDINATION_WARNING = (
    "a low value says nothing: where the receiver's move depends on more than the message, such as landmarks at random "
    "places, a perfect pair scores near 0 too; read the causal influence instead"
)
MOST_LAG = 6  # steps between choice and slot that are searched on a channel with delay

Counts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Usage(Record):
    """How often each symbol is said."""

    symbol_share: tuple[float, ...]
    """[V] of all messages; they sum to 1."""
    entropy_bits: float
    """H(M)."""
    used_share: float
    """H(M) / log2 V, in [0, 1]; 0 of a single symbol."""
    stability: float
    """Share of an episode's messages that are its most frequent one, in [1/V, 1]."""
    constant_symbol: int | None
    """The symbol that makes up nearly all messages; None where there is none."""
    bits_per_episode: float | None = field(default=None, metadata=LEFT_OUT)
    """Mean number of messages of an episode that are heard, times H(M): what they cost at one bit of entropy a unit."""


@dataclass(frozen=True)
class Signalling(Record):
    """What the sent messages tell about the meaning, at one drawn step an episode."""

    meanings: tuple[str, ...]
    """[G] labels; none where what there is to tell is not known."""
    table: Counts
    """Counts `[G][V]` of episodes of each meaning and symbol; empty where the meaning is not known."""
    information: Information | Undefined = field(metadata=key("signalling"))
    """I(M; G)."""
    entropy_given_meaning_bits: float | None = field(metadata=LEFT_OUT)
    """H(M | G), at least 0; None where the meaning is not known."""
    information_by_step: tuple[float | None, ...] | None = field(metadata=LEFT_OUT)
    """[J] corrected bits of every heard step by itself; None of a step that fewer than two episodes reach."""
    context_independence: Value | Undefined
    """In [0, 1], 1 for a bijection."""
    topographic_similarity: Value | Undefined
    """A rank correlation, in [-1, 1]."""
    positional_disentanglement: Value | Undefined
    """In [0, 1]."""
    compositionality: Compositionality | None = field(default=None, metadata=LEFT_OUT)
    """Every measure of structure beside its chance level; None where the meaning or the message has a single part."""


@dataclass(frozen=True)
class Reception(Record):
    """What arrives on a channel with noise or delay."""

    lag: int
    """Steps after which a message arrives best, from 1."""
    confusion: Counts
    """Counts `[sent V][heard V + 1]` of heard steps at that lag; the last column is nothing."""
    capacity_estimate_bits: float
    """Capacity of the channel that these counts suggest."""
    received: Information | None = field(metadata=LEFT_OUT)
    """I(heard; G); None where the meaning is not known."""


@dataclass(frozen=True)
class Coordination(Record):
    """I(M; the receiver's choice at the same step)."""

    information: Information = field(metadata=INLINE)
    """The estimate."""
    warning: str
    """What a low value does not say."""


@dataclass(frozen=True)
class ChannelReport(Record):
    """Everything about one channel."""

    channel: str
    """As "speaker_0 -> listener_0"."""
    sender: str
    """Agent that speaks."""
    receiver: str
    """Agent that hears."""
    symbols: int
    """V, number of different messages."""
    capacity_bits: float
    """log2 V."""
    exact: bool
    """Whether what is sent is heard one step later, without noise."""
    episodes: int
    """Sample size: one message each."""
    usage: Usage = field(metadata=INLINE)
    """How often each symbol is said."""
    signalling: Signalling = field(metadata=INLINE)
    """What the messages tell."""
    reception: Reception | None = field(metadata=INLINE)
    """What arrives; None of an exact channel."""
    speaker_consistency: Information | Undefined
    """I(M; the sender's own move)."""
    instantaneous_coordination: Coordination | Undefined
    """I(M; the receiver's choice)."""
    influence: Mapping[str, HeadInfluence]
    """{head of the receiver: what messages change}, the head that answers first; empty where its moves are
    continuous."""
    input_norm: InputNorm | Undefined
    """Weights on the message."""


def channel_report(
    player: Predictable, spec: EnvSpec, heard: Heard, answers: Answers, resampler: Resampler
) -> ChannelReport:
    """Everything about one channel; what is undefined holds a `reason`.

    Args:
        player: who played; asked for the weights of its first layer only.
        spec: of its environment.
        heard: of `listen`.
        answers: float32 [J, E, V, H, K], what the receiver would have done under every symbol.
        resampler: made for `heard.episodes`.
    """
    channel = heard.channel
    receiver = spec.agent_names[channel.receiver]
    first_weights = getattr(player, "first_weights", None)
    return ChannelReport(
        channel=channel.name(spec),
        sender=spec.agent_names[channel.sender],
        receiver=receiver,
        symbols=channel.symbols,
        capacity_bits=channel.capacity,
        exact=channel.exact,
        episodes=heard.episodes,
        usage=usage(heard),
        signalling=signalling(heard, resampler),
        reception=None if channel.exact else reception(heard, resampler),
        speaker_consistency=(
            Undefined("the sender only speaks, or its moves are continuous: it chooses no move of its own")
            if heard.own_next is None
            else _drawn_information(heard, heard.own_next, resampler)
        ),
        instantaneous_coordination=(
            Undefined("the receiver's moves are continuous: it chooses none")
            if heard.answer is None
            else Coordination(_drawn_information(heard, heard.answer, resampler), COORDINATION_WARNING)
        ),
        influence=listening(spec, heard, answers, resampler),
        input_norm=(
            Undefined("the player has no first layer")
            if first_weights is None
            else input_norm(first_weights(receiver), channel)
        ),
    )


def usage(heard: Heard) -> Usage:
    """How often each symbol is said."""
    size = heard.channel.symbols
    said = np.bincount(heard.sent[heard.valid], minlength=size)
    in_episode = np.stack([((heard.sent == m) & heard.valid).sum(axis=0) for m in range(size)])
    counts = np.bincount(heard.drawn(heard.sent), minlength=size)
    entropy = float(info.entropy_corrected(counts))
    share = said / said.sum()
    return Usage(
        symbol_share=tuple(share.tolist()),
        entropy_bits=entropy,
        used_share=min(entropy / heard.channel.capacity, 1.0) if size > 1 else 0.0,
        stability=float((in_episode.max(axis=0) / in_episode.sum(axis=0)).mean()),
        constant_symbol=int(share.argmax()) if share.max() >= CONSTANT else None,
        bits_per_episode=float(heard.valid.sum(axis=0).mean()) * entropy,
    )


def signalling(heard: Heard, resampler: Resampler) -> Signalling:
    """What the sent messages tell about the meaning, at one drawn step an episode."""
    meant = heard.meanings
    if meant.values is None or meant.attributes is None:
        unknown = Undefined(meant.reason)
        return Signalling((), (), unknown, None, None, unknown, unknown, unknown)
    goal, sent = heard.drawn(meant.values), heard.drawn(heard.sent)
    sizes = (len(meant.labels), heard.channel.symbols)
    table = contingency(goal, sent, sizes)[0]
    result = info.mutual_information(goal, sent, sizes, resampler)
    symbols = np.stack([np.array(heard.channel.parts(m)) for m in range(sizes[1])])[sent]
    attributes = heard.drawn(meant.attributes)
    given_meaning = float(info.entropy_corrected(table.sum(axis=0))) - result.corrected
    return Signalling(
        meanings=meant.labels,
        table=_counts(table),
        information=result,
        entropy_given_meaning_bits=max(given_meaning, 0.0),
        information_by_step=_by_step(heard, meant.values, sizes),
        context_independence=Value(info.context_independence(table)),
        topographic_similarity=info.topographic_similarity(attributes, symbols),
        positional_disentanglement=info.positional_disentanglement(attributes, symbols),
        compositionality=compositionality(attributes, symbols, heard.channel.sizes, resampler),
    )


def reception(heard: Heard, resampler: Resampler) -> Reception:
    """On a channel with noise or delay: what arrives."""
    size = heard.channel.symbols
    tables = [_confusion(heard, lag) for lag in range(min(MOST_LAG, len(heard.sent)))]
    lag = int(np.argmax([float(info.information_bits(table[None])) for table in tables]))
    rows = tables[lag][tables[lag].sum(axis=1) > 0]
    received = None
    if heard.meanings.values is not None:
        sizes = (len(heard.meanings.labels), size + 1)
        goal, arrived = heard.drawn(heard.meanings.values), heard.drawn(heard.heard)
        received = info.mutual_information(goal, arrived, sizes, resampler)
    return Reception(
        lag=lag + 1,
        confusion=_counts(tables[lag]),
        capacity_estimate_bits=info.channel_capacity(rows / rows.sum(axis=1, keepdims=True)),
        received=received,
    )


def _counts(table: Ints) -> Counts:
    return tuple(map(tuple, table.tolist()))


def _confusion(heard: Heard, lag: int) -> Ints:
    """Counts [V, V + 1] of (chosen at t - 1 - lag, in the slot at t) over all heard steps."""
    size = heard.channel.symbols
    last = len(heard.sent) - lag
    inside = heard.valid[lag:]
    pairs = heard.sent[:last][inside] * (size + 1) + heard.heard[lag:][inside]
    return np.bincount(pairs, minlength=size * (size + 1)).reshape(size, size + 1)


def _drawn_information(heard: Heard, choice: Choice, resampler: Resampler) -> Information:
    sizes = (heard.channel.symbols, choice.size)
    return info.mutual_information(heard.drawn(heard.sent), heard.drawn(choice.values), sizes, resampler)


def _by_step(heard: Heard, goal: Ints, sizes: tuple[int, int]) -> tuple[float | None, ...]:
    """Corrected information of every heard step by itself; None where fewer than two episodes last so long."""
    results: list[float | None] = []
    for j, inside in enumerate(heard.valid):
        if inside.sum() < 2:
            results.append(None)
            continue
        table = contingency(goal[j, inside], heard.sent[j, inside], sizes)
        results.append(float(info.information_bits(table) + info.information_correction(table)))
    return tuple(results)
