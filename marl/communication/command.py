"""The command line of `python -m marl.communication`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from envs.commands import run
from marl.communication.options import QUICK, Options, Scope
from marl.errors import UserError

_PLAYED = {"run", "episodes", "seed", "replicas", "sampled", "backend"}
_READ = {"zero_shot": {*_PLAYED, "json"}, "corpus": {*_PLAYED, "meaning", "corpus_layout"}}
"""{what does one thing only: the other fields of `CommandLine` that it reads}."""


@dataclass(frozen=True, kw_only=True)
class CommandLine(Scope):
    """What do the agents of a run say to each other, does anybody listen, and what is it worth?

      python -m marl.communication RUN                      metrics, interventions, cross-play of replicas, pictures
      python -m marl.communication RUN --with OTHER_RUN     cross-play with other runs too
      python -m marl.communication RUN --episodes 200 --replicas 0 1 --interventions mute noise:0.2
      python -m marl.communication simple_reference --pretrained      a policy that comes with the package, quickly
      python -m marl.communication RUN --zero-shot          only: are goals understood that were kept out of training?
      python -m marl.communication RUN --corpus FILE.jsonl  only: write every message to a file

    Prints a verdict in plain words and writes communication.json and figures/ into RUN. Everything is played in the
    real environment. Formulas, units and limits of every number: docs/communication.md.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory, as training printed it; with --pretrained the task."""
    episodes: Annotated[int | None, arg(metavar="INT")] = None
    """Sample size of every metric and intervention; default: 1000, with --pretrained 200; the bias at small samples is
    in docs/communication.md."""
    interventions: Annotated[tuple[str, ...] | None, arg(metavar="TEXT ...")] = None
    """For the shown replica, of mute, fixed, fixed:SYMBOL, uniform, shuffled, swapped, noise:RATE and self; the other
    replicas are only shuffled. Default: mute fixed uniform shuffled swapped noise:0.1 noise:0.5, with --pretrained
    mute shuffled."""
    pretrained: bool = False
    """RUN is a task: analyse the policy of the tables of results that comes with the package."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the files of --pretrained go; default: runs/pretrained/RUN."""
    replicas: Annotated[tuple[int, ...] | None, arg(metavar="I ...")] = None
    """These replicas of RUN only; default: all, with --pretrained the first."""
    others: Annotated[tuple[Path, ...], arg(name="with", metavar="RUN ...")] = ()
    """Runs whose first replica joins the cross-play."""
    meaning: Annotated[str | None, arg(metavar="MODULE:FUNCTION")] = None
    """From the sender's observations [T, E, W] to integer labels [T, E] of what there is to tell, where the environment
    does not declare it."""
    sampled: bool = False
    """Sample every choice; default: the likeliest one."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the numbers here too."""
    zero_shot: bool = False
    """Only play goals of training and goals that were held out, write zero_shot.json into RUN, and say how many are
    understood."""
    corpus: Annotated[Path | None, arg(metavar="FILE")] = None
    """Only write the messages of --episodes to this file, .jsonl or .csv."""
    corpus_layout: Literal["messages", "utterances", "episodes"] = "messages"
    """A line for each message with all that is known of it, or lists of integer tokens, as XferBench takes them: one
    for each message, or for each episode and sender."""

    def sizes(self) -> dict[str, Any]:
        """On how much to measure: what is not given is that of `QUICK` and the first replica for a pretrained policy,
        else that of `Options` and all replicas."""
        default, replicas = (QUICK, (0,)) if self.pretrained else (Options(), None)
        return {
            "episodes": default.episodes if self.episodes is None else self.episodes,
            "interventions": default.interventions if self.interventions is None else self.interventions,
            "replicas": replicas if self.replicas is None else self.replicas,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.communication`; returns the exit code."""
    return run(CommandLine, _analysed, "python -m marl.communication", argv)


def _analysed(options: CommandLine) -> str:
    # here: --help need not wait for torch
    if options.pretrained and (options.zero_shot or options.corpus):
        raise UserError("--zero-shot and --corpus go with a run directory, not with --pretrained.")
    _require_read(options)
    if options.zero_shot:
        from marl.communication.zero_shot import tested

        return tested(options)
    if options.corpus is not None:
        from marl.communication.corpus import written

        return written(options)
    from marl.communication.run_analysis import analysed

    return analysed(options)


def _require_read(options: CommandLine) -> None:
    """Raise `UserError` where an option was given that would change nothing."""
    given = [one.name for one in fields(options) if one.name != "run" and getattr(options, one.name) != one.default]
    for only in [name for name in _READ if name in given]:
        unread = [_flag(name) for name in given if name != only and name not in _READ[only]]
        if unread:
            raise UserError(
                f"{_flag(only)} does one thing only, without {', '.join(unread)}: leave one or the other out."
            )
    if "corpus_layout" in given and "corpus" not in given:
        raise UserError("--corpus-layout needs --corpus FILE.jsonl, the file that is laid out.")


def _flag(name: str) -> str:
    """The option that gives a field another value than its default."""
    return "--" + {"others": "with", "figures": "no-figures"}.get(name, name.replace("_", "-"))
