"""Checkpoints: atomic, checksummed, loadable without running code.

    RUN/checkpoints/
      latest                     name and checksum of the newest checkpoint
      step_000020000/
        policy.pt learner.pt ... one file a part, written by torch.save, plain data only
        manifest.json            format, step, size and sha256 of every file, versions, specification, configuration

A save writes a temporary directory beside its target, forces every file to the disk, renames the directory, forces the
parent, swaps `latest`, and only then deletes older checkpoints. Whatever moment it is killed at, the checkpoint before
it stays whole. A second save at the same step becomes `step_000020000_2`: nothing is ever written in place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marl.errors import RunFailed, UserError
from marl.runs.durable import HashingFile, sync_directory, write_bytes
from marl.runs.plain_data import num_bytes, plain
from marl.runs.run_dir import resume_command
from marl.runs.versions import versions

FORMAT = 1
"""Number of the layout above; a build reads its own and older ones."""

DIRECTORY = "checkpoints"
MANIFEST = "manifest.json"
LATEST = "latest"
_NAME = re.compile(r"step_(\d{9,})(?:_(\d+))?")
_TEMPORARY, _DOOMED = ".saving-", ".deleting-"
_MB = 1 << 20


class SaveFailed(RunFailed):
    """A checkpoint could not be written; the ones before it are untouched. The trainer goes on and counts these."""


class Damaged(UserError):
    """A checkpoint that is not what was saved."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns."""

    path: Path
    step: int  # environment steps of a replica
    manifest: dict[str, Any]  # as given to `save`, plus format, step, files, versions and written
    parts: dict[str, Any]  # name -> plain data


# ------------------------------------------------------------------ saving
def save(root: Path, step: int, parts: dict[str, Any], manifest: dict[str, Any], keep: int = 2) -> Path:
    """Write a checkpoint and delete old ones.

    Args:
        root: RUN/checkpoints; made where it is missing.
        step: environment steps of a replica so far. Checkpoints of later steps belong to a future that this run gave
            up when it was resumed from before them; they are deleted along.
        parts: name -> plain data (`marl.runs.plain_data`); each becomes NAME.pt.
        manifest: plain JSON data: at least `spec` (EnvSpec.to_dict) and `config`.
        keep: newest checkpoints to keep, at least 2.

    Returns:
        The new checkpoint's directory.

    Raises:
        SaveFailed: the disk is full or refuses; nothing that existed is changed.
        NotPlain: a part holds something other than plain data.
    """
    assert keep >= 2, "one checkpoint alone is no protection"
    data = {name: plain(part, name) for name, part in parts.items()}
    need = sum(num_bytes(part) for part in data.values()) + _MB
    try:
        if not root.is_dir():
            root.mkdir(parents=True)
            sync_directory(root.parent)
        free = shutil.disk_usage(root).free
        if free < need:
            raise OSError(errno.ENOSPC, "not enough space")
        path = _write(root, step, data, manifest)
    except OSError as error:
        raise SaveFailed(_save_words(root, step, need, error)) from error
    prune(root, path, keep)
    return path


def _write(root: Path, step: int, data: dict[str, Any], manifest: dict[str, Any]) -> Path:
    temporary = root / f"{_TEMPORARY}{step:09d}-{os.getpid()}"
    try:
        temporary.mkdir()
        files = {name: _write_part(temporary / f"{name}.pt", part) for name, part in data.items()}
        written = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        full = {"format": FORMAT, "step": step, **manifest, "files": files, "versions": versions(), "written": written}
        full["checksum"] = _checksum(full)
        write_bytes(temporary / MANIFEST, json.dumps(full, indent=1, allow_nan=False).encode())
        sync_directory(temporary)
        path = _free_name(root, step)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(root)
    _point_latest(root, path, full["checksum"])
    return path


def _point_latest(root: Path, path: Path, checksum: str) -> None:
    swap = root / f"{_TEMPORARY}{LATEST}"
    try:
        write_bytes(swap, f"{path.name} {checksum}\n".encode())
        os.replace(swap, root / LATEST)
    except BaseException:
        swap.unlink(missing_ok=True)
        raise
    sync_directory(root)


def _write_part(path: Path, part: Any) -> dict[str, Any]:
    with open(path, "wb", buffering=_MB) as file:
        hashing = HashingFile(file)
        torch.save(part, hashing)  # type: ignore[arg-type]
        return hashing.finish()


