"""What one agent tells another: every metric of one channel, as plain numbers.

Formulas, units, bias and limits of each stand in docs/communication.md.

Legend: `G` meanings, `V` symbols, `J` heard steps, `E` episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.spec import EnvSpec
from marl.communication import information as info
from marl.communication.channels import Heard
from marl.communication.influence import Answers, Predictable, input_norm, listening
from marl.communication.information import Ints, Resampler, contingency

CONSTANT = 0.99  # a sender with one symbol in at least this share of its messages says nothing
COORDINATION_WARNING = (
    "a low value says nothing: where the receiver's move depends on more than the message, such as landmarks at random "
    "places, a perfect pair scores near 0 too; read the causal influence instead"
)
MOST_LAG = 6  # steps between choice and slot that are searched on a channel with delay


def channel_report(
    player: Predictable, spec: EnvSpec, heard: Heard, answers: Answers, resampler: Resampler
) -> dict[str, Any]:
    """Everything about one channel as plain numbers, lists and strings; what is undefined holds a `reason`.

    Args:
        player: who played; asked for the weights of its first layer only.
        spec: of its environment.
        heard: of `listen`.
        answers: float32 [J, E, V, H, K], what the receiver would have done under every symbol.
        resampler: made for `heard.episodes`.
    """
    channel = heard.channel
    report: dict[str, Any] = {
        "channel": channel.name(spec),
        "sender": spec.agent_names[channel.sender],
        "receiver": spec.agent_names[channel.receiver],
        "symbols": channel.symbols,
        "capacity_bits": channel.capacity,
        "exact": channel.exact,
        "episodes": heard.episodes,
    }
    report.update(usage(heard))
    report.update(signalling(heard, resampler))
    if not channel.exact:
        report.update(reception(heard, resampler))
    report["speaker_consistency"] = (
        {"reason": "the sender only speaks: it has no move of its own"}
        if heard.own_next is None
        else _drawn_information(heard, heard.own_next.values, heard.own_next.size, resampler)
    )
    report["instantaneous_coordination"] = {
        **_drawn_information(heard, heard.answer.values, heard.answer.size, resampler),
        "warning": COORDINATION_WARNING,
    }
    report["influence"] = listening(spec, heard, answers, resampler)
    first_weights = getattr(player, "first_weights", None)
    report["input_norm"] = (
        {"reason": "the player has no first layer"}
        if first_weights is None
        else input_norm(first_weights(report["receiver"]), channel)
    )
    return report


def usage(heard: Heard) -> dict[str, Any]:
    """How often each symbol is said: `symbol_share` [V], `entropy_bits` H(M), `used_share` H(M) / log2 V,
    `stability` (share of an episode's messages that are its most frequent one), `constant_symbol` or None."""
    size = heard.channel.symbols
    said = np.bincount(heard.sent[heard.valid], minlength=size)
    in_episode = np.stack([((heard.sent == m) & heard.valid).sum(axis=0) for m in range(size)])
    counts = np.bincount(heard.drawn(heard.sent), minlength=size)
    entropy = float(info.entropy_corrected(counts))
    share = said / said.sum()
    return {
        "symbol_share": share.tolist(),
        "entropy_bits": entropy,
        "used_share": min(entropy / heard.channel.capacity, 1.0) if size > 1 else 0.0,
        "stability": float((in_episode.max(axis=0) / in_episode.sum(axis=0)).mean()),
        "constant_symbol": int(share.argmax()) if share.max() >= CONSTANT else None,
    }


def signalling(heard: Heard, resampler: Resampler) -> dict[str, Any]:
    """What the sent messages tell about the meaning, at one drawn step an episode."""
    told = heard.told
    if told.values is None or told.attributes is None:
        undefined = {"reason": told.reason}
        names = ("signalling", "context_independence", "topographic_similarity", "positional_disentanglement")
        return {"meanings": [], "table": [], **dict.fromkeys(names, undefined)}
    goal, sent = heard.drawn(told.values), heard.drawn(heard.sent)
    sizes = (len(told.labels), heard.channel.symbols)
    table = contingency(goal, sent, sizes)[0]
    found = info.mutual_information(goal, sent, sizes, resampler)
    symbols = np.stack([np.array(heard.channel.parts(m)) for m in range(sizes[1])])[sent]
    attributes = heard.drawn(told.attributes)
    given_meaning = float(info.entropy_corrected(table.sum(axis=0))) - found.corrected
    return {
        "meanings": list(told.labels),
        "table": table.tolist(),  # counts [G, V]
        "signalling": found.to_dict(),
        "entropy_given_meaning_bits": max(given_meaning, 0.0),
        "information_by_step": _by_step(heard, told.values, sizes),
        "context_independence": {"value": info.context_independence(table)},
        "topographic_similarity": _measured(info.topographic_similarity(attributes, symbols)),
        "positional_disentanglement": _measured(info.positional_disentanglement(attributes, symbols)),
    }


def reception(heard: Heard, resampler: Resampler) -> dict[str, Any]:
    """On a channel with noise or delay: what arrives. `lag` is the number of steps after which it arrives best."""
    size = heard.channel.symbols
    tables = [_confusion(heard, lag) for lag in range(min(MOST_LAG, len(heard.sent)))]
    lag = int(np.argmax([float(info.information_bits(table[None])) for table in tables]))
    rows = tables[lag][tables[lag].sum(axis=1) > 0]
    found: dict[str, Any] = {
        "lag": lag + 1,
        "confusion": tables[lag].tolist(),  # counts [sent V, heard V + nothing]
        "capacity_estimate_bits": info.channel_capacity(rows / rows.sum(axis=1, keepdims=True)),
    }
    if heard.told.values is not None:
        sizes = (len(heard.told.labels), size + 1)
        goal, arrived = heard.drawn(heard.told.values), heard.drawn(heard.heard)
        found["received"] = info.mutual_information(goal, arrived, sizes, resampler).to_dict()
    return found


def _confusion(heard: Heard, lag: int) -> Ints:
    """Counts [V, V + 1] of (chosen at t - 1 - lag, in the slot at t) over all heard steps."""
    size = heard.channel.symbols
    last = len(heard.sent) - lag
    inside = heard.valid[lag:]
    pairs = heard.sent[:last][inside] * (size + 1) + heard.heard[lag:][inside]
    return np.bincount(pairs, minlength=size * (size + 1)).reshape(size, size + 1)


def _drawn_information(heard: Heard, values: Ints, size: int, resampler: Resampler) -> dict[str, Any]:
    sizes = (heard.channel.symbols, size)
    return info.mutual_information(heard.drawn(heard.sent), heard.drawn(values), sizes, resampler).to_dict()


def _by_step(heard: Heard, goal: Ints, sizes: tuple[int, int]) -> list[float | None]:
    """Corrected information of every heard step by itself; None where fewer than two episodes last so long."""
    found: list[float | None] = []
    for j, inside in enumerate(heard.valid):
        if inside.sum() < 2:
            found.append(None)
            continue
        table = contingency(goal[j, inside], heard.sent[j, inside], sizes)
        found.append(float(info.information_bits(table) + info.information_correction(table)))
    return found


def _measured(measure: info.Measure) -> dict[str, Any]:
    return {"reason": measure.reason} if measure.value is None else {"value": measure.value}
