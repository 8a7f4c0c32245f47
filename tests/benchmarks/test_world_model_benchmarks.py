"""What the benchmarks of the world model rest on: the simulator as a model, steps to a threshold, stored episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from world_model_data import episodes

from benchmarks.gumbel.page import ROOT
from benchmarks.sample_efficiency import RESULTS, configuration, curves, ease, greedy_returns, labels, reached, table
from benchmarks.world_model import prediction
from benchmarks.world_model.prediction import steps_of
from benchmarks.world_model.sample_tasks import EVALUATION_SEED, TASKS, arms_of
from benchmarks.world_model.simulator_model import SimulatorModel
from benchmarks.world_model.torus import Torus
from envs.streams import Stream
from marl import Policy
from marl.cli.parse import parse
from marl.config.schema import Config, MADDPGConfig
from marl.learner.maddpg import MADDPG
from marl.play.rollout import play
from marl.scripted.by_name import scripted
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import FrameStore


@pytest.mark.parametrize("env_id", ["simple_speaker_listener", "simple_reference", "simple_spread"])
def test_the_simulator_put_into_an_observation_goes_on_as_the_environment_did(env_id: str) -> None:
    layout, seq, _ = episodes(env_id, 12)
    output = open_loop(SimulatorModel(layout, 0.9, 1), seq, 5, Stream(0, "n", [0]))
    assert torch.allclose(output.obs, seq.obs[:, 6:][..., layout.dynamic_J], atol=1e-5)
    assert torch.allclose(output.reward, seq.reward[:, 6:], atol=1e-5)
    assert bool((output.discount == 0.9).all())


@pytest.mark.parametrize("gains, steps", [
    ([0.1, 0.85, 0.7, 0.8, 0.9], 4000.0),  # one good evaluation is not enough
    ([0.8, 0.8, 0.0, 0.0, 0.0], 1000.0),
    ([0.0, 0.9, 0.0, 0.0, 0.9], 5000.0),  # the last one is what the run leaves
    ([0.9, 0.0, 0.0, 0.9, 0.0], float("inf")),
])  # fmt: skip
def test_reached_at_the_first_of_two_in_a_row_or_at_the_end(gains: list[float], steps: float) -> None:
    assert reached(gains, [1000, 2000, 3000, 4000, 5000], 0.8) == steps


def test_table_and_figure_of_hand_made_runs() -> None:
    lucky = ease("simple_speaker_listener")
    returns = [[-15.37] * 5, [-8.0] * 4 + [-15.37], [-7.46] * 4 + [-15.37]]
    result = {
        "steps": [500, 1000, 1500], "returns": [[value + lucky for value in row] for row in returns],
        "updates": 7, "cpu_seconds": 10.0,
    }  # fmt: skip
    text = table("simple_speaker_listener", {"mlp": result})
    assert "| small model, 10 updates a step | 1,000 (1,000 to > 1,500) |" in text
    assert "| 1.00 (0.00 to 1.00) | 7 | 2 |" in text
    assert curves("simple_speaker_listener", {"mlp": result}).axes[0].lines


def test_ease_is_that_of_the_oracle_too() -> None:
    """Another policy meets the same luck in the same episodes: its return there less ease is its return elsewhere."""
    env_id = "simple_speaker_listener"
    oracle = scripted(env_id, "oracle")
    same = play(env_id, oracle, 200, EVALUATION_SEED, backend="torch", batch=200).returns.mean()
    assert abs(same - ease(env_id) + 7.46) < 0.1 < abs(same + 7.46)


@pytest.mark.parametrize("env_id, arm", [(env_id, arm) for env_id in TASKS for arm in arms_of(env_id)])
def test_every_arm_is_a_valid_configuration(env_id: str, arm: str) -> None:
    chosen = arms_of(env_id)[arm]
    config = configuration(env_id, chosen, 100, 5)
    assert config.world_model != chosen.label.startswith("MADDPG")
    assert config.num_replicas == 5


@pytest.mark.parametrize("env_id", ["simple_reference", "simple_spread", "simple_adversary", "simple_tag"])
def test_one_actor_for_all_is_an_arm_of_its_own(env_id: str) -> None:
    """Whatever the task's configuration ships."""
    for arm, chosen in arms_of(env_id).items():
        assert configuration(env_id, chosen, 100, 5).maddpg.share_actors == arm.endswith("_shared"), arm


def test_arms_that_share_actors_alike_began_alike() -> None:
    """Before the first update all arms of a task with the same networks play the same policies of five seeds."""
    tasks = json.loads((RESULTS / "sample_efficiency.json").read_text(encoding="utf-8"))["tasks"]
    for env_id, arms in tasks.items():
        for kind in product((True, False), repeat=2):
            networks = {name: (name.endswith("_shared"), "recurrent" in name) for name in arms}
            first = [result for name, result in arms.items() if networks[name] == kind]
            for result in first if TASKS[env_id].every <= 250 else ():
                assert np.allclose(result["returns"][0], first[0]["returns"][0], atol=1e-2), env_id


