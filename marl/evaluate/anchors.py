"""Floors and ceilings of every MPE task, and the scales made of them: score and gain.

All returns are per agent, undiscounted, over one episode of 25 steps with the environment's default arguments;
competitive tasks have values per side only, since a return there depends on the opponent. How the numbers were found:

- *random*, *noop*: 200,000 episodes of the batched port, which equals `mpe2` within rounding
  (`python -m benchmarks.judgement`); where an agent alone walks at random, exactly.
- *oracle* and *no communication*: the scale "best known", what a policy returned. Scores and gains are on this scale; a
  better policy than the best known has a score above 1.
- *bound* beside them: the scale "bound", proved: no policy's expected return exceeds it. `python -m benchmarks.bounds`
  computes every one, with its proof, and writes `marl/evaluate/bounds.py`.

`benchmarks/learning/anchors.py` plays every script again; `marl/scripted/measured.py` holds what it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.mpe import catalogue
from envs.spec import EnvSpec
from marl.evaluate.bounds import BOUNDS
from marl.results import Record
from marl.scripted.measured import MEASURED

RANDOM, NOOP, SILENT, ORACLE = "random", "noop", "no_communication", "oracle"
_WITHOUT_EFFECT = ("render_mode", "dynamic_rescaling", "benchmark_data")  # arguments that change no return


@dataclass(frozen=True)
class Anchor(Record):
    """One reference return per agent."""

    mean: float
    se: float | None
    """Standard error; None where the value is exact."""
    bound: float | None
    """Proved: no policy of the kind has a larger expected return; None where there is no such bound."""
    source: str
    """Where the value comes from, in words; `mean` is always what a policy returned (best known)."""


@dataclass(frozen=True)
class AnchorReturns(Record):
    """The anchors of one task as an evaluation holds them: returns per agent of one episode."""

    random: float | None = None
    """Mean over all agents of uniformly random play; None (as for the next three) where there is no such anchor."""
    noop: float | None = None
    """Of agents that never move."""
    no_communication: float | None = None
    """Of the best agents without messages: gain 0."""
    oracle: float | None = None
    """Of the best policy known: score and gain 1."""
    bound: float | None = None
    """Proved upper bound of the expected return of any policies."""
    no_communication_bound: float | None = None
    """The same of policies without messages."""
    sides: Mapping[str, Mapping[str, Anchor]] = field(default_factory=dict)
    """{side: {kind: anchor}}."""
    reason: str | None = None
    """Why there are none; None where there are."""


@dataclass(frozen=True)
class Anchors:
    """The anchors of one task, by side and kind; without any where `reason` says why."""

    env: str
    sides: Mapping[str, Mapping[str, Anchor]] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)  # agents of each side
    competitive: bool = False
    reason: str | None = None

    def mean(self, kind: str) -> float | None:
        """The anchor as a mean over all agents; None where there is none or the task is competitive."""
        if self.competitive or not self.sides or any(kind not in side for side in self.sides.values()):
            return None
        total = sum(self.weights[name] * side[kind].mean for name, side in self.sides.items())
        return total / sum(self.weights.values())

    def bound(self, kind: str = ORACLE) -> float | None:
        """The proved bound beside an anchor; None where there is none or the task is competitive or has sides."""
        anchor = self.sides["all"].get(kind) if not self.competitive and set(self.sides) == {"all"} else None
        return None if anchor is None else anchor.bound

    def score(self, returns: Mapping[str, float] | float) -> float | None:
        """(return - random) / (oracle - random): 0 is random, 1 the oracle."""
        return _scaled(returns, self.mean(RANDOM), self.mean(ORACLE))

    def gain(self, returns: Mapping[str, float] | float) -> float | None:
        """(return - best without communication) / (oracle - best without communication)."""
        return _scaled(returns, self.mean(SILENT), self.mean(ORACLE))

    def returns(self) -> AnchorReturns:
        """Means over all agents by kind, every side's anchors with their sources, and the reason."""
        random, noop, silent, oracle = map(self.mean, (RANDOM, NOOP, SILENT, ORACLE))
        return AnchorReturns(random, noop, silent, oracle, self.bound(), self.bound(SILENT), self.sides, self.reason)

    def to_json(self) -> dict[str, Any]:
        """That of `returns`."""
        return self.returns().to_json()