def _free_name(root: Path, step: int) -> Path:
    path, revision = root / f"step_{step:09d}", 1
    while path.exists():
        revision += 1
        path = root / f"step_{step:09d}_{revision}"
    return path


def _save_words(root: Path, step: int, need: int, error: OSError) -> str:
    have = 0
    with contextlib.suppress(OSError):
        have = shutil.disk_usage(root).free
    old = newest(root)
    kept = f"The checkpoint before it is kept: {old}." if old else "There is no earlier checkpoint."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: the checkpoint of step {step} needs {need / _MB:.0f} MB, "
            f"{root} has {have / _MB:.0f} MB free. {kept} Free some space, or save less with a smaller replay "
            f"(--replay.capacity)."
        )
    return f"the checkpoint of step {step} could not be written to {root}: {error.strerror or error}. {kept}"


# ------------------------------------------------------------------ what there is
def _key(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)


def saved_checkpoints(root: Path) -> list[Path]:
    """Every checkpoint directory with a manifest, oldest first; says nothing of their contents."""
    try:
        results = [path for path in root.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]
    except OSError:
        return []
    return sorted(results, key=_key)


def of_step(run_dir: Path, step: int) -> Path:
    """The last checkpoint that a run has saved at `step`.

    Raises:
        UserError: there is none.
    """
    every = saved_checkpoints(run_dir / DIRECTORY)
    results = [path for path in every if _key(path)[0] == step]
    if not results:
        raise UserError(f"{run_dir} holds no checkpoint of step {step}; it holds {[path.name for path in every]}.")
    return results[-1]


def newest(root: Path) -> Path | None:
    """The checkpoint that `latest` names, else the one of the highest step; None where there is none. Reads only."""
    every = saved_checkpoints(root)
    try:
        name, checksum = (root / LATEST).read_text().split()
        named = root / name
        if named in every and read_manifest(named)["checksum"] == checksum:
            return named
    except (OSError, ValueError, UserError):
        pass  # a missing or broken pointer: the steps in the names decide
    return every[-1] if every else None


def prune(root: Path, current: Path, keep: int) -> None:
    """Delete all but `current` and the `keep - 1` newest of those before it.

    A failure to delete is no failure of the save: the leftovers go with the next `remove_leftovers`.
    """
    earlier = [path for path in saved_checkpoints(root) if _key(path) < _key(current)]
    kept = {current, *earlier[1 - keep :]}
    for path in saved_checkpoints(root):
        if path not in kept:
            doomed = root / f"{_DOOMED}{path.name}"
            with contextlib.suppress(OSError):
                os.rename(path, doomed)  # at once: never a checkpoint with half of its files
            shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(root: Path) -> list[str]:
    """Delete what a killed save left behind and return the names. Only for the run that owns the directory."""
    removed = []
    for path in _leftovers(root):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path.name)
    return sorted(removed)


