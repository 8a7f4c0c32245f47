"""Films of episodes: every step is shown, with what was said, and nothing else is disturbed."""

import itertools

import numpy as np
import pytest
from channel_players import Scripted
from PIL import Image, ImageSequence

from envs.conditions import Condition
from envs.mpe import catalogue
from marl.errors import UserError
from marl.evaluate.command import main
from marl.figures.film import film, write_gif
from marl.scripted.by_name import scripted


def test_film_shows_every_step_and_the_messages(tmp_path):
    player = scripted("simple_speaker_listener", "oracle")
    frames = film(player, "simple_speaker_listener", episodes=2, seed=3, size=200)
    assert len(frames) == 2 * (25 + 6)
    assert {frame.shape for frame in frames} == {frames[0].shape} and frames[0].shape[1] == 200
    assert frames[0].shape[0] > 200  # the strip
    assert (frames[0][:200] != frames[20][:200]).any()  # the listener moved
    strip = [frame[200:].astype(int) for frame in frames]
    coloured = [int((np.ptp(image, axis=-1) > 60).sum()) for image in strip]
    assert coloured[20] > coloured[5] > coloured[0] > 0  # one cell more a step
    write_gif(frames, tmp_path / "film.gif")
    shown = _frames(tmp_path / "film.gif")
    lost = 125 * len(frames) - sum(ms for _, ms in shown)  # equal frames in turn are one that is shown longer
    assert 0 <= lost <= 5 * len(frames), "a GIF counts hundredths of a second"
    assert all(image.shape == frames[0].shape for image, _ in shown) and len(shown) > 25
    assert np.abs(shown[0][0].astype(int) - frames[0]).mean() < 3
    assert np.abs(shown[-1][0].astype(int) - frames[-1]).mean() < 3


def _frames(path):
    """Of a GIF: uint8 [height, width, 3] and milliseconds of each."""
    with Image.open(path) as gif:
        return [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]


def test_filming_leaves_other_environments_able_to_render():
    """Closing one mpe2 environment ends pygame for all."""
    env = catalogue.parallel_env("simple_reference", render_mode="rgb_array")  # it writes what is said
    env.reset(seed=0)
    film(scripted("simple_crypto", "oracle"), "simple_crypto", episodes=1, size=100)
    assert env.render().shape == (700, 700, 3)


class Shuffled(Scripted):
    """Hears another episode; keeps what it heard."""

    condition = Condition("shuffled")

    def reset(self, num_envs):
        self.heard = []

    def act(self, observations, masks=None):
        self.heard.append(observations["listener_0"][:, 8:11].sum(-1))
        return super().act(observations, masks)


@pytest.mark.parametrize("episodes", [1, 2, 3])
def test_shuffled_messages_are_heard_in_films(episodes):
    """Episodes of 10 and 25 steps in turn. Guard: seen failing with films of single episodes, which hear nothing."""
    lengths = itertools.cycle([10, 25])

    def make(**kwargs):
        return catalogue.parallel_env("simple_speaker_listener", max_cycles=next(lengths), **kwargs)

    player = Shuffled()
    frames = film(player, "simple_speaker_listener", episodes=episodes, seed=3, size=100, make=make)
    together, heard = max(episodes, 2), np.array(player.heard)
    assert heard.shape == (25, together)
    assert (heard[1:10] == 1).all(), "until the first of them end"
    assert len(frames) == sum([16, 31, 16][:episodes]), "six more of the last picture"
    assert (frames[15][:100] == frames[9][:100]).all() and (frames[9][:100] != frames[0][:100]).any()


def test_no_strip_without_messages_and_no_film_without_pictures():
    frames = film(scripted("simple", "coast"), "simple", episodes=1, size=100)
    assert frames[0].shape == (100, 100, 3)

    class Dark:
        def __getattr__(self, name):
            raise AttributeError(name)

    from pettingzoo.utils import BaseParallelWrapper

    class NoPictures(BaseParallelWrapper):
        def render(self):
            return None

    def make(**kwargs):
        return NoPictures(catalogue.parallel_env("simple", **kwargs))

    with pytest.raises(UserError, match="rendered NoneType"):
        film(scripted("simple", "coast"), "simple", episodes=1, make=make)


def test_gif_from_the_command_line(tmp_path):
    path = tmp_path / "film.gif"
    arguments = ["--scripted", "chase", "--env", "simple_tag", "--against", "flee", "--episodes", "1"]
    assert main([*arguments, "--gif", str(path)]) == 0
    assert len(_frames(path)) > 5
