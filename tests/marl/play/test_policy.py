"""Policy: it plays what was trained on with the environment's own values, and refuses what is none of them by name."""

from __future__ import annotations

import numpy as np
import pytest
import strange_envs
import torch
from whole_runs import ENVS, begun, config, resumed

import envs
from envs.check.verdict import check
from envs.mpe import catalogue
from envs.pettingzoo.env import PettingZooEnv
from envs.streams import Stream
from marl import Policy, train
from marl.config.schema import Config, MADDPGConfig
from marl.errors import UserError
from marl.evaluate import evaluate
from marl.learner.networks.actor_critic import Actor
from marl.runs import checkpoint

PLAYED = ("Strange", "Cells", "Images", "Nested", "MaskSeen", "MaskTold", "Joint", "OneLeaves", "ComesLate", "Shuffled")
PLAYED += ("Spaced", "OneStep", "OneBuffer")
EPISODES = 6
SPEAKER = catalogue.describe("simple_speaker_listener", catalogue.parallel_env("simple_speaker_listener"))


def loud(spec, reader=None, greedy=True, **changes) -> Policy:
    """Untrained actors whose choices differ from observation to observation."""
    learner = MADDPGConfig(**{"hidden": (16, 12), **changes})
    size = Actor(spec, learner.hidden, learner.layer_norm, Stream(0, "shape", (0,)), learner.share_actors)
    draws = 0.3 * torch.randn(size.mlp.flat.shape[1:], generator=torch.Generator().manual_seed(4))
    return Policy(spec, Config(env=spec.id, maddpg=learner), draws, greedy, reader=reader)


def of(make, **changes) -> Policy:
    env = PettingZooEnv(make=make)
    return loud(env.spec, env.reader, **changes)


def looped(env, policy: Policy, seed: int) -> dict[str, float]:
    """The loop of the README; the returns of an episode."""
    observations, infos = env.reset(seed=seed)
    policy.reset(1)
    returns = dict.fromkeys(env.possible_agents, 0.0)
    while env.agents:
        observations, rewards, _, _, infos = env.step(policy(observations, infos))
        for name, reward in rewards.items():
            returns[name] += float(reward)
    return returns


@pytest.mark.parametrize("name", PLAYED)
def test_a_policy_plays_what_was_trained_on(name, tmp_path, monkeypatch):
    """Check, training, resume, evaluation and a loop of one's own agree on what the environment is."""
    monkeypatch.syspath_prepend(str(ENVS))
    make = getattr(strange_envs, name)
    assert check(make) == []
    settings = {
        "env": f"strange_envs:{name}",
        "backend": "pettingzoo",
        "maddpg.frames": 2 if name in ("Nested", "OneLeaves") else 1,
    }
    run = begun(tmp_path / "run", settings, rounds=30)
    result = resumed(run)
    assert result.evaluation is not None
    policy = Policy.load(run)
    again = evaluate(
        policy, policy.env_id, episodes=EPISODES, seed=7, spec=policy.spec, env_args=policy.env_args, batch=4
    )
    loops = [looped(make(), policy, 7 + i) for i in range(EPISODES)]
    for agent, entry in again.returns.items():
        assert entry.mean == pytest.approx(np.mean([one[agent] for one in loops])), agent


def test_games_of_turns(tmp_path):
    tictactoe = pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    from pettingzoo.utils.conversions import turn_based_aec_to_parallel

    def make(**args):
        return turn_based_aec_to_parallel(tictactoe.env())

    train(
        config(tmp_path / "run", {"maddpg.warmup_steps": 8, "total_steps": 40, "backend": "pettingzoo"}), make_env=make
    )
    policy = Policy.load(tmp_path / "run")
    env = make()
    observations, infos = env.reset(seed=0)
    moves = 0
    while env.agents:
        mover = env.unwrapped.agent_selection
        actions = policy(observations, infos)
        assert observations[mover]["action_mask"][actions[mover]] == 1
        observations, _, _, _, infos = env.step(actions)
        moves += 1
    assert moves >= 5


