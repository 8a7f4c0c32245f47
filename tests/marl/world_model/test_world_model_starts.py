"""Starts between stored states: who may be mixed with whom, and that what is mixed is a state of the environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_world_model_imagination import CONFIG, SMALL_RSSM, filled, source
from world_model_data import play

import envs
from envs.streams import Stream
from marl.config.world_model import FEW
from marl.world_model.imagination import starts
from marl.world_model.imagination.starts import partners
from marl.world_model.small.model import ObsState


def order(rows: int, replicas: int = 1, seed: int = 0) -> torch.Tensor:
    return Stream(seed, "order", list(range(replicas))).uniform(rows).argsort(1)


def test_partners_agree_in_colours_and_kind() -> None:
    """Worked by hand: entry 0 is a colour (2 values), entry 1 is a place; row 5 is of another kind."""
    place = torch.arange(40, dtype=torch.float32) / 7.0
    colour = (torch.arange(40) % 2) * 0.65 + 0.15
    kind = torch.zeros(1, 40, dtype=torch.int64)
    kind[0, 5] = 1
    result = partners(torch.stack([colour, place], 1)[None], kind, order(40))[0]
    assert torch.equal(colour[result], colour)
    assert result[5] == 5 and 5 not in result[torch.arange(40) != 5]
    # all others of a colour meet one another, but for the last one of each
    assert int((result == torch.arange(40)).sum()) == 3


def test_rows_are_of_a_kind_where_both_flags_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """First steps of an episode meet first steps, and rows that no rollout may start from meet no others."""
    kinds: list[torch.Tensor] = []

    def watched(rows: torch.Tensor, kind_SR: torch.Tensor, order_SR: torch.Tensor) -> torch.Tensor:
        kinds.append(kind_SR)
        return partners(rows, kind_SR, order_SR)

    monkeypatch.setattr(starts, "partners", watched)
    source = filled("simple_reference", starts=200, blend=True)
    kinds.clear()
    windows = source.rollouts.starts._store.windows

    def mostly_closed(*arguments: Any) -> Any:
        seq = windows(*arguments)
        closed = torch.rand(seq.last.shape, generator=torch.Generator().manual_seed(0)) < 0.8
        return replace(seq, last=seq.last | closed)

    monkeypatch.setattr(source.rollouts.starts._store, "windows", mostly_closed)
    _, _, _, first_SR, valid_SR, *_ = source.rollouts.starts.draw()
    (kind_SR,) = kinds
    agree = (first_SR[:, :, None] == first_SR[:, None]) & (valid_SR[:, :, None] == valid_SR[:, None])
    assert torch.equal(kind_SR[:, :, None] == kind_SR[:, None], agree)
    by_flags = {(bool(f), bool(v)) for f, v in zip(first_SR.flatten(), valid_SR.flatten(), strict=True)}
    assert len(by_flags) == 4


def test_entries_of_many_values_do_not_part() -> None:
    """FEW values part the rows, one more does not."""
    for values, alone in ((FEW, True), (FEW + 1, False)):
        rows = torch.arange(values, dtype=torch.float32)[None, :, None]
        result = partners(rows, torch.zeros(1, values, dtype=torch.int64), order(values))[0]
        assert bool((result == torch.arange(values)).all()) == alone


def test_few_starts_are_not_blended() -> None:
    """All their entries are of few values. Guard: seen failing, with a metric that told of starts between states."""
    spec = envs.make("simple_reference").spec
    for count, told in ((FEW, 0.0), (FEW + 1, 1.0)):
        made = source(spec, replace(CONFIG, starts=count, blend=True))
        assert made.metrics()["world_model/blended"].tolist() == [told, told]


def test_replicas_are_apart() -> None:
    rows = torch.rand(3, 30, 4, generator=torch.Generator().manual_seed(0))
    together = partners(rows, torch.zeros(3, 30, dtype=torch.int64), order(30, 3))
    for r in range(3):
        own = slice(r, r + 1)
        alone = partners(rows[own], torch.zeros(1, 30, dtype=torch.int64), order(30, 3)[own])
        assert torch.equal(together[own], alone)


def test_blended_starts_are_states_of_the_environment() -> None:
    """In simple_reference both agents see the same three landmarks: what they say of them must agree in every start,
    and the goal's colour must be a colour."""
    source = filled("simple_reference", starts=200, blend=True)
    state, obs, _, _, valid, *_ = source.rollouts.starts.draw()
    assert isinstance(state, ObsState) and bool(valid.any())
    a, b = obs[:, 0], obs[:, 1]  # [S, R, O]: velocity 2, landmarks 3 x 2, goal's colour 3, message 10
    between = (a[..., 2:4] - b[..., 2:4])[:, :, None]
    apart = a[..., 2:8].unflatten(2, (3, 2)) - b[..., 2:8].unflatten(2, (3, 2))
    assert torch.allclose(apart, between.expand_as(apart), atol=1e-5)
    colours = obs[..., 8:11].flatten(0, 2)
    allowed = torch.eye(3) * 0.5 + 0.25
    assert bool((torch.cdist(colours, allowed).min(1).values < 1e-6).all())
    message = obs[..., 11:21]
    assert bool(((message == 0) | (message == 1)).all())


