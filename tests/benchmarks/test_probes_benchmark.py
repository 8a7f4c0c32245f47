"""The probes change what they say and nothing else, and their table says what was recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from benchmarks.learning.probes import __main__ as command
from benchmarks.learning.probes.catalogue import GROUPS, PROBES, Probe
from benchmarks.learning.probes.company import InCompany, narrowed
from benchmarks.learning.probes.tables import page
from benchmarks.learning.probes.tasks import Change, Task
from benchmarks.learning.probes.trials import compared, play, settings, train
from benchmarks.learning.training_runs import train_arm
from envs.mpe.env import MPE
from marl import Policy
from marl.errors import UserError
from marl.play import rollout
from marl.scripted.by_name import scripted

TINY = [
    "--total-steps", "120", "--num-envs", "4", "--maddpg.warmup-steps", "24", "--maddpg.batch-size", "8",
    "--maddpg.hidden", "8", "8",
]  # fmt: skip


# ------------------------------------------------------------------------------------- changes of collect_treasure
def treasures(change: Change) -> MPE:
    """Collectors 0 and 1 overlap; 0 is .5 from the nearest treasure, 1 carries type 0; the others are far apart."""
    env = Task("collect_treasure", {}, change).environments(1, watched=True)
    world = env.world
    world.agents[:, :, 0] = torch.tensor(
        [[0.0, 0.0], [0.05, 0.0], [-5.0, 9.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0], [0.05, 1.0], [-9.0, -9.0]]
    )
    world.landmarks[:, :, 0] = torch.tensor([[0.3, 0.4], [20.0, 0], [20.0, 9], [20.0, 18], [20.0, 27], [20.0, 36]])
    world.facts["holding"][1, 0] = 1.0
    return env


def paid(env: MPE) -> torch.Tensor:
    return env.scenario.reward(env.world, env.scenario.relate(env.world))[:, 0]


def test_without_collisions_exactly_the_overlaps_are_free() -> None:
    plain, changed = paid(treasures(Change())), paid(treasures(Change({"collisions": 0.0})))
    assert plain[:2].tolist() == pytest.approx([-0.05 - 5.0, -0.1 - 5.0])
    assert (changed - plain).tolist() == pytest.approx([5.0, 5.0, 0, 0, 0, 0, 0, 0])
    as_it_is = Task("collect_treasure").environments(1)
    as_it_is.load_state_dict(
        {
            **treasures(Change()).state_dict(),
            "world": {k: v for k, v in treasures(Change()).state_dict()["world"].items() if k != "own_pay"},
        }
    )
    assert torch.equal(paid(as_it_is), plain)


def test_ten_times_the_distance_and_none() -> None:
    changed = paid(treasures(Change({"distance": 10.0})))
    assert changed[:2].tolist() == pytest.approx([-0.5 - 5.0, -1.0 - 5.0])
    assert paid(treasures(Change({"distance": 0.0}))).tolist() == pytest.approx([-5.0, -5.0, 0, 0, 0, 0, 0, 0])


def test_errands_are_the_matched_treasures() -> None:
    """Collectors 0 and 2 are nearest to the same treasure, which is matched to 0; 2 goes further."""
    env = treasures(Change({"errands": 1.0, "collisions": 0.0}))
    env.world.agents[2, :, 0] = torch.tensor([0.3, 0.0])
    env.world.landmarks[1, :, 0] = torch.tensor([0.3, 2.0])
    env.world.agents[0, :, 0] = torch.tensor([0.3, 0.3])  # .1 and 1.7 from the two; collector 2 is .4 and 2 from them
    assert paid(env)[[0, 2]].tolist() == pytest.approx([-0.01, -0.2], abs=1e-6)
    env.world.facts["alive"][1] = 0.0  # then somebody matched to it heads nowhere
    env.world.landmarks[2:, 0, 0] = 5.0
    assert float(paid(env)[[0, 2]].sum()) > -1.0


def test_only_own_pay_is_that_of_those_who_took_part() -> None:
    env = treasures(Change({"others' pay": 0.0, "distance": 0.0, "collisions": 0.0}))
    world = env.world
    world.agents[:, 0, 0] = torch.arange(8) * 3.0 - 10.0
    world.agents[:, 1, 0] = 0.0
    world.agents[1] = world.agents[6]  # carries type 0 and delivers
    world.landmarks[0], world.landmarks[1] = world.agents[0], world.agents[0]  # two for one collector, who takes one
    world.agents[3] = world.agents[2]  # both are at the same treasure: the first takes it
    world.landmarks[2] = world.agents[2]
    world.agents[4] = world.agents[7]  # picks up a treasure of type 1 where it belongs, and delivers it at once
    world.landmarks[3] = world.agents[4]
    world.facts["type"][3, :, 0] = torch.tensor([0.0, 1.0])
    env.scenario.after_move(world, torch.full((env.scenario.step_draws, 1), 0.5))
    assert paid(env).tolist() == [5.0, 5.0, 5.0, 0.0, 10.0, 0.0, 5.0, 5.0]
    assert float(world.facts["bonus"]) == 5.0 * 5  # three picked up, two delivered
    assert env.scenario.paid["others' pay"][:, 0].tolist() == [20.0, 20.0, 20.0, 25.0, 15.0, 25.0, 20.0, 20.0]


# ------------------------------------------------------------------------------------- changes of simple_world_comm
def hunt(change: Change) -> MPE:
    """The leader and adversary_0 touch agent_0, which is outside the field; all others are far away."""
    env = Task("simple_world_comm", {}, change).environments(1, watched=True)
    world = env.world
    world.agents[:, :, 0] = torch.tensor([[0.9, 0.0], [1.0, 0.1], [0.0, -0.8], [0.0, 0.8], [0.95, 0.0], [-0.6, 0.0]])
    world.landmarks[:, :, 0] = torch.tensor([[0.0, 0.0], [0.95, 0.4], [-0.6, 0.3], [5.0, 5.0], [6.0, 6.0]])
    return env


def test_terms_of_the_hunt_by_hand() -> None:
    plain = paid(hunt(Change()))
    assert plain[4:].tolist() == pytest.approx([-2 * 5.0 - 2 * 0.5 - 0.05 * 0.4, -0.05 * 0.3])
    assert plain[:2].tolist() == pytest.approx([10 - 0.1 * 0.05, 10 - 0.1 * 0.0125**0.5], abs=1e-5)
    walls = paid(hunt(Change({"walls": 0.0}))) - plain
    assert walls.tolist() == pytest.approx([0, 0, 0, 0, 1.0, 0], abs=1e-5)
    own = paid(hunt(Change({"others' pay": 0.0}))) - plain
    assert own.tolist() == pytest.approx([-5.0, -5.0, -10.0, -10.0, 0, 0])
    far = paid(hunt(Change({"distance": 0.0})))
    assert far.tolist() == pytest.approx([10.0, 10.0, 10.0, 10.0, -11.0, 0.0], abs=1e-5)


def test_the_intangible_are_not_pushed_and_touch_all_the_same() -> None:
    still = torch.zeros(6, 1, 2, dtype=torch.int64)
    pushed, intangible = hunt(Change()), hunt(Change(intangible=True))
    rewards = [env.step(still).reward[4, 0].item() for env in (pushed, intangible)]
    assert float(pushed.world.vel.abs().max()) > 0.1 and float(intangible.world.vel.abs().max()) == 0.0
    assert rewards[1] <= -10.0


def test_all_are_seen_in_forests() -> None:
    def hidden(change: Change) -> bool:
        env = hunt(change)
        env.world.landmarks[3] = env.world.agents[4]  # a forest around the prey and its hunters; adversary_1 is outside
        obs = env.split_obs(env.observe())["adversary_1"][0]
        return bool((obs[4 + 10 + 6 : 4 + 10 + 8] == 0).all())  # of its five others agent_0 is the fourth

    assert hidden(Change()) and not hidden(Change(all_seen=True))


@pytest.mark.parametrize("env", ["collect_treasure", "simple_world_comm"])
def test_terms_add_up_to_the_task_as_it_is(env: str) -> None:
    """The independent reference: the port itself, played by the package's own rollout."""
    task = Task(env)
    player = scripted(env, "best" if env == "collect_treasure" else "chase+flee", spec=task.spec)
    output = play(task, player, 6, seed=5)
    expected = rollout.play(env, player, 6, 5, backend="torch", batch=6, spec=task.spec).returns
    for n, name in enumerate(task.spec.agent_names):
        assert output.returns(task, [name]) == pytest.approx(expected[:, n], abs=1e-3)
    without = Task(env, {}, Change({"distance": 0.0}))
    assert np.abs(output.returns(without, task.spec.agent_names) - expected.mean(1)).min() > 0.1
    changed = play(without, player, 6, seed=5)  # weights change no trajectory
    assert changed.returns(task, task.spec.agent_names) == pytest.approx(expected.mean(1), abs=1e-3)


