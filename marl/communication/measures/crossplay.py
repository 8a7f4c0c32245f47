"""Do independently trained agents understand each other? Speakers of one run with listeners of another.

Legend: `P` participants (replicas or runs), `E` episodes, `V` symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from envs.spec import EnvSpec
from marl.communication.measures.channels import Channel, channels_of, listen
from marl.communication.measures.information import Floats, Ints
from marl.errors import UserError
from marl.play.rollout import Episodes, Mixed, Observations, Player, play
from marl.results import Record


@dataclass(frozen=True)
class Participant:
    """A player with the name under which tables and pictures show it."""

    name: str
    player: Player
    spec: EnvSpec


Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class CrossPlay(Record):
    """Every participant's speakers (rows) with every participant's listeners (columns); matrices are `[P][P]`."""

    participants: tuple[str, ...]
    """Names."""
    rows: tuple[str, ...]
    """The agents that come from the row's participant."""
    columns: tuple[str, ...]
    """Those that come from the column's."""
    episodes: int
    """Of each pair."""
    raw: Matrix
    """Mean return over agents and episodes, as they are."""
    relabelled: Matrix
    """After the best relabelling of every message that crosses between the two."""
    agreement_raw: Matrix
    """Share of messages that are the other team's symbol in the same episode, mean over channels, in [0, 1]."""
    agreement_relabelled: Matrix
    """The same after relabelling."""


def sides(spec: EnvSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who comes from the row's participant and who from the column's.

    The agents that speak against all others; where every agent speaks, the first one against the others.
    """
    names = spec.agent_names
    speakers = set(spec.senders)
    if len(speakers) == spec.num_agents:
        speakers = {0}
    rows = tuple(name for n, name in enumerate(names) if n in speakers)
    return rows, tuple(name for n, name in enumerate(names) if n not in speakers)


def symbol_agreement(spec: EnvSpec, channel: Channel, first: Episodes, second: Episodes) -> Floats:
    """How often a symbol of one team goes with a symbol of another in the same episode: float64 [V, V], sum 1.

    Both teams played the same seeds, so episode e has the same goal for both: entry [a, b] is the mean over episodes
    of (share of the first team's messages that are a) x (share of the second team's that are b). No declared meaning
    is needed. Only episodes in which both teams heard a message count.

    Raises:
        UserError: there is no such episode.
    """
    told = [listen(spec, channel, played) for played in (first, second)]
    common = np.intersect1d(told[0].kept, told[1].kept)
    if not len(common):
        raise UserError(
            f"{spec.id}: there is no episode in which both teams heard a message, so that their symbols cannot be "
            "compared; expected longer episodes, or more of them."
        )
    shares = []
    for heard in told:
        both = np.isin(heard.kept, common)
        counts = np.stack([((heard.sent == m) & heard.valid).sum(axis=0) for m in range(channel.symbols)]).compress(
            both, axis=1
        )
        shares.append(counts / counts.sum(axis=0))
    return shares[0] @ shares[1].T / len(common)


def best_relabelling(agreement: Floats) -> Ints:
    """Int64 [V]: for every symbol of the first team the symbol of the second that it goes with, one to one.

    Maximises the agreement after relabelling by linear assignment (scipy's Jonker-Volgenant).
    """
    _, columns = linear_sum_assignment(agreement, maximize=True)
    return columns.astype(np.int64)


class Relabelled:
    """The `intervene` argument of `play`: what stands in the slot of each channel is translated symbol by symbol.

    Args:
        spec: the environment's.
        codes: pairs of a channel and int64 [V], the symbol to write for every symbol heard.
    """

    def __init__(self, spec: EnvSpec, codes: Sequence[tuple[Channel, Ints]]) -> None:
        self.spec = spec
        self.codes = [(channel, np.append(code, channel.symbols)) for channel, code in codes]  # nothing stays nothing

    def __call__(self, t: int, observations: Observations) -> Observations:
        changed = dict(observations)
        for channel, code in self.codes:
            name = self.spec.agent_names[channel.receiver]
            changed[name] = channel.write(changed[name], code[channel.read(changed[name])])
        return changed


def cross_play(
    participants: Sequence[Participant],
    env_id: str,
    *,
    episodes: int,
    seed: int,
    env_args: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
    **playing: Any,
) -> CrossPlay:
    """Every participant's speakers with every participant's listeners, on the same episodes.

    Raises:
        UserError: fewer than two participants, or their environments differ.
    """
    spec = _common_spec(participants)
    row_agents, column_agents = sides(spec)
    crossing = [
        channel
        for channel in channels_of(spec)
        if (spec.agent_names[channel.sender] in row_agents) != (spec.agent_names[channel.receiver] in row_agents)
    ]
    common: dict[str, Any] = {"env_args": env_args, "spec": spec, **playing}
    alone = []
    for one in participants:
        progress(f"self-play of {one.name}")
        alone.append(play(env_id, one.player, episodes, seed, record=True, **common))
    count = len(participants)
    raw, relabelled, agreement_raw, agreement_relabelled = np.zeros((4, count, count))
    for i, row in enumerate(participants):
        for j, column in enumerate(participants):
            progress(f"{row.name} with {column.name}")
            codes, shares = [], []
            for channel in crossing:
                speaks, hears = (i, j) if spec.agent_names[channel.sender] in row_agents else (j, i)
                together = symbol_agreement(spec, channel, alone[speaks], alone[hears])
                code = np.arange(channel.symbols) if i == j else best_relabelling(together)
                codes.append((channel, code))
                shares.append((np.trace(together), together[np.arange(len(code)), code].sum()))
            agreement_raw[i, j], agreement_relabelled[i, j] = np.mean(shares, axis=0)
            if i == j:
                raw[i, j] = relabelled[i, j] = alone[i].returns.mean()
                continue
            pair = Mixed({**dict.fromkeys(row_agents, row.player), **dict.fromkeys(column_agents, column.player)})
            for matrix, intervene in ((raw, None), (relabelled, Relabelled(spec, codes))):
                matrix[i, j] = play(env_id, pair, episodes, seed, intervene=intervene, **common).returns.mean()
    return CrossPlay(
        participants=tuple(one.name for one in participants),
        rows=row_agents,
        columns=column_agents,
        episodes=episodes,
        raw=_matrix(raw),
        relabelled=_matrix(relabelled),
        agreement_raw=_matrix(agreement_raw),
        agreement_relabelled=_matrix(agreement_relabelled),
    )


def _matrix(values: Floats) -> Matrix:
    return tuple(map(tuple, values.tolist()))


def _common_spec(participants: Sequence[Participant]) -> EnvSpec:
    if len(participants) < 2:
        raise UserError(
            f"cross-play needs at least two participants, got {len(participants)}: a run with several replicas "
            "(--num-replicas) or several runs (--with RUN ...)."
        )
    spec = participants[0].spec
    for other in participants[1:]:
        different = spec.differences(other.spec)
        if different:
            raise UserError(
                f"{participants[0].name} and {other.name} cannot play together: their environments differ in "
                + "; ".join(different)
            )
    return spec
