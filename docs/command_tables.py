"""The tables of the commands' options in docs/cli.md, from their dataclasses; docs.write_settings writes them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from typing import Any

from tyro.conf import Positional

from envs.field_docs import field_docs

COMMANDS = {
    "marl.evaluate": "marl.evaluate.command",
    "marl.communication": "marl.communication.command",
    "marl.report": "marl.report.command",
    "marl.listen": "marl.listen.command",
    "marl.export": "marl.export.command",
    "marl.exploit": "marl.exploit.command",
    "marl.teaching": "marl.teaching.command",
    "marl.world_model.evaluate": "marl.world_model.evaluate",
    "envs.check": "envs.check.command",
}
_POSITIONAL = typing.get_args(Positional[int])[1]


def tables() -> str:
    """One section a command: what it does and its options."""
    return "\n\n".join(section(f"python -m {name}", importlib.import_module(home)) for name, home in COMMANDS.items())


def section(program: str, module: Any) -> str:
    cls = module.CommandLine
    about = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    head = [f"### `{program}`", "", about, "", "| option | default | meaning |", "|---|---|---|"]
    return "\n".join(head + rows(cls))


def rows(cls: type) -> list[str]:
    """Positional options first, the others in the order of --help."""
    hints, docs = typing.get_type_hints(cls, include_extras=True), field_docs(cls)
    first, others = [], []
    for field in dataclasses.fields(cls):
        kind, *extras = _unwrapped(hints[field.name])
        shown = next((extra for extra in extras if getattr(extra, "metavar", None)), None)
        metavar = shown.metavar if shown else _metavar(kind)
        is_positional = _POSITIONAL in extras
        flag = "--" + ((shown and shown.name) or field.name).replace("_", "-")
        if field.default is True:
            flag = "--no-" + flag.removeprefix("--")
        word = metavar if is_positional else f"{flag} {metavar}".rstrip()
        cells = [f"`{word}`", default(field.default), docs[field.name].replace("<", "&lt;")]
        (first if is_positional else others).append(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        )
    return first + others


def default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if value is True:
        return "on"
    if value is None or value is False or value == ():
        return ""
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value:_}`" if isinstance(value, int) and value >= 10_000 else f"`{value}`"


def _unwrapped(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    if typing.get_origin(kind) is tuple:
        return _metavar(typing.get_args(kind)[0]) + " ..."
    return {bool: "", int: "INT", float: "FLOAT", str: "TEXT"}[kind]
