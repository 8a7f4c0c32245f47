"""One command line for all commands: options from a dataclass, words on every way a command can end, an exit code.

A command is a frozen dataclass, whose fields are its options and whose docstrings are its help, and a function of it:

    def main(argv: Sequence[str] | None = None) -> int:
        return run(CommandLine, work, "python -m marl.report", argv)

run.py has a flag for every setting of the configuration (marl/config/flags.py) and shares only the words. Exit codes:
0 done, 2 the user's input, 1 the environment or the run failed, 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from envs.errors import Failure, UserError
from envs.field_docs import field_docs

__all__ = ["DONE", "FAILED", "INTERRUPTED", "USER", "Answer", "ended", "explain", "parse", "run", "say"]

DONE, FAILED, USER, INTERRUPTED = 0, 1, 2, 130
_DEBUG = "Show Python's traceback when something fails."
T = TypeVar("T")


class Answer(NamedTuple):
    """What a command prints, where its exit code is not always 0."""

    text: str
    exit_code: int = DONE


def run(cls: type[T], work: Callable[[T], str | Answer], program: str, argv: Sequence[str] | None = None) -> int:
    """Parse the command line, print what `work` makes of it, and return the exit code.

    Args:
        cls: the options, see `parse`.
        work: from the options to the text for the standard output.
        program: what the user types to start it.
        argv: the arguments without the program's name; None: the process's own.
    """
    try:
        options = parse(cls, program, argv)
    except SystemExit as stop:  # --help, or a word that is no option, which tyro has explained
        return int(stop.code or DONE)
    return ended(lambda: work(options), debug=bool(getattr(options, "debug", False)))


def ended(work: Callable[[], str | Answer], debug: bool = False) -> int:
    """Print what `work` returns, or explain on the standard error what it raises; the exit code."""
    try:
        answer = work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return explain(error, debug=debug)
    text, exit_code = answer if isinstance(answer, Answer) else Answer(answer)
    print(text)
    return exit_code


# ------------------------------------------------------------------ options
def parse(cls: type[T], program: str, argv: Sequence[str] | None = None) -> T:
    """The command line as an instance of `cls`, with `--debug` beside its own options as the attribute `debug`.

    Args:
        cls: a frozen dataclass of bool, int, float, str, Path, Literal, tuple[X, ...] and optionals of these. Its
            docstring is the description, those of its fields the help; `tyro.conf` marks the words without a flag.
        program: shown in the usage line.
        argv: the arguments without the program's name; None: the process's own.

    Raises:
        SystemExit: code 0 after `--help`; 2 after a fault of the words, which is explained with close matches.
    """
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def whole_numbers(info: Any) -> PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return PrimitiveConstructorSpec(1, "INT", lambda words: _whole(words[0]), _is(int), lambda x: [str(x)])

    words = list(sys.argv[1:] if argv is None else argv)
    return tyro.cli(
        _shown(cls), prog=program, description=inspect.getdoc(cls), args=words, registry=registry,
        config=(tyro.conf.DisallowNone,),
    )  # fmt: skip


def _shown(cls: type[T]) -> type[T]:
    """`cls` as tyro shall see it: with `--debug`, tuples that it need not check, and readable defaults."""
    import tyro

    hints, docs = typing.get_type_hints(cls, include_extras=True), field_docs(cls)
    changed: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind, *extras = typing.get_args(hints[field.name]) if _is_annotated(hints[field.name]) else (hints[field.name],)
        given = _without_none(kind)
        if typing.get_origin(given) is tuple:
            kind, extras = object, [_several(typing.get_args(given)[0]), *extras]
        elif given is not kind:
            kind = typing.Optional[given]  # noqa: UP045 - `X | None` is another type, which tyro checks by typeguard
        if field.default is False:
            extras.append(tyro.conf.FlagCreatePairsOff)
        hint = _hint(field.default, several=kind is object)
        # help: tyro keeps the line breaks of the source, and looks for it longer than all else takes
        shown: dict[str, Any] = {"help": docs.get(field.name, "")} | (
            {} if hint is None else {"help_behavior_hint": hint}
        )
        extras.append(tyro.conf.arg(**shown))
        own = dataclasses.field() if field.default is dataclasses.MISSING else dataclasses.field(default=field.default)
        changed.append((field.name, Annotated[(kind, *extras)], own))
    debug = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=_DEBUG, help_behavior_hint="")]
    changed.append(("debug", debug, dataclasses.field(default=False)))
    return dataclasses.make_dataclass(cls.__name__, changed, bases=(cls,), frozen=True, kw_only=True)


def _hint(default: Any, several: bool) -> str | None:
    """What stands behind a field's help; None: tyro's own words. Where nothing is given the help says what happens."""
    if default is None or default is False or default == ():
        return ""
    if default is True:
        return "(default: on)"
    return "(required)" if several and default is dataclasses.MISSING else None


def _several(kind: Any) -> Any:
    """Any number of words as a tuple. To check the default of a `tuple` tyro would import typeguard, and asyncio with
    it, which takes longer than the rest of `--help`; so the field is shown as an `object`, which needs no check."""
    from tyro.constructors import PrimitiveConstructorSpec

    convert = _whole if kind is int else kind
    metavar = "TEXT ..." if kind is str else f"{kind.__name__.upper()} ..."
    return PrimitiveConstructorSpec(
        "*", metavar, lambda words: tuple(map(convert, words)), _is(tuple),
        lambda values: [str(value) for value in values or ()],
    )  # fmt: skip


def _without_none(kind: Any) -> Any:
    """X of `X | None`; anything else as it is."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    (given,) = (option for option in typing.get_args(kind) if option is not type(None))
    return given


