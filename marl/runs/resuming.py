"""What a resume starts from: the checkpoint, the run that it lies in, and the settings that may have changed since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.commands import memory_words
from marl.config.resolve import check_resume, from_dict
from marl.config.schema import Config
from marl.errors import UserError
from marl.runs import checkpoint
from marl.runs.versions import changed_versions


def resumable(path: Path) -> tuple[Path, Path]:
    """The checkpoint directory that `path` means, as `checkpoint.locate`, and the run directory around it.

    Raises:
        UserError: as `checkpoint.locate`, or a checkpoint that lies in no run.
    """
    saved = checkpoint.locate(path)
    if saved.resolve().parent.name != checkpoint.DIRECTORY:
        raise UserError(f"--resume {path}: a checkpoint is resumed inside its run; put it into RUN/checkpoints/.")
    return saved, checkpoint.run_directory(saved)


def saved_config(manifest: dict[str, Any], path: Path) -> Config:
    """The configuration in the manifest of the checkpoint at `path`.

    Raises:
        UserError: it holds none, or one that this version does not know.
    """
    plain = manifest.get("config")
    if not isinstance(plain, dict):
        raise UserError(f"checkpoint {path} holds no configuration, so it cannot be resumed.")
    try:
        return from_dict(plain, f"checkpoint {path}")
    except UserError as error:
        raise UserError(f"{error}\nThe checkpoint was written by another version of this package.") from None


@contextmanager
def fitting(saved: checkpoint.Checkpoint | None) -> Iterator[None]:
    """While the parts of `saved` are restored; None: they were read by another process.

    Raises:
        UserError: in place of what a part of another shape or without a field raises, where another version wrote it.
    """
    try:
        yield
    except (KeyError, RuntimeError) as error:
        changed = [] if saved is None else changed_versions(saved.manifest["versions"])
        if saved is None or not changed or memory_words(error) or "CUDA" in str(error):
            raise
        raise UserError(
            f"checkpoint {saved.path} does not fit this version ({error}).\n"
            f"Resume it with what wrote it: {'; '.join(changed)}."
        ) from error


def has_ended(saved: checkpoint.Checkpoint) -> bool:
    """Whether the run was over there, by the length that it had when it was saved."""
    return saved.step >= saved_config(saved.manifest, saved.path).total_steps


def continued(config: Config, resume: Path) -> tuple[Config, Path]:
    """The configuration of a run that goes on, its `run_dir` set, and the checkpoint directory that it starts from.

    Args:
        config: checked; `run_dir` unset, or the directory of the run that `resume` lies in.
        resume: a checkpoint directory, or a run directory, of which the newest checkpoint is meant.

    Raises:
        UserError: no such checkpoint, another run's directory, or a change of settings that no resume allows
            (marl/config/rules.py has the list).
    """
    saved, run = resumable(resume)
    if config.run_dir is not None and Path(config.run_dir).resolve() != run:
        raise UserError(
            f"run_dir: got {config.run_dir!r}; a resumed run goes on in its own directory, expected {str(run)!r} or "
            f"none; copy the directory first to branch off."
        )
    manifest = checkpoint.load(saved, parts=()).manifest
    check_resume(saved_config(manifest, saved), config, trained=manifest["step"])
    return config if config.run_dir is not None else replace(config, run_dir=str(run)), saved
