"""The messages of a run as a file for other tools: what `python -m marl.communication RUN --corpus FILE` does.

Layouts, one line each (fields: docs/communication.md):

- *messages*: an object (or a row of CSV) for each message, with who said it when about what;
- *utterances*: the tokens of each message as a list of integers;
- *episodes*: those of all messages that one sender said in one episode, one list.

A token is a symbol of its place: the places of a message have vocabularies of their own, numbered one after another.
The lists are what XferBench takes (Boldt and Mortensen, "XferBench: a data-driven benchmark for emergent language",
NAACL 2024): a line of JSON for each utterance, an array of integers.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from envs.commands import say
from envs.spec import EnvSpec
from marl.communication.measures.channels import Meaning, channels_of, declared_attributes, named_function
from marl.errors import UserError
from marl.play.policy import Policy
from marl.play.rollout import Episodes, play
from marl.runs.durable import replace_text

if TYPE_CHECKING:
    from marl.communication.command import CommandLine

Layout = Literal["messages", "utterances", "episodes"]


@dataclass(frozen=True)
class Message:
    """One message as it was chosen, whatever became of it on its way."""

    replica: int
    episode: int
    """From 0; it was reset with `seed` plus this."""
    step: int
    """From 0; it is heard at the next step, later where the channel has a delay."""
    sender: str
    receivers: tuple[str, ...]
    symbols: tuple[int, ...]
    """One for each place, from 0."""
    meaning: tuple[float, ...] | None
    """What there was to tell: of a goal its number, of a goal with parts the value of each attribute, of anything else
    the numbers that were seen; None where that is not known."""
    observation: str
    """Digest of what the sender saw: 16 hexadecimal digits of BLAKE2b of its float32 numbers. Equal observations have
    equal digests."""


def messages(spec: EnvSpec, played: Episodes, replica: int = 0, meaning: Meaning | None = None) -> Iterator[Message]:
    """Every message of recorded episodes, by episode, step and sender; none of a sender that has left.

    Args:
        spec: of the environment.
        played: of `play(..., record=True)`.
        replica: who played.
        meaning: from the sender's observations to what there is to tell; None: what the routes declare.

    Raises:
        UserError: the environment has no channel.
    """
    assert played.obs is not None and played.actions is not None, "played without record=True"
    channels_of(spec)
    told = {sender: _meanings(spec, sender, played, meaning) for sender in spec.senders}
    for episode, length in enumerate(played.lengths):
        for step in range(int(length)):
            for sender in spec.senders:
                if played.present is not None and not played.present[step, episode, sender]:
                    continue
                name = spec.agent_names[sender]
                seen = np.ascontiguousarray(played.obs[name][step, episode], dtype="<f4")
                chosen = played.actions[step, episode, sender, _heads(spec, sender)]
                about = told[sender]
                yield Message(
                    replica=replica,
                    episode=episode,
                    step=step,
                    sender=name,
                    receivers=tuple(dict.fromkeys(spec.agent_names[r.receiver] for r in _routes(spec, sender))),
                    symbols=tuple(chosen.tolist()),
                    meaning=None if about is None else tuple(about[step, episode].tolist()),
                    observation=hashlib.blake2b(seen.tobytes(), digest_size=8).hexdigest(),
                )


def _routes(spec: EnvSpec, sender: int) -> list[Any]:
    return [route for route in spec.routes if route.sender == sender]


def _heads(spec: EnvSpec, sender: int) -> list[int]:
    return sorted({route.head for route in _routes(spec, sender)})


def _meanings(spec: EnvSpec, sender: int, played: Episodes, meaning: Meaning | None) -> np.ndarray | None:
    """[T, episodes, A] of everything that the sender's routes declare, each once; None where none does."""
    assert played.obs is not None
    obs = played.obs[spec.agent_names[sender]]
    if meaning is not None:
        given = np.asarray(meaning(obs))
        return given if given.ndim == 3 else given[..., None]
    valid = np.arange(len(obs))[:, None] < played.lengths
    if played.present is not None:
        valid = valid & played.present[..., sender]
    declared = dict.fromkeys(route.meaning for route in _routes(spec, sender) if route.meaning is not None)
    parts = [declared_attributes(obs, one, valid) for one in declared]
    return np.concatenate(parts, axis=-1) if parts else None


def tokens(spec: EnvSpec, message: Message) -> list[int]:
    """The symbols of a message, numbered through over the vocabularies of its places."""
    sender = spec.agent_names.index(message.sender)
    sizes = [spec.agents[sender].heads[head].size for head in _heads(spec, sender)]
    return [symbol + before for symbol, before in zip(message.symbols, accumulate([0, *sizes]), strict=False)]


def lines(spec: EnvSpec, said: Sequence[Message], layout: Layout) -> str:
    """JSON lines of a corpus."""
    rows: list[Any]
    if layout == "messages":
        rows = [asdict(message) for message in said]
    elif layout == "utterances":
        rows = [tokens(spec, message) for message in said]
    else:
        speeches: dict[tuple[int, int, str], list[int]] = {}
        for message in said:
            key = message.replica, message.episode, message.sender
            speeches.setdefault(key, []).extend(tokens(spec, message))
        rows = list(speeches.values())
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(said: Sequence[Message]) -> str:
    """The messages as CSV; the entries of a list have spaces between them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([one.name for one in fields(Message)])
    for message in said:
        writer.writerow(
            [" ".join(map(str, value)) if isinstance(value, tuple) else value for value in vars(message).values()]
        )
    return out.getvalue()


def written(options: CommandLine) -> str:
    """Write the corpus of `--corpus`; what the command prints.

    Raises:
        UserError: a file of another ending, no such run or replica, or an environment without a channel.
    """
    path = options.corpus
    assert path is not None
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--corpus {path}: expected a name that ends in .jsonl or .csv.")
    if path.suffix == ".csv" and options.corpus_layout != "messages":
        raise UserError(f"--corpus-layout {options.corpus_layout} needs --corpus with a name that ends in .jsonl.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: {'it is a' if path.is_dir() else 'there is no such'} directory.")
    meaning = named_function(options.meaning) if options.meaning else None
    first = Policy.load(options.run, replica=0, greedy=not options.sampled)
    said: list[Message] = []
    episodes = options.sizes()["episodes"]
    for replica in options.replicas or range(first.num_replicas):
        say(f"... replica {replica}: {options.sizes()['episodes']} episodes")
        player = Policy.load(options.run, replica=replica, greedy=not options.sampled)
        played = play(
            first.env_id, player, episodes, options.seed, env_args=first.env_args, backend=options.backend,
            record=True,
        )  # fmt: skip
        said += messages(first.spec.single(), played, replica, meaning)
    replace_text(path, table(said) if path.suffix == ".csv" else lines(first.spec, said, options.corpus_layout))
    return f"{len(said)} messages of {first.spec.id}: {path}"
