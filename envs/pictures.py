"""Pictures as observations: which spaces hold one, and how it is made small.

A picture is shrunk where it comes from the environment, before anything else sees it: a row of an agent's observation
then is the small picture, channels first, as numbers 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from envs.spec import EnvSpec

LEAST_SIDE = 20
"""Pixels: what the learner's convolutions need. Smaller arrays of bytes are more often maps of cells than pictures."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Small:
    """How pictures are made small.

    Args:
        side: pixels of both sides afterwards.
        colour: keep red, green and blue; else grey values.
    """

    side: int = 64
    colour: bool = False

    def shape(self, space: spaces.Space[Any]) -> Shape | None:
        """(channels, height, width) of the small picture; None where the space holds no picture.

        A picture is a Box of bytes [height, width, channels] of 1 (grey), 3 or 4 (colours and, unused, opacity)
        channels, of at least 20 pixels a side, alone or beside nothing but an action mask.
        """
        if isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}:
            space = space.spaces["observation"]
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            return None
        height, width, channels = space.shape
        if channels not in _MODES or min(height, width) < LEAST_SIDE:
            return None
        return 3 if self.colour and channels > 1 else 1, self.side, self.side

    @classmethod
    def of(cls, spec: EnvSpec) -> Small | None:
        """What the pictures of `spec` were made by; None where its observations are none."""
        return None if spec.picture is None else cls(spec.picture[1], spec.picture[0] == 3)


def shrunk(picture: np.ndarray, shape: Shape) -> np.ndarray:
    """uint8 [height, width, 1, 3 or 4] to uint8 [channels, height, width] of `shape`: each pixel is the mean of the
    area that it covers (Pillow's box filter), grey is ITU-R 601's luma."""
    channels, height, width = shape
    inner = np.ascontiguousarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    image = Image.fromarray(inner).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
