"""The arms of the benchmark with continuous moves are configurations, and its table says what was recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.learning.continuous import ARMS, RESULTS, arms_of, table, words_of
from marl.cli.parse import parse

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("env", ["simple_spread", "simple_speaker_listener"])
def test_arms_are_configurations(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = {name: parse(words_of(name, env)).config for name in arms_of(env)}
    assert {config.env for config in made.values()} == {env}
    assert all(config.env_args == {"continuous_actions": True} for config in made.values())
    assert len({str(config) for config in made.values()}) == len(made) == len(ARMS) - (env != "simple_spread")
    assert made["harl"].maddpg.updates_per_step * made["harl"].num_envs == pytest.approx(1.0)
    discrete = replace(parse(["--env", env]).config.maddpg, frames=1, n_step=1)
    assert made["ours"].maddpg == replace(discrete, logit_penalty=0.01, exploration=1.0, exploration_final=0.3)
    assert made["ours"].total_steps == (640_000 if env == "simple_spread" else parse(["--env", env]).config.total_steps)
    if env == "simple_spread":
        assert made["xuance"].total_steps == 10_000_000 and made["harl"].total_steps == made["ours"].total_steps


def test_the_table_is_ordered_by_return(tmp_path: Path) -> None:
    for name, returns in (("ours", [-9.0, -8.0]), ("harl", [-7.0, -7.5])):
        judged = {"greedy": {"iqm": sum(returns) / 2, "interval": [-9, -6], "returns": returns, "episodes": 10}}
        record = {
            "env": "simple_spread", "arm": name, "replicas": 2, "seed": 2000, "machine": "here", "steps": 640_000,
            "processor": 10.0, "judged": judged, "curve": {"return": [[-20.0, -22.0], [-9.0, -7.0]]},
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    rows = table(tmp_path).splitlines()
    assert rows[4] == "| harl | 640k | 2 | -7.25 [-9.00, -6.00] | -7.50 | -8.00 | 5 |"
    assert rows[5] == "| ours | 640k | 2 | -8.50 [-9.00, -6.00] | -9.00 | -8.00 | 5 |"
    assert (tmp_path / "table.md").read_text() == table(tmp_path)


def test_the_page_repeats_the_tables() -> None:
    page = (ROOT / "docs" / "continuous.md").read_text(encoding="utf-8")
    for env in ("simple_spread", "simple_speaker_listener"):
        written = (RESULTS / env / "table.md").read_text(encoding="utf-8")
        assert written == table(RESULTS / env) and written.partition("\n\n")[2].strip() in page
