"""Arguments of speaker_listener_variant, and everything that follows from them: widths, who knows what, the spec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.mpe.variants.ids import VARIANT_ID
from envs.mpe.variants.parts import Parts, require_integer
from envs.spec import AgentSpec, EnvSpec, Head, Route

MOST_MESSAGES = 4096  # different messages of one speaker: its PettingZoo action is one integer
_NUM_MOVES = 5
_COLOURS = 3  # mpe2 shows the goal among three landmarks as the landmark's colour


@dataclass(frozen=True)
class Variant:
    """A speaker-listener game. The defaults are simple_speaker_listener exactly.

    Speaker i knows the goals of those listeners j with i = j modulo the smaller of both numbers: one speaker tells all
    listeners their goals, several speakers share them out, more speakers than listeners tell the same goal. Every
    listener hears every speaker. All are paid alike.

    Raises:
        UserError: a value out of its range.
    """

    num_speakers: int = 1
    """At least 1."""
    num_listeners: int = 1
    """At least 1; each has a goal of its own, drawn independently."""
    num_landmarks: int = 3
    """Possible goals, at least 1. Three are shown to the speaker as colours (0.65 at the goal, 0.15 elsewhere), as in
    mpe2, any other number as a one-hot."""
    num_symbols: int = 3
    """Vocabulary, at least 1, without silence."""
    message_length: int = 1
    """Symbols said side by side in every step, at least 1; one head each."""
    noise: float = 0.0
    """Chance in [0, 1] that a symbol is heard as another one, each of the others equally likely."""
    erasure: float = 0.0
    """Chance in [0, 1] that a symbol is lost: the listener hears zeros in its place."""
    delay: int = 0
    """Steps, 0 to max_cycles - 1, by which messages come later than in mpe2 (where they are heard one step later)."""
    silence: bool = False
    """Adds one symbol, the last of the vocabulary, that costs nothing. The channel treats it like any other."""
    message_cost: float = 0.0
    """Taken from everybody's reward for each symbol said that is not silence; at least 0, above 0 needs silence."""
    max_cycles: int = 25
    """Steps of an episode, at least 1."""
    attributes: tuple[int, ...] = ()
    """Numbers of values, each at least 2, of the attributes that a goal consists of; none: goals without parts. Needs a
    single listener."""
    held_out: int = 0
    """Combinations of attributes that are kept out of training, as goals and as landmarks."""
    goals: str = "training"
    """Which combinations are goals: those of "training", or those that are "held_out" of it. The other landmarks are
    training combinations in both."""
    velocity: bool = True
    """Whether listeners see their velocity; without it an observation does not tell what follows, and one has to
    remember where one was."""

    id: ClassVar[str] = VARIANT_ID
    landmarks_name: ClassVar[str] = "num_landmarks"  # the argument, as errors name it

    def __post_init__(self) -> None:
        if isinstance(self.attributes, list):
            object.__setattr__(self, "attributes", tuple(self.attributes))
        for name in ("num_speakers", "num_listeners", "num_landmarks", "num_symbols", "message_length", "max_cycles"):
            named = self.landmarks_name if name == "num_landmarks" else name
            require_integer(named, getattr(self, name), 1, None)
        require_integer("delay", self.delay, 0, self.max_cycles - 1)
        _require_number("noise", self.noise, 1.0)
        _require_number("erasure", self.erasure, 1.0)
        _require_number("message_cost", self.message_cost, None)
        for name in ("silence", "velocity"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        if self.message_cost > 0 and not self.silence:
            raise UserError(
                f"message_cost={self.message_cost} needs silence=True: without a symbol that is free, every message "
                "costs the same and the cost changes nothing."
            )
        if self.noise > 0 and self.vocabulary == 1:
            raise UserError(f"noise={self.noise} needs at least two symbols, or silence=True, to be mistaken for.")
        if self.message_length * math.log(self.vocabulary) > math.log(MOST_MESSAGES) + 1e-9:
            raise UserError(
                f"a message must be one of at most {MOST_MESSAGES}, got {self.vocabulary} symbols (silence counted) "
                f"in {self.message_length} places, {self.vocabulary}^{self.message_length}."
            )
        self._check_parts()

    def _check_parts(self) -> None:
        parts = Parts(self.attributes, self.held_out, self.goals)
        if not self.attributes:
            return
        if self.num_listeners > 1:
            raise UserError(f"attributes={list(self.attributes)} need num_listeners=1, got {self.num_listeners}.")
        require_integer(self.landmarks_name, self.num_landmarks, 1, len(parts.training))

    # ------------------------------------------------------------------ sizes
    @property
    def vocabulary(self) -> int:
        """K: choices of a message head, silence counted."""
        return self.num_symbols + int(self.silence)

    @property
    def num_messages(self) -> int:
        """K ** length: the `n` of a speaker's PettingZoo `Discrete` space."""
        return int(self.vocabulary**self.message_length)

    @property
    def places(self) -> int:
        """Symbols that are said in one step by all speakers together."""
        return self.num_speakers * self.message_length

    @property
    def heard_width(self) -> int:
        """Entries of a listener's observation that hold messages: one-hots of all places, speaker by speaker."""
        return self.places * self.vocabulary

    @property
    def goal_width(self) -> int:
        """Entries that show one goal to a speaker: with attributes a one-hot of each, side by side."""
        return sum(self.attributes) or (_COLOURS if self.coloured else self.num_landmarks)

    @cached_property
    def parts(self) -> Parts | None:
        """What goals consist of; None of goals without parts."""
        return Parts(self.attributes, self.held_out, self.goals) if self.attributes else None

    @property
    def own_width(self) -> int:
        """Entries of a listener's observation before the messages: velocity (if seen), vectors to the landmarks, and
        with attributes the one-hots of each landmark."""
        return 2 * self.velocity + 2 * self.num_landmarks + self.num_landmarks * sum(self.attributes)

    @property
    def coloured(self) -> bool:
        """Whether goals are shown as mpe2's colours."""
        return self.num_landmarks == _COLOURS and not self.attributes

    @property
    def exact(self) -> bool:
        """Whether a listener's slots hold what was said one step before: no noise, erasure or delay between."""
        return self.noise == 0 and self.erasure == 0 and self.delay == 0

    @property
    def draws(self) -> int:
        """Uniform numbers that the channel takes in a step: one a place for noise, then one a place for erasure."""
        return self.places * (int(self.noise > 0) + int(self.erasure > 0))

    @property
    def groups(self) -> int:
        """Sets of speakers that know the same goals."""
        return min(self.num_speakers, self.num_listeners)

    def listeners_of(self, speaker: int) -> list[int]:
        """Listeners whose goals a speaker knows, in the order in which it sees them."""
        return list(range(speaker % self.groups, self.num_listeners, self.groups))

    def speakers_of(self, listener: int) -> list[int]:
        """Speakers that know a listener's goal."""
        return [speaker for speaker in range(self.num_speakers) if listener in self.listeners_of(speaker)]

    # ------------------------------------------------------------------- spec
    @property
    def speaker_names(self) -> list[str]:
        return [f"speaker_{index}" for index in range(self.num_speakers)]

    @property
    def listener_names(self) -> list[str]:
        return [f"listener_{index}" for index in range(self.num_listeners)]

    @property
    def obs_sizes(self) -> list[int]:
        """Widths of the observations, speakers first."""
        speakers = [self.goal_width * len(self.listeners_of(speaker)) for speaker in range(self.num_speakers)]
        return speakers + [self.own_width + self.heard_width] * self.num_listeners

    def message_heads(self) -> tuple[Head, ...]:
        if self.message_length == 1:
            return (Head("message", self.vocabulary),)
        return tuple(Head(f"message_{place}", self.vocabulary) for place in range(self.message_length))

    def listener_heads(self) -> tuple[Head, ...]:
        return (Head("move", _NUM_MOVES),)

    def spec(self) -> EnvSpec:
        """Agents, heads, routes and horizon; all agents are one team."""
        names = [*self.speaker_names, *self.listener_names]
        heads = [self.message_heads()] * self.num_speakers + [self.listener_heads()] * self.num_listeners
        agents = tuple(AgentSpec(*agent) for agent in zip(names, self.obs_sizes, heads, strict=True))
        return EnvSpec(id=self.id, agents=agents, horizon=self.max_cycles, routes=self._routes())

    def _routes(self) -> tuple[Route, ...]:
        routes = []
        for speaker in range(self.num_speakers):
            listeners = self.listeners_of(speaker)
            for listener in range(self.num_listeners):
                meaning = None
                if listener in listeners:
                    sizes = self.attributes or (self.goal_width,)
                    meaning = (listeners.index(listener) * self.goal_width, *sizes)
                for place in range(self.message_length):
                    start = self.own_width + (speaker * self.message_length + place) * self.vocabulary
                    receiver = self.num_speakers + listener
                    routes.append(Route(speaker, place, receiver, start, self.vocabulary, self.exact, meaning))
        return tuple(routes)

    # ------------------------------------------------------------- who was right
    def found(self, goal: NDArray[Any], seen: NDArray[Any], choice: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the listener is nearest to the landmark that is its goal, bool [E].

        Args:
            goal: [E, speaker's width] what the first speaker saw.
            seen: [E, listener's width] what the listener saw last.
            choice: int [E] what it did then; of no consequence where it moves.

        Raises:
            UserError: several listeners.
        """
        if self.num_listeners > 1:
            raise UserError(f"who was right is known of a single listener, got num_listeners={self.num_listeners}.")
        places = seen[:, 2 * self.velocity :][:, : 2 * self.num_landmarks].reshape(len(seen), self.num_landmarks, 2)
        nearest: NDArray[np.int64] = np.square(places).sum(-1).argmin(-1)
        return np.equal(nearest, self.goal_slot(goal, seen))

    def goal_slot(self, goal: NDArray[Any], seen: NDArray[Any]) -> NDArray[np.int64]:
        """Index among the landmarks of the goal, int [E]; of arguments as for `found`."""
        slots: NDArray[np.int64]
        if self.parts is None:
            slots = goal[:, : self.goal_width].argmax(-1)
            return slots
        shown = seen[:, self.own_width - self.num_landmarks * self.parts.width : self.own_width]
        alike = shown.reshape(len(seen), self.num_landmarks, -1) * goal[:, None, : self.parts.width]
        slots = alike.sum(-1).argmax(-1)
        return slots


def _require_number(name: str, value: Any, high: float | None) -> None:
    bounds = "of at least 0" if high is None else f"in [0, {high:g}]"
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= (high or math.inf)
    if not good or not math.isfinite(value):
        raise UserError(f"{name} must be a number {bounds}, got {value!r}.")
