"""What `train` tells while it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from marl import Policy, train, tuned
from marl.evaluate.results import Evaluation
from marl.runs.checkpoint import DIRECTORY

SHORT = {
    "total_steps": 96, "num_envs": 4, "device": "cpu",
    "maddpg": {"hidden": [8, 8], "batch_size": 16, "warmup_steps": 16},
    "evaluation": {"every": 32, "episodes": 4, "final_episodes": 4},
    "logging": {"progress": False, "tensorboard": False, "report": False},
}  # fmt: skip


def test_a_watch_is_told_of_every_evaluation_with_the_policies_of_then(tmp_path: Path) -> None:
    told: list[tuple[int, float, float]] = []

    def watch(step: int, evaluation: Evaluation, policies: list[Policy]) -> None:
        (policy,) = policies
        agent = policy.spec.agent_names[0]
        shown = np.linspace(-1, 1, policy.spec.agents[0].obs_size, dtype=np.float32)[None]
        told.append((step, evaluation.mean_return, float(policy.probabilities({agent: shown})[agent][0, 0, 0])))

    train(tuned("simple", run_dir=str(tmp_path / "run"), **SHORT), watch=watch)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    wanted = [(line["step"], line["evaluation/return"]) for line in lines if "evaluation/return" in line]
    assert [step for step, _, _ in told] == [0, 32, 64]
    assert [value for _, value, _ in told] == pytest.approx([value for _, value in wanted[:-1]])
    assert len({chance for _, _, chance in told}) == 3  # they had learned between


def test_what_a_watch_raises_ends_the_run(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def watch(step: int, evaluation: Evaluation, policies: list[Policy]) -> None:
        if step == 32:
            raise Enough

    config = tuned("simple", run_dir=str(tmp_path / "run"), **SHORT)
    with pytest.raises(Enough):
        train(config, watch=watch)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 32
    assert not list((tmp_path / "run").glob(f"{DIRECTORY}/step*"))
