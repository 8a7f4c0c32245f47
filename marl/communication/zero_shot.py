"""Are goals understood that were never told in training? What `python -m marl.communication RUN --zero-shot` does.

The runs of a task that holds combinations of attributes out play twice: with goals of training, and with the goals that
are held out, both among landmarks (candidates) of training. Right is an episode at whose end the listener is nearest to
its goal, or has picked the target; chance is one in the number of landmarks.

Legend: `R` replicas, `E` episodes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.commands import say
from envs.mpe import catalogue
from envs.mpe.variants.parts import GOALS
from envs.mpe.variants.settings import Variant
from marl import stats
from marl.communication.measures.information import wilson_interval
from marl.errors import UserError
from marl.play.policy import Policy
from marl.play.rollout import play
from marl.results import Record
from marl.runs.durable import replace_text
from marl.stats import MeanInterval

if TYPE_CHECKING:
    from marl.communication.command import CommandLine

JSON = "zero_shot.json"


@dataclass(frozen=True)
class Accuracy(Record):
    """Share of episodes that ended right, of one kind of goals."""

    goals: str
    """"training" or "held_out"."""
    combinations: int
    """Number of different goals of this kind."""
    together: MeanInterval
    """Mean over replicas and episodes; 95 % interval over both (`stats.crossed_interval`), or Wilson's over the
    episodes of a single replica."""
    replicas: tuple[float, ...]
    """Share of each replica."""


@dataclass(frozen=True)
class ZeroShot(Record):
    """Goals of training beside goals that no episode of training had."""

    run: str
    """Run directory."""
    env: str
    """Id of the environment with its version."""
    mode: str
    """"greedy" or "sampled"."""
    episodes: int
    """Of each replica and kind of goals."""
    seed: int
    """Episode i is reset with `seed + i`."""
    chance: float
    """Share of right picks at random: 1 / number of landmarks."""
    training: Accuracy
    """Goals of training."""
    held_out: Accuracy
    """Goals that were held out."""


def zero_shot(
    run_dir: Path | str,
    *,
    episodes: int = 1000,
    seed: int = 1_000_000,
    replicas: Sequence[int] | None = None,
    greedy: bool = True,
    backend: str = "pettingzoo",
) -> ZeroShot:
    """Play the replicas of a run with goals of training and with held-out goals.

    Args:
        run_dir: of a run of a task with `attributes` and `held_out`.
        episodes: of each replica and kind of goals, at least 1.
        seed: episode i is reset with `seed + i`.
        replicas: which; None: all.
        greedy: the argmax of each head, or sampled.
        backend: "pettingzoo" (the real environment) or "torch" (the batched port).

    Raises:
        UserError: no such run or replica, or a task that holds no goals out.
    """
    first = Policy.load(run_dir, replica=0, greedy=greedy)
    numbers = list(range(first.num_replicas)) if replicas is None else list(replicas)
    args = dict(first.env_args or {})
    variant = variant_of(first.env_id, args)
    if variant is None or not variant.held_out:
        raise UserError(
            f"{run_dir} was trained on {first.env_id}, which holds no goals out; --zero-shot needs a run of a task "
            "with parts, such as --env referential_game --env-args held_out=3."
        )
    players = [Policy.load(run_dir, replica=number, greedy=greedy) for number in numbers]
    found = []
    for goals in GOALS:
        with_goals = {**args, "goals": goals}
        right = [right_episodes(player, first.env_id, with_goals, episodes, seed, backend) for player in players]
        asked = variant_of(first.env_id, with_goals)
        assert asked is not None and asked.parts is not None
        found.append(_accuracy(goals, len(asked.parts.pool), np.stack(right)))
    return ZeroShot(
        run=str(run_dir),
        env=first.spec.id,
        mode="greedy" if greedy else "sampled",
        episodes=episodes,
        seed=seed,
        chance=1 / variant.num_landmarks,
        training=found[0],
        held_out=found[1],
    )


def variant_of(env_id: str, env_args: dict[str, Any]) -> Variant | None:
    """The settings of a variant's environment; None of other environments."""
    if catalogue.canonical_id(env_id) not in catalogue.VARIANT_IDS:
        return None
    variant: Variant = catalogue.parallel_env(env_id, **env_args).unwrapped.variant
    return variant


def right_episodes(
    player: Any, env_id: str, env_args: dict[str, Any], episodes: int, seed: int, backend: str = "pettingzoo"
) -> NDArray[np.bool_]:
    """Whether each episode ended right, bool [episodes], of a player in a variant's environment; as `play`."""
    variant = variant_of(env_id, env_args)
    assert variant is not None
    played = play(env_id, player, episodes, seed, env_args=env_args, backend=backend, record=True)
    assert played.obs is not None and played.actions is not None
    last, every = played.lengths - 1, np.arange(len(played.lengths))
    goal, seen = (played.obs[names[0]][last, every] for names in (variant.speaker_names, variant.listener_names))
    return variant.found(goal, seen, played.actions[last, every, variant.num_speakers, 0])


def _accuracy(goals: str, combinations: int, right_RE: NDArray[np.bool_]) -> Accuracy:
    if len(right_RE) == 1:
        ends = wilson_interval(right_RE.sum(axis=1), np.full(1, right_RE.shape[1]))
        low, high = (float(end[0]) for end in ends)
    else:
        low, high = stats.crossed_interval(right_RE.astype(np.float64), stats.mean)
    return Accuracy(
        goals=goals,
        combinations=combinations,
        together=MeanInterval(float(right_RE.mean()), low, high),
        replicas=tuple(right_RE.mean(axis=1).tolist()),
    )


def words(result: ZeroShot) -> str:
    """The result in plain words."""
    lines = [f"{result.env}, {len(result.training.replicas)} replicas, {result.episodes} episodes each:"]
    for one in (result.training, result.held_out):
        span = f"{one.together.mean:.1%} [{one.together.low:.1%}, {one.together.high:.1%}]"
        name = "training goals" if one.goals == "training" else "held-out goals"
        lines.append(f"  {name} ({one.combinations}): right in {span}")
    lines.append(f"  at random: {result.chance:.1%}")
    known, unseen, chance = result.training.together, result.held_out.together, result.chance
    if known.low <= chance:
        verdict = "Not even the goals of training are understood: nothing to generalise."
    elif unseen.low <= chance:
        verdict = "Goals that were never told in training are not understood better than chance."
    else:
        share = (unseen.mean - chance) / (known.mean - chance)
        verdict = f"Goals that were never told in training are understood: {share:.0%} of the gain over chance remains."
    return "\n".join([*lines, verdict])


def tested(options: CommandLine) -> str:
    """What `python -m marl.communication RUN --zero-shot` prints, after the file that it writes.

    Raises:
        UserError: as `zero_shot`.
    """
    say("... playing goals of training and goals that were held out")
    result = zero_shot(
        options.run,
        episodes=options.sizes()["episodes"],
        seed=options.seed,
        replicas=options.replicas,
        greedy=not options.sampled,
        backend=options.backend,
    )
    text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
    for path in (options.run / JSON, *([options.json] if options.json else [])):
        replace_text(path, text)
    return f"{words(result)}\n\nNumbers: {options.run / JSON}"
