"""From files and other sources to a checked configuration, every fault of every source told at once.

Precedence: defaults of marl/config/schema.py < configs/<env>.yaml < --config FILE < the command line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from envs.ids import names_function, unfindable
from envs.mpe.catalogue import MPE_IDS, allowed_arguments, canonical_id, check_arguments, require_id
from marl.config.fields import Mismatch, convert, groups, settings, shown, to_dict, with_values
from marl.config.rules import broken_rules, changes_on_resume
from marl.config.schema import Config
from marl.config.suggest import suggestions
from marl.config.yaml12 import Document, read, scalar
from marl.errors import UserError, did_you_mean

__all__ = ["check_resume", "fresh", "from_dict", "to_dict", "to_yaml", "tuned", "validated"]

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass
class Sources:
    """Values collected so far, where each came from, and every fault."""

    values: dict[str, Any] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)  # setting -> "tuned.yaml line 3" or "--maddpg.gamma"
    problems: list[str] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)  # settings that some source got wrong

    def put(self, name: str, value: Any, where: str) -> None:
        if isinstance(value, dict):  # arguments of the environment add up over the sources
            value = {**self.values.get(name, {}), **value}
        self.values[name] = value
        self.given[name] = where

    def fault(self, name: str, text: str) -> None:
        self.faulty.add(name)
        self.problems.append(text if text.endswith("?") else text + ".")


# ------------------------------------------------------------------ public
def to_yaml(config: Config) -> str:
    """Every setting of a configuration as YAML that `--config` reads back to an equal one."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as something else by the rules of yaml12: a run directory named 1e-3."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if scalar(text) is text else "'")


_Dumper.add_representer(str, _text)


def from_dict(plain: dict[str, Any], where: str = "configuration") -> Config:
    """A configuration from nested plain values (`to_dict`, or a YAML file's); absent settings keep their defaults.

    Raises:
        UserError: unknown names, wrong types, values out of range and settings that contradict each other, all at once.
    """
    sources = Sources()
    _collect(plain, where, Document(), sources)
    config = with_values(Config(), sources.values)
    sources.problems += broken_rules(config, sources.faulty, sources.given)
    raise_all(sources.problems)
    return config


def tuned(env: str, **changes: Any) -> Config:
    """The configuration that `run.py --env ENV` starts with, and changes to it.

    Args:
        env: as `--env`.
        changes: of any setting by its name; those of a group as a dict: `tuned("simple", maddpg={"gamma": 0.9})`.

    Raises:
        UserError: as `from_dict`, and for an unknown environment.
    """
    own = Sources()
    _collect({"env": env, **changes}, "tuned()", Document(), own)
    return fresh(own, Sources())[0]


def validated(config: Config) -> Config:
    """The same configuration, checked: for one that was built in Python, whose dataclass checks nothing.

    Raises:
        UserError: as `from_dict`, and for an unknown environment.
    """
    checked = from_dict(to_dict(config))
    raise_all(_env_problems(checked, {}))
    return checked


def check_resume(saved: Config, wanted: Config, given: dict[str, str] | None = None, trained: int = 0) -> list[str]:
    """Whether a run that was started with `saved` may go on with `wanted`.

    Args:
        saved: of the checkpoint.
        wanted: of the command line.
        given: where each changed value came from, for the message.
        trained: steps that the checkpoint has trained.

    Returns:
        Sentences on changes that are allowed but change what follows.

    Raises:
        UserError: a list of every difference that is not allowed (marl/config/rules.py has the list of those that
            are); or a new length that is trained already, of which no record could be true.
    """
    if wanted.total_steps != saved.total_steps and wanted.total_steps < trained:
        where = (given or {}).get("total_steps", "total_steps")
        raise UserError(
            f"{where}: this run has trained {trained} steps already, {wanted.total_steps} are wanted. Nothing was "
            f"changed; give more steps to go on."
        )
    refused, warned = changes_on_resume(_canonical(saved), _canonical(wanted))
    if refused:
        lines = []
        for name, was, now in refused:
            origin = (given or {}).get(name)
            lines.append(f"  {name}: {shown(was)} in the run, {shown(now)} wanted{f' ({origin})' if origin else ''}")
        raise UserError(
            "this run cannot be resumed with another configuration; what differs:\n"
            + "\n".join(lines)
            + "\nLeave these as they were, or start a new run with them."
        )
    return warned


# ------------------------------------------------------------------ a new run
def fresh(own: Sources, flags: Sources) -> tuple[Config, dict[str, str]]:
    """The configuration of a new run, and where each of its values came from.

    Args:
        own: of --config, or of Python.
        flags: of the command line, which come last.

    Raises:
        UserError: every problem of all sources.
    """
    env = flags.values.get("env", own.values.get("env", ""))
    merged = merge(_tuned(env), own, flags)
    if names_function(env) and "backend" not in merged.given:
        merged.values["backend"] = "pettingzoo"  # the only one that runs it
    config = with_values(Config(), merged.values)
    if "env" not in merged.faulty:
        merged.problems += _env_problems(config, merged.given)
    merged.problems += broken_rules(config, merged.faulty, merged.given)
    raise_all(merged.problems)
    return config, merged.given


