"""Looks at the world model of a run: how far ahead it can be trusted.

    python -m marl.world_model.evaluate RUN                        prints a table, writes figures beside the run
    python -m marl.world_model.evaluate RUN --episodes 500 --seed 7 --json FILE --gif FILE --own-policy

Fresh episodes are played under random actions (or the run's own policy), five steps of each are observed and the rest
is predicted from the actions alone. Written to RUN: world_model.json, world_model_errors.png, world_model_latents.png
(models with latents) and world_model.gif, imagined (rings) against true (dots).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.ids import names_function
from envs.streams import Stream
from marl import exit_codes as commands
from marl.errors import UserError
from marl.figures import plots
from marl.figures.film import write_gif
from marl.runs import checkpoint
from marl.runs.durable import replace_text
from marl.world_model.assess import CONTEXT, assess, collect, errors_figure, film, latents_figure
from marl.world_model.attach import SavedModel, load
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import Sequences

DEFAULT_STEPS = 50  # of an episode where the environment has no horizon
FILMED = 3  # episodes in the GIF


def evaluate(saved: SavedModel, episodes: int, seed: int, own_policy: bool) -> tuple[dict[str, Any], Sequences]:
    """The measurements of `marl.world_model.assess`, and the episodes that they are of.

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
    policy = saved.actor if own_policy else None
    backend = "pettingzoo" if names_function(config.env) else config.backend

    def play(first: int) -> Sequences:
        return collect(
            config.env, policy, config.num_replicas, episodes, steps, first, backend=backend, **config.env_args
        )

    seq = play(seed)
    found = assess(saved.model, saved.layout, seq, play(seed + 1), Stream(seed, "samples", range(config.num_replicas)))
    policy_name = "own" if own_policy else "random"
    return {"env": spec.id, "step": saved.step, "kind": config.wm.kind, "policy": policy_name, **found}, seq


def table(found: dict[str, Any]) -> str:
    """What was found, for a terminal: means over replicas."""
    lines = [f"World model ({found['kind']}) of {found['env']} after {found['step']} steps, {found['policy']} policy:"]
    ahead = len(found["reward_r2"][0])
    lines.append(f"  open-loop error of the joint observation, {found['context']} steps observed, {ahead} predicted")
    for name, entry in found["rmse"].items():
        after = [float(np.mean([steps[k] for steps in entry["steps"]])) for k in (0, min(4, ahead - 1), ahead - 1)]
        numbers = "  ".join(f"{value:.4f}" for value in (float(np.mean(entry["all"])), *after))
        lines.append(f"    {name:<10} {numbers}   (all, after 1, {min(5, ahead)} and {ahead} steps)")
    r2 = np.mean(found["reward_r2"], axis=0)
    told = ", ".join(f"{r2[k]:.3f} after {k + 1}" for k in sorted({0, min(4, ahead - 1), ahead - 1}))
    lines.append(f"  rewards' R^2: {told}")
    if found["slots"] is not None:
        lines.append(f"  imagined message entries that are exact: {100 * float(np.mean(found['slots'])):.1f} %")
    if "kl" in found:
        means = {name: float(np.mean(found[name])) for name in ("kl", "posterior_entropy", "prior_entropy")}
        words = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in means.items())
        lines.append(f"  latents: {found['active_latents']} active; nats per step: {words}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.world_model.evaluate`; returns the exit code."""
    options = _parser().parse_args(argv)
    return commands.main(lambda: _run(options))


def _run(options: argparse.Namespace) -> str:
    run = Path(options.run)
    saved = load(run)
    found, seq = evaluate(saved, options.episodes, options.seed, options.own_policy)
    beside = checkpoint.run_directory(checkpoint.locate(run))
    gif = options.gif or beside / "world_model.gif"
    first = Stream(options.seed, "samples", range(saved.config.num_replicas))
    frames = film(saved.layout, seq, open_loop(saved.model, seq, CONTEXT, first), FILMED)
    try:
        replace_text(options.json or beside / "world_model.json", json.dumps(found, indent=1) + "\n")
        plots.save(errors_figure(found), beside / "world_model_errors.png")
        latents = latents_figure(found)
        if latents is not None:
            plots.save(latents, beside / "world_model_latents.png")
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write {error.filename}: {why}. Make it writable, or give --json FILE.") from error
    write_gif(frames, gif)
    return f"{table(found)}\nFigures and film: {beside}/world_model*"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m marl.world_model.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run directory of a training with --world-model")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of each replica (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default 0)")
    parser.add_argument("--own-policy", action="store_true", help="act by the run's policy (default: at random)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go (default: beside the run)")
    parser.add_argument("--gif", type=Path, metavar="FILE", help="where the film goes (default: beside the run)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