def anchors(env_id: str, env_args: Mapping[str, Any] | None = None) -> Anchors:
    """The anchors of a task; none for other environments and for arguments that change the task."""
    mpe_id = catalogue.canonical_id(env_id)
    if mpe_id is None:
        return Anchors(env_id, reason=f"no anchors are known for {env_id}")
    defaults = catalogue.allowed_arguments(mpe_id)
    changed = [
        f"{name}={value!r} (default {defaults.get(name)!r})"
        for name, value in (env_args or {}).items()
        if name not in _WITHOUT_EFFECT and value != defaults.get(name, _WITHOUT_EFFECT)
    ]
    if changed:
        return Anchors(mpe_id, reason=f"the anchors hold for default arguments, not for {', '.join(changed)}")
    task = catalogue.VARIANT_OF.get(mpe_id, mpe_id)
    if task not in _TABLE:
        return Anchors(mpe_id, reason=f"no anchors are known for {mpe_id}")
    return Anchors(mpe_id, _TABLE[task], _AGENTS[task], task in _COMPETITIVE)


def score(env_id: str, returns: Mapping[str, float] | float, env_args: Mapping[str, Any] | None = None) -> float | None:
    """Normalised score of a mean return per agent, or of {agent: mean return}; None where the task has no anchors."""
    return anchors(env_id, env_args).score(returns)


def gain(env_id: str, returns: Mapping[str, float] | float, env_args: Mapping[str, Any] | None = None) -> float | None:
    """Communication gain of a mean return per agent, or of {agent: mean return}; None without a silent anchor."""
    return anchors(env_id, env_args).gain(returns)


def lines_of(env_id: str, env_args: Mapping[str, Any] | None = None) -> dict[str, float | None]:
    """The lines of a learning curve: mean return per agent of oracle, no communication and random."""
    result = anchors(env_id, env_args)
    return {"oracle": result.mean(ORACLE), "no communication": result.mean(SILENT), "random": result.mean(RANDOM)}


def sides(spec: EnvSpec) -> dict[str, list[str]]:
    """Names of the agents of each side: those that are paid alike; the one side "all" where that is everybody."""
    sided = _SIDES.get(spec.id, {"all": ("",)})
    results = {
        side: [name for name in spec.agent_names if name.startswith(prefixes)] for side, prefixes in sided.items()
    }
    return {side: names for side, names in results.items() if names}


def is_competitive(spec: EnvSpec) -> bool:
    """Whether the agents form teams that play against each other."""
    return len(spec.teams) > 1


def _scaled(returns: Mapping[str, float] | float, zero: float | None, one: float | None) -> float | None:
    if zero is None or one is None:
        return None
    value = sum(returns.values()) / len(returns) if isinstance(returns, Mapping) else returns
    return (value - zero) / (one - zero)


# ------------------------------------------------------------------ the numbers
_TEAMS: dict[str, tuple[str, ...]] = {"adversaries": ("adversary", "leadadversary"), "good": ("agent",)}
_SIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "simple_crypto_v3": {"eve": ("eve",), "alice and bob": ("alice", "bob")},
    "collect_treasure_v1": {"collectors": ("collector",), "deposits": ("deposit",)},
    "simple_adversary_v3": _TEAMS,
    "simple_push_v3": _TEAMS,
    "simple_tag_v3": _TEAMS,
    "simple_world_comm_v3": _TEAMS,
}
_COMPETITIVE = (
    "simple_crypto_v3",
    "simple_adversary_v3",
    "simple_push_v3",
    "simple_tag_v3",
    "simple_world_comm_v3",
)
_AGENTS: dict[str, dict[str, int]] = {
    "simple_v3": {"all": 1},
    "simple_speaker_listener_v4": {"all": 2},
    "simple_reference_v3": {"all": 2},
    "simple_spread_v3": {"all": 3},
    "simple_line_v1": {"all": 4},
    "simple_formation_v1": {"all": 4},
    "collect_treasure_v1": {"collectors": 6, "deposits": 2},
    "simple_crypto_v3": {"eve": 1, "alice and bob": 2},
    "simple_adversary_v3": {"adversaries": 1, "good": 2},
    "simple_push_v3": {"adversaries": 1, "good": 1},
    "simple_tag_v3": {"adversaries": 3, "good": 1},
    "simple_world_comm_v3": {"adversaries": 4, "good": 2},
}


