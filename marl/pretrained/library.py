"""The policies in this folder: which there are, the row of the results that each belongs to, and its parameters.

One file a task, NAME.npy: actors' parameters float32 [S, G, P] (marl/learner/networks/actor_critic.py), nothing else;
it is read without running code. manifest.json has an `Entry` for each, with the checksum of the file. Both are written
by `python -m benchmarks.pretrained RUN ...` from the runs behind the tables of results.

Shape suffixes: S replicas, G groups of agents, P parameters of one actor.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

from envs.mpe.catalogue import canonical_id
from marl.errors import UserError, did_you_mean
from marl.results import Record

MANIFEST = "manifest.json"
FORMAT = 1
"""Number of the layout above; a build reads its own."""


@dataclass(frozen=True)
class Row(Record):
    """The row of the tables of results that a policy belongs to. Returns are per agent, summed over an episode."""

    source: str
    """File of the record, in the repository."""
    purpose: str
    """What the seeds served: "reporting", or "retired" (docs/results/learning.md)."""
    configuration: str
    """Fingerprint of the settings (benchmarks/seeds.py)."""
    seed: int
    """Root seed of the run."""
    replicas: int
    """Of the row; the first few of them are in the file."""
    steps: int
    """Environment steps of a replica."""
    mode: str
    """"greedy" or "sampled": how the policies played for the row."""
    episodes: int
    """That each replica played, reset with `episodes_seed` plus i."""
    episodes_seed: int
    """As above."""
    returns: Mapping[str, float]
    """{"all": interquartile mean over replicas}; of competitive tasks {side: mean over replicas, each against the
    opponents that it trained with}."""
    interval: tuple[float, float] | None
    """95 % interval of "all"; None for competitive tasks, whose tables have none."""
    score: float | None
    """Of "all": 0 is random play, 1 the best known."""
    gain: float | None
    """Of "all": 0 is the best without messages, 1 the best known."""
    of_replicas: Mapping[str, tuple[float, ...]]
    """{"all" or side: return of each replica in the file}."""


@dataclass(frozen=True)
class Played(Record):
    """Greedy returns over a few episodes of the real environment, by which a file is known again."""

    episodes: int
    """That each replica played."""
    seed: int
    """Episode i was reset with this plus i."""
    returns: Mapping[str, tuple[float, ...]]
    """{"all" or side: mean return of each replica}."""


@dataclass(frozen=True)
class Entry(Record):
    """One file."""

    file: str
    """Its name."""
    sha256: str
    """Of its bytes."""
    shape: tuple[int, int, int]
    """(S, G, P)."""
    settings: Mapping[str, Any]
    """The settings that actors are made by, nested as in a configuration file."""
    spec: Mapping[str, Any]
    """`EnvSpec.to_dict` of what the actors were trained with."""
    row: Row
    """Where they come from."""
    played: Played
    """How they play."""


@dataclass(frozen=True)
class Stored:
    """What `read` returns."""

    name: str
    entry: Entry
    flat_SGP: np.ndarray


def entries(folder: Traversable | None = None) -> dict[str, Entry]:
    """{task: its entry}, in order of the name.

    Args:
        folder: where manifest.json and the files are; None: in the package.

    Raises:
        UserError: the manifest is missing or is not one of this build.
    """
    place = _folder(folder) / MANIFEST
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
        return {name: Entry.from_json(one) for name, one in sorted(manifest["policies"].items())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the list of pretrained policies {place} cannot be read: {error}. {_AGAIN}") from error


def names() -> list[str]:
    """The tasks that have a pretrained policy."""
    return list(entries())


def read(name: str, folder: Traversable | None = None) -> Stored:
    """The pretrained policy of a task.

    Args:
        name: the task, with or without its version.
        folder: as for `entries`.

    Raises:
        UserError: there is none of this name (the message lists those that there are), or its file is damaged.
    """
    known = entries(folder)
    task = _task(name, known)
    entry = known[task]
    place = _folder(folder) / entry.file
    try:
        data = place.read_bytes()
    except OSError as error:
        raise UserError(f"the pretrained policy {place} cannot be read: {error.strerror or error}. {_AGAIN}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise UserError(
            f"the pretrained policy {place} is damaged: its {len(data)} bytes have the sha256 {digest[:12]}..., "
            f"expected {entry.sha256[:12]}.... {_AGAIN}"
        )
    flat_SGP = np.load(io.BytesIO(data), allow_pickle=False)
    if flat_SGP.shape != entry.shape or flat_SGP.dtype != np.float32:
        raise UserError(
            f"the pretrained policy {place} holds {flat_SGP.dtype} {list(flat_SGP.shape)}, expected float32 "
            f"{list(entry.shape)}. {_AGAIN}"
        )
    return Stored(task, entry, flat_SGP)


def described(stored: Stored) -> str:
    """One line on the row that a policy belongs to."""
    row = stored.entry.row
    returns = ", ".join(f"{'' if side == 'all' else side + ' '}{value:.2f}" for side, value in row.returns.items())
    interval = "" if row.interval is None else f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]"
    count, kept = row.replicas, stored.entry.shape[0]
    return (
        f"published: return {returns}{interval} over {count} replicas, {row.mode} ({row.source}, seed {row.seed}, "
        f"configuration {row.configuration}); {f'the first {kept}' if kept < count else 'all'} of them are here"
    )


_AGAIN = "Install the package again."


def _folder(folder: Traversable | None) -> Traversable:
    return resources.files(__package__) if folder is None else folder


def _task(name: str, known: Mapping[str, Entry]) -> str:
    wanted = canonical_id(name)
    for task in known:
        if name == task or (wanted is not None and wanted == canonical_id(task)):
            return task
    listed = ", ".join(known) or "none"
    raise UserError(f"there is no pretrained policy {name!r}; there are {listed}.{did_you_mean(name, list(known))}")
