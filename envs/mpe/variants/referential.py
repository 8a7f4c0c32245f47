"""Arguments of referential_game, a Lewis game on the channel of speaker_listener_variant.

A speaker sees the attributes of a target, a listener those of some candidates, and picks one of them. Both are paid 1
where that is the target. A message is heard one step after it was said, so an episode has two steps: in the first one
the speaker tells, in the second one the listener picks; everything else that they do is of no consequence.

Source: Lewis, "Convention", 1969; with distractors as in Lazaridou, Peysakhovich and Baroni, "Multi-agent cooperation
and the emergence of (natural) language", ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.mpe.variants.ids import REFERENTIAL_ID
from envs.mpe.variants.settings import Variant
from envs.spec import Head


@dataclass(frozen=True)
class Referential(Variant):
    """A referential game; what `Variant` calls landmarks are the candidates.

    Raises:
        UserError: a value out of its range.
    """

    id: ClassVar[str] = REFERENTIAL_ID
    landmarks_name: ClassVar[str] = "num_candidates"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attributes:
            raise UserError("referential_game needs attributes, the numbers of their values, such as [3, 3]; got none.")

    @classmethod
    def of(
        cls,
        num_candidates: int,
        num_symbols: int,
        message_length: int,
        noise: float,
        erasure: float,
        delay: int,
        silence: bool,
        message_cost: float,
        attributes: tuple[int, ...],
        held_out: int,
        goals: str,
    ) -> Referential:
        """The game of these arguments: one speaker, one listener, 2 + `delay` steps."""
        steps = 2 + delay if isinstance(delay, int) and delay >= 0 else 2
        return cls(
            1, 1, num_candidates, num_symbols, message_length, noise, erasure, delay, silence, message_cost, steps,
            attributes, held_out, goals,
        )  # fmt: skip

    @property
    def own_width(self) -> int:
        """Entries of the listener's observation before the messages: the one-hots of each candidate."""
        return self.num_landmarks * sum(self.attributes)

    def listener_heads(self) -> tuple[Head, ...]:
        return (Head("choice", self.num_landmarks),)

    def found(self, goal: NDArray[Any], seen: NDArray[Any], choice: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the listener's last choice is the target, bool [E]; arguments as for `Variant.found`."""
        right: NDArray[np.bool_] = np.equal(choice, self.goal_slot(goal, seen))
        return right
