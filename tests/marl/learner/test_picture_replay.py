"""Pixels are kept as bytes, and nothing else is different."""

from __future__ import annotations

import pytest
import torch
from picture_envs import spec_of

from envs.streams import Stream
from marl.data.batch import Transitions
from marl.data.pictures import PictureReplay
from marl.data.replay import Replay

S, N, E, SIDE = 2, 2, 3, 20


def step(t: int, obs_size: int, action_size: int) -> Transitions:
    noise = Stream(t, "step", range(S))

    def seen() -> torch.Tensor:
        pixels = (noise.uniform(N, E, obs_size) * 255).round()
        pixels[..., 2 * SIDE * SIDE :] = noise.uniform(N, E, obs_size)[..., 2 * SIDE * SIDE :]  # no whole numbers
        return pixels

    ended = noise.uniform(N, E) < 0.2
    return Transitions(
        seen(), seen(), ended[:, 0], noise.uniform(N, E, action_size), noise.uniform(N, E), ended, ~ended, seen(),
        active=noise.uniform(N, E) < 0.9,
    )  # fmt: skip


@pytest.mark.parametrize("n_step", [1, 3])
def test_batches_are_those_of_the_plain_replay(n_step: int) -> None:
    """To the bit, past the end of the store, restored, and restored at another capacity."""
    spec = spec_of(N, SIDE, frames=2)

    def made(kind: type[Replay], capacity: int = 12) -> Replay:
        return kind(spec, capacity, E, Stream(0, "replay", range(S)), 0.9, n_step)

    plain, bytes_, again, smaller, plain_smaller = (
        made(Replay), made(PictureReplay), made(PictureReplay), made(PictureReplay, 6), made(Replay, 6)
    )  # fmt: skip
    for t in range(8):
        for one in (plain, bytes_):
            one.add(step(t, spec.obs_size, spec.action_size))
    again.load_state_dict(bytes_.state_dict())
    smaller.load_state_dict(bytes_.state_dict())
    plain_smaller.load_state_dict(plain.state_dict())
    for one in (bytes_, again):
        same(plain.at(torch.arange(12).expand(S, -1)), one.at(torch.arange(12).expand(S, -1)))
    same(plain_smaller.at(torch.arange(6).expand(S, -1)), smaller.at(torch.arange(6).expand(S, -1)))
    same(plain.sample(7), bytes_.sample(7))


def same(one: object, other: object) -> None:
    for name, x in vars(one).items():
        y = getattr(other, name)
        assert (x is None and y is None) or torch.equal(x, y), name


def test_a_pixel_takes_one_byte() -> None:
    spec = spec_of(N, SIDE)
    replay = PictureReplay(spec, 30, E, Stream(0, "replay", range(S)), 0.9)
    assert replay.pixels_SCD.nbytes == S * 30 * 2 * N * SIDE * SIDE
    assert replay.data_SCD.shape[2] < 20