# ------------------------------------------------------------------------------------------------------------- company
def test_in_company_the_others_are_scripts_and_start_anew_with_every_episode() -> None:
    task, count = Task("simple_world_comm"), 3
    learners = ["adversary_1", "agent_0"]
    env = InCompany(task.environments(count), scripted(task.env, "surround+flee", spec=task.spec), learners)
    whole, player = task.environments(count), scripted(task.env, "surround+flee", spec=task.spec)
    obs, seen = env.reset(4), whole.reset(4)
    player.reset(count)
    kept = [task.spec.agent_names.index(name) for name in learners]
    generator = torch.Generator().manual_seed(0)
    for t in range(52):
        assert torch.equal(obs[0], seen[kept[0], :, : obs.shape[-1]]) and torch.equal(obs[1, :, :28], seen[4, :, :28])
        own = torch.randint(5, (2, count, 1), generator=generator)
        joint = whole.encode_actions(player.act({n: x.numpy() for n, x in whole.split_obs(seen).items()}))
        joint[kept, :, :1] = own
        step, expected = env.step(own), whole.step(joint)
        assert torch.equal(step.reward, expected.reward[kept]) and torch.equal(step.truncated, expected.truncated[kept])
        assert torch.equal(step.final_obs, expected.final_obs[kept][..., : obs.shape[-1]])
        if t % 25 == 24:
            player.reset(count)
        obs, seen = step.obs, expected.obs
    with pytest.raises(UserError, match="cannot be saved"):
        env.state_dict()


