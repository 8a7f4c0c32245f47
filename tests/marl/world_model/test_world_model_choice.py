"""Kind "auto": it is the small model until that is too poor; then the better of two imagines, replica by replica."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_world_model_attach import SMALL, config_of, trained
from test_world_model_imagination import SMALL_RSSM, filled
from torch import Tensor

from envs.streams import Stream
from marl.world_model.imagination import choice
from marl.world_model.imagination.choice import AutoModel, CopyLast
from marl.world_model.imagination.gate import rollout_errors
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.small.model import ObsState

AUTO: dict[str, Any] = {**SMALL_RSSM, "kind": "auto", "updates_per_step": 0.05, "blend": True}


def model_of(built: ImaginationSource) -> AutoModel:
    model = built.training.model
    assert isinstance(model, AutoModel)
    return model


def begun(monkeypatch: pytest.MonkeyPatch, steps: int = 40) -> ImaginationSource:
    """A source whose small model is never good enough: DreamerV2's is there."""
    monkeypatch.setattr(choice, "PATIENCE", 0)
    built = filled(steps=steps, **{**AUTO, "gate": 0.0})
    assert model_of(built).dreamer is not None
    return built


def test_while_the_small_model_is_good_enough_auto_is_mlp_to_the_bit() -> None:
    wm = replace(SMALL, refresh_every=10, gate=1e9)
    results = [trained(config_of(replace(wm, kind=kind))) for kind in ("auto", "mlp")]
    (one, first), (other, second) = results
    assert torch.equal(first.actor.mlp.flat, second.actor.mlp.flat)
    assert torch.equal(one.imagined.replay.data_SCD, other.imagined.replay.data_SCD) and one.imagined.filled
    assert model_of(one).dreamer is None and not one.warnings()


@pytest.mark.parametrize(
    "steps, rollout, length, begins",
    [
        (1999, 4, 0, ""),
        (2000, 4, 2, "3 steps"),
        (2000, 4, 3, ""),
        (2000, 2, 1, "2 steps"),
        (2000, 2, 2, ""),
        (2000, 1, 0, "1 step"),
        (2000, 1, 1, ""),
    ],
)
def test_dreamers_model_is_begun_where_rollouts_stay_short(steps: int, rollout: int, length: int, begins: str) -> None:
    """No rollout is longer than `--wm.rollout`. Guard: seen failing with 1 and 2, of which all were too short."""
    model = model_of(filled(steps=1, **AUTO))
    model.config = replace(model.config, rollout=rollout)
    model._steps = steps
    model.judged(torch.tensor([9, length]))
    assert (model.dreamer is not None) == bool(begins)
    assert (f"fewer than {begins} after" in " ".join(model.warnings())) == bool(begins)


