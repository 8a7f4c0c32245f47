"""How far ahead the world model of a run can be trusted: measured, drawn, filmed and put into words.

Fresh episodes are played under random actions (or the run's own policy), five steps of each are observed and the rest
is predicted from the actions alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.conditions import Condition
from envs.ids import names_function
from envs.pictures import Small
from envs.streams import Stream
from marl.errors import UserError
from marl.figures import plots
from marl.figures.film import write_gif
from marl.learner.recurrent.unrolled import acting
from marl.results import INLINE, Record
from marl.runs import checkpoint
from marl.runs.durable import replace_text
from marl.world_model import strips
from marl.world_model.assess import CONTEXT, Assessment, assess, collect, errors_figure, film, latents_figure
from marl.world_model.attach import SavedModel, load
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import Sequences

if TYPE_CHECKING:
    from marl.world_model.evaluate import CommandLine

DEFAULT_STEPS = 50  # of an episode where the environment has no horizon
FILMED = 3  # episodes in the GIF


@dataclass(frozen=True)
class RunAssessment(Record):
    """The world model of a run, assessed: what `world_model.json` holds."""

    env: str
    step: int  # of the run, when the model was saved
    kind: str  # of the model: `--wm.kind`, "auto", "mlp", "linear" or "rssm"
    policy: str  # that played: "own" or "random"
    measured: Assessment = field(metadata=INLINE)


def evaluate(saved: SavedModel, episodes: int, seed: int, own_policy: bool) -> tuple[RunAssessment, Sequences]:
    """The measurements of `marl.world_model.assess`, and the episodes that they are of, under the run's channel.

    Args:
        saved: a run's world model.
        episodes: to predict; as many others are played for the baselines.
        seed: of the episodes.
        own_policy: act by the run's sampled policy; else uniformly at random.

    Raises:
        UserError: fewer than two episodes, or episodes too short to predict anything.
    """
    if episodes < 2:
        raise UserError(f"--episodes: expected at least 2, got {episodes}.")
    config, spec = saved.config, saved.spec
    steps = spec.horizon or DEFAULT_STEPS
    if steps <= CONTEXT + 1:
        raise UserError(f"{spec.id} has episodes of {steps} steps; expected more than {CONTEXT + 1} to predict any.")
    backend = "pettingzoo" if names_function(config.env) else config.backend
    options: dict[str, Any] = {"pictures": Small.of(spec)} if spec.picture else {}
    options |= {"rebuild": True} if config.rebuild else {}  # no arguments of MPE's tasks
    condition = Condition.of(config.channel, config.channel_noise)

    def play(first: int) -> Sequences:
        policy = acting(saved.actor, episodes) if own_policy else None
        return collect(
            config.env, policy, config.num_replicas, episodes, steps, first, spec.own_action, condition,
            backend=backend, env_args=config.env_args, **options,
        )  # fmt: skip

    seq = play(seed)
    stream = Stream(seed, "samples", range(config.num_replicas))
    measured = assess(saved.model, saved.layout, seq, play(seed + 1), stream)
    return RunAssessment(spec.id, saved.step, config.wm.kind, "own" if own_policy else "random", measured), seq


def table(result: RunAssessment) -> str:
    """The measurements for a terminal: means over replicas."""
    measured = result.measured
    lines = [f"World model ({result.kind}) of {result.env} after {result.step} steps, {result.policy} policy:"]
    ahead = len(measured.reward_r2[0])
    lines.append(f"  open-loop error of the joint observation, {measured.context} steps observed, {ahead} predicted")
    for name, entry in measured.rmse.items():
        after = [float(np.mean([steps[k] for steps in entry.steps])) for k in (0, min(4, ahead - 1), ahead - 1)]
        numbers = "  ".join(f"{value:.4f}" for value in (float(np.mean(entry.all)), *after))
        lines.append(f"    {name:<10} {numbers}   (all, after 1, {min(5, ahead)} and {ahead} steps)")
    r2 = np.mean(measured.reward_r2, axis=0)
    values = ", ".join(f"{r2[k]:.3f} after {k + 1}" for k in sorted({0, min(4, ahead - 1), ahead - 1}))
    lines.append(f"  rewards' R^2: {values}")
    if measured.slots is not None:
        lines.append(f"  imagined message entries that are exact: {100 * float(np.mean(measured.slots)):.1f} %")
    if measured.flags_wrong is not None:
        wrong = 100 * np.mean(measured.flags_wrong, axis=0)
        values = ", ".join(f"{wrong[k]:.1f} % after {k + 1}" for k in sorted({0, min(4, ahead - 1), ahead - 1}))
        lines.append(f"  who is there and what is allowed, balanced error rate: {values}")
    if (latents := measured.latents) is not None:
        names = ("kl", "posterior_entropy", "prior_entropy")
        means = {name: float(np.mean(getattr(latents, name))) for name in names}
        words = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in means.items())
        lines.append(f"  latents: {list(latents.active_latents)} active; nats per step: {words}")
    return "\n".join(lines)


def written(options: CommandLine) -> str:
    """What `python -m marl.world_model.evaluate` prints, after the files that it writes.

    Raises:
        UserError: as `evaluate`; no run with a world model; a file that cannot be written.
    """
    run = options.run
    saved = load(run)
    result, seq = evaluate(saved, options.episodes, options.seed, options.own_policy)
    beside = checkpoint.run_directory(checkpoint.locate(run))
    gif = options.gif or beside / "world_model.gif"
    first = Stream(options.seed, "samples", range(saved.config.num_replicas))
    predicted = open_loop(saved.model, seq, CONTEXT, first)
    strip: list[list[np.ndarray]] = []
    if saved.spec.picture:
        shown = range(min(FILMED, seq.first.shape[2]))
        strip = [strips.frames(seq, predicted, CONTEXT, saved.spec, b) for b in shown]
        frames = [frame for one in strip for frame in one]
    else:
        frames = film(saved.layout, seq, predicted, FILMED)
    try:
        replace_text(options.json or beside / "world_model.json", json.dumps(result.to_json(), indent=1) + "\n")
        plots.save(errors_figure(result.measured), beside / "world_model_errors.png")
        if (latents := result.measured.latents) is not None:
            plots.save(latents_figure(latents), beside / "world_model_latents.png")
        if strip:
            strips.save(strips.strip(strip), beside)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write {error.filename}: {why}. Make it writable, or give --json FILE.") from error
    write_gif(frames, gif)
    return f"{table(result)}\nFigures and film: {beside}/world_model*"