def _is_annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _whole(word: str) -> int:
    """An int from `50000`, `50_000` or `5e4`, as run.py reads it."""
    try:
        return int(word)
    except ValueError:
        with contextlib.suppress(ValueError, OverflowError):
            if float(word).is_integer():
                return int(float(word))
    raise ValueError(f"got {word!r}; expected a whole number")


# ------------------------------------------------------------------ words
def explain(
    error: BaseException,
    *,
    failed: str = "failed",
    after: Callable[[], str] = lambda: "",
    smaller: str = "Ask for less of it, or free some.",
    debug: bool = False,
) -> int:
    """Say on the standard error what went wrong and return the exit code: 2 for what the user can mend, 1 otherwise.

    Args:
        error: what ended the command.
        failed: how the sentence begins where it was not the user's fault.
        after: how things stand now and how to go on, called where it was not.
        smaller: how to need less memory.
        debug: show the traceback first.
    """
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, UserError):
        say(f"error: {error}")
        return USER
    rest = f"\n{after()}".rstrip()
    lacking = memory_words(error)
    if lacking:
        say(f"error: {lacking} {smaller}{rest}")
        return USER
    if isinstance(error, Failure):
        say(f"{failed}: {error}{rest}")
        inside = getattr(error, "trace", "")
        if inside and debug:
            say(inside.rstrip())
        return FAILED
    say(f"{failed}: {_unexpected(error)}{rest}")
    return FAILED


def say(text: str) -> None:
    """Print on the standard error; a terminal that is gone changes no exit code."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _unexpected(error: BaseException) -> str:
    """A paragraph on an exception that nobody foresaw."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno} ({frames[-1].name})" if frames else ""
    words = " ".join(str(error).split())
    text = textwrap.shorten(words, 500) if words else "no message"
    return f"unexpected {type(error).__name__}{place}: {text}. Run it again with --debug for the full traceback."


def memory_words(error: BaseException) -> str:
    """Which memory ran out; "" for any other error."""
    text = " ".join(str(error).split())
    torch = sys.modules.get("torch")  # without it no GPU's memory ran out
    on_gpu = torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or "can't allocate memory" in text
    if not on_gpu and not on_cpu:
        return ""
    tried = r"[Tt]ried to allocate [\d.]+ \w+(?:, of which [\d.]+ \w+ exist)?"
    sizes = re.findall(tried + r"|total capacity of [\d.]+ \w+|[\d.]+ \w+ is free", text)
    needed = f" ({'; '.join(sizes)})" if sizes else ""
    parts = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"out of {'GPU memory' if on_gpu else 'memory'}{needed}.{parts}"
