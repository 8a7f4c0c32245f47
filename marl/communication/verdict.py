"""The analysis in plain words: what each symbol means, whether it is used, what the channel is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.communication.analysis import PlayerAnalysis
from marl.communication.formation import FormationRow, Formed
from marl.communication.measures.channels import is_used
from marl.communication.measures.compositionality import Compared, Compositionality
from marl.communication.measures.crossplay import CrossPlay
from marl.communication.measures.information import Information, Undefined
from marl.communication.measures.interventions import Outcome
from marl.communication.measures.secrecy import Secrecy
from marl.communication.measures.signalling import ChannelReport

DEAF = (0.01, 0.02)  # bits of influence and rate of flips below which a receiver does not listen
MEASURABLE = 0.01  # p from which on words do not claim that something is told
STRUCTURED = 0.05  # p of the best matching from which on words do not claim parts; few meanings allow no small one
_LITTLE, _ALL = 0.1, 0.9  # shares of what there is to tell: hardly a language below, a whole one above
_MOST_NAMED = 3  # meanings that are named for one symbol
_WIDE = 12  # symbols that a table shows; of larger vocabularies those that are used


def protocol_table(report: ChannelReport, receivers: Sequence[str] = ()) -> str:
    """Share of each symbol for each meaning, of one channel; without a meaning the share of each symbol.

    `receivers`: all who hear the same message, where there are several.
    """
    share = np.array(report.usage.symbol_share)
    columns = list(range(len(share)))
    if len(columns) > _WIDE:
        columns = sorted(np.argsort(-share, kind="stable")[:_WIDE].tolist())
    name = f"{report.sender} -> {', '.join(receivers)}" if receivers else report.channel
    head = f"{name}, {report.symbols} symbols, {report.episodes} episodes"
    rows = [("symbol", [str(m) for m in columns])]
    if report.signalling.table:
        table = np.array(report.signalling.table, dtype=float)
        for g in np.flatnonzero(table.sum(axis=1) > 0):
            rows.append((report.signalling.meanings[g], [f"{table[g, m] / table[g].sum():.2f}" for m in columns]))
    else:
        rows.append(("all messages", [f"{share[m]:.2f}" for m in columns]))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  " + "".join(f"{cell:>6}" for cell in cells) for name, cells in rows]
    return "\n".join([head, *lines])


def what_is_said(report: ChannelReport) -> list[str]:
    """Sentences on the sender."""
    sender, usage, result = report.sender, report.usage, report.signalling.information
    share, symbol = usage.symbol_share, usage.constant_symbol
    if _is_one_goal(report):
        return [f"There was nothing to tell: the goal of {sender} was the same in every episode."]
    if symbol is not None:
        how = "in every message" if share[symbol] >= 1 else f"in {share[symbol]:.1%} of its messages"
        return [f"{sender} says symbol {symbol} {how}: a constant message tells nothing."]
    steady = f"Within an episode the most frequent symbol makes up {usage.stability:.0%} of the messages."
    changing = [steady] if usage.stability < 0.95 else []
    if isinstance(result, Undefined):
        bits = f"{usage.entropy_bits:.2f} of {report.capacity_bits:.2f} bits"
        return [f"{sender} uses {bits}; whether they mean anything is unknown: {result.reason}.", *changing]
    bits = f"{max(result.corrected, 0):.2f} of {result.entropy:.2f} bits"
    if result.p >= MEASURABLE:
        nothing = f"{sender}'s messages tell nothing measurable about the goal: {bits} (p = {result.p:.2f})."
        return [nothing, *changing]
    p = "p < 0.001" if result.p <= 0.001 else f"p = {result.p:.3f}"
    parts = report.signalling.compositionality
    structure = [] if parts is None else what_parts_mean(parts)
    return [f"{sender} tells {bits} about the goal ({p}).", *_dictionary(report), *structure, *changing]


def what_parts_mean(result: Compositionality) -> list[str]:
    """Sentences on the parts of messages and meanings."""
    names = {
        "topographic similarity": result.topographic_similarity,
        "positional disentanglement": result.positional_disentanglement,
        "bag-of-symbols disentanglement": result.bag_of_symbols_disentanglement,
        "best matching of words": result.concept_best_matching,
        "of words in their places": result.positional_best_matching,
    }
    shown = [f"{name} {_beside_chance(one)}" for name, one in names.items() if isinstance(one, Compared)]
    structured = result.positional_best_matching.p < STRUCTURED
    verdict = (
        "The parts of messages stand for parts of goals, more than in codes without parts that use the same messages."
        if structured
        else "No more structure than in codes without parts that use the same messages: a word for each goal."
    )
    matched = [word for word in result.dictionary if word.together > word.said / 2]
    words = [f"{w.symbol} in place {w.place} = attribute {w.attribute} is {w.value}" for w in matched]
    told = [f"Words that mean the same more often than not: {', '.join(words)}."] if words and structured else []
    return [verdict, f"Measured (holistic codes; 95 % below; p): {', '.join(shown)}.", *told]


def _beside_chance(one: Compared) -> str:
    return f"{one.value:.2f} ({one.null_mean:.2f}; {one.null_high:.2f}; {one.p:.3f})"


def _dictionary(report: ChannelReport) -> list[str]:
    """What each used symbol means, and which meanings cannot be told apart."""
    table = np.array(report.signalling.table, dtype=float)
    names = report.signalling.meanings
    used = np.flatnonzero(is_used(table.sum(axis=0)))
    given = table / np.maximum(table.sum(axis=0), 1)
    words = []
    for m in used:
        likely = [g for g in np.argsort(-given[:, m], kind="stable") if given[g, m] >= _LITTLE][:_MOST_NAMED]
        words.append(f"{m} = " + " or ".join(f"{names[g]} ({given[g, m]:.0%})" for g in likely))
    lines = [f"Symbols: {', '.join(words)}."]
    best: dict[int, list[str]] = {}
    for g in np.flatnonzero(table.sum(axis=1) > 0):
        best.setdefault(int(table[g].argmax()), []).append(names[g])
    lines += [f"{_list(shared)} share symbol {m}." for m, shared in best.items() if len(shared) > 1]
    return lines


def _is_one_goal(report: ChannelReport) -> bool:
    """Whether what there is to tell is known and never varies."""
    table = np.array(report.signalling.table)
    return bool(table.size) and np.count_nonzero(table.sum(axis=1)) == 1


def _is_deaf(report: ChannelReport) -> bool:
    """Whether no symbol changes what the receiver does; False where that is not measured."""
    if not report.influence:
        return False
    result = next(iter(report.influence.values()))
    return result.cic_uniform.mean < DEAF[0] and result.flip_rate.mean < DEAF[1]


def _hardly_listens(report: ChannelReport) -> bool:
    """Whether symbols change the receiver's probabilities, but next to never the choice that it likes best."""
    if not report.influence:
        return False
    return not _is_deaf(report) and next(iter(report.influence.values())).flip_rate.mean < DEAF[1]


