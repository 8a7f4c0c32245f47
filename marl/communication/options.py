"""What an analysis measures, and on how much: for `analyse_run` in Python and for the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from marl.communication.measures.channels import Meaning

DEFAULTS = ("mute", "fixed", "uniform", "shuffled", "swapped", "noise:0.1", "noise:0.5")


@dataclass(frozen=True)
class Scope:
    """What Python and the command line can choose alike."""

    seed: int = 1_000_000
    """Episode i is reset with this seed plus i."""
    cross_episodes: int = 200
    """Episodes of each pair in a cross-play; 0: none."""
    figures: bool = True
    """Draw the pictures."""
    backend: Literal["pettingzoo", "torch"] = "pettingzoo"
    """The real environment, or "torch": the batched port."""


@dataclass(frozen=True)
class Options(Scope):
    """What to measure, and on how much."""

    episodes: int = 1000
    """Sample size of every metric and intervention; the bias at small samples is in docs/communication.md."""
    interventions: tuple[str, ...] = DEFAULTS
    """For the shown replica, of mute, fixed, fixed:SYMBOL, uniform, shuffled, swapped, noise:RATE and self; the other
    replicas are only shuffled."""
    formation: bool = True
    """How the protocol formed, one row a checkpoint."""
    meaning: Meaning | None = None
    """From the sender's observations to what there is to tell, where the environment does not declare it."""
    progress: Callable[[str], None] = lambda text: None
    """Called with what is being done."""
    make: Callable[..., Any] | None = None
    """Builds the environment in place of its id, for one that is given as a function in Python."""
    on_figure: Callable[[str, Figure], None] = lambda name, figure: None
    """Given every figure, for TensorBoard."""


QUICK = Options(episodes=200, interventions=("mute", "shuffled"), cross_episodes=0, formation=False)
"""A few seconds a replica: for the end of a training run, and for a first look at a pretrained policy."""
