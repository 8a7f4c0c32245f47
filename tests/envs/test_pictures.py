"""Observations that are pictures: which are, what becomes of them, and who reads them so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from picture_envs import MaskedThirds, Thirds
from strange_envs import Images, Nested
from toy_envs import same_step

from envs.check.verdict import check
from envs.errors import UserError
from envs.pettingzoo.env import PettingZooEnv
from envs.pettingzoo.reader import Reader
from envs.pictures import Small, shrunk
from envs.spec import EnvSpec

SMALL = Small(20)


def test_shrunk_by_hand() -> None:
    """The mean of an area; grey is .299 R + .587 G + .114 B; colours lie channel by channel."""
    picture = np.zeros((2, 4, 3), np.uint8)
    picture[:, :2] = (200, 0, 0)
    picture[0, 2:] = (0, 100, 40)
    np.testing.assert_array_equal(shrunk(picture, (3, 1, 2)), [[[200, 0]], [[0, 50]], [[0, 20]]])
    grey = [[[round(0.299 * 200), round((0.587 * 100 + 0.114 * 40) / 2)]]]
    np.testing.assert_allclose(shrunk(picture, (1, 1, 2)), grey, atol=1)
    np.testing.assert_array_equal(shrunk(picture[..., :1], (1, 2, 4)), picture[None, ..., 0])


def test_which_spaces_hold_a_picture() -> None:
    def shape(*sides: int, dtype: type = np.uint8, small: Small = SMALL) -> object:
        return small.shape(spaces.Box(0, 255, sides, dtype))

    assert shape(457, 120, 3) == (1, 20, 20) == shape(20, 20, 1) == shape(20, 20, 4)
    assert shape(457, 120, 3, small=Small(32, colour=True)) == (3, 32, 32)
    assert shape(20, 20, 1, small=Small(32, colour=True)) == (1, 32, 32), "grey stays grey"
    others = [shape(19, 40, 3), shape(40, 40, 2), shape(40, 40), shape(1200), shape(40, 40, 3, dtype=np.float32)]
    assert others == [None] * 5
    beside = spaces.Dict({"camera": spaces.Box(0, 255, (40, 40, 3), np.uint8), "speed": spaces.Box(0, 1, (1,))})
    assert SMALL.shape(beside) is None and SMALL.shape(MaskedThirds().seen["left"]) == (1, 20, 20)


@pytest.mark.parametrize("make", [Thirds, MaskedThirds])
def test_rows_are_the_small_pictures(make: type[Thirds]) -> None:
    env, real = PettingZooEnv(make=make, num_envs=2, pictures=SMALL), make()
    assert env.spec.picture == (1, 20, 20) and env.spec.obs_size == 400
    assert EnvSpec.from_dict(env.spec.to_dict()) == env.spec and Small.of(env.spec) == SMALL
    obs = env.reset_to([7, 8])
    seen = real.reset(seed=8)[0]["right"]
    picture = seen if make is Thirds else seen["observation"]
    assert torch.equal(obs[1, 1], torch.tensor(shrunk(picture, (1, 20, 20))).float().flatten())
    reader = Reader.from_dict(env.spec, env.reader.to_dict())
    rows = reader.rows({"right": seen})[0]
    np.testing.assert_array_equal(rows[1], obs[1, 1].numpy())
    assert len(np.unique(rows[1])) > 10


def test_a_reader_takes_lists_and_refuses_other_shapes() -> None:
    env = PettingZooEnv(make=Thirds, pictures=SMALL)
    env.reset(0)
    reader, picture = Reader.from_dict(env.spec, env.reader.to_dict()), Thirds().reset(seed=0)[0]["left"]
    np.testing.assert_array_equal(reader.rows({"left": picture.tolist()})[0], reader.rows({"left": picture})[0])
    with pytest.raises(UserError, match=r"'left'.*shape"):
        reader.rows({"left": picture[1:]})


@pytest.mark.parametrize("value", [0.9, 300, -1, float("nan")])
def test_a_reader_refuses_numbers_that_are_no_bytes(value: float) -> None:
    """Guard: seen failing where a picture in [0, 1] was cast to black, and 300 to 44."""
    env = PettingZooEnv(make=Thirds, pictures=SMALL)
    reader = Reader.from_dict(env.spec, env.reader.to_dict())
    picture = np.full(Thirds.shape, 255.0)
    bytes_NO, _, _ = reader.rows({"left": picture, "right": picture.astype(np.int64)})
    assert (bytes_NO == 255).all(), "whole numbers of any type are bytes"
    picture[3, 4, 1] = value
    with pytest.raises(UserError, match=f"observation of agent 'left': expected bytes.*from 0 to 255, got {value:g}"):
        reader.rows({"left": picture})


def test_others_are_rows_of_numbers_as_before() -> None:
    """All agents must see pictures; without `pictures` nobody does."""

    class Half(Thirds):
        def see_space(self, name: str) -> spaces.Space:
            return super().see_space(name) if name == "left" else spaces.Discrete(3)

    for make in (Images, Nested, Half):
        assert PettingZooEnv(make=make, pictures=SMALL).spec == PettingZooEnv(make=make).spec
    assert PettingZooEnv(make=Thirds).spec.picture is None
    assert check(Thirds) == []


def test_pictures_that_never_change_are_told() -> None:
    class Dark(Thirds):
        def see(self, name: str) -> object:
            return np.zeros(self.shape, np.uint8)

    assert "render_mode=rgb_array" in PettingZooEnv(make=Dark, pictures=SMALL).still
    assert PettingZooEnv(make=Thirds, pictures=SMALL).still == "" == PettingZooEnv(make=Dark).still


def test_an_environment_of_pictures_resumes_in_mid_episode() -> None:
    env, again = (PettingZooEnv(make=Thirds, num_envs=2, pictures=SMALL) for _ in range(2))
    env.reset(3)
    actions = torch.ones(2, 2, 1, dtype=torch.int64)
    env.step(actions)
    again.load_state_dict(env.state_dict())
    for _ in range(5):
        same_step(env.step(actions), again.step(actions))


@pytest.mark.filterwarnings("ignore")  # of pettingzoo's own future
@pytest.mark.parametrize("name", ["pistonball", "pong"])
def test_examples_draw_what_their_agents_see(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a render_mode these games show nothing that changes."""
    pytest.importorskip("pymunk")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = PettingZooEnv(f"examples.pictures:{name}", pictures=Small())
    assert env.spec.picture == (1, 64, 64) and env.spec.fixed_agents and env.still == ""
    dark = PettingZooEnv(f"examples.pictures:{name}", pictures=Small(), env_args={"render_mode": None})
    assert "render_mode" in dark.still
