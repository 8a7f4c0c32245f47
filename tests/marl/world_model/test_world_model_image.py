"""Pictures: grouped convolutions are separate ones, and the model learns rendered frames of mpe2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.world_model.pictures import CONTEXT, SEQUENCES, WINDOW, drawn, measure, rendered
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.dreamer.image import (
    ENTRIES,
    Convolution,
    ImageDecoder,
    ImageEncoder,
    image_model,
    picture,
    pixels,
)
from marl.world_model.sequences import Sequences


def test_replicas_are_separate_convolutions() -> None:
    x = torch.rand(5, 2 * 3, 12, 12, generator=torch.Generator().manual_seed(0))
    for transposed, convolve in ((False, F.conv2d), (True, F.conv_transpose2d)):
        layer = Convolution(3, 4, 4, Stream(0, "c", [0, 1]), transposed)
        together = layer(x)
        for s in range(2):
            weight = layer.weight.unflatten(0, (2, -1))[s]
            alone = convolve(x[:, 3 * s : 3 * s + 3], weight, layer.bias.view(2, 4)[s], stride=2)
            torch.testing.assert_close(together[:, 4 * s : 4 * s + 4], alone, rtol=1e-4, atol=1e-5)


def test_encoder_and_decoder_have_the_papers_shapes() -> None:
    stream = Stream(0, "c", [0, 1])
    encoder, decoder = ImageEncoder(4, 10, stream), ImageDecoder(7, 4, stream)
    x = torch.zeros(2, 3, ENTRIES)
    assert encoder(x).shape == (2, 3, 10) and decoder(torch.zeros(2, 3, 7)).shape == (2, 3, ENTRIES)
    sides = []
    y = x[:1].unflatten(2, (3, 64, 64)).flatten(0, 1).repeat(1, 2, 1, 1)
    for layer in encoder.layers:
        y = layer(y)
        sides.append(y.shape[-1])
    assert sides == [31, 14, 6, 2]
    full = ImageEncoder(48, 10, Stream(0, "c", [0]))
    assert [tuple(layer.weight.shape) for layer in full.layers] == [
        (48, 3, 4, 4), (96, 48, 4, 4), (192, 96, 4, 4), (384, 192, 4, 4),
    ]  # fmt: skip


def test_replicas_of_the_encoder_do_not_mix() -> None:
    encoder = ImageEncoder(4, 10, Stream(0, "c", [0, 1]))
    x = torch.rand(2, 3, ENTRIES, generator=torch.Generator().manual_seed(0))
    before = encoder(x)
    x[1] = 0.0
    after = encoder(x)
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_pixels_invert() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    row = pixels(frame)
    assert row.shape == (ENTRIES,) and float(row.min()) >= -0.5 and float(row.max()) <= 0.5
    assert np.array_equal(picture(row), frame)
    assert pixels(np.full((700, 700, 3), 255, dtype=np.uint8)).eq(0.5).all()


def test_learns_the_rendered_frames_of_mpe2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-likelihood's distance to that of perfect pictures shrinks to less than a third in 25 updates."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    spec, seq = rendered("simple_speaker_listener", 3, 4)
    config = WorldModelConfig(
        latents=6, classes=4, deter=16, hidden=16, ensemble=2, nx=1.0, nr=1.0, lr=3e-3, lr_warmup=0, beta=0.1
    )
    model = image_model(spec, config, 0.9, Stream(0, "init", [0]), depth=4)
    assert model.rewards is None, "a head of products of pixels"
    stream = Stream(0, "noise", [0])
    values = []
    for _ in range(25):
        model.update(seq, stream)
        values.append(float(model.metrics()["log_observation"]))
    model.check()
    perfect = -0.5 * ENTRIES * math.log(2 * math.pi)
    assert perfect - values[-1] < 0.3 * (perfect - values[0])
    state = model.observe(seq, stream)
    output = model.step(state, seq.action.flatten(1, 2), stream.uniform(15, 6))[1]
    assert output.obs.shape == (1, 15, ENTRIES) and picture(output.obs[0, 0]).shape == (64, 64, 3)


def test_actions_of_the_rendered_episodes_are_those_of_every_head() -> None:
    """Of simple_reference an agent's id is move + 5 * message."""
    spec, seq = rendered("simple_reference", 1, 3)
    heads = [head.size for agent in spec.agents for head in agent.heads]
    assert heads == [5, 10, 5, 10] and seq.action.shape == (1, 4, 1, 30)
    parts = seq.action[0, :, 0].split(heads, -1)
    assert all(part[0].sum() == 0 and part[1:].sum(-1).eq(1).all() for part in parts)


def test_every_window_of_an_episode_is_drawn() -> None:
    """Of 14 frames three windows of twelve. Guard: seen failing, with none that held the last frame."""
    t = torch.arange(14.0)[None, :, None, None].expand(1, -1, 3, 1)
    no = torch.zeros(1, 14, 3, dtype=torch.bool)
    seq, stream = Sequences(t, t + 1, t, t, no, no, ~no), Stream(0, "windows", [0])
    windows = [drawn(seq, stream) for _ in range(40)]
    assert {int(one.obs[0, 0, 0]) for one in windows} == {0, 1, 2}
    for one in windows:
        assert one.obs.shape == (1, WINDOW, SEQUENCES, 1)
        assert one.first[:, 0].all() and not one.first[:, 1:].any()
        assert not one.action[:, 0].any() and torch.equal(one.action[:, 1:], one.obs[:, 1:] + 1)
    assert not seq.first.any() and torch.equal(seq.action, t + 1), "the episodes stay as they are"


def test_the_command_imagines_what_follows_the_context() -> None:
    record, strips = measure("simple", 5, 2, 2, 0)
    assert len(record["error"]) == len(record["error of the last picture"]) == 25 + 1 - CONTEXT
    assert strips.shape == (4 * 64, 13 * 64, 3) and strips.dtype == np.uint8
    assert np.array_equal(strips[:64, : 2 * 64], strips[64:128, : 2 * 64]), "both rows begin with what was seen"