def what_is_heard(report: ChannelReport) -> list[str]:
    """Sentences on the receiver."""
    receiver = report.receiver
    if not report.influence:
        return [f"Whether {receiver} listens is not measured: its moves are continuous. See what the channel is worth."]
    head, result = next(iter(report.influence.items()))
    if _is_deaf(report):
        return [f"{receiver} does not listen: no symbol changes its {head}."]
    if _hardly_listens(report):
        return [
            f"{receiver} hardly listens: another symbol would change how likely its choices of {head} are, but the "
            f"choice itself in less than {DEAF[1]:.0%} of the situations."
        ]
    return [
        f"{receiver} listens: another symbol would change its {head} in {result.flip_rate.mean:.0%} of the situations; "
        f"of the {report.usage.entropy_bits:.2f} bits that are said, {result.cic_marginal.mean:.2f} reach it."
    ]


def what_it_is_worth(result: PlayerAnalysis) -> list[str]:
    """Sentences on the interventions."""
    lines = [f"Return per agent of {_list(result.team)}: {result.outcome.team_return.mean:.2f}{_gain(result.outcome)}."]
    met = {one.name: one.outcome for one in result.interventions}
    name = "shuffled" if "shuffled" in met else "mute"
    cut = met.get(name)
    if cut is None or cut.team_lost is None:
        return lines
    lost, how = cut.team_lost, "shuffled between episodes" if name == "shuffled" else "muted"
    span = f"{lost.mean:.2f} [{lost.low:.2f}, {lost.high:.2f}]"
    if lost.low > 0:
        lines.append(
            f"The channel is worth {span} per agent and episode: with messages {how} the return is "
            f"{cut.team_return.mean:.2f}{_gain(cut)}."
        )
    elif lost.high < 0:
        lines.append(f"The messages do harm: {how} they leave {-lost.mean:.2f} more than untouched.")
    else:
        lines.append(f"The channel is worth nothing measurable: {how} messages cost {span}.")
    return lines


