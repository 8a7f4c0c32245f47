"""Films of episodes: `mpe2`'s own renderer, and under it a strip with every message that was said."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pettingzoo.utils import BaseParallelWrapper

from envs.pettingzoo.construct import from_callable, parallel_env
from envs.pettingzoo.describe import describe_known
from envs.spec import EnvSpec
from marl.errors import UserError
from marl.play.channel import condition_of
from marl.play.rollout import Observations, Player, pictures_of, play

if TYPE_CHECKING:
    from PIL import Image  # imported where it is used: a run needs none before its end

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Okabe and Ito's colours, told apart by the colour-blind; black last
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#8C564B", "#000000")
DARK = ("#0072B2", "#8C564B", "#000000")  # letters on these are white
ROW, MARGIN, LABEL, CELL = 26, 8, 110, 4  # pixels: height of a row, around all, a sender's name, a cell at least
LONGEST = 1000  # steps of an episode that are filmed, where the environment has no longer time limit
PAUSE = 6  # times the last frame of an episode is shown
SAMPLED = 12  # frames, of whose colours the palette of a GIF is made


class _KeptOpen(BaseParallelWrapper):
    """Closing one mpe2 environment ends rendering in all others of the process."""

    def close(self) -> None:
        pass


def film(
    player: Player,
    env_id: str,
    *,
    episodes: int = 3,
    seed: int = 0,
    env_args: dict[str, Any] | None = None,
    make: Callable[..., Any] | None = None,
    size: int = 350,
) -> list[np.ndarray]:
    """Frames of whole episodes, uint8 [height, width, 3], all of one size.

    Args:
        player: plays all agents.
        env_id: MPE id, or package.module:function of an environment that renders with `render_mode="rgb_array"`.
        episodes: how many, one after another. They are played so too, and in lockstep where messages are shuffled among
            them (the player's `condition`).
        seed: episode i is reset with `seed + i`.
        env_args: keyword arguments of the environment.
        make: builds the environment in place of `env_id`; it is given `render_mode="rgb_array"` too.
        size: width of the pictures in pixels.

    Raises:
        UserError: the environment gives no pictures.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window, also where there is no screen
    arguments = {**(env_args or {}), "render_mode": "rgb_array"}
    make = functools.partial(parallel_env, env_id) if make is None else functools.partial(from_callable, make)
    env = _rendering(make, arguments, env_id)
    spec = describe_known(env_id, env, pictures_of([player]))
    condition = condition_of([player])
    together = max(episodes, 2) if condition is not None and condition.needs_neighbours else 1
    made: list[_KeptOpen] = []
    playing: list[_KeptOpen] = []
    frames: list[list[Image.Image]] = []  # [episode][step]

    def another() -> _KeptOpen:
        made.append(_KeptOpen(make(**arguments) if made else env))
        return made[-1]

    def look(t: int, observations: Observations) -> Observations:
        if t == 0:
            frames.extend([] for _ in range(together))
            playing[:] = made[-together:]  # also where they are made anew for every episode
        for pictures, member in zip(frames[-together:], playing, strict=True):
            pictures.append(_picture(member.render(), spec.id, size))
        return observations

    played = play(
        env_id, player, max(episodes, together), seed, make=another, batch=together, intervene=look, record=True,
        spec=spec, max_steps=LONGEST,
    )  # fmt: skip
    assert played.actions is not None
    finished = []
    for i, (seen, steps) in enumerate(zip(frames[:episodes], played.lengths, strict=False)):
        pictures = seen[:steps]  # others in lockstep may go on
        for t, picture in enumerate(pictures):
            finished.append(_with_strip(picture, spec, played.actions[: t + 1, i], len(pictures), i))
        finished += finished[-1:] * PAUSE
    return finished


def _rendering(make: Callable[..., Any], arguments: dict[str, Any], env_id: str) -> Any:
    """The environment, asked for pictures."""
    try:
        return make(**arguments)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, TypeError) and "render_mode" in str(cause):
            raise UserError(
                f"{env_id} takes no argument render_mode; give its function a parameter render_mode=None, hand it on "
                f'to the environment, and let env.render() return an array [height, width, 3] where it is "rgb_array".'
            ) from error
        raise


def write_gif(frames: Sequence[np.ndarray], path: Path | str, fps: float = 8.0) -> None:
    """Write frames as an animated GIF that starts over at its end.

    All frames share one palette: choosing 255 colours for each of them takes seconds, and lets colours flicker.

    Args:
        frames: uint8 [height, width, 3], all of one size.
        path: the file.
        fps: frames a second.

    Raises:
        UserError: the file cannot be written.
    """
    from PIL import Image

    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(SAMPLED, len(frames))).astype(int)]
    palette = Image.fromarray(np.concatenate(chosen)).quantize(255)
    first, *rest = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    try:
        first.save(
            path, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, optimize=False
        )
    except OSError as error:
        raise UserError(f"cannot write the GIF {path}: {error.strerror or error}. Give another file.") from error


# ------------------------------------------------------------------ one frame
def _picture(rendered: Any, env_id: str, size: int) -> Image.Image:
    """What `render` gave, scaled to `size` pixels of width."""
    array = np.asarray(rendered) if rendered is not None else np.zeros(0)
    if array.ndim != 3 or array.shape[-1] not in (3, 4):
        raise UserError(
            f"{env_id} rendered {type(rendered).__name__}, so there is no GIF of it; expected "
            f'render_mode="rgb_array" to give an array [height, width, 3].'
        )
    from PIL import Image

    picture = Image.fromarray(array[..., :3].astype(np.uint8))
    height = max(1, round(size * picture.height / picture.width))
    return picture.resize((size, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def _with_strip(picture: Image.Image, spec: EnvSpec, actions: np.ndarray, steps: int, episode: int) -> np.ndarray:
    """The picture, and below it what every sender said so far, one cell a step; actions int [t + 1, N, H]."""
    heads = sorted({(route.sender, route.head) for route in spec.routes})
    if not heads:
        return np.asarray(picture)
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (picture.width, picture.height + ROW * (len(heads) + 1) + MARGIN), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    top = picture.height + MARGIN
    now = len(actions) - 1
    draw.text((MARGIN, top), f"episode {episode + 1}, step {now + 1} of {steps}: messages", fill="black", font=font)
    left = MARGIN + min(LABEL, picture.width // 3)
    shown = max(1, min(steps, (picture.width - MARGIN - left) // CELL))  # of a long episode the last steps
    first = max(0, now + 1 - shown)
    cell = (picture.width - MARGIN - left) / shown
    small = ImageFont.load_default(min(12.0, cell))
    for row, (sender, head) in enumerate(heads):
        y = top + ROW * (row + 1) - MARGIN // 2
        draw.text((MARGIN, y + 4), spec.agent_names[sender][:16], fill="black", font=font)
        for t in range(first, first + shown):
            x = left + (t - first) * cell
            box = (x, y, x + cell - 1, y + ROW - 6)
            if t > now:
                draw.rectangle(box, outline="#dddddd")
                continue
            symbol = int(actions[t, sender, head])
            colour = PALETTE[symbol % len(PALETTE)]
            draw.rectangle(box, fill=colour, outline="black" if t == now else None)
            if cell >= 8:
                letter = SYMBOLS[symbol % len(SYMBOLS)]
                ink = "white" if colour in DARK else "black"
                draw.text((x + cell / 2, y + (ROW - 6) / 2), letter, fill=ink, font=small, anchor="mm")
    return np.asarray(canvas)
