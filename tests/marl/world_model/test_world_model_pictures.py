"""A world model of pictures in a run: what it stores, standardises, imagines and shows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_envs import spec_of
from PIL import Image
from whole_runs import MODEL, assert_same, begun, config, resumed, whole

import envs
from envs.streams import Stream
from marl import train
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.report.run_page import write_report
from marl.runs import checkpoint
from marl.world_model.dreamer import pictures
from marl.world_model.dreamer.pictures import PictureFrames, PictureModel, PictureScale, refuse
from marl.world_model.evaluate import main as evaluate
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction
from marl.world_model.sequences import FrameStore, Sequences, StepRows
from marl.world_model.strips import GAP, frames, strip

SETTINGS: dict[str, Any] = {
    **MODEL,
    "env": "picture_envs:long_thirds",
    "backend": "pettingzoo",
    "wm.observation": "image",
    "total_steps": 160,
    "wm.warmup_steps": 64,
    "wm.updates_per_step": 0.0625,
    "evaluation.final_episodes": 1,
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "helpers"))
    monkeypatch.setitem(pictures.DEPTHS, "cpu", 2)


def test_a_run_imagines_pictures_and_shows_them(tmp_path: Path, tiny: None) -> None:
    """Resumed to the bit; bytes are imagined; strip, report and the command's files are there."""
    run = whole(tmp_path / "run", {**SETTINGS, "logging.report": True})
    begun(tmp_path / "part", {**SETTINGS, "logging.report": True}, rounds=31)
    resumed(tmp_path / "part")
    assert_same(run, tmp_path / "part")
    source = checkpoint.load(checkpoint.locate(run), ["source"]).parts["source"]
    assert source["imagined"]["pixels"].dtype == torch.uint8 and int(source["usable_S"]) > 0
    assert source["imagined"]["pixels"].float().std() > 1
    figure = np.asarray(Image.open(run / "figures" / "world_model_strip.png"))
    assert figure.shape[0] >= 2 * 64 + GAP
    write_report(run)
    assert "What the world model imagined" in (run / "report.html").read_text()
    assert evaluate([str(run), "--episodes", "2"]) == 0
    assert all((run / f"world_model{end}").exists() for end in (".json", ".gif", "_strip.png", "_errors.png"))


def test_frames_kept_as_bytes_are_those_of_the_plain_store() -> None:
    replicas, envs_, sizes = 2, 3, (5, 2, 2)
    stores = [kind(sizes, replicas, envs_, 12, "cpu") for kind in (FrameStore, PictureFrames)]
    noise = Stream(0, "frames", range(replicas))
    for t in range(5):
        seen = [(noise.uniform(envs_, sizes[0]) * 255).round() for _ in range(2)]
        row = StepRows(
            seen[0], noise.uniform(envs_, 2), noise.uniform(envs_, 2), torch.ones(replicas, envs_, 2), seen[1],
            torch.full((replicas, envs_), t % 3 == 0), torch.zeros(replicas, envs_, dtype=torch.bool),
        )  # fmt: skip
        for store in stores:
            store.add(row, noise.uniform(envs_) < 2 if t else torch.ones(replicas, envs_, dtype=torch.bool))
            noise.counter -= 1 if t and store is stores[0] else 0
    again = PictureFrames(sizes, replicas, envs_, 12, "cpu")
    again.load_state_dict(stores[1].state_dict())
    windows = [store.windows(3, 6, Stream(0, "draw", range(replicas))) for store in (*stores, again)]
    for other in windows[1:]:
        assert all(torch.equal(x, getattr(other, name)) for name, x in vars(windows[0]).items())
    assert stores[1].pixels_SECF.dtype == torch.uint8 and stores[1].data_SECD.shape[3] == 2 + 2 + 2 + 1 + 1


def test_one_deviation_for_all_pixels_by_hand() -> None:
    """Pixels 0 and 10, and 4 and 4: means 5 and 4, variances 25 and 0, whose mean is 12.5."""
    scale = PictureScale(1, 2, "cpu")
    scale.add(torch.tensor([[[0.0, 4.0], [10.0, 4.0]]]), torch.ones(1, 2))
    torch.testing.assert_close(scale.mean_S1X, torch.tensor([[[5.0, 4.0]]]))
    torch.testing.assert_close(scale.std_S1X, torch.full((1, 1, 2), 12.5**0.5))


