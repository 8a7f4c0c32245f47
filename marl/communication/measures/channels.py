"""What went over a channel: from recorded episodes to one (meaning, symbol, response) an episode.

Times. A message that is chosen at step t stands in the receiver's observation at t + 1. At t = 0 every slot is zero,
which is no symbol. So the *heard steps* of an episode of length L are t = 1..L-1, each with the message chosen at
t - 1, what there was to tell at t - 1, and the receiver's observation and action at t.

Sample unit. The steps of an episode share one goal, so they are not independent. Every statistic of messages takes
**one heard step an episode, drawn uniformly** by a counter-based stream: the sample is independent over episodes, its
distribution is that of a message heard at a random time, and meanings may change within an episode.

Legend: `T` steps, `J` = T - 1 heard steps, `E` episodes, `W` width of an observation, `V` symbols.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.spec import EnvSpec, Route
from envs.streams import Stream
from marl.communication.measures.information import Ints, joint_symbol
from marl.errors import UserError
from marl.play.rollout import Episodes

MOST_SYMBOLS = 128  # a message of several heads with more joint symbols is analysed head by head
MOST_MEANINGS = 64  # more distinct values are taken for a continuous quantity

Array = NDArray[np.float32]
Meaning = Callable[[Array], np.ndarray]  # sender's observations [T, E, W] to integers [T, E] or attributes [T, E, A]


class Meanings(NamedTuple):
    """What there was to tell, or the reason why that is not known."""

    values: Ints | None = None  # [J, E] label
    labels: tuple[str, ...] = ()  # what each label stands for
    attributes: Ints | None = None  # [J, E, A]; A = 1 for a single goal
    reason: str = ""
    one_hot: bool = False  # label k is entry k of the goal that the route declares


class Choice(NamedTuple):
    """Joint choices of several heads."""

    values: Ints  # [J, E]
    size: int


@dataclass(frozen=True)
class Channel:
    """The message heads of one agent that another agent hears; a message is one symbol of each."""

    sender: int
    receiver: int
    routes: tuple[Route, ...]  # one a head

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(route.size for route in self.routes)

    @property
    def symbols(self) -> int:
        """V: number of different messages. The integer V itself stands for "nothing heard"."""
        return math.prod(self.sizes)

    @property
    def capacity(self) -> float:
        """Bits of one noiseless message: log2 V."""
        return math.log2(self.symbols)

    @property
    def exact(self) -> bool:
        return all(route.exact for route in self.routes)

    def name(self, spec: EnvSpec) -> str:
        text = f"{spec.agent_names[self.sender]} -> {spec.agent_names[self.receiver]}"
        heads = [h for h, head in enumerate(spec.agents[self.sender].heads) if head.is_message]
        used = [route.head for route in self.routes]
        if used == heads:
            return text
        return f"{text} ({', '.join(spec.agents[self.sender].heads[h].name for h in used)})"

    def parts(self, symbol: int) -> list[int]:
        """The symbol of each head of a joint symbol."""
        split = []
        for size in reversed(self.sizes):
            split.append(symbol % size)
            symbol //= size
        return split[::-1]

    def read(self, obs: Array) -> Ints:
        """Joint symbols [...] in the slots of the receiver's observations [..., W]; V where a slot holds zeros."""
        parts = [obs[..., route.slot].argmax(axis=-1) for route in self.routes]
        empty = np.any([obs[..., route.slot].max(axis=-1) <= 0 for route in self.routes], axis=0)
        return np.where(empty, self.symbols, joint_symbol(parts, self.sizes))

    def write(self, obs: Array, symbol: int | Ints) -> Array:
        """A copy of the receiver's observations [..., W] with `symbol` ([...] or one for all) in the slots.

        The symbol V writes zeros: nothing heard.
        """
        changed = obs.copy()
        symbol = np.broadcast_to(np.asarray(symbol), obs.shape[:-1])
        rest = np.where(symbol == self.symbols, 0, symbol)
        for route in reversed(self.routes):
            one_hot = np.eye(route.size, dtype=obs.dtype)[rest % route.size]
            changed[..., route.slot] = one_hot * (symbol < self.symbols)[..., None]
            rest = rest // route.size
        return changed


def channels_of(spec: EnvSpec) -> list[Channel]:
    """The channels of an environment in the order of its routes; heads of one pair of agents are one message.

    Raises:
        UserError: the environment has no message slot.
    """
    pairs: dict[tuple[int, int], list[Route]] = {}
    for route in spec.routes:
        pairs.setdefault((route.sender, route.receiver), []).append(route)
    if not pairs:
        raise UserError(
            f"{spec.id} has no channel: none of its agents hears another. Expected an environment whose spec has "
            "routes (simple_speaker_listener, simple_reference, simple_crypto, simple_world_comm), or declare the "
            "message slots of your own environment with routes=[{'sender': ..., 'receiver': ..., 'start': ...}]."
        )
    channels = []
    for (sender, receiver), routes in pairs.items():
        routes.sort(key=lambda route: route.head)
        whole = Channel(sender, receiver, tuple(routes))
        alone = [Channel(sender, receiver, (route,)) for route in routes]
        channels.extend([whole] if whole.symbols <= MOST_SYMBOLS else alone)
    return channels


