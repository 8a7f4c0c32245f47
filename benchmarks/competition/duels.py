"""Sides of a competitive task against each other: trained replicas, scripted teams, and who does better.

A return against one's own opponent says little. Here every trained side meets the other replicas' other side and every
scripted opponent, and stands beside what scripted teams of its own side earn against the same opponent in the same
episodes. Played in the batched port, which equals `mpe2` within rounding and is far faster.

Shape suffixes: R replicas, E episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.mpe import catalogue
from envs.spec import EnvSpec
from marl.errors import UserError
from marl.evaluate.matches import team_names
from marl.play.policy import Policy
from marl.play.rollout import Mixed, Player, play
from marl.scripted.by_name import TABLE, scripted
from marl.stats import crossed_summary, mean_and_se

BATCH = 1000  # episodes in lockstep

# The scripts of each side, in the order of the tables. Eve's two scripts repeat what Alice says and are one.
SCRIPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "simple_adversary": {
        "adversaries": ("midpoint", "follow", "midpoint_reflex", "follow_reflex", "omniscient", "random"),
        "good": ("direct", "cover", "planned", "direct_reflex", "cover_reflex", "random"),
    },
    "simple_push": {
        "adversaries": ("midpoint", "follow", "guess", "block", "random"),
        "good": ("direct", "planned", "random"),
    },
    "simple_tag": {"adversaries": ("chase", "surround", "random"), "good": ("flee", "random")},
    "simple_world_comm": {
        "adversaries": ("chase", "surround", "hunt", "random"),
        "good": ("feed", "flee", "random"),
    },
    "simple_crypto": {"eve": ("oracle", "random"), "alice and bob": ("oracle", "plain", "random")},
}


@dataclass
class Arena:
    """One task and the episodes that all duels in it play.

    Args:
        env: a task of `SCRIPTS`.
        episodes: E, of every duel.
        seed: of the episodes; the same for every duel, so that differences are paired.
    """

    env: str
    episodes: int
    seed: int
    _scripted: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)

    @functools.cached_property
    def spec(self) -> EnvSpec:
        return catalogue.describe(self.env, catalogue.parallel_env(self.env))

    @functools.cached_property
    def sides(self) -> dict[str, list[str]]:
        """{side: its agents}: two sides."""
        return team_names(self.spec)

    def require(self, policy: Policy) -> None:
        """Refuse a policy of another task, or of this one with arguments of its own: here it would play the default.

        Raises:
            UserError: it is one.
        """
        if catalogue.canonical_id(policy.env_id) != self.spec.id or policy.env_args:
            raise UserError(
                f"the run is of {policy.env_id} with arguments {policy.env_args or '{}'}, and its duels would be in "
                f"{self.spec.id} without any; expected a run of --env {self.env}."
            )

    def other(self, side: str) -> str:
        """The opposing side."""
        return next(name for name in self.sides if name != side)

    def scripts(self, side: str) -> tuple[str, ...]:
        return SCRIPTS[self.env][side]

    def informed(self, script: str) -> bool:
        """Whether a script sees more than its own agents' observations: a bound, no policy to be matched."""
        entry = TABLE[self.spec.id].get(script)
        return entry is not None and not entry.script.decentralised

    def play(self, players: Mapping[str, Player]) -> dict[str, np.ndarray]:
        """Mean return of each side's agents, {side: float64 [E]}, of {side: who plays it}."""
        everybody = {name: players[side] for side, names in self.sides.items() for name in names}
        batch = min(self.episodes, BATCH)
        returns = play(
            self.env, Mixed(everybody), self.episodes, self.seed, backend="torch", spec=self.spec, batch=batch
        ).returns
        columns = {side: [self.spec.agent_names.index(name) for name in names] for side, names in self.sides.items()}
        return {side: returns[:, own].mean(1) for side, own in columns.items()}

    def script(self, name: str) -> Player:
        return scripted(self.env, name, spec=self.spec, seed=self.seed)

    def scripted(self, script: str, opponent: str) -> dict[str, np.ndarray]:
        """`play` of a script of the first side and one of the second; every pairing is played once."""
        key = (script, opponent)
        if key not in self._scripted:
            self._scripted[key] = self.play({side: self.script(one) for side, one in zip(self.sides, key, strict=True)})
        return self._scripted[key]