def crypto_words(result: Secrecy) -> list[str]:
    """Sentences on who learns the secret."""
    plain, keyed = (max(one.corrected, 0.0) for one in (result.without_key, result.with_key))
    return [
        f"Without the key the message tells {plain:.2f} bits of the secret (optimum 0), "
        f"with it {keyed:.2f} (optimum 1).",
        f"Bob guesses right in {result.bob.accuracy.mean:.0%} of the steps, Eve in "
        f"{result.eve.accuracy.mean:.0%} (guessing without any message: 50%).",
    ]


def summary(result: PlayerAnalysis) -> str:
    """One line on a player: whether a language was formed and is used."""
    known = [i for one in result.channels if isinstance(i := one.signalling.information, Information)]
    share = max((one.share for one in known if one.p < MEASURABLE), default=0.0)
    listens = not all(_is_deaf(one) or _hardly_listens(one) for one in result.channels)
    nobody = "nobody listens" if all(_is_deaf(one) for one in result.channels) else "hardly anybody listens"
    if all(_is_one_goal(one) for one in result.channels):
        return "nothing to tell: the goal is the same in every episode"
    if all(one.usage.constant_symbol is not None for one in result.channels):
        return "no language: every message is constant"
    if result.crypto is not None and result.crypto.with_key.p < MEASURABLE and share < _LITTLE:
        return "a cipher: the message tells the secret to those who hold the key"
    if not any(one.influence for one in result.channels):
        spoken = "a language is spoken" if share >= _ALL else f"a partial language ({share:.0%}) is spoken"
        return spoken if share >= _LITTLE else "no language: the messages tell next to nothing"
    if not known:
        return "messages vary and are listened to" if listens else f"messages vary, but {nobody}"
    if share >= _LITTLE:
        language = "a language" if share >= _ALL else f"a partial language ({share:.0%} of what there is to tell)"
        return f"{language} that is spoken and listened to" if listens else f"spoken, but {nobody}"
    return "no language: the messages tell next to nothing" + (", though they are listened to" if listens else "")


def describe(result: PlayerAnalysis, title: str) -> str:
    """A readable account of one player."""
    lines = [f"{title}: {summary(result)}"]
    for group in _same_message(result.channels):
        receivers = [report.receiver for report in group] if len(group) > 1 else []
        lines += ["", protocol_table(group[0], receivers)]
        heard = [sentence for report in group for sentence in what_is_heard(report)]
        lines += [f"  {sentence}" for sentence in (*what_is_said(group[0]), *heard)]
    lines += ["", *(f"  {sentence}" for sentence in what_it_is_worth(result))]
    if result.interventions:
        lines += ["", *_intervention_rows(result)]
    if result.crypto is not None:
        lines += ["", *(f"  {sentence}" for sentence in crypto_words(result.crypto))]
    return "\n".join(lines)


def _same_message(reports: Sequence[ChannelReport]) -> list[list[ChannelReport]]:
    """Reports in groups of one sender whose receivers all hear the same."""

    def message(report: ChannelReport) -> tuple[str, int, tuple[float, ...], bool]:
        return report.sender, report.symbols, report.usage.symbol_share, report.exact

    groups: list[list[ChannelReport]] = []
    for report in reports:
        if groups and message(groups[-1][0]) == message(report):
            groups[-1].append(report)
        else:
            groups.append([report])
    return groups