@dataclass
class Heard:
    """Everything that went over one channel in the recorded episodes in which a message was heard."""

    channel: Channel
    sent: Ints  # [J, E] joint symbol chosen at t - 1
    heard: Ints  # [J, E] joint symbol in the slot at t; V where nothing
    valid: NDArray[np.bool_]  # [J, E] the sender was there at t - 1, and the receiver is at t
    step: Ints  # [E] the drawn heard step of every episode: row of the arrays above
    obs: dict[str, Array]  # {agent: [J, E, W]} at t
    meanings: Meanings  # at t - 1
    answer: Choice | None  # the receiver's own choice at t; None where its moves are continuous
    own_next: Choice | None  # the sender's own move at t; None where it only speaks or its moves are continuous
    kept: NDArray[np.int64]  # [E] index of each episode among those that were played

    @property
    def episodes(self) -> int:
        return self.sent.shape[1]

    def at_heard_steps(self, values: np.ndarray) -> np.ndarray:
        """What was recorded at every step of every episode, at the heard steps: [T, episodes, ...] to [J, E, ...]."""
        return values[1:, self.kept]

    def drawn(self, values: np.ndarray) -> np.ndarray:
        """The drawn step of every episode: [J, E, ...] to [E, ...]."""
        return values[self.step, np.arange(self.episodes)]

    def episode_mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over an episode's heard steps of numbers or flags: [J, E] to float64 [E]."""
        return (values * self.valid).sum(axis=0) / self.valid.sum(axis=0)


def listen(spec: EnvSpec, channel: Channel, played: Episodes, seed: int = 0, meaning: Meaning | None = None) -> Heard:
    """What went over `channel` in recorded episodes.

    Args:
        spec: the environment's.
        channel: one of `channels_of(spec)`.
        played: of `play(..., record=True)`.
        seed: of the draw of one step an episode.
        meaning: maps the sender's observations [T, E, W] to integer labels [T, E]; None: what the route declares.

    Raises:
        UserError: nothing was ever heard, as in episodes of one step; or `meaning` returns something else.
    """
    assert played.obs is not None and played.actions is not None, "played without record=True"
    heard = np.arange(1, len(played.actions))[:, None] < played.lengths
    if played.present is not None:
        heard = heard & played.present[:-1, :, channel.sender] & played.present[1:, :, channel.receiver]
    keep = heard.any(axis=0)
    if not keep.any():
        why = "ended after one step" if played.lengths.max() < 2 else f"ended before {channel.name(spec)} heard a word"
        raise UserError(
            f"{spec.id}: all {len(played.lengths)} episodes {why}, so no message was ever heard; "
            "expected episodes of at least two steps in which the sender and then the receiver are there."
        )
    valid = np.ascontiguousarray(heard[:, keep])  # sums over it round by its layout
    said_by = played.actions[:-1, keep, channel.sender]
    sent = joint_symbol([said_by[..., route.head] for route in channel.routes], channel.sizes)
    obs = {name: array[1:, keep] for name, array in played.obs.items()}
    chosen = Stream(seed, "communication/step", range(int(keep.sum()))).uniform().numpy()
    drawn = (chosen * valid.sum(axis=0)).astype(np.int64)  # of an episode's heard steps the number
    own = [h for h, head in enumerate(spec.agents[channel.sender].heads) if not (head.is_message or head.continuous)]
    answers = responses_of(spec, channel.receiver)
    after = played.actions[1:, keep]
    return Heard(
        channel=channel,
        sent=sent,
        heard=channel.read(obs[spec.agent_names[channel.receiver]]),
        valid=valid,
        step=(valid.cumsum(axis=0) > drawn).argmax(axis=0),
        obs=obs,
        meanings=_meanings(channel, played.obs[spec.agent_names[channel.sender]][:-1, keep], valid, meaning),
        answer=_choice(spec, channel.receiver, answers, after) if answers else None,
        own_next=_choice(spec, channel.sender, own, after) if own else None,
        kept=np.flatnonzero(keep),
    )


def responses_of(spec: EnvSpec, agent: int) -> list[int]:
    """Heads with which an agent can answer a message: its moves, or its messages where it cannot move; none where a
    move is continuous, since all that is measured of an answer is choices."""
    heads = spec.agents[agent].heads
    if any(head.continuous for head in heads):
        return []
    moves = [h for h, head in enumerate(heads) if not head.is_message]
    return moves or list(range(len(heads)))


