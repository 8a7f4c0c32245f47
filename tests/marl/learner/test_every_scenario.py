"""Every MPE scenario trains for 5000 steps in two sittings, is evaluated in the real environment, reports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from envs.mpe.catalogue import MPE_IDS
from marl import Config, Policy, train
from marl.config.schema import EvaluationConfig, MADDPGConfig
from marl.runs.checkpoint import locate

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("env", sorted(MPE_IDS))
def test_trains_resumes_and_is_evaluated(env: str, replicas: int, tmp_path: Path) -> None:
    config = Config(
        env=env,
        num_replicas=replicas,
        total_steps=2512,  # 157 rounds of 16 environments
        run_dir=str(tmp_path / "run"),
        maddpg=MADDPGConfig(batch_size=64, hidden=(32, 32)),
        evaluation=EvaluationConfig(every=2000, episodes=5, final_episodes=5),
    )
    first = train(config)
    assert first.step == 2512
    second = train(replace(config, total_steps=5024), resume=locate(tmp_path / "run"))
    assert second.step == 5024
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert second.evaluation is not None and written == second.evaluation.to_json()
    assert [one["replica"] for one in written["replicas"]] == list(range(replicas))
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 5024
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "run" / "episodes.gif").exists()
    policy = Policy.load(tmp_path / "run", replica=replicas - 1)
    assert policy.spec.id == env
