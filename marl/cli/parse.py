"""From the command line to a checked launch: a new run, or one that is resumed.

Precedence: defaults of marl/config/schema.py < configs/<env>.yaml < --config FILE < the command line. With --resume the
configuration of the checkpoint stands in place of the first two, then the run's own config.yaml.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from marl.config.fields import Mismatch, convert_words, groups, settings, shown, with_values
from marl.config.flags import split
from marl.config.resolve import Sources, check_resume, fresh, merge, raise_all, read_file, replaced
from marl.config.rules import broken_rules, warnings_of
from marl.config.schema import Config
from marl.runs.run_dir import starter

DESCRIPTION = """Train agents that learn to act and to speak in discrete symbols.

  python run.py --env simple_speaker_listener
  python run.py --env simple_spread --env-args N=5 --total-steps 1e6 --seed 1
  python run.py --env my_package.my_module:make_env --maddpg.gamma 0.9
  python run.py --resume runs/simple_spread/20260101-120000_seed1

Values come from: the defaults < configs/<env>.yaml < --config FILE < the command line."""


@dataclass(frozen=True)
class Launch:
    """A checked command line."""

    config: Config
    resume: Path | None = None  # the checkpoint directory to continue from; config.run_dir is then its run
    resume_environment: Literal["replay", "fresh"] = "replay"  # go on in the running episodes, or begin new ones
    debug: bool = False  # show tracebacks
    warnings: tuple[str, ...] = ()  # what the user should know before the run starts


def parse(argv: list[str] | None = None) -> Launch:
    """The command line (None: the process's own) and all files that it means.

    Raises:
        UserError: lists every problem of all sources.
        SystemExit: code 0, after `--help`.
    """
    start = starter()
    description = DESCRIPTION.replace("python run.py", start)
    words = split(sys.argv[1:] if argv is None else argv, Config, start, description)
    flags = Sources(problems=list(words.problems))
    debug = _run_flag(words.given, "debug", flags)
    file, resume = _run_flag(words.given, "config", flags), _run_flag(words.given, "resume", flags)
    episodes = _episodes(words.given, flags)
    for name, setting in settings(Config).items():
        if name in words.given:
            try:
                flags.put(name, convert_words(setting.kind, words.given[name]), setting.flag)
            except Mismatch as error:
                flags.fault(name, f"{setting.flag}: {error}")
    own = Sources()
    if file is not None:
        read_file(Path(file), own)
    if resume is not None:
        return replace(_resumed(Path(resume), own, flags, bool(debug)), resume_environment=episodes)
    config, given = fresh(own, flags)
    return Launch(config, debug=bool(debug), warnings=(*replaced(own, flags), *warnings_of(config, given)))


def _resumed(directory: Path, own: Sources, flags: Sources, debug: bool) -> Launch:
    raise_all(own.problems + flags.problems)
    from marl.runs.checkpoint import load  # here: --help need not wait for torch
    from marl.runs.resuming import resumable, saved_config

    checkpoint, run = resumable(directory)
    manifest = load(checkpoint, parts=()).manifest
    saved = saved_config(manifest, checkpoint)
    edited = Sources()
    if (run / "config.yaml").is_file():
        read_file(run / "config.yaml", edited)
        edited.values.pop("run_dir", None)
    merged = merge(edited, own, flags)
    asked = merged.values.pop("run_dir", None)
    if asked is not None and Path(asked).resolve() != run:
        merged.problems.append(
            f"{merged.given['run_dir']}: a resumed run goes on in its own directory, {run}; "
            f"copy the directory first to branch off."
        )
    config = replace(with_values(saved, merged.values), run_dir=str(run))
    merged.problems += broken_rules(config, merged.faulty, merged.given)
    raise_all(merged.problems)
    warnings = check_resume(saved, config, merged.given, manifest["step"])
    missing = [name for name in settings(Config) if name not in _names(manifest.get("config"))]
    if missing:
        warnings.append(f"the checkpoint is older than these settings, which take their defaults: {', '.join(missing)}")
    warnings += warnings_of(config, merged.given)
    return Launch(config, resume=checkpoint, debug=debug, warnings=tuple(warnings))


def _names(plain: Any, prefix: str = "") -> set[str]:
    """Dotted names of the settings in nested plain values."""
    result = set()
    for key, value in plain.items() if isinstance(plain, dict) else ():
        name = f"{prefix}{key}"
        result |= _names(value, f"{name}.") if name in groups(Config) else {name}
    return result


def _episodes(given: dict[str, list[str]], flags: Sources) -> Any:
    """The value of --resume-environment, or its default."""
    words = given.get("resume_environment")
    if words is None:
        return "replay"
    try:
        value = convert_words(Literal["replay", "fresh"], words)
    except Mismatch as error:
        flags.problems.append(f"--resume-environment: {error}.")
        return "replay"
    if "resume" not in given:
        flags.problems.append("--resume-environment needs --resume DIR: a new run has no episodes to go on with.")
    return value


def _run_flag(given: dict[str, list[str]], name: str, flags: Sources) -> Any:
    """The value of --config or --resume, or whether --debug was given; None where it is absent or faulty."""
    words = given.get(name)
    if words is None:
        return None
    if name == "debug":
        if words:
            flags.problems.append(f"--debug takes no value, got {shown(' '.join(words))}.")
        return True
    if len(words) != 1 or not words[0]:
        got = f"got {len(words)} values" if len(words) > 1 else "got none"
        flags.problems.append(f"--{name} takes one {'file' if name == 'config' else 'directory'}, {got}.")
        return None
    return words[0]