# A value with the script whose play gives its standard error (or that error) and where the value comes from.
_Row = tuple[float, str | float | None, str]


def _floors(random: float, noop: float, error: float | None) -> dict[str, _Row]:
    """Of random play and of agents that never move, with the larger standard error of the two; None: exact."""
    source = "exact: a square law of a random walk" if error is None else "200,000 episodes of the batched port"
    return {RANDOM: (random, error, source), NOOP: (noop, error, source)}


_ROWS: dict[str, dict[str, dict[str, _Row]]] = {
    "simple_v3": {
        "all": {**_floors(-39.84, -33.33, None), ORACLE: (-7.30, "oracle", "the plan's distance from the bound, .016")}
    },
    "simple_speaker_listener_v4": {
        "all": {
            **_floors(-39.84, -33.33, None),
            SILENT: (-15.37, "silent", "best known: the way to the landmarks' mean"),
            ORACLE: (-7.46, "oracle", "best known: a plan; the message is heard one step late"),
        }
    },
    "simple_reference_v3": {
        "all": {
            **_floors(-28.29, -26.11, 0.021),
            SILENT: (-16.65, "silent", "best known: the way to the landmarks' median"),
            ORACLE: (-7.53, "oracle", "best known: a plan; the message is heard one step late"),
        }
    },
    "simple_spread_v3": {
        "all": {**_floors(-26.44, -24.17, 0.018), ORACLE: (-6.40, "oracle", "best known: a joint plan")}
    },
    "simple_line_v1": {
        "all": {
            **_floors(-22.43, -20.60, 0.013),
            ORACLE: (-6.29, "oracle", "best known without seeing one another: fixed slots; with all information -5.01"),
        }
    },
    "simple_formation_v1": {
        "all": {
            **_floors(-18.53, -16.29, 0.012),
            ORACLE: (-5.19, 0.027, "best known: a trained replica; fixed slots -5.54, with all information -3.69"),
        }
    },
    "collect_treasure_v1": {
        "collectors": {**_floors(-2.81, -5.11, 0.031), ORACLE: (41.8, "best", "best known: a script")},
        "deposits": {**_floors(0.69, -1.28, 0.008), ORACLE: (41.9, "best", "best known: a script")},
    },
    "simple_crypto_v3": {
        "eve": {
            **_floors(-37.5, -25.02, 0.056),
            SILENT: (-1.0, "plain", "plain text: Eve repeats it"),
            ORACLE: (-25.0, "oracle", "guessing under a perfect cipher"),
        },
        "alice and bob": {
            **_floors(0.01, 0.0, 0.014),
            SILENT: (0.0, "plain", "plain text: Eve repeats it"),
            ORACLE: (24.0, "oracle", "xor with the key; Bob guesses at the first step"),
        },
    },
    "simple_adversary_v3": {
        "adversaries": {
            **_floors(-28.27, -26.03, 0.029),
            ORACLE: (-8.45, "omniscient+direct", "the coasting rule to the goal, which an adversary is never told"),
        },
        "good": {
            **_floors(7.43, 6.56, 0.035),
            ORACLE: (10.98, "midpoint+planned", "all to the goal, against the best adversary that learns nothing"),
        },
    },
    "simple_push_v3": {
        "adversaries": _floors(-0.02, 0.02, 0.039),
        "good": {**_floors(-28.34, -26.09, 0.029), ORACLE: (-7.45, "planned+noop", "best known: a plan, alone")},
    },
    "simple_tag_v3": {"adversaries": _floors(4.34, 0.8, 0.024), "good": _floors(-15.88, -4.64, 0.045)},
    "simple_world_comm_v3": {"adversaries": _floors(3.26, -1.14, 0.019), "good": _floors(-25.19, -7.57, 0.055)},
}


def _table() -> dict[str, dict[str, dict[str, Anchor]]]:
    def anchor(env: str, side: str, kind: str, row: _Row) -> Anchor:
        mean, of, source = row
        return Anchor(
            mean,
            MEASURED[env][of][side][1] if isinstance(of, str) else of,
            source=source,
            bound=BOUNDS.get(env, {}).get(kind),
        )

    return {
        env: {
            side: {kind: anchor(env, side, kind, row) for kind, row in rows.items()} for side, rows in by_side.items()
        }
        for env, by_side in _ROWS.items()
    }


_TABLE = _table()
