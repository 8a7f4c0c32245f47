"""Writes the exported files of a policy and their description; what `python -m marl.export` does."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marl.errors import UserError
from marl.export.actors import Actor, Part, Tensor, actors
from marl.play.policy import Policy
from marl.results import Record
from marl.runs.durable import replace_text

if TYPE_CHECKING:
    from marl.export.command import CommandLine

DESCRIPTION = "actors.json"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(frozen=True)
class File(Record):
    """One agent's file."""

    agent: str
    """Its name."""
    file: str
    """Name of the file beside this description."""
    inputs: tuple[Tensor, ...]
    """In order."""
    outputs: tuple[Tensor, ...]
    """In order; of torch.export a dict by name."""
    observation: tuple[Part, ...]
    """What the columns of the input `observation` are. Before the first step of an episode the first observation
    stands in for those before it, and zeros for actions."""


@dataclass(frozen=True)
class Description(Record):
    """What actors.json holds."""

    env: str
    """Id of the environment with its version."""
    format: str
    """"onnx" or "torch"."""
    source: str
    """The run, or "pretrained NAME"."""
    replica: int
    """Of the run."""
    agents: tuple[File, ...]
    """In the order of the environment."""


def export(policy: Policy, out: Path, kind: str = "onnx", source: str = "", replica: int = 0) -> Description:
    """Write one file for each agent and actors.json.

    Args:
        policy: any; its greedy choices are what the files return.
        out: directory; made where it is missing.
        kind: "onnx" or "torch".
        source: the run, for the description.
        replica: of it, as well.

    Raises:
        UserError: the extra is not installed, a directory that cannot be written, or actors that cannot be exported.
    """
    if kind == "onnx" and not _installed("onnx"):
        raise UserError("--format onnx needs the package onnx: pip install 'marl-discrete-communication[export]'.")
    every = actors(policy)
    files = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for actor in every:
            name = f"{actor.agent.name}{SUFFIXES[kind]}"
            _write(actor, out / name, kind)
            files.append(File(actor.agent.name, name, tuple(actor.inputs), tuple(actor.outputs), tuple(actor.parts)))
        description = Description(policy.spec.id, kind, source, replica, tuple(files))
        replace_text(out / DESCRIPTION, json.dumps(description.to_json(), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}. Give another --out.") from error
    return description


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _write(actor: Actor, path: Path, kind: str) -> None:
    if kind == "onnx":
        from marl.export.onnx_file import model

        path.write_bytes(model(actor).SerializeToString())
    else:
        from marl.export.torch_file import save

        save(actor, path)


def exported(options: CommandLine) -> str:
    """What `python -m marl.export` prints, after the files that it writes.

    Raises:
        UserError: as `export`, or there is no such run, replica or pretrained policy.
    """
    if options.pretrained:
        if options.checkpoint is not None:
            raise UserError("--checkpoint goes with a run directory; a pretrained policy is the last one of its run.")
        source, policy = f"pretrained {options.run}", Policy.pretrained(str(options.run), options.replica)
    else:
        source, policy = str(options.run), Policy.load(options.run, options.replica, checkpoint=options.checkpoint)
    written = export(policy, options.out, options.format, source, options.replica)
    lines = [f"{written.env}: {source}, replica {options.replica}"]
    for one in written.agents:
        inputs, outputs = (", ".join(f"{t.name} {list(t.shape)}" for t in some) for some in (one.inputs, one.outputs))
        lines.append(f"{options.out / one.file}: {inputs} -> {outputs}".replace("'", ""))
    return "\n".join([*lines, f"Description: {options.out / DESCRIPTION}"])
