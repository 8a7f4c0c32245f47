"""Film strips of a world model that sees pictures: what it imagined below what was there.

Shape suffixes: S replicas, T frames, B episodes, K predicted steps, F pixels of all agents' pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.data.batch import BatchSource
from marl.errors import UserError
from marl.world_model.assess import CONTEXT
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.protocol import Prediction, open_loop
from marl.world_model.sequences import Sequences

COLUMNS = 12  # frames of a strip at most
EPISODES = 2
GAP = 2  # white pixels between pictures
STRIP = "world_model_strip.png"


def seen(row_F: Tensor, spec: EnvSpec) -> np.ndarray:
    """All agents' pictures side by side, uint8 [height, width, 3], of a row of pixels."""
    assert spec.picture is not None
    channels, height, width = spec.picture
    pixels = row_F.detach().cpu().round().clamp(0, 255).to(torch.uint8).view(-1, channels, height, width)
    pictures = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    edge = np.full((height, GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, edge)][:-1], axis=1)


def pair(true_F: Tensor, imagined_F: Tensor | None, spec: EnvSpec) -> np.ndarray:
    """What was there above what was imagined, uint8 [height, width, 3]; what was observed stands twice."""
    above = seen(true_F, spec)
    below = above if imagined_F is None else seen(imagined_F, spec)
    return np.concatenate([above, np.full((GAP, above.shape[1], 3), 255, np.uint8), below])


def frames(seq: Sequences, predicted: Prediction, context: int, spec: EnvSpec, episode: int) -> list[np.ndarray]:
    """One `pair` for every frame of an episode of the first replica, until it ends.

    Args:
        seq: windows that begin with an episode; what stands behind its end is not shown.
        predicted: `open_loop` of them.
        context: observed steps.
        spec: of the environment, whose observations are pictures.
        episode: which of B.
    """
    result = []
    for t in range(int(seq.length_SB[0, episode])):
        imagined = predicted.obs[0, t - context - 1, episode] if t > context else None
        result.append(pair(seq.obs[0, t, episode], imagined, spec))
    return result


def strip(episodes: list[list[np.ndarray]]) -> np.ndarray:
    """Frames of episodes as one picture, uint8 [height, width, 3]: an episode a row, time from left to right."""
    rows = []
    for one in episodes:
        chosen = [one[round(k)] for k in np.linspace(0, len(one) - 1, min(COLUMNS, len(one)))]
        edge = np.full((chosen[0].shape[0], 2 * GAP, 3), 255, np.uint8)
        row = np.concatenate([part for frame in chosen for part in (frame, edge)][:-1], axis=1)
        rows += [row, np.full((4 * GAP, row.shape[1], 3), 255, np.uint8)]
    widest = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows[:-1]]
    )


@torch.no_grad()
def of_run(source: BatchSource, run: Path) -> str:
    """Write the strip of held-out episodes into the figures of a run at its end; where it stands, in words.

    Raises:
        UserError: no episode that is long enough has been held out.
    """
    assert isinstance(source, ImaginationSource), "of a run with a world model"
    store, model, spec = source.training.episodes.held_out, source.training.model, source.rollouts.layout.spec
    stream = Stream(0, "strips", range(len(store.written_SE)), store.written_SE.device)
    if not source.gate.can_measure:
        raise UserError("no episode has been held out yet; expected a longer run.")
    span = (spec.horizon or 50) + 1
    seq = store.windows(min(span, store.ring), 8 * EPISODES, stream)
    lengths_B = seq.length_SB[0]
    chosen: list[int] = []  # the longest, and no episode twice
    for b in lengths_B.argsort(descending=True).tolist():
        if not any(torch.equal(seq.obs[0, :, b], seq.obs[0, :, other]) for other in chosen):
            chosen.append(b)
    if int(lengths_B[chosen[0]]) <= CONTEXT + 1:
        raise UserError(f"no held-out episode has more than {CONTEXT + 1} frames.")
    picked = torch.tensor(chosen[:EPISODES], device=seq.obs.device).expand(len(store.written_SE), -1)
    seq = seq.pick(picked)
    predicted = open_loop(model, seq, CONTEXT, stream)
    return save(strip([frames(seq, predicted, CONTEXT, spec, b) for b in range(picked.shape[1])]), run / "figures")


def save(pixels: np.ndarray, directory: Path) -> str:
    """Write a strip into a directory; where it stands, in words."""
    directory.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(directory / STRIP)
    return f"What the world model imagines: {directory / STRIP}"
