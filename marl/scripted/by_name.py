"""The scripted policies of every task by name: `scripted("simple_reference", "oracle")`.

A script of a competitive task plays one side; two names joined by a plus sign play both: "chase+flee". `random` and
`noop` play any environment, or the agents that the other script leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envs.mpe import catalogue
from envs.spec import EnvSpec
from marl.errors import UserError, did_you_mean
from marl.play.rollout import Mixed, Player
from marl.scripted.base import NoOp, Random, Script
from marl.scripted.cooperative import (
    CryptoPlain,
    CryptoXor,
    FormationCoast,
    FormationOracle,
    LineCoast,
    LineOracle,
    ReferenceCoast,
    ReferenceOracle,
    ReferenceSilent,
    SimpleCoast,
    SimpleOracle,
    SpeakerCoast,
    SpeakerOracle,
    SpeakerSilent,
)
from marl.scripted.deception import (
    AdversaryCover,
    AdversaryDirect,
    AdversaryFollow,
    AdversaryMidpoint,
    AdversaryOmniscient,
    AdversaryPlanned,
    PushBlocker,
    PushDirect,
    PushFollow,
    PushGuess,
    PushMidpoint,
    PushPlanned,
    ReflexCover,
    ReflexDirect,
    ReflexFollow,
    ReflexMidpoint,
)
from marl.scripted.pursuit import Chase, Feed, Flee, Hunt, Surround
from marl.scripted.spread import SpreadCoast, SpreadFixed, SpreadOracle
from marl.scripted.treasure import TreasureBest, TreasureGreedy, TreasureNearest

ADVERSARIES = ("adversary", "leadadversary")
GOOD = ("agent",)


@dataclass(frozen=True)
class Entry:
    """One script: which class, and the prefixes of the agents that it plays (empty: all)."""

    script: type[Script]
    plays: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """What it does: its docstring on one line."""
        return " ".join((self.script.__doc__ or "").split())

    def agents(self, spec: EnvSpec) -> list[str]:
        return [name for name in spec.agent_names if name.startswith(self.plays or name)]


ANYWHERE: dict[str, Entry] = {"random": Entry(Random), "noop": Entry(NoOp)}

TABLE: dict[str, dict[str, Entry]] = {
    "simple_v3": {"coast": Entry(SimpleCoast), "oracle": Entry(SimpleOracle)},
    "simple_speaker_listener_v4": {
        "silent": Entry(SpeakerSilent),
        "coast": Entry(SpeakerCoast),
        "oracle": Entry(SpeakerOracle),
    },
    "simple_reference_v3": {
        "silent": Entry(ReferenceSilent),
        "coast": Entry(ReferenceCoast),
        "oracle": Entry(ReferenceOracle),
    },
    "simple_spread_v3": {
        "fixed": Entry(SpreadFixed),
        "coast": Entry(SpreadCoast),
        "oracle": Entry(SpreadOracle),
    },
    "simple_line_v1": {"coast": Entry(LineCoast), "oracle": Entry(LineOracle)},
    "simple_formation_v1": {"coast": Entry(FormationCoast), "oracle": Entry(FormationOracle)},
    "simple_crypto_v3": {"plain": Entry(CryptoPlain), "oracle": Entry(CryptoXor)},
    "collect_treasure_v1": {
        "nearest": Entry(TreasureNearest),
        "greedy": Entry(TreasureGreedy),
        "best": Entry(TreasureBest),
    },
    "simple_adversary_v3": {
        "midpoint": Entry(AdversaryMidpoint, ADVERSARIES),
        "follow": Entry(AdversaryFollow, ADVERSARIES),
        "omniscient": Entry(AdversaryOmniscient, ADVERSARIES),
        "direct": Entry(AdversaryDirect, GOOD),
        "cover": Entry(AdversaryCover, GOOD),
        "planned": Entry(AdversaryPlanned, GOOD),
        "midpoint_reflex": Entry(ReflexMidpoint, ADVERSARIES),
        "follow_reflex": Entry(ReflexFollow, ADVERSARIES),
        "direct_reflex": Entry(ReflexDirect, GOOD),
        "cover_reflex": Entry(ReflexCover, GOOD),
    },
    "simple_push_v3": {
        "midpoint": Entry(PushMidpoint, ADVERSARIES),
        "follow": Entry(PushFollow, ADVERSARIES),
        "guess": Entry(PushGuess, ADVERSARIES),
        "block": Entry(PushBlocker, ADVERSARIES),
        "direct": Entry(PushDirect, GOOD),
        "planned": Entry(PushPlanned, GOOD),
    },
    "simple_tag_v3": {
        "chase": Entry(Chase, ADVERSARIES),
        "surround": Entry(Surround, ADVERSARIES),
        "flee": Entry(Flee, GOOD),
    },
    "simple_world_comm_v3": {
        "chase": Entry(Chase, ADVERSARIES),
        "surround": Entry(Surround, ADVERSARIES),
        "hunt": Entry(Hunt, ADVERSARIES),
        "feed": Entry(Feed, GOOD),
        "flee": Entry(Flee, GOOD),
    },
}


def names(env_id: str) -> dict[str, Entry]:
    """The scripts of an environment by name; outside MPE only those that play anything."""
    return {**TABLE.get(catalogue.canonical_id(env_id) or "", {}), **ANYWHERE}


def scripted(
    env_id: str,
    name: str,
    *,
    spec: EnvSpec | None = None,
    seed: int = 0,
    env_args: Mapping[str, Any] | None = None,
) -> Player:
    """A scripted policy.

    Args:
        env_id: with or without version; for `random` and `noop` any environment.
        name: of a script, or of two scripts joined by "+", one for each side. A script of one side alone gives a
            player of that side's agents only, to be joined by `Mixed`.
        spec: the environment's spec; unset: of the MPE environment with `env_args`.
        seed: of scripts that draw.
        env_args: keyword arguments of the environment; unset: not known, or the default ones.

    Raises:
        UserError: no such script (with close matches), two scripts that claim the same agents, or observations that
            the script does not know how to read.
    """
    known = names(env_id)
    parts = [part.strip() for part in name.split("+")]
    unknown = [part for part in parts if part not in known]
    if unknown:
        listed = ", ".join(known)
        raise UserError(
            f"no scripted policy {unknown[0]!r} for {env_id}.{did_you_mean(unknown[0], known)} It has {listed}."
        )
    if spec is None:
        mpe_id = catalogue.require_id(env_id)
        spec = catalogue.describe(mpe_id, catalogue.parallel_env(mpe_id, **(env_args or {})))
    numbers = any(agent.box for agent in spec.agents)
    moved = [part for part in parts if numbers and part not in ANYWHERE]
    if moved:
        raise UserError(
            f"the script {moved[0]!r} makes discrete moves, but {env_id} was built with continuous actions; expected "
            f"{' or '.join(ANYWHERE)} there."
        )
    players: dict[str, Player] = {}
    for part in sorted(parts, key=lambda part: not known[part].plays):  # those of one side claim their agents first
        player = known[part].script(spec, seed)
        _require_layout(env_id, part, player, env_args)
        agents = known[part].agents(spec)
        free = [agent for agent in agents if agent not in players]
        if not free or (known[part].plays and len(free) < len(agents)):
            raise UserError(
                f"{name!r}: {part!r} plays {agents}, which another script plays already; expected at most one script "
                f"for each side."
            )
        players.update(dict.fromkeys(free, player))
    if len(parts) == 1:
        return player
    return Mixed(players)


def _require_layout(env_id: str, name: str, script: Script, env_args: Mapping[str, Any] | None) -> None:
    """Raise `UserError` where the script takes one thing for another in what agents see.

    The arguments tell more than widths, which may be those of the default ones by chance.
    """
    if not script.assumes:
        return
    known = {key: default for key, default in catalogue.allowed_arguments(env_id).items() if key in script.assumes}
    widths = [agent.obs_size for agent in script.spec.agents]
    if env_args is None and widths != script.layout():
        got = f"observations of widths {widths}; expected {script.layout()}"
    elif changed := [key for key, default in known.items() if (env_args or {}).get(key, default) != default]:
        got = ", ".join(f"{key}={(env_args or {})[key]!r}" for key in changed)
    else:
        return
    told = ", ".join(f"{key}={default!r}" for key, default in known.items())
    raise UserError(
        f"the script {name!r} reads what agents of {env_id} see with {told}, and got {got}. Leave these arguments as "
        f"they are, or take {' or '.join(ANYWHERE)}."
    )


def plays(env_id: str, name: str, spec: EnvSpec) -> list[str]:
    """The agents that script `name` (or a sum of names) plays, in the spec's order."""
    known = names(env_id)
    claimed = {agent for part in name.split("+") for agent in known[part.strip()].agents(spec)}
    return [agent for agent in spec.agent_names if agent in claimed]