def test_rows_of_one_name_tell_their_lengths() -> None:
    small, key = "small model, loss through it", "mlp_through"
    arms = {key: {"steps": [6]}, f"{key}_shared": {"steps": [6000]}, f"{key}_long_shared": {"steps": [9]}}
    assert list(labels("simple_spread", arms).values()) == [
        f"{small}, 1 update a step",
        f"{small}, one actor for all, 1 update a step, 6,000 steps",
        f"{small}, one actor for all, 1 update a step, 9 steps",
    ]


@pytest.mark.parametrize(
    "env_id, arm",
    [
        ("simple_speaker_listener", "mlp"),
        ("simple_reference", "mlp_through_shared"),
        ("simple_spread", "mlp_through_long_shared"),
        ("simple_adversary", "rssm_through_shared"),
        ("simple_tag", "mlp_through_wide_shared"),
    ],
)
def test_settings_for_few_steps_are_those_of_the_published_row(env_id: str, arm: str) -> None:
    record = json.loads((RESULTS / "sample_efficiency.json").read_text(encoding="utf-8"))["tasks"][env_id][arm]
    words = ["--config", str(ROOT / "configs" / "few_steps" / f"{env_id}.yaml")]
    shipped = parse([*words, "--num-replicas", "5", "--seed", "100"]).config
    steps = ["--total-steps", str(shipped.total_steps)]
    assert shipped == configuration(env_id, arms_of(env_id)[arm], 100, 5, steps)
    assert abs(record["steps"][-1] - shipped.total_steps) < shipped.num_envs


def evaluated(name: str, episodes: int) -> tuple[torch.Tensor, MADDPG]:
    """Returns of two replicas with the same actors."""
    task = replace(TASKS[name], episodes=episodes)
    learner = MADDPG(task.make(1).spec, MADDPGConfig(hidden=(8,)), 0, range(2))
    learner.actor.mlp.flat.data[1] = learner.actor.mlp.flat.data[0]
    return greedy_returns(task, learner, 2), learner


@pytest.mark.parametrize("name", ["without_velocity", "torus"])
def test_replicas_are_evaluated_in_the_same_episodes(name: str) -> None:
    """The same actors earn the same; what they earn is what `Policy` does in the same episodes one by one."""
    returns, learner = evaluated(name, 3)
    assert returns[0] == returns[1]
    if name == "torus":
        policy, env = Policy(learner.spec, Config(maddpg=learner.config), learner.actor.mlp.flat[0]), Torus()
        total = 0.0
        for i in range(3):
            obs, _ = env.reset(seed=EVALUATION_SEED + i)
            policy.reset(1)
            while env.agents:
                obs, rewards, *_ = env.step(policy(obs))
                total += rewards["agent_0"]
        assert float(returns[0]) == pytest.approx(total / 3)


@pytest.mark.filterwarnings("ignore")  # of pettingzoo's own future
def test_pistonball_is_evaluated_in_the_same_episodes_for_every_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas with the same actors earn the same; a share of 100 is the whole way."""
    pytest.importorskip("pymunk")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    returns, _ = evaluated("pistonball", 2)
    assert returns[0] == returns[1] and abs(float(returns[0])) < 300
    assert TASKS["pistonball"].measure("pistonball", 75.0) == 0.75


def test_episodes_as_joint_steps_are_stored_as_they_were() -> None:
    layout, seq, _ = episodes("simple_reference", 5)
    store = FrameStore((layout.full_size, layout.action_size, 2), 1, 3, 3 * 26, "cpu")
    for step in steps_of(seq, slice(1, 4)):
        store.add(step, torch.ones(1, 3, dtype=torch.bool))
    again = store.from_start(26)
    for name, value in vars(again).items():
        assert torch.equal(value, getattr(seq, name)[:, :, 1:4]), name


def test_the_table_of_predictions_is_that_of_its_record() -> None:
    """And its figures can be drawn from the record alone."""
    numbers = json.loads((prediction.RESULTS / "prediction.json").read_text(encoding="utf-8"))
    written = (prediction.RESULTS / "prediction.md").read_text(encoding="utf-8")
    assert prediction.table(numbers) == written
    assert written.partition("\n\n")[0] in (ROOT / "docs" / "world_model.md").read_text(encoding="utf-8")
    figure = prediction.errors("simple_spread", numbers["tasks"]["simple_spread"])
    assert {line.get_label() for line in figure.axes[0].lines} >= {"mlp", "rssm", "copy last", "mean"}


def test_the_page_repeats_the_tables_of_samples() -> None:
    page = (ROOT / "docs" / "world_model.md").read_text(encoding="utf-8")
    written = (ROOT / "benchmarks" / "results" / "world_model" / "sample_efficiency.md").read_text(encoding="utf-8")
    tables = [part.split("\n", 2)[2].strip() for part in written.split("### ")[1:]]
    assert len(tables) >= 5 and [table for table in tables if table not in page] == []