def _choice(spec: EnvSpec, agent: int, heads: Sequence[int], actions: Ints) -> Choice:
    """The agent's joint choice of `heads` of actions [J, E, N, H]."""
    sizes = [spec.agents[agent].heads[h].size for h in heads]
    return Choice(joint_symbol([actions[:, :, agent, h] for h in heads], sizes), math.prod(sizes))


# ------------------------------------------------------------------------------------------------- what to tell
def named_function(name: str) -> Meaning:
    """The function that `module:function` names; the current directory is importable."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        result = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--meaning {name}: {error}. Expected module:function, as my_module:nearest_prey.") from error
    return result


def _meanings(channel: Channel, sender_obs: Array, valid: NDArray[np.bool_], function: Meaning | None) -> Meanings:
    """From the sender's observations [J, E, W] by `function`, else by what the route declares."""
    if function is not None:
        given = np.asarray(function(sender_obs))
        if given.shape[:2] != valid.shape or given.ndim not in (2, 3) or given.dtype.kind not in "iub":
            raise UserError(
                f"the meaning function returned {given.dtype} {list(given.shape)}; expected integers "
                f"{list(valid.shape)} [steps, episodes], one for each of the sender's observations, or several "
                "attributes of it [steps, episodes, attributes]."
            )
        return _number(given if given.ndim == 3 else given[..., None], valid, "meaning")
    declared = channel.routes[0].meaning
    if declared is None:
        return Meanings(reason="the environment does not declare what the sender has to tell; give a meaning function")
    told = declared_attributes(sender_obs, declared, valid)
    if len(declared) == 2 and told.dtype.kind == "i":
        return Meanings(told[..., 0], tuple(f"goal {k}" for k in range(declared[1])), told, one_hot=True)
    return _number(told, valid, "goal")


def declared_attributes(obs: Array, declared: tuple[int, ...], valid: NDArray[np.bool_]) -> np.ndarray:
    """[..., A] what a route's `meaning` points at in the sender's observations [..., W].

    Integers where it is a goal that is shown as a one-hot (A = 1), or the one-hots of several attributes; else the
    numbers themselves, rounded. `valid`: which of the observations count, [...].
    """
    start, *sizes = declared
    if len(sizes) > 1:
        ends = start + np.cumsum(sizes)
        shown = [obs[..., end - size : end].argmax(axis=-1) for end, size in zip(ends, sizes, strict=True)]
        return np.stack(shown, axis=-1)
    part = obs[..., start : start + sizes[0]]
    if sizes[0] > 1 and _is_one_hot(part[valid]):
        goal: np.ndarray = part.argmax(axis=-1)[..., None]
        return goal
    return np.round(part, 6)


def _is_one_hot(rows: Array) -> bool:
    """Whether every row [.., n] has one entry above all others and the others are equal."""
    ordered = np.sort(rows, axis=-1)
    return bool((ordered[:, -1] > ordered[:, -2]).all() and (ordered[:, 0] == ordered[:, -2]).all())


def _number(values: np.ndarray, valid: NDArray[np.bool_], word: str) -> Meanings:
    """Distinct rows of [J, E, A] in sorted order become labels 0, 1, ..., each column an attribute."""
    distinct, code = np.unique(values[valid], axis=0, return_inverse=True)
    if len(distinct) > MOST_MEANINGS:
        return Meanings(reason=f"what the sender has to tell takes {len(distinct)} values (more than {MOST_MEANINGS})")
    labels = tuple(f"{word} {' '.join(f'{entry:g}' for entry in row.astype(float))}" for row in distinct)
    coded = np.zeros(valid.shape, dtype=np.int64)
    coded[valid] = code.reshape(-1)
    columns = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in distinct.T]
    return Meanings(coded, labels, np.stack(columns, axis=-1)[coded])


def is_used(counts: np.ndarray) -> NDArray[np.bool_]:
    """Bool [V]: which symbols make up at least 1 % of the messages, given counts [V]; of more than 100 symbols at least
    an even share of them, 1 / V, which the most frequent one always has."""
    said = counts.sum()
    used: NDArray[np.bool_] = (counts >= 0.01 * said) | (counts * len(counts) >= said)
    return used


def used_symbols(heard: Heard) -> list[int]:
    """Symbols of which the messages sent are made up (`is_used`), the most frequent first; at least one."""
    counts = np.bincount(heard.sent[heard.valid], minlength=heard.channel.symbols)
    order = np.argsort(-counts, kind="stable")
    return [int(symbol) for symbol in order[is_used(counts[order])]]


def group_by_symbol(best: Sequence[int]) -> dict[int, list[int]]:
    """{symbol: meanings that it is the most frequent message of}."""
    groups: dict[int, list[int]] = {}
    for label, symbol in enumerate(best):
        groups.setdefault(int(symbol), []).append(label)
    return groups