def replaced(own: Sources, flags: Sources) -> list[str]:
    """A sentence where --config is the file of another task than --env: it goes before what is tuned for that."""
    env, written = flags.values.get("env"), own.values.get("env", "")
    if env is None or not written or (canonical_id(env) or env) == (canonical_id(written) or written):
        return []
    tuned = _tuned(env)
    lost = [name for name, value in own.values.items() if name in tuned.values and tuned.values[name] != value]
    where = own.given["env"].partition(", line")[0]
    if not lost:
        return []
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return [
        f"{where} was written for {written}: it replaces values that configs/{_task_name(env)}.yaml tunes for {env} "
        f"({', '.join(lost[:3])}{more})"
    ]


def merge(*sources: Sources) -> Sources:
    merged = Sources()
    for source in sources:
        for name, value in source.values.items():
            merged.put(name, value, source.given[name])
        merged.problems += source.problems
        merged.faulty |= source.faulty
    return merged


def _canonical(config: Config) -> Config:
    return replace(config, env=canonical_id(config.env) or config.env)


# ------------------------------------------------------------------ single sources
def read_file(path: Path, sources: Sources) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        sources.problems.append(f"{path}: there is no such file.{did_you_mean(path.name, beside)}")
    except UnicodeDecodeError:
        sources.problems.append(f"{path}: is not a text file in UTF-8; expected YAML.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        sources.problems.append(f"{path}: cannot be read: {reason}.")
    else:
        if text.strip():
            _read_text(text, str(path), sources)
        else:
            sources.problems.append(f"{path}: is empty; expected NAME: VALUE lines.")


def _read_text(text: str, where: str, sources: Sources) -> None:
    document = read(text)
    sources.problems += [f"{where}: {problem}." for problem in document.problems]
    if document.value is None:
        return
    if not isinstance(document.value, dict):
        sources.problems.append(f"{where}: got {shown(document.value)}; expected NAME: VALUE lines.")
        return
    _collect(document.value, where, document, sources)


def _collect(tree: dict[str, Any], where: str, document: Document, sources: Sources, prefix: str = "") -> None:
    """Take the values of one nested source; `document` knows their lines."""
    known, nested = settings(Config), set(groups(Config)) - {""}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        line = document.lines.get(name)
        place = f"{where}, line {line}" if line else where
        if name in nested and isinstance(value, dict):
            _collect(value, where, document, sources, f"{name}.")
        elif name in nested and value is not None:
            sources.problems.append(f"{place}: {name}: got {shown(value)}; expected its settings, indented below it.")
        elif name in known and "." not in str(key):
            try:
                sources.put(name, convert(known[name].kind, value), place)
            except Mismatch as error:
                sources.fault(name, f"{place}: {name}: {error}")
        elif name not in nested:
            sources.problems.append(f"{place}: {name[:60]}: there is no such setting.{_similar(str(key), prefix)}")


def _similar(key: str, prefix: str) -> str:
    """A sentence on what may have been meant; settings of the same group without its name, as they are written."""
    meant = suggestions(prefix + key, [*settings(Config), *(name for name in groups(Config) if name)])
    if not meant:
        return ""
    nested = " (written below its group, indented)" if not prefix and any("." in name for name in meant) else ""
    return f" Did you mean {' or '.join(repr(name.removeprefix(prefix)) for name in meant)}?{nested}"


# ------------------------------------------------------------------ the environment
def _task_name(env: str) -> str | None:
    """The key of configs/: an MPE id without its version."""
    result = canonical_id(env)
    return None if result is None else result.rsplit("_v", 1)[0]


def _tuned(env: str) -> Sources:
    """What configs/ has for a task; empty for other environments."""
    tuned = Sources()
    name = _task_name(env)
    if name is not None:
        tuned_file = resources.files("configs") / f"{name}.yaml"
        if tuned_file.is_file():
            _read_text(tuned_file.read_text(encoding="utf-8"), f"configs/{name}.yaml", tuned)
    return tuned


def _env_problems(config: Config, given: dict[str, str]) -> list[str]:
    if not config.env:
        tasks = ", ".join(mpe_id.rsplit("_v", 1)[0] for mpe_id in MPE_IDS)
        return [
            f"no environment is given: expected --env ID (or --resume DIR). MPE's tasks are {tasks}; any other "
            f"PettingZoo environment is given as package.module:function. For example: --env simple_speaker_listener"
        ]
    if unfindable(config.env):
        return [unfindable(config.env)]
    if _MODULE.fullmatch(config.env):
        return []
    try:
        result = require_id(config.env)
        if config.env_args:
            check_arguments(result, config.env_args, list(allowed_arguments(result)))
    except UserError as error:
        where = given.get("env" if canonical_id(config.env) is None else "env_args", "env")
        return [f"{where}: {error}"]
    return []


def raise_all(problems: list[str]) -> None:
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(f"{problems[0]}\n--help lists every setting with its range.")
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise UserError(f"{len(problems)} problems:\n{lines}\n--help lists every setting with its range.")
