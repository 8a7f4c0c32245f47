"""What a run keeps in memory, by part; pictures that cannot be looked at.

Sizes are those of the large tensors: rounded, and without what torch and the environments need for themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from envs.batched import BatchedEnv
from envs.spec import EnvSpec
from marl.config.schema import Config
from marl.data.opponents import opponent_widths
from marl.data.replay import population_widths, row_widths
from marl.data.windows import further_widths
from marl.errors import UserError
from marl.learner.pictures.networks import Eye

PICTURE = 16_384
"""Numbers of a picture (128 x 128 grey values) above which a run refuses to flatten it: an actor learns a weight of its
first layer for each number and hidden unit, a critic one for each number of every agent, and the replay keeps each
picture twice as float32. Only pictures beside other things are flattened, or of few pixels, or of some agents alone
(envs/pictures.py)."""


def refuse_pictures(env: BatchedEnv, config: Config) -> None:
    """Refuse observations that hold pictures of more than `PICTURE` numbers which would be flattened, unless `config`
    says so; and pictures with networks that have no convolutions.

    Raises:
        UserError: with what to do.
    """
    if env.spec.picture and config.maddpg.recurrent:
        raise UserError(
            "maddpg.recurrent has no convolutions for observations that are pictures; expected recurrent false, with "
            "maddpg.frames 3 where one picture shows too little."
        )
    if env.spec.picture and config.maddpg.critic == "factored":
        raise UserError("maddpg.critic factored has no convolutions for pictures; expected joint.")
    if config.flatten_pictures or env.spec.picture:
        return
    for name, shape in (env.reader.pictures() if env.reader is not None else {}).items():
        if shape[0] * shape[1] * shape[2] > PICTURE:
            small = 'supersuit.resize_v1(supersuit.color_reduction_v0(env, mode="full"), x_size=32, y_size=32)'
            raise UserError(
                f"agent {name!r} observes an image of {' x '.join(map(str, shape))} (height x width x channels), "
                f"{shape[0] * shape[1] * shape[2]:,} numbers; convolutions look at it only where every agent "
                f"observes one picture of bytes and nothing else, and perceptrons are for at most {PICTURE:,} numbers "
                f"of an image. Shrink it with supersuit where the "
                f"environment is made: return {small}. Or go on all the same with --flatten-pictures "
                f"({_words(parts(config, env.spec, config.num_replicas))})."
            )


def parts(config: Config, spec: EnvSpec, replicas: int) -> dict[str, int]:
    """{part: bytes on the training device}, the largest first."""
    n, o, a, learner = spec.num_agents, spec.obs_size, spec.action_size, config.maddpg
    pool = config.opponents.kind == "pool"
    further = population_widths(spec) if config.population > 1 else opponent_widths(spec) if pool else {}
    row = sum(row_widths(spec).values()) + sum(further.values())
    kept = min(config.replay.capacity, config.total_steps + config.num_envs)
    actors = max(spec.kinds) + 1 if learner.share_actors else n
    critics = n * (2 if learner.twin_critics else 1)
    eye, read = 0, o  # parameters of a network's convolutions, and what its perceptron reads of an observation
    if spec.picture:
        look = Eye.of(spec)
        eye, read = sum(look.lengths), o + look.features - look.pixels
        row -= round(1.5 * n * look.pixels)  # two pictures as bytes, not as float32
    weights = actors * _weights((read, *learner.hidden, a)) + critics * _weights((n * (read + a), *learner.hidden, 1))
    weights += (actors + critics) * eye
    if learner.critic == "factored":
        terms = critics * actors // n
        weights = actors * _weights((o, *learner.hidden, a)) + terms * _weights((o + a, *learner.hidden, 1))
    if learner.recurrent:
        width = learner.hidden[0]
        row += sum(further_widths(spec, n + critics, width).values())
        weights = actors * _weights((o, 4 * width)) + critics * _weights((n * (o + a), 4 * width))
        weights += (actors + critics) * (_weights((width, 3 * width)) + _weights((width, width)))
        weights += actors * _weights((*learner.hidden, a)) + critics * _weights((*learner.hidden, 1))
        weights += actors * _weights((width + a, o)) + critics * _weights((width, o))
    sizes = {
        f"replay ({kept:,} transitions of {row:,} numbers)": kept * row,
        "networks (with targets, gradients and Adam's moments)": 5 * weights,
        f"batches ({learner.batch_size} transitions)": 2 * learner.batch_size * row,
        f"environments ({config.num_envs})": 4 * config.num_envs * n * (o + a),
    }
    if pool:
        sizes[f"pool ({config.opponents.size} snapshots)"] = (
            (config.opponents.size + 1) * n * _weights((o, *learner.hidden, a))
        )
    if config.world_model:
        frames = min(config.wm.capacity, config.total_steps)
        width = o // 4 if spec.picture else o
        sizes[f"world model's frames ({frames:,})"] = frames * n * (width + a + 2)
    return {name: 4 * replicas * size for name, size in sorted(sizes.items(), key=lambda item: -item[1])}


def _weights(widths: tuple[int, ...]) -> int:
    return sum((i + 1) * o for i, o in pairwise(widths))


def _words(sizes: dict[str, int]) -> str:
    return "about " + ", ".join(f"{size / 1e9:,.2g} GB {name}" for name, size in sizes.items() if size >= 1e7)


@contextmanager
def named(config: Config, spec: EnvSpec, replicas: int, on_cpu: bool) -> Iterator[None]:
    """Adds to an error of memory what the memory is for.

    On a CPU memory is granted before it is there, and a process that then fills it is killed without a word: what
    exceeds all memory of the machine is refused before.

    Raises:
        MemoryError: the parts together are larger than the machine's memory.
    """
    sizes = parts(config, spec, replicas)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        if on_cpu and have and sum(sizes.values()) > have:
            raise MemoryError(
                f"tried to allocate {sum(sizes.values()) / 1e9:.0f} GB, of which {have / 1e9:.0f} GB exist"
            )
        yield
    except (MemoryError, RuntimeError) as error:
        error.add_note(f"The run needs {_words(sizes)}.")  # shown where memory is what was lacking
        raise