def test_a_model_that_remembers_starts_as_the_gate_says() -> None:
    """In the first replica between two observations, its state that of the one observed; in the second where an
    episode has been, with the state that all frames before it led to."""
    source = filled(steps=9, **SMALL_RSSM)
    source.gate.blended_S = torch.tensor([True, False])
    starts, layout = source.rollouts.starts, source.rollouts.layout
    observed: list[tuple[Any, Any]] = []
    observe = starts._model.observe

    def watched(seq: Any, stream: Any) -> Any:
        observed.append((seq, observe(seq, stream)))
        return observed[-1][1]

    starts._model.observe = watched  # type: ignore[method-assign]
    state, obs, *_ = starts.draw()
    (frames, alone), (windows, remembered) = observed
    assert frames.first.shape[1] == 1 and bool(frames.first.all()) and not bool(frames.action.any())
    assert torch.equal(layout.join(obs)[0], frames.obs[0, 0]) and torch.equal(state.h[0], alone.h[0])
    seen, rows = windows.obs.flatten(1, 2)[1], layout.join(obs)[1]
    for r in range(len(rows)):
        same = (seen == rows[r]).all(1).nonzero()[:, 0]
        assert any(torch.equal(state.h[1, r], remembered.h[1, at]) for at in same.tolist())
    stored = {tuple(row.tolist()) for row in windows.obs.flatten(1, 2)[0]}
    assert sum(tuple(row.tolist()) in stored for row in frames.obs[0, 0]) < len(rows) / 2
    source.gate.blended_S[:] = True
    starts.draw()
    assert len(observed) == 3, "whole windows are not read where no replica needs them"


def test_switched_off_every_start_was_seen() -> None:
    def share_seen(blend: bool) -> float:
        env = envs.make("simple_reference", num_envs=20)
        source = filled("simple_reference", blend=blend)
        stored = torch.cat([t.obs[0].transpose(0, 1).flatten(1) for t in play(env, 40, replicas=2)])
        _, obs, *_ = source.rollouts.starts.draw()
        starts = obs[0].transpose(0, 1).flatten(1)
        apart = torch.cdist(starts, stored, compute_mode="donot_use_mm_for_euclid_dist")
        return float((apart.min(1).values < 1e-5).float().mean())

    assert share_seen(False) == 1.0
    assert share_seen(True) < 0.5


def test_the_same_numbers_again() -> None:
    one, other = filled(blend=True), filled(blend=True)
    assert torch.equal(one.rollouts.starts.draw()[1], other.rollouts.starts.draw()[1])
