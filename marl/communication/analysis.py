"""One player's language, measured: what is said, whether it is heard, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.mpe import canonical_id
from envs.spec import EnvSpec
from marl.communication.measures.channels import Channel, Heard, Meaning, channels_of, listen, used_symbols
from marl.communication.measures.influence import Answers, Predictable, Questioned
from marl.communication.measures.information import Resampler
from marl.communication.measures.interventions import (
    KINDS,
    Interference,
    Intervention,
    Lines,
    Outcome,
    possible,
    speakers_team,
    summarise,
)
from marl.communication.measures.secrecy import Secrecy, secrecy_report
from marl.communication.measures.signalling import ChannelReport, channel_report
from marl.communication.options import DEFAULTS
from marl.errors import UserError
from marl.play.rollout import Episodes, play
from marl.results import INLINE, LEFT_OUT, Record

_BATCH = 40  # episodes in lockstep, at most


@dataclass(frozen=True)
class InterventionResult(Record):
    """The same episodes with the messages changed on their way."""

    name: str
    """As "noise:0.1"; with the channel behind it where only one of several was changed."""
    what: str
    """What is done, in words."""
    outcome: Outcome = field(metadata=INLINE)
    """What they returned then, and what was lost."""


@dataclass(frozen=True)
class PlayerAnalysis(Record):
    """Everything about one player's channels."""

    episodes: int
    """Sample size of every metric and intervention."""
    seed: int
    """Episode i is reset with `seed + i`."""
    team: tuple[str, ...]
    """Agents of the speakers' team."""
    outcome: Outcome = field(metadata=INLINE)
    """Returns of the untouched episodes."""
    channels: tuple[ChannelReport, ...]
    """One for each channel, in the order of the environment's routes."""
    interventions: tuple[InterventionResult, ...]
    """In the order in which they were asked for."""
    crypto: Secrecy | None = field(metadata=LEFT_OUT)
    """What an eavesdropper learns; None of other tasks than simple_crypto."""
    summary: str | None = field(default=None, metadata=LEFT_OUT)
    """One line on the language; None where nobody has summed it up."""
    replica: int | None = field(default=None, metadata=LEFT_OUT)
    """Number of the replica in its run; None of other players."""

    @property
    def outcomes(self) -> list[tuple[str, Outcome]]:
        """Names and outcomes, the untouched one first."""
        return [("untouched", self.outcome), *((one.name, one.outcome) for one in self.interventions)]


@dataclass
class Material:
    """What was recorded, for pictures."""

    spec: EnvSpec
    played: Episodes
    heard: list[Heard]  # one a channel
    answers: list[Answers]  # one a channel: [J, E, V, H, K], what the receiver would have done under every symbol


def analyse_player(
    player: Predictable,
    env_id: str,
    spec: EnvSpec,
    *,
    episodes: int = 1000,
    seed: int = 1_000_000,
    env_args: dict[str, Any] | None = None,
    lines: Lines | None = None,
    meaning: Meaning | None = None,
    interventions: Sequence[str] = DEFAULTS,
    per_channel: bool = True,
    resampling: tuple[int, int] = (999, 1000),
    progress: Callable[[str], None] = lambda text: None,
    **playing: Any,
) -> tuple[PlayerAnalysis, Material]:
    """Everything about one player's channels.

    Args:
        player: plays all agents and tells its probabilities.
        env_id: MPE id or package.module:function.
        spec: with the routes to analyse.
        episodes: sample size; with fewer than 1000 the information is noticeably biased and the intervals are wide.
        seed: episode i is reset with `seed + i`, in every intervention again.
        env_args: of the environment.
        lines: returns that score and gain are measured against.
        meaning: from the sender's observations to what there is to tell, where the environment does not declare it.
        interventions: names as in `marl.communication.measures.interventions.KINDS`; none: only metrics.
        per_channel: where there are several channels, also shuffle each one alone.
        resampling: numbers of permutations and bootstrap resamples.
        progress: told what is being done.
        playing: further arguments of `play` (backend, make).

    Returns:
        (the numbers, what was recorded).

    Raises:
        UserError: the environment has no channel, or an intervention is unknown.
    """
    if episodes < 2:
        raise UserError(f"episodes must be at least 2 (1000 for numbers to rely on), got {episodes}.")
    channels = channels_of(spec)
    chosen = possible(spec, channels, interventions)
    common: dict[str, Any] = {"env_args": env_args, "batch": _BATCH, "neighbours": True, "spec": spec, **playing}
    progress(f"playing {episodes} episodes")
    asked = Questioned(player, spec, channels)
    played = play(env_id, asked, episodes, seed, record=True, **common)
    heard = [listen(spec, channel, played, seed, meaning) for channel in channels]
    resamplers = {count: Resampler(count, seed, *resampling) for count in {one.episodes for one in heard}}
    everybody = resamplers.get(episodes) or Resampler(episodes, seed, 1, resampling[1])
    team = speakers_team(spec, channels)
    progress("information and influence")
    answers = [one.at_heard_steps(asked.answers(k)) for k, one in enumerate(heard)]
    reports = [
        channel_report(player, spec, one, told, resamplers[one.episodes])
        for one, told in zip(heard, answers, strict=True)
    ]
    used = [used_symbols(one) for one in heard]
    met = []
    for intervention, subset in _plan(channels, chosen, per_channel):
        name = intervention.name if len(subset) == len(channels) else f"{intervention.name}: {subset[0].name(spec)}"
        progress(f"intervention {name}")
        change = Interference(spec, subset, intervention, [used[channels.index(c)] for c in subset], seed)
        changed = play(env_id, player, episodes, seed, intervene=change, **common)
        outcome = summarise(spec, changed, everybody, team, played, lines)
        met.append(InterventionResult(name, KINDS[intervention.kind], outcome))
    crypto = None
    if canonical_id(spec.id) == "simple_crypto_v3":
        to_bob = next(one for one in heard if spec.agent_names[one.channel.receiver] == "bob_0")
        crypto = secrecy_report(spec, played, to_bob, resamplers[to_bob.episodes])
    analysis = PlayerAnalysis(
        episodes=episodes,
        seed=seed,
        team=tuple(spec.agent_names[n] for n in team),
        outcome=summarise(spec, played, everybody, team, lines=lines),
        channels=tuple(reports),
        interventions=tuple(met),
        crypto=crypto,
    )
    return analysis, Material(spec, played, heard, answers)


def _plan(
    channels: list[Channel], chosen: list[Intervention], per_channel: bool
) -> list[tuple[Intervention, list[Channel]]]:
    """Every intervention on all channels together; where there are several, each one shuffled alone."""
    plan = [(one, channels) for one in chosen]
    if per_channel and len(channels) > 1:
        plan += [(one, [channel]) for one in chosen if one.kind == "shuffled" for channel in channels]
    return plan
