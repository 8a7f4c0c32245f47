"""One player's language, measured: what is said, whether it is heard, and what it is worth, as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.mpe import canonical_id
from envs.spec import EnvSpec
from marl.communication.channels import Channel, Heard, Meaning, channels_of, listen, used_symbols
from marl.communication.influence import Answers, Predictable, Questioned
from marl.communication.information import Resampler
from marl.communication.interventions import (
    KINDS,
    Interference,
    Intervention,
    lockstep,
    possible,
    speakers_team,
    summarise,
)
from marl.communication.options import DEFAULTS
from marl.communication.secrecy import secrecy_report
from marl.communication.signalling import channel_report
from marl.errors import UserError
from marl.play.rollout import Episodes, play

Lines = Mapping[str, float | None]
"""Returns per agent to compare with: "oracle", "no communication", "random"; None or absent where unknown."""


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
) -> tuple[dict[str, Any], Material]:
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
        interventions: names as in `marl.communication.interventions.KINDS`; none: only metrics.
        per_channel: where there are several channels, also shuffle each one alone.
        resampling: numbers of permutations and bootstrap resamples.
        progress: told what is being done.
        playing: further arguments of `play` (backend, make).

    Returns:
        (plain numbers, what was recorded). The numbers: `episodes`, `seed`, `team` (the speakers' team), `returns`,
        `team_return`, `score`, `gain`, `channels` (one `channel_report` each), `interventions`, and `crypto` on
        simple_crypto.

    Raises:
        UserError: the environment has no channel, or an intervention is unknown.
    """
    if episodes < 2:
        raise UserError(f"episodes must be at least 2 (1000 for numbers to rely on), got {episodes}.")
    channels = channels_of(spec)
    chosen = possible(spec, channels, interventions)
    common: dict[str, Any] = {"env_args": env_args, "batch": lockstep(episodes), "spec": spec, **playing}
    progress(f"playing {episodes} episodes")
    asked = Questioned(player, spec, channels)
    played = play(env_id, asked, episodes, seed, record=True, **common)
    heard = [listen(spec, channel, played, seed, meaning) for channel in channels]
    resampler = Resampler(heard[0].episodes, seed, *resampling)
    everybody = resampler if resampler.episodes == episodes else Resampler(episodes, seed, 1, resampling[1])
    team = speakers_team(spec, channels)
    found: dict[str, Any] = {"episodes": episodes, "seed": seed, "team": [spec.agent_names[n] for n in team]}
    found.update(summarise(spec, played, everybody, team))
    _add_scale(found, lines)
    progress("information and influence")
    answers = [one.at_heard_steps(asked.answers(k)) for k, one in enumerate(heard)]
    found["channels"] = [
        channel_report(player, spec, one, told, resampler) for one, told in zip(heard, answers, strict=True)
    ]
    used = [used_symbols(one) for one in heard]
    found["interventions"] = []
    for intervention, subset in _plan(channels, chosen, per_channel):
        name = intervention.name if len(subset) == len(channels) else f"{intervention.name}: {subset[0].name(spec)}"
        progress(f"intervention {name}")
        change = Interference(spec, subset, intervention, [used[channels.index(c)] for c in subset], seed)
        changed = play(env_id, player, episodes, seed, intervene=change, **common)
        entry = {"name": name, "what": KINDS[intervention.kind], **summarise(spec, changed, everybody, team, played)}
        _add_scale(entry, lines)
        found["interventions"].append(entry)
    if canonical_id(spec.id) == "simple_crypto_v3":
        to_bob = next(one for one in heard if spec.agent_names[one.channel.receiver] == "bob_0")
        found["crypto"] = secrecy_report(spec, played, to_bob, resampler)
    return found, Material(spec, played, heard, answers)


def _plan(
    channels: list[Channel], chosen: list[Intervention], per_channel: bool
) -> list[tuple[Intervention, list[Channel]]]:
    """Every intervention on all channels together; where there are several, each one shuffled alone."""
    plan = [(one, channels) for one in chosen]
    if per_channel and len(channels) > 1:
        plan += [(one, [channel]) for one in chosen if one.kind == "shuffled" for channel in channels]
    return plan


def _add_scale(found: dict[str, Any], lines: Lines | None) -> None:
    """Score and gain beside `team_return`, each {mean, low, high}, None where the task has no such lines."""
    lines = lines or {}
    top = lines.get("oracle")
    for name, bottom in (("score", lines.get("random")), ("gain", lines.get("no communication"))):
        scale = None if top is None or bottom is None else (bottom, top - bottom)
        found[name] = scale and {key: (value - scale[0]) / scale[1] for key, value in found["team_return"].items()}