def test_rock_paper_scissors(tmp_path):
    rps = pytest.importorskip("pettingzoo.classic.rps_v2")
    train(
        config(tmp_path / "run", {"maddpg.warmup_steps": 8, "total_steps": 40, "backend": "pettingzoo"}),
        make_env=rps.parallel_env,
    )
    looped(rps.parallel_env(), Policy.load(tmp_path / "run"), 0)


def test_an_agent_that_rested_in_training_may_rest_in_play(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ENVS))
    train(config(tmp_path / "run", {"env": "strange_envs:Rests", "backend": "pettingzoo"}))
    looped(strange_envs.Rests(), Policy.load(tmp_path / "run"), 3)


def test_runs_of_older_versions_take_rows(tmp_path, monkeypatch):
    """They stored no spaces: any array or list of the right number of numbers is a row."""
    monkeypatch.syspath_prepend(str(ENVS))
    train(config(tmp_path / "run", {"env": "strange_envs:Images", "backend": "pettingzoo"}))
    env = strange_envs.Images()
    observations, _ = env.reset(seed=2)
    now = Policy.load(tmp_path / "run")
    load = checkpoint.load

    def without(*args, **kwargs):
        result = load(*args, **kwargs)
        assert result.manifest.pop("reader")["observations"]["left"]["kind"] == "Box"
        return result

    monkeypatch.setattr(checkpoint, "load", without)
    old = Policy.load(tmp_path / "run")
    expected = {name: action.tolist() for name, action in now(observations).items()}
    for form in (np.ravel, lambda x: x.reshape(1, -1), lambda x: x.ravel().tolist(), lambda x: x.astype(float)):
        played = old({name: form(x) for name, x in observations.items()})
        assert {name: action.tolist() for name, action in played.items()} == expected
    with pytest.raises(UserError, match=r"observation of agent 'right': must have shape \[18\], got \[17\]"):
        old({**observations, "right": np.zeros(17)})


def test_many_environments_at_once_refuse_what_is_no_observation():
    """Guard: seen passing, with nothing played for a name that is misspelt, and something for nan."""
    policy = loud(SPEAKER)
    with pytest.raises(UserError, match=r"no agent 'listner_0'. Did you mean 'listener_0'"):
        policy.act({"listner_0": np.zeros((2, 11))})
    played = policy.act({"listener_0": np.zeros((2, 11)), "somebody_else": np.zeros((2, 5))})
    assert set(played) == {"listener_0"}, "beside others"
    with pytest.raises(UserError, match=r"observation of 'listener_0' holds numbers that are not finite"):
        policy.act({"listener_0": np.array([[0.0] * 11, [0.0] * 10 + [np.nan]])})


# ------------------------------------------------------------------ masks
def test_a_mask_over_joint_actions_is_read_jointly():
    policy = of(strange_envs.Joint, greedy=False)
    seen = {"left": 0}
    for mask in strange_envs.Joint.masks:
        single = {policy(seen, {"left": {"action_mask": mask}})["left"] for _ in range(200)}
        rows = {"left": np.zeros((200, 3), np.float32)}
        batch = set(policy.act(rows, {"left": np.tile(mask, (200, 1))})["left"].tolist())
        assert single == batch == {5 + int(joint) for joint in np.flatnonzero(mask)}


