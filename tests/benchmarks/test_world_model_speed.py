"""The matrix products of an update, as the floor of its time counts them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.speed import world_model
from benchmarks.speed.world_model import Recorder, operations, replay


def test_recorder_notes_every_product_forward_and_backward():
    """[2, 3] by [3, 5]: the product, and of its backward one for each factor; each has 30 multiplications."""
    a, b = torch.randn(2, 3, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    with Recorder() as recorder:
        (a @ b).sum().backward()
        a + 1  # no product
    assert next(tuple(shape for shape, _ in factors) for factors in recorder.products) == ((2, 3), (3, 5))
    assert len(recorder.products) == 3 and operations(recorder.products) == 3 * 2 * 30


def test_batched_and_biased_products_count_their_factors_alone():
    with Recorder() as recorder:
        torch.baddbmm(torch.zeros(4, 2, 5), torch.randn(4, 2, 3), torch.randn(4, 3, 5))
    assert operations(recorder.products) == 2 * 4 * 2 * 3 * 5
    assert [shape for shape, _ in recorder.products[0]] == [(4, 2, 3), (4, 3, 5)]


def test_replay_runs_products_with_the_same_sizes_and_strides():
    with Recorder() as recorder:
        torch.randn(3, 2).T @ torch.randn(3, 5)
    with Recorder() as again:
        run = replay(recorder.products)
        run()
    assert recorder.products[0][0] == ((2, 3), (1, 2))
    assert again.products == 2 * recorder.products  # once to make the buffer, once into it


def test_command_writes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: None)
    words = ["--env", "simple_speaker_listener", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["world_model", *words])
    world_model.main()
    numbers, text = json.loads((tmp_path / "world_model.json").read_text()), capsys.readouterr().out
    record = numbers["tasks"]["simple_speaker_listener"]
    assert record["ratio"] > 1 and 1e9 < record["operations"] < 4e9
    assert f"| {record['count']} |" in text
    for kind in ("mlp", "rssm"):
        through = numbers["through"][f"simple_speaker_listener, {kind}"]
        assert through["ratio"] > 1 and f"| simple_speaker_listener, {kind} | {through['count']} |" in text


def test_the_update_with_the_loss_makes_the_products_of_both() -> None:
    """And the one without it none of the loss's."""
    calls, counts = world_model.through("simple_speaker_listener", "mlp"), {}
    for name, call in calls.items():
        with Recorder() as recorder:
            call()
        counts[name] = len(recorder.products)
    assert counts["with"] == counts["alone"] + counts["update"] and min(counts.values()) > 0


def test_the_page_repeats_the_record() -> None:
    record = json.loads((world_model.RESULTS / "world_model.json").read_text())
    table = world_model.table(record)
    assert table == (world_model.RESULTS / "world_model.md").read_text(encoding="utf-8")
    page = (world_model.RESULTS.parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    assert table.strip() in page
