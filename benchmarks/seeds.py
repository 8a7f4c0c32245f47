"""Which seeds serve which purpose, and which of them a published result has used up.

Two kinds of seeds: *runs*, the root seeds of trainings, and *episodes*, the seeds that episodes are reset with
(episode i with first + i). Settings may be changed after looking at what the `tuning` ranges gave, at no other. A
published configuration of a task is reported once, on a slot of the `reporting` ranges that nothing has looked at
before: `reserve` writes the slot into a ledger before the training begins, so that a run whose result did not please
has used it up all the same, and the next configuration of the task gets the next slot.

Ranges that were looked at while settings were still changed are kept under `retired`, which nothing draws from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from marl.config.fields import flatten
from marl.config.schema import Config
from marl.errors import UserError

Purpose = Literal["tuning", "reporting", "studies", "conditions", "duels", "anchors", "retired"]
LEDGER = Path(__file__).resolve().parent / "results" / "reported.json"
RUNS_IN_A_SLOT = 100  # root seeds; a run of several replicas takes one
EPISODES_IN_A_SLOT = 1_000_000
_SLOTS = 1000
_NOT_LEARNED = ("seed", "run_dir", "num_replicas", "device", "threads", "logging", "evaluation", "checkpoint")


@dataclass(frozen=True)
class SeedRange:
    """Seeds `first` to `first + count - 1`."""

    purpose: Purpose
    first: int
    count: int
    use: str
    """What draws from it, in words."""

    def __contains__(self, seed: int) -> bool:
        return self.first <= seed < self.first + self.count


RUNS = (
    SeedRange("tuning", 0, 1000, "searches, trials, examples, and whatever a user runs by default"),
    SeedRange("retired", 1000, 1000, "the learning and competition tables until November 2026"),
    SeedRange("studies", 2000, 1000, "arms of benchmarks.learning.studies, none of which is chosen by its result"),
    SeedRange("conditions", 3000, 1000, "arms of benchmarks.conditions, none of which is chosen by its result"),
    SeedRange("reporting", 10_000, _SLOTS * RUNS_IN_A_SLOT, "benchmarks.learning: a slot for each configuration"),
)
EPISODES = (
    SeedRange("anchors", 1_000_000, 1_000_000, "scripts of the table of anchors, and the final evaluation of a run"),
    SeedRange("conditions", 4_000_000, 1_000_000, "benchmarks.conditions"),
    SeedRange("retired", 5_000_000, 1_000_000, "the learning table until November 2026"),
    SeedRange("duels", 6_000_000, 1_000_000, "benchmarks.competition"),
    SeedRange("tuning", 7_000_000, 1_000_000, "searches and trials"),
    SeedRange("studies", 8_000_000, 1_000_000, "benchmarks.learning.studies and .collisions"),
    SeedRange("anchors", 9_000_000, 1_000_000, "means of the scripts that take the luck of episodes off"),
    SeedRange("reporting", 1_000_000_000, _SLOTS * EPISODES_IN_A_SLOT, "benchmarks.learning: a slot each"),
)


def seeds(kind: tuple[SeedRange, ...], purpose: Purpose) -> SeedRange:
    """The (last) range of a purpose among `RUNS` or `EPISODES`."""
    return [one for one in kind if one.purpose == purpose][-1]


def purpose_of(kind: tuple[SeedRange, ...], seed: int) -> Purpose | None:
    """What a seed serves; None for one that the registry leaves free."""
    return next((one.purpose for one in kind if seed in one), None)


def require(kind: tuple[SeedRange, ...], purpose: Purpose, seed: int) -> int:
    """`seed`, if it serves `purpose`.

    Raises:
        UserError: it serves another one, or none.
    """
    if purpose_of(kind, seed) == purpose:
        return seed
    fits = ", ".join(f"{one.first} to {one.first + one.count - 1}" for one in kind if one.purpose == purpose)
    serves = purpose_of(kind, seed) or "no purpose"
    raise UserError(f"seed {seed} serves {serves} (benchmarks/seeds.py). For {purpose} take one of {fits}.")


@dataclass(frozen=True)
class Reported:
    """A slot of the reporting ranges and the configuration that has it."""

    task: str
    configuration: str
    """`fingerprint` of the settings."""
    slot: int
    """0, 1, ... for each configuration of the task."""
    run_seed: int
    """Root seed of the run."""
    episodes_seed: int
    """Episode i of the judgement is reset with this plus i."""
    reserved: str
    """Day, as 2026-11-29."""
    finished: bool = False
    """Whether its record was written."""


def fingerprint(config: Config) -> str:
    """12 hexadecimal digits of every setting that changes what is learned, and of the package's version.

    Seeds, the number of replicas, and what only logs, evaluates or stores are left out, and so is what has its default,
    so that a new setting changes no fingerprint. Nor do settings of a world model that is off.
    """
    default = flatten(Config())
    idle = {*_NOT_LEARNED, *(() if config.world_model else ("wm",))}
    kept = {k: v for k, v in flatten(config).items() if k.partition(".")[0] not in idle and v != default[k]}
    text = json.dumps({"version": version("marl-discrete-communication"), **kept}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def reserve(config: Config, ledger: Path = LEDGER) -> Reported:
    """The slot of a configuration that is about to be reported; a run that was cut off gets its own again.

    Raises:
        UserError: the configuration has been reported.
    """
    entries = read(ledger)
    entry = _slot_of(config, entries)
    if entry is None:
        slot = sum(one.task == config.env for one in entries)
        entry = Reported(
            config.env,
            fingerprint(config),
            slot,
            seeds(RUNS, "reporting").first + slot * RUNS_IN_A_SLOT,
            seeds(EPISODES, "reporting").first + slot * EPISODES_IN_A_SLOT,
            str(date.today()),
        )
        _write(ledger, [*entries, entry])
    elif entry.finished:
        raise UserError(
            f"{entry.task} with these settings was reported on {entry.reserved} (configuration {entry.configuration}, "
            f"slot {entry.slot}). A configuration is reported once. To repeat it on the same seeds without touching "
            f"the record: --repeat DIR. To try settings: --tune."
        )
    return entry


def find(config: Config, ledger: Path = LEDGER) -> Reported:
    """The slot that a configuration has already.

    Raises:
        UserError: it has none.
    """
    entry = _slot_of(config, read(ledger))
    if entry is None:
        raise UserError(f"{config.env} with these settings has not been reported, so that there is nothing to repeat.")
    return entry


def finish(entry: Reported, ledger: Path = LEDGER) -> None:
    """Note that the record of a slot has been written."""
    _write(ledger, [replace(one, finished=True) if one == entry else one for one in read(ledger)])


def read(ledger: Path = LEDGER) -> list[Reported]:
    """All slots in use, in the order in which they were reserved."""
    return [Reported(**one) for one in json.loads(ledger.read_text())] if ledger.exists() else []


def _slot_of(config: Config, entries: list[Reported]) -> Reported | None:
    print_of = fingerprint(config)
    return next((one for one in entries if (one.task, one.configuration) == (config.env, print_of)), None)


def _write(ledger: Path, entries: list[Reported]) -> None:
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text("[\n" + ",\n".join(json.dumps(asdict(one)) for one in entries) + "\n]\n")