def test_it_learns_at_its_own_rate_from_all_that_is_stored_and_shares_the_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unset rates: 1/16 of the small model, 1/2 of DreamerV2's, so that every eighth update is the small one's too."""
    monkeypatch.setattr(choice, "PATIENCE", 0)
    built = filled(steps=40, **{**AUTO, "gate": 0.0, "updates_per_step": None})
    model = model_of(built)
    assert model.dreamer is not None and model.updates_per_step == 0.5
    assert model.dreamer.obs_scale is model.small.obs_scale
    done = []
    monkeypatch.setattr(model.small, "update", lambda *_: done.append("small"))
    monkeypatch.setattr(model.dreamer, "update", lambda *_: done.append("dreamer"))
    model._updates = 0
    for _ in range(16):
        model.update(None, None, None)  # type: ignore[arg-type]
    assert done == ["small", *["dreamer"] * 8] * 2


@pytest.mark.parametrize(
    "small, dreamer, copying, dreams",
    [
        ([0.01, 0.2], [0.02, 0.02], 1.0, True),  # it predicts further
        ([0.02, 0.02], [0.01, 0.2], 1.0, False),
        ([0.02, 0.03], [0.02, 0.02], 1.0, True),  # as far, with a smaller error
        ([0.02, 0.02], [0.02, 0.03], 1.0, False),
        ([0.05, 0.2], [0.05, 0.08], 0.01, False),  # copying the last observation is better than both
    ],
)
def test_the_model_that_predicts_further_imagines(
    monkeypatch: pytest.MonkeyPatch, small: list[float], dreamer: list[float], copying: float, dreams: bool
) -> None:
    model = model_of(begun(monkeypatch))
    model.config = replace(model.config, gate=0.1, rollout=2)
    errors = {type(model.small): small, type(model.dreamer): dreamer, CopyLast: [copying] * 2}
    rewards = torch.zeros(2, 2)
    monkeypatch.setattr(
        choice, "rollout_errors", lambda one, *_: (torch.tensor([errors[type(one)], [0.0, 0.0]]), rewards)
    )
    seq = filled(steps=30).training.episodes.training.windows(6, 4, Stream(0, "w", [0, 1]))
    model.calibrate(seq, Stream(0, "n", [0, 1]))
    assert model.dreams_S.tolist() == [dreams, False]
    assert model.metrics()["dreamer"].tolist() == [float(dreams), 0.0]
    assert model.noise_size == (model.dreamer.noise_size if dreams and model.dreamer else 1)
    assert (model.observe(seq, Stream(0, "n", [0, 1])).dreamer is not None) == dreams, "it costs nothing where it rests"


def test_every_replica_has_the_prediction_of_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    built = begun(monkeypatch)
    model = model_of(built)
    assert model.dreamer is not None
    model.dreams_S, model._any = torch.tensor([False, True]), True
    seq = built.training.episodes.training.windows(6, 4, Stream(0, "w", [0, 1]))
    state = model.observe(seq, Stream(0, "n", [0, 1]))
    assert state.dreamer is not None
    action, uniform = seq.action.flatten(1, 2), Stream(0, "u", [0, 1]).uniform(24, model.noise_size)
    after, both = model.step(state, action, uniform)
    _, small = model.small.step(state.small, action, uniform)
    _, dreamer = model.dreamer.step(state.dreamer, action, uniform)
    for name in ("obs", "reward", "discount", "uncertainty"):
        assert torch.equal(getattr(both, name)[0], getattr(small, name)[0])
        assert torch.equal(getattr(both, name)[1], getattr(dreamer, name)[1])
    some = torch.tensor([[0, 3], [2, 1]])
    picked = after.where(torch.tensor([True, False]), state).pick(some)
    assert picked.dreamer is not None and after.dreamer is not None
    assert torch.equal(picked.small.obs[0], state.small.obs[0][some[0]])
    assert torch.equal(picked.dreamer.h[1], after.dreamer.h[1][some[1]])


def test_copying_the_last_observation_by_hand() -> None:
    built = filled(steps=30)
    model, gate = built.training.model, built.gate
    copying = CopyLast(model.obs_scale, model.reward_scale)
    seq = built.training.episodes.training.windows(6, 4, Stream(0, "w", [0, 1]))
    layout = gate._layout
    rows: Tensor = seq.obs[..., layout.dynamic_J]
    errors, _ = rollout_errors(copying, ObsState(rows.flatten(1, 2)), seq, 1, layout, Stream(0, "n", [0, 1]))
    scaled = model.obs_scale.apply(rows.flatten(1, 2)).unflatten(1, rows.shape[1:3])
    off = (scaled[:, 1:] - scaled[:, :-1]) / scaled[:, 1:].abs().clamp(min=1.0)
    going = (seq.valid[:, :-1] & seq.follows[:, 1:]).float()
    expected = ((off.square().mean(3) * going).sum((1, 2)) / going.sum((1, 2))).sqrt()
    torch.testing.assert_close(errors[:, 0], expected)


@pytest.mark.parametrize("early", [True, False])
def test_resume_is_exact_before_and_after_it_is_begun(monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    monkeypatch.setattr(choice, "PATIENCE", 10**9 if early else 0)
    wm = replace(SMALL, kind="auto", refresh_every=10, gate=0.0 if early else 1e-9)
    built = trained(config_of(wm))[0]
    assert (model_of(built).dreamer is None) == early
    twin = trained(config_of(wm), steps=0)[0]
    twin.load_state_dict(built.state_dict())
    seq = built.training.episodes.training.windows(8, 4, Stream(0, "w", [0, 1]))
    pairs = built.training.episodes.training.windows(2, 16, Stream(0, "p", [0, 1]))
    for one in (built, twin):
        one.training.model.update(seq, Stream(0, "t", [0, 1]), pairs)
    first, second = (one.training.model.state_dict() for one in (built, twin))
    _equal(first, second)


def _equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _equal(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
