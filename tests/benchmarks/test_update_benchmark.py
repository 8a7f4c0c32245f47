"""The benchmark of the update: its contenders, its table, and JAX's update against ours.

The last needs a Python with JAX, in an environment of its own: this one, or what JAX_PYTHON names.
Guard: seen failing with the sign of JAX's logit penalty turned, and with its clipping, the noise of its targets, its
relabelling, its bonus and its layer normalisation each left out (differences of 3e-3 to 7e-3; 5e-7 as it is).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import update
from benchmarks.speed.update_cases import NETWORKS, UPDATES, Case, Worker
from marl.learner.explicit.kernels import select

ROOT = Path(__file__).resolve().parents[2]
JAX = os.environ.get("JAX_PYTHON") or (sys.executable if importlib.util.find_spec("jax") else None)
OURS = ["products", *(["explicit, numba"] if select().form == "numba" else []), "explicit, torch", "autograd"]


def test_contenders_in_turn() -> None:
    results, about = update.compare("simple_speaker_listener", [1, 2], [8], rounds=2)
    assert list(results) == ["1, 8", "2, 8"]
    assert list(results["1, 8"]) == [*OURS, "eager loop"] and list(results["2, 8"]) == OURS
    for seconds in results.values():
        assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
        assert min(seconds["products"]) < min(seconds["autograd"])
    assert about["rounds"] == 2 and json.dumps(about)
    assert "| 2, 8 | autograd |" in update.table(results) and "2 rounds" in update.notes(about)


def test_each_contender_works_on_its_own_learner_and_alike() -> None:
    case = Case("simple_speaker_listener", 1, 8)
    before = case.learner.actor.mlp.flat.clone(), case.replay.stream.counter.clone()
    contenders = case.contenders()
    for calls in contenders.values():
        assert len(calls(2)) == 2
    assert torch.equal(case.learner.actor.mlp.flat, before[0]) and torch.equal(case.replay.stream.counter, before[1])


def test_products_are_those_of_an_update() -> None:
    """A 64 x 64 layer counts as 2 * 64 * 64 * B: forward, the weights' gradient, the inputs'."""
    case = Case("simple_speaker_listener", 1, 8)
    with torch.profiler.profile(with_flops=True) as profile:
        case.contenders()["products"](1)
    flops = sum(event.flops or 0 for event in profile.key_averages() if "bmm" in event.key)
    # actors: 2 targets, 1 sender, 2 with both gradients; critics: 2 targets, 2 with both, 2 for the own action
    passes = (2 + 1 + 2 * 3) + (2 + 2 * 3 + 2 * 2)
    layer = 2 * 65 * 64 * 8 * passes * UPDATES
    assert 1.0 < flops / layer < 1.6, "the narrow first and last layers are the rest"


def test_ratios_are_medians_of_rounds() -> None:
    results = {
        "1, 8": {"products": [1e-3, 2e-3, 4e-3], "JAX, scan": [2e-3, 2e-3, 2e-3]},
        "4, 8": {"products": [1e-3] * 3},
    }
    head, _, first, second, third = update.table(results).splitlines()
    assert head == "| replicas, batch | contender | ms | / products | / JAX scan |"
    assert first == "| 1, 8 | products | 2.00 | 1.00 | 1.00 |"
    assert second == "| 1, 8 | JAX, scan | 2.00 | 1.00 | 1.00 |"
    assert third == "| 4, 8 | products | 1.00 | 1.00 |  |"
    assert update.ratio(results["1, 8"], "JAX, scan", "products") == 1.0


def test_a_peer_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    Case("simple_speaker_listener", 1, 8).save(file)
    script = "update_agilerl.py"
    worker = Worker(sys.executable, script)
    with pytest.raises(SystemExit, match=rf"{script}: (ModuleNotFoundError|ImportError)"):
        worker.ask({"case": str(file)})
    with pytest.raises(SystemExit, match="a case must come first"):
        worker.contender("AgileRL")(1)
    worker.close()


def test_settings_that_jax_lacks_are_named() -> None:
    case = Case("simple_speaker_listener", 1, 8)
    assert case.why_not_jax() is None
    object.__setattr__(case.settings, "twin_critics", True)
    assert case.why_not_jax() == "maddpg.twin_critics = True"


@pytest.mark.skipif(JAX is None, reason="JAX is not installed, nor does JAX_PYTHON name a Python that has it")
def test_jax_makes_the_same_update(tmp_path: Path) -> None:
    """One update from the same parameters, moments, batch and noise; the parameters move by 5e-3 at most."""
    case, file = Case("simple_speaker_listener", 3, 64), tmp_path / "case.json"
    case.save(file)
    worker = Worker(str(JAX), "update_jax.py")
    worker.ask({"case": str(file)})
    difference = case.difference(worker, tmp_path)
    assert len(worker.contender("JAX, jit")(2)) == len(worker.contender("JAX, scan")(2)) == 2
    worker.close()
    assert difference.keys() == set(NETWORKS)
    assert max(x["largest"] for x in difference.values()) < 1e-5, difference
    assert min(x["of"] for x in difference.values()) >= 5_000 and max(x["beyond"] for x in difference.values()) == 0


def test_the_page_repeats_the_record() -> None:
    """docs/speed.md has lines of the table under benchmarks/results/update as they stand there."""
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads((ROOT / "benchmarks/results/update/simple_speaker_listener.json").read_text())
    table = update.table(record["cases"])
    assert table in (ROOT / "benchmarks/results/update/simple_speaker_listener.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| \d+, \d+ \|.*\|$", page, re.M)
    assert len(shown) >= 4 and [line for line in shown if line not in table.splitlines()] == []