def _intervention_rows(result: PlayerAnalysis) -> list[str]:
    """A table of returns, what was lost and the gain, each with its interval."""
    width = max(len(name) for name, _ in result.outcomes)
    lines = [f"  {'channel':<{width}}  {'return':>8}  {'95 % interval':<18}  {'lost':>7}  {'gain':>6}"]
    for name, row in result.outcomes:
        value = row.team_return
        lost = f"{row.team_lost.mean:.2f}" if row.team_lost else ""
        gain = f"{row.gain.mean:.2f}" if row.gain else ""
        span = f"[{value.low:.2f}, {value.high:.2f}]"
        lines.append(f"  {name:<{width}}  {value.mean:>8.2f}  {span:<18}  {lost:>7}  {gain:>6}".rstrip())
    return lines


def describe_all(players: Sequence[tuple[str, PlayerAnalysis]]) -> list[str]:
    """A line for each of several players: (name, what was found)."""
    lines = ["All of them:"]
    for name, one in players:
        gain = f", gain {one.outcome.gain.mean:.2f}" if one.outcome.gain else ""
        lines.append(f"  {name}: return {one.outcome.team_return.mean:.2f}{gain}: {one.summary}")
    return lines


def cross_words(result: CrossPlay) -> str:
    """A sentence on how strangers understand each other."""
    count = len(result.participants)
    off = ~np.eye(count, dtype=bool)
    own = np.diag(result.raw).mean()
    raw, relabelled = (np.array(matrix)[off].mean() for matrix in (result.raw, result.relabelled))
    return (
        f"Cross-play of {count}: with their own partners {own:.2f}, with strangers {raw:.2f}, "
        f"with strangers and relabelled symbols {relabelled:.2f}."
    )


def constant_replicas(result: Sequence[PlayerAnalysis]) -> list[str]:
    """A sentence for every replica of a run in which some agent's message is constant."""
    lines = []
    for one in result:
        said = {r.sender: symbol for r in one.channels if (symbol := r.usage.constant_symbol) is not None}
        lines += [f"Replica {one.replica}: {name} always says symbol {symbol}." for name, symbol in said.items()]
    return lines


def channel_words(channel: str) -> list[str]:
    """A sentence where a run had another channel than gumbel: it is played and measured through the same one."""
    return [] if channel == "gumbel" else [f"Trained, played and measured with --channel {channel}."]


def formed_words(rows: Sequence[FormationRow], formed: Formed | Undefined | None) -> list[str]:
    """A sentence on when the protocol of the shown replica was formed, and one on how it drifted since."""
    if formed is None:
        return []
    if isinstance(formed, Undefined):
        return [f"When the protocol formed is not known: {formed.reason}."]
    bits = f"from {max(formed.bits_before, 0):.2f} to {max(formed.bits_after, 0):.2f} bits"
    when = f"between the checkpoints of steps {formed.before:,} and {formed.step:,}"
    span = f"95 % interval over episodes: by step {formed.low:,} to {formed.high:,}"
    if all(row.p >= MEASURABLE for row in rows):
        return [f"No protocol formed: at none of {len(rows)} checkpoints did the messages tell anything measurable."]
    if formed.rise.high < 0:
        return [f"The protocol was lost {when} ({span}): {bits}."]
    if formed.rise.low <= 0:
        return [f"When the protocol formed cannot be told: no change between {len(rows)} checkpoints is measurable."]
    how = "formed" if 2 * formed.bits_before < formed.bits_after else "was there before and grew most"
    words = [f"The protocol {how} {when} ({span}): {bits}."]
    if formed.drift_after is not None:
        words.append(
            f"From then on it drifted by at most {formed.drift_after:.2f} from one checkpoint to the next "
            "(0: the same protocol, 1: no symbol kept its meaning)."
        )
    return words


def _gain(result: Outcome) -> str:
    return f" (gain {result.gain.mean:.2f})" if result.gain else ""


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