@dataclass(frozen=True)
class Tournament:
    """Everybody of the first side (rows) against everybody of the second (columns): replicas, then scripts.

    Attributes:
        arena: where it was played.
        replicas: R, of the trained party, which plays both sides.
        names: {side: row or column names}: "0" to "R-1", then the side's scripts.
        returns: {side: float64 [rows, columns, E]}.
    """

    arena: Arena
    replicas: int
    names: dict[str, list[str]]
    returns: dict[str, np.ndarray]

    def seen_by(self, side: str) -> np.ndarray:
        """The side's returns, float64 [its own players, its opponents, E]."""
        values = self.returns[side]
        return values if side == next(iter(self.names)) else values.swapaxes(0, 1)

    def table(self) -> dict[str, list[list[float]]]:
        """Mean returns {side: [rows][columns]}."""
        return {side: values.mean(2).tolist() for side, values in self.returns.items()}


def tournament(arena: Arena, players: Sequence[Player]) -> Tournament:
    """Play it: R x R duels of replicas, the replicas of both sides against every script, and all scripted pairings."""
    replicas = len(players)
    names = {side: [*map(str, range(replicas)), *arena.scripts(side)] for side in arena.sides}
    first, second = arena.sides

    def player(name: str) -> Player:
        return players[int(name)] if name.isdecimal() else arena.script(name)

    def duel(mine: str, theirs: str) -> dict[str, np.ndarray]:
        if mine.isdecimal() or theirs.isdecimal():
            return arena.play({first: player(mine), second: player(theirs)})
        return arena.scripted(mine, theirs)

    cells = [[duel(mine, theirs) for theirs in names[second]] for mine in names[first]]
    returns = {side: np.array([[cell[side] for cell in row] for row in cells]) for side in arena.sides}
    return Tournament(arena, replicas, names, returns)


def against_scripts(played: Tournament) -> list[dict[str, Any]]:
    """Every trained side against every script of the other side: one row of `compared` for each."""
    arena, rows = played.arena, []
    for side in arena.sides:
        returns, scripts = played.seen_by(side), arena.scripts(side)
        for k, opponent in enumerate(arena.scripts(arena.other(side)), start=played.replicas):
            own = dict(zip(scripts, returns[played.replicas :, k], strict=True))
            fair = [script for script in scripts if not arena.informed(script)]
            result = compared(returns[: played.replicas, k], own, fair)
            rows.append({"side": side, "opponent": opponent, "informed": arena.informed(opponent), **result})
    return rows


def compared(trained_RE: np.ndarray, scripts: Mapping[str, np.ndarray], candidates: Sequence[str]) -> dict[str, Any]:
    """Trained replicas beside scripts of the same side, all against one opponent in the same episodes.

    Args:
        trained_RE: returns float64 [R, E].
        scripts: script to its returns float64 [E]; "random" is one of them.
        candidates: those that act on their own observations: the best of them is the one to beat.

    Returns:
        `trained` {mean, se} (over replicas and episodes), `replicas` their means; `scripts`: for each what `beside`
        finds; `best`: the name of the one to beat; `score`: 0 as much as random play of the same side, 1 as much as
        the best.
    """
    best = max(candidates, key=lambda name: float(scripts[name].mean()))
    means_R = trained_RE.mean(1)
    low, high = float(scripts["random"].mean()), float(scripts[best].mean())
    return {
        "trained": {"mean": float(means_R.mean()), "se": _error(trained_RE)},
        "replicas": means_R.tolist(),
        "scripts": {name: beside(trained_RE, returns) for name, returns in scripts.items()},
        "best": best,
        "score": (float(means_R.mean()) - low) / (high - low) if high > low else None,
    }


def beside(trained_RE: np.ndarray, script_E: np.ndarray) -> dict[str, Any]:
    """A script's return and the paired difference of trained replicas to it.

    Returns:
        `mean` and `se` of the script; `difference` {mean, se} of the trained to it; `beating`: how many replicas are
        above it by more than two standard errors of their own difference; `verdict`: "beaten" or "not beaten" where
        the mean difference exceeds two standard errors, else "level".
    """
    paired_RE = trained_RE - script_E
    gap, gap_se = float(paired_RE.mean()), _error(paired_RE)
    single_R, error_R = mean_and_se(paired_RE, axis=1)
    return {
        "mean": float(script_E.mean()),
        "se": _error(script_E[None]),
        "difference": {"mean": gap, "se": gap_se},
        "beating": int((single_R > 2 * error_R).sum()),
        "verdict": "level" if abs(gap) <= 2 * gap_se else "beaten" if gap > 0 else "not beaten",
    }


def _error(values_RE: np.ndarray) -> float:
    """Standard error of the mean, by the spread of replicas and by that of episodes, which all replicas share."""
    error = crossed_summary(values_RE).se
    return float("nan") if error is None else error