def test_a_mask_that_is_no_product_is_refused_in_training_and_play():
    mask = {"left": {"action_mask": strange_envs.NoProduct.masks[0]}}
    words = "over 6 joint choices is not a product of one mask for each of the heads"
    with pytest.raises(UserError, match=rf"action_mask of agent 'left': .*{words}"):
        of(strange_envs.Joint)({"left": 0}, mask)
    with pytest.raises(envs.EnvFailure, match=words):
        PettingZooEnv(make=strange_envs.NoProduct).reset(0)
    assert any(words in text for text in check(strange_envs.NoProduct))


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("observations", "infos", "words"),
    [
        ({}, None, "got no observations"),
        (({"left": 0}, {}), None, r"must be a dict over agents, got a tuple of 2.*policy\(\*env.reset\(\)\)"),
        ({"left": 0, "rihgt": 0}, None, r"unknown agent 'rihgt'.*Did you mean 'right'"),
        ({"left": 3}, None, r"observation of agent 'left': expected an element of Discrete\(3\), got int 3"),
        ({"left": None}, None, "observation of agent 'left'"),
        ({"left": np.array([0, np.nan, 1])}, None, "observation of agent 'left': entry 1 is nan"),
        ({"left": np.array([0, 0, np.inf])}, None, "observation of agent 'left': entry 2 is inf"),
        ({"left": 0}, {"left": {"action_mask": np.ones(5, np.int8)}}, r"action_mask of agent 'left'.*\(6,\).*\(5,\)"),
        ({"left": 0}, {"left": {"action_mask": np.zeros(6, np.int8)}}, "action_mask of agent 'left': allows no action"),
        ({"left": 0}, {"left": np.ones(6, np.int8)}, "info of agent 'left': expected a dict.*got a ndarray"),
        ({"left": 0}, [{}], "infos: expected a dict over agents.*got a list"),
        (
            {"left": 0, "right": 1},
            {"left": {"action_mask": np.zeros(6, np.int8)}, "right": {"action_mask": np.ones(3, np.int8)}},
            "action_mask of agent 'left': allows no action",
        ),
    ],
)
def test_what_is_refused_by_agent_and_field(observations, infos, words):
    env = PettingZooEnv(make=strange_envs.Joint)
    from envs.pettingzoo.reader import Reader

    policy = loud(env.spec, Reader.from_dict(env.spec, env.reader.to_dict()))
    with pytest.raises(UserError, match=words):
        policy(observations, infos)


def test_batches_are_refused_by_agent_and_field():
    policy = of(strange_envs.Joint)
    with pytest.raises(UserError, match="got no observations"):
        policy.act({})
    rows = {"left": np.zeros((2, 3), np.float32)}
    with pytest.raises(UserError, match=r"action_mask of agent 'left'.*shape \(6,\), got shape \(5,\)"):
        policy.act(rows, {"left": np.ones((2, 5))})
    with pytest.raises(UserError, match="action_mask of agent 'left': allows no action"):
        policy.act(rows, {"left": np.zeros((2, 6), np.int8)})


# ------------------------------------------------------------------ the forward pass
@pytest.mark.parametrize(
    "changes",
    [{}, {"layer_norm": False}, {"share_actors": True}, {"hidden": (8,)}, {"hidden": (64, 64, 64)}],
    ids=str,
)
@pytest.mark.parametrize("name", ["simple_reference", "simple_world_comm", "simple_spread"])
def test_one_observation_gives_what_the_batch_gives(name, changes):
    """Seen failing with the scale of the layer norm left out."""
    spec = catalogue.describe(name, catalogue.parallel_env(name))
    policy = loud(spec, **changes)
    env = envs.make(name, 50)
    seen = {agent: x.numpy() for agent, x in env.split_obs(env.reset(5)).items()}
    together = policy.act(seen)
    for e in range(50):
        rows = {agent: x[e] for agent, x in seen.items()}
        assert policy(rows) == {agent: int(ids[e]) for agent, ids in together.items()}
        wide = policy._reader.rows(rows)[0]
        logits = policy._thought(policy._seen({agent: x[None] for agent, x in rows.items()}))[0][:, 0]
        present = spec.head_mask
        assert torch.allclose(
            torch.from_numpy(policy._numpy_actor(wide, None)[0])[present], logits[present], rtol=0, atol=1e-5
        )


def test_samples_are_the_same_draws():
    spec = catalogue.describe("simple_reference", catalogue.parallel_env("simple_reference"))
    one, many = loud(spec, greedy=False), loud(spec, greedy=False)
    for k in range(40):
        seen = {agent.name: np.full((1, agent.obs_size), k / 40, np.float32) for agent in spec.agents}
        single = one({name: x[0] for name, x in seen.items()})
        assert single == {name: int(ids[0]) for name, ids in many.act(seen).items()}


def test_agents_that_are_not_there_do_not_act():
    assert list(of(strange_envs.Cells)({"right": (1, 2)})) == ["right"]