def _leftovers(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (path for path in list(root.iterdir()) if path.name.startswith((_TEMPORARY, _DOOMED)))


def locate(path: Path) -> Path:
    """The checkpoint directory that `path` means: itself, or the newest one of a run directory.

    Raises:
        UserError: no such directory, no run directory, or no checkpoint in it.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run directory (it holds config.yaml and {DIRECTORY}/).")
    if path.is_file():
        raise UserError(f"{path} is a file; expected a run directory (it holds config.yaml and {DIRECTORY}/).")
    if (path / MANIFEST).exists() or _NAME.fullmatch(path.name):
        return path
    root = path if path.name == DIRECTORY else path / DIRECTORY
    result = newest(root)
    if result is not None:
        return result
    if (path / "config.yaml").exists() or root.is_dir():
        raise UserError(f"{path} holds no checkpoint: the run ended before it saved one. Start it again elsewhere.")
    raise UserError(f"{path} is no run directory; expected one that holds config.yaml and {DIRECTORY}/.")


def run_directory(checkpoint: Path) -> Path:
    """The run directory that a checkpoint directory lies in."""
    return checkpoint.resolve().parent.parent


# ------------------------------------------------------------------ loading
def _checksum(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint directory, checked against its own checksum.

    Raises:
        UserError: a newer format, or unreadable.
        Damaged: missing, or not what was saved. Does not look for a better checkpoint; `load` does.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise Damaged(f"checkpoint {path} is damaged: {MANIFEST} is missing.") from None
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError):
        raise Damaged(f"checkpoint {path} is damaged: {MANIFEST} is not JSON.") from None
    number = manifest.get("format") if isinstance(manifest, dict) else None
    if type(number) is int and number > FORMAT:
        raise UserError(
            f"checkpoint {path} has format {number}, this build reads up to {FORMAT}: update this package to load it."
        )
    if type(number) is not int or manifest.get("checksum") != _checksum(manifest) or not _well_formed(manifest):
        raise Damaged(f"checkpoint {path} is damaged: {MANIFEST} does not match its checksum.")
    return manifest


def _well_formed(manifest: dict[str, Any]) -> bool:
    """Whether a manifest that may come from anyone has the fields that loading relies on."""
    files = manifest.get("files")
    return (
        manifest["format"] >= 1
        and type(manifest.get("step")) is int
        and isinstance(files, dict)
        and all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in files)  # a name is never a path to elsewhere
        and all(isinstance(entry, dict) and {"sha256", "bytes"} <= set(entry) for entry in files.values())
        and isinstance(manifest.get("versions"), dict)
    )


def verify(path: Path, parts: Iterable[str] | None = None) -> dict[str, Any]:
    """Check the manifest and the size and sha256 of the files of `parts` (None: all); returns the manifest.

    Raises:
        Damaged, UserError: as `read_manifest`.
    """
    manifest = read_manifest(path)
    for name in manifest["files"] if parts is None else parts:
        file = path / f"{name}.pt"
        entry = manifest["files"].get(name)
        if entry is None:
            raise UserError(f"checkpoint {path} has no part {name!r}; it has {', '.join(manifest['files'])}.")
        try:
            size = file.stat().st_size
            if size != entry["bytes"]:
                raise Damaged(f"checkpoint {path} is damaged: {file.name} has {size} bytes, not {entry['bytes']}.")
            with open(file, "rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        except FileNotFoundError:
            raise Damaged(f"checkpoint {path} is damaged: {file.name} is missing.") from None
        except OSError as error:
            raise UserError(f"checkpoint {path} cannot be read: {file.name}: {error.strerror}.") from error
        if digest != entry["sha256"]:
            raise Damaged(f"checkpoint {path} is damaged: {file.name} does not match its sha256.")
    return manifest


def load(path: Path, parts: Iterable[str] | None = None, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a checkpoint directory (`locate` finds it), wherever it was saved.

    Args:
        path: the checkpoint directory.
        parts: names of the parts to load; None: all.
        device: where its tensors go; those of a GPU load on a machine without one.

    Raises:
        Damaged: it is not what was saved; names the newest good checkpoint beside it.
        UserError: missing, unreadable, a newer format, a part that it lacks, or a file that is not plain data (no
            code of such a file is run).
    """
    names = None if parts is None else list(parts)
    try:
        manifest = verify(path, names)
        wanted = list(manifest["files"]) if names is None else names
        loaded = {name: _load_part(path / f"{name}.pt", device) for name in wanted}
    except Damaged as error:
        raise Damaged(f"{error} {_better_than(path)}") from None
    return Checkpoint(path, manifest["step"], manifest, loaded)


def _load_part(file: Path, device: torch.device | str) -> Any:
    """The plain data of a file whose checksum is right, which says nothing of who wrote it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on other pickle protocols, of files that are refused anyway
            return plain(torch.load(file, map_location=device, weights_only=True), file.stem, narrow=False)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # torch has many ways to refuse; its own words advise to switch the protection off
        result = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({result[1]})" if result else ""
        raise UserError(
            f"{file} is refused: its checksum is right, but it holds something other than tensors, numbers and "
            f"text{what}. Nothing of it was executed. It was not written by this package: get the checkpoint again "
            f"from a source that you trust."
        ) from None


def _better_than(path: Path) -> str:
    """A sentence that names the newest good checkpoint beside a damaged one."""
    for other in reversed(saved_checkpoints(path.parent)):
        if other != path:
            with contextlib.suppress(UserError):
                verify(other)
                return f"The newest good one is {other}: {resume_command(other)}"
    return f"There is no other good one in {path.parent}."
