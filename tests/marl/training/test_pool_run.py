"""Whole runs against a pool of opponents: to the bit after a resume and without a snapshot, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_envs import Masked
from whole_runs import assert_learned, assert_same, begun, config, differences, records, resumed, state, whole

from marl import train
from marl.cli.parse import parse
from marl.config.resolve import from_dict
from marl.config.schema import Config
from marl.errors import UserError
from marl.exploit.fresh import settings as settings_of_response
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks

torch.set_num_threads(1)

POOL = {
    "env": "simple_crypto",
    "env_args": {"max_cycles": 5},
    "num_replicas": 2,
    "opponents.kind": "pool",
    "opponents.every": 20,
}
MORE = {"opponents.size": 3, "opponents.draw": "prioritised", "opponents.replicas": True, "maddpg.n_step": 3}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    settings = {**POOL, **MORE, "opponents.share": 0.75, "total_steps": 320}
    one, two = whole(tmp_path / "one", settings), begun(tmp_path / "two", settings, rounds=42)
    resumed(two)
    assert_same(one, two)
    assert_learned(one)
    saved = state(one)["collector"]["opponents"]
    assert saved["taken"] == list(range(20, 320, 20)) and saved["policies"]["actor"].shape[:2] == (2, 4)
    last = [line for line in records(one) if "opponents/episodes" in line]
    assert sum(line["opponents/episodes/replica_0"] for line in last) >= 3
    met = [name for line in last for name, value in line.items() if name.startswith("opponents/met/step_") and value]
    assert met and {name.split("/")[2] for name in met} <= {f"step_{step}" for step in saved["taken"]}


def test_without_a_snapshot_the_run_is_the_plain_one(tmp_path: Path) -> None:
    """To the last bit; so is a run of the default opponents whatever is said of a pool."""
    plain = {"env": "simple_tag", "total_steps": 120}
    pool = {"opponents.share": 1.0, "opponents.draw": "latest", "opponents.every": 10_000}
    runs = [plain, {**plain, **pool}, {**plain, **pool, "opponents.kind": "pool"}]
    one, idle, empty = [state(whole(tmp_path / str(k), run)) for k, run in enumerate(runs)]
    assert not differences(one, idle)
    assert not differences(one["learner"], empty["learner"])
    assert one["source"]["data"].shape[2] < empty["source"]["data"].shape[2], "what is frozen is stored"


def rivals() -> Masked:
    """Two masked agents, each its own team; one leaves before the other."""
    env = Masked(deaths={"a_1": 4})
    env.metadata = {**env.metadata, "teams": [["a_0"], ["a_1"]], "fixed_agents": False}
    return env


def test_masks_and_agents_that_leave_in_a_pettingzoo_environment(tmp_path: Path) -> None:
    chosen = config(
        tmp_path, {**POOL, "env_args": {}, "opponents.share": 1.0, "total_steps": 120, "backend": "pettingzoo"}
    )
    train(chosen, make_env=rivals)
    parts = state(tmp_path)
    assert parts["learner"]["updates"] > 5 and not parts["collector"]["opponents"]["learns"].all()


# ------------------------------------------------------------------ what is asked and refused
def test_the_flag() -> None:
    for flags in (["--opponents", "pool"], ["--opponents=pool"], ["--opponents.kind", "pool"]):
        assert parse(["--env", "simple_tag", *flags]).config.opponents.kind == "pool"
    idle = parse(["--env", "simple_tag", "--opponents.size", "3"]).warnings
    assert "opponents.size has no effect without --opponents pool" in " ".join(idle)
    assert Config(total_steps=1000).snapshot_every == 50 and Config(total_steps=3).snapshot_every == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_replicas": 2, "population": 2}, "opponents pool and population 2 exclude each other"),
        ({"world_model": True}, "opponents pool and world_model exclude each other"),
        ({"maddpg": {"recurrent": True}}, "opponents pool and maddpg.recurrent exclude each other"),
        ({"maddpg": {"other_actions": "current"}}, "opponents pool and maddpg.other_actions current exclude"),
        ({"distributed": "data"}, "opponents pool and distributed data exclude each other"),
        ({"channel": "rial"}, "opponents pool and channel rial exclude each other"),
    ],
)
def test_settings_that_a_pool_excludes(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_dict({"env": "simple_crypto", "opponents": {"kind": "pool"}, **settings})


def test_a_task_with_one_team_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"simple_spread_v3 has one team.*simple_tag or simple_adversary"):
        train(config(tmp_path / "run", {**POOL, "env": "simple_spread"}))


def test_pools_of_all_replicas_stay_in_one_process() -> None:
    ranks = Ranks()
    ranks.size = 2
    own = from_dict({"env": "simple_tag", "num_replicas": 2, "opponents": {"kind": "pool"}})
    assert Division.of(own, ranks).replicas == 2
    with pytest.raises(UserError, match="2 processes do not see each other's snapshots"):
        Division.of(replace(own, opponents=replace(own.opponents, replicas=True)), ranks)


def test_best_responses_train_against_the_frozen_team_alone() -> None:
    own = from_dict({"env": "simple_tag", "opponents": {"kind": "pool"}})
    chosen = settings_of_response(own, "RUN", ["agent_0"], "OUT", 0, None, True, "cpu", False)
    assert chosen.opponents == Config().opponents