def test_a_narrowed_spec_has_the_routes_and_teams_among_its_agents() -> None:
    spec = Task("simple_world_comm").spec
    hunters = narrowed(spec, spec.agent_names[:4])
    assert hunters.teams == ((0, 1, 2, 3),)
    assert [(r.sender, r.receiver) for r in hunters.routes] == [(r.sender, r.receiver) for r in spec.routes]
    assert len(hunters.routes) >= 3
    followers = narrowed(spec, ["adversary_1", "agent_1"])
    assert followers.routes == () and followers.teams == ((0,), (1,))
    assert (followers.num_heads, followers.head_size, followers.obs_size) == (1, 5, 34)


# ------------------------------------------------------------------------------------------------------------ training
def test_a_plain_probe_trains_what_run_py_trains(tmp_path: Path) -> None:
    """The shipped settings, bit for bit, but for the length."""
    env = "simple_world_comm"
    probe = PROBES[env]["plain"]
    output = train(env, probe, settings(env, probe, TINY, 5, 2)).policies
    train_arm(env, [*TINY, "--evaluation.every", "0", "--logging.progress", "false"], 5, 2, tmp_path / "run")
    for replica, policy in enumerate(output):
        expected = Policy.load(tmp_path / "run", replica)
        for agent in expected.spec.agent_names:
            for mine, theirs in zip(policy.layers(agent), expected.layers(agent), strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("env", list(PROBES))
def test_every_probe_changes_something_and_can_be_played(env: str) -> None:
    made = {}
    for name, probe in PROBES[env].items():
        config = settings(env, probe, ["--maddpg.gamma", "0.5"], 0, 1)
        own = dict(zip(probe.flags[::2], probe.flags[1::2], strict=True))
        assert config.maddpg.gamma == float(own.get("--maddpg.gamma", 0.5))  # the probe's own flag wins
        task = probe.task(env)
        made[name] = (str(config), task, probe.learners)
        played = task.environments(2, watched=True)
        observations = {agent: obs.numpy() for agent, obs in played.split_obs(played.reset(0)).items()}
        for measured in probe.measured:
            group = GROUPS[env][measured]
            assert group.agents(task.spec.agent_names) and (not probe.learners or probe.learners == measured)
            for script in (*group.scripts, group.others or "random"):
                player = scripted(env, script, spec=task.spec)
                player.reset(2)
                assert set(player.act(observations)) >= set(group.agents(task.spec.agent_names)) or group.others
        assert torch.isfinite(
            played.step(torch.zeros(played.spec.num_agents, 2, played.spec.num_heads).long()).reward
        ).all()
    assert len({repr(one) for one in made.values()}) == len(made)


@pytest.mark.parametrize(
    "flags",
    [
        ["--world-model"],
        ["--channel", "none"],
        ["--opponents.kind", "pool"],
        ["--maddpg.recurrent", "true", "--maddpg.critic", "joint"],
    ],
)
def test_what_probes_cannot_train_is_refused(flags: list[str]) -> None:
    env = "simple_world_comm"
    with pytest.raises(UserError, match=f"leave {flags[0]} out"):
        settings(env, PROBES[env]["plain"], flags, 0, 1)


# ----------------------------------------------------------------------------------------------------------- the table
def test_a_share_by_hand() -> None:
    scripts = {"random": np.array([0.0, 2.0]), "flee": np.array([9.0, 13.0]), "feed": np.array([5.0, 5.0])}
    result = compared(np.array([[3.0, 4.0], [6.0, 7.0]]), scripts)
    assert result["best"] == "flee" and result["scripts"]["flee"] == [11.0, 2.0]
    assert result["learned"]["replicas"] == [3.5, 6.5] and result["learned"]["mean"] == 5.0
    assert result["share"] == 0.4
    low, high = result["learned"]["interval"]
    assert 3.0 <= low < 5.0 < high <= 7.0 and result["share_interval"] == pytest.approx(
        [(low - 1) / 10, (high - 1) / 10]
    )
    assert compared(np.ones((1, 2)), {"random": np.ones(2), "flee": np.zeros(2)})["share"] is None


def test_rows_by_hand() -> None:
    learned = {"replicas": [3.5, 6.5], "mean": 5.0, "interval": [3.0, 7.0]}
    scripts = {"flee": [11.0, 2.0], "random": [1.0, 1.0]}
    both = {"learned": learned, "scripts": scripts, "best": "flee", "share": 0.4, "share_interval": [0.2, 0.6]}
    terms = {"learned": {"walls": -1.0}, "flee": {"walls": -0.5}, "random": {"walls": -2.0}}
    record = {
        "asks": "Why?", "flags": [], "learners": "prey", "replicas": 2, "steps": 30_000, "processor": 61.2,
        "episodes": 400, "machine": "here", "rows": {"prey": {**both, "terms": terms, "in_plain": both}},
    }  # fmt: skip
    other = record | {"flags": ["--maddpg.gamma", "0.5"], "learners": "everybody"}
    other["rows"] = {"predators": {**both, "share": None, "terms": {"random": {"own": 1.0}}, "in_plain": None}}
    lines = page(
        "simple_world_comm", {"prey": record, "small": other}, {"prey": "chase+flee", "predators": ""}
    ).splitlines()
    assert (
        "| prey | prey | prey (chase+flee) | 2 x 30,000 | 5.0 [3.0, 7.0] | flee 11.0 ± 2.0 | 1.0 ± 1.0 "
        "| 0.40 [0.20, 0.60] | 5.0 | 0.40 [0.20, 0.60] | 61 |"
    ) in lines
    assert (
        "| small | everybody | predators | 2 x 30,000 | 5.0 [3.0, 7.0] | flee 11.0 ± 2.0 | 1.0 ± 1.0 |  |  |  | 61 |"
        in lines
    )
    assert "- **small**: Why? (with `--maddpg.gamma 0.5`)" in lines
    assert "| prey | prey | flee | -0.5 |  |" in lines and "| small | predators | random |  | 1.0 |" in lines


def test_the_command_writes_skips_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(*words: str) -> dict:
        options = ["--env", "collect_treasure", "--episodes", "2", "--out", str(tmp_path), *words]
        monkeypatch.setattr(sys, "argv", ["probes", *options, "--", *TINY])
        assert command.main() == 0
        path = tmp_path / "collect_treasure.json"
        return json.loads(path.read_text())["probes"] if path.exists() else {}

    assert called("--probes", "two agents", "--replicas", "1", "--tune") == {}
    assert "| two agents | everybody | all | 1 x 120 |" in capsys.readouterr().out
    first = called("--probes", "one deposit")["one deposit"]
    assert first["purpose"] == "studies" and first["rows"]["one deposit"]["in_plain"]["share"] is not None
    assert first["steps"] == 120 and first["curve"]["step"][-1] == 120
    assert called("--probes", "one deposit")["one deposit"] == first
    assert "recorded after 120 steps" in capsys.readouterr().out
    later = called("--probes", "two agents", "--replicas", "1")
    assert list(later) == ["two agents", "one deposit"]  # in the order of the catalogue
    assert later["two agents"]["rows"]["all"]["in_plain"] is None and later["one deposit"] == first
    again = called("--probes", "one deposit", "--again")["one deposit"]
    assert again["rows"] == first["rows"]  # the same seeds
    assert (tmp_path / "collect_treasure.md").read_text().count("| two agents |") == 1 + 3
    monkeypatch.setattr(sys, "argv", ["probes", "--env", "collect_treasure", "--probes", "one prey"])
    with pytest.raises(UserError, match="no probe 'one prey'"):
        command.main()


def test_spec_of_the_changed_task_is_that_of_the_task() -> None:
    for env, probes in PROBES.items():
        for probe in probes.values():
            if not probe.env_args:
                assert probe.task(env).scenario(watched=True).spec() == envs.make(env).spec


def test_probe_is_plain_by_default() -> None:
    assert Probe("", ()).task("collect_treasure") == Task("collect_treasure")