def test_what_is_imagined_are_bytes_that_every_agent_sees_as_its_own(tiny: None) -> None:
    spec = spec_of(2, 64)
    layout, stream = Layout(spec), Stream(0, "model", [0])
    settings = WorldModelConfig(kind="rssm", observation="image", latents=3, classes=3, deter=8, hidden=8, layers=1)
    model = PictureModel(layout, settings, 0.9, stream)
    assert model.config.nx == 1.0 and model.rewards is None
    seen = (stream.uniform(2, 3, 64 * 64) * 255).round()  # [S, N, B, O]
    rows = layout.join(seen)
    torch.testing.assert_close(rows.view(1, 3, 2, -1).transpose(1, 2), seen)
    flags = torch.ones(1, 1, 3, dtype=torch.bool)
    blank = torch.zeros(1, 1, 3, layout.action_size), torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, 2)
    state = model.observe(Sequences(rows[:, None], *blank, flags, ~flags, flags), stream)
    model.obs_scale.mean_S1X, model.obs_scale.std_S1X = model.obs_scale.mean_S1X + 130, model.obs_scale.std_S1X * 400
    _, told = model.step(state, torch.zeros(1, 3, layout.action_size), stream.uniform(3, 3))
    assert torch.equal(told.obs, told.obs.round()) and 0 <= float(told.obs.min()) < float(told.obs.max()) <= 255
    own = layout.assemble(told.obs, torch.zeros(1, 3, layout.action_size))
    assert torch.equal(layout.join(own), told.obs)


def test_strips_show_true_pictures_above_imagined_ones() -> None:
    """Two agents side by side; observed frames stand twice; frames behind the end are not shown."""
    spec, length, context = spec_of(2, 20), 5, 1
    obs = torch.arange(length).float()[None, :, None, None].expand(1, length, 1, 800) * 10
    flags = torch.ones(1, length, 1, dtype=torch.bool)
    valid = flags.clone()
    valid[:, 4] = False
    seq = Sequences(obs, *(torch.zeros(1, length, 1, 2) for _ in range(3)), ~flags, ~flags, valid)
    told = Prediction(torch.full((1, 3, 1, 800), 200.0), *(torch.zeros(1, 3, 1, 2) for _ in range(2)), obs[..., 0])
    shown = frames(seq, told, context, spec, 0)
    assert len(shown) == 4 and shown[0].shape == (40 + GAP, 40 + GAP, 3)
    assert [int(frame[0, 0, 0]) for frame in shown] == [0, 10, 20, 30]
    assert [int(frame[-1, -1, 0]) for frame in shown] == [0, 10, 200, 200]
    assert strip([shown, shown[:2]]).shape[1] == 4 * (40 + GAP) + 3 * 2 * GAP


def test_strips_end_with_their_episode() -> None:
    """Windows of a ring of stored episodes run on into the next one. Guard: seen failing, with pictures of that one."""
    spec, length = spec_of(2, 20), 5
    flags = torch.ones(1, length, 1, dtype=torch.bool)
    first = ~flags
    first[:, [0, 3]] = True
    seq = Sequences(
        torch.zeros(1, length, 1, 800), *(torch.zeros(1, length, 1, 2) for _ in range(3)), first, first, flags
    )
    told = Prediction(torch.zeros(1, 3, 1, 800), *(torch.zeros(1, 3, 1, 2) for _ in range(2)), torch.zeros(1, 3, 1))
    assert len(frames(seq, told, 1, spec, 0)) == 3


def test_what_cannot_be_imagined_is_refused(tmp_path: Path, tiny: None) -> None:
    image = WorldModelConfig(kind="rssm", observation="image")
    with pytest.raises(UserError, match=r"expected wm\.observation vector"):
        refuse(envs.make("simple_spread").spec, image)
    with pytest.raises(UserError, match=r"expected --wm\.kind rssm --wm\.observation image"):
        refuse(spec_of(2, 64), WorldModelConfig())
    with pytest.raises(UserError, match=r"expected picture_side 64"):
        refuse(spec_of(2, 32), image)
    with pytest.raises(UserError, match=r"expected wm\.factors joint"):
        refuse(spec_of(2, 64), WorldModelConfig(kind="rssm", observation="image", factors="agent"))
    with pytest.raises(UserError, match=r"expected wm\.through_horizon 0"):
        refuse(spec_of(2, 64), WorldModelConfig(kind="rssm", observation="image", through_horizon=3))
    with pytest.raises(UserError, match=r"wm\.observation image needs wm\.kind rssm, got mlp"):
        train(config(tmp_path / "run", {**SETTINGS, "wm.kind": "mlp"}))
