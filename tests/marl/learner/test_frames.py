"""Actors that see several observations: what they learn with them, and that a policy in play sees what training saw."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import envs
from envs.history import History
from envs.pettingzoo.env import PettingZooEnv
from envs.probes.env import Probe
from envs.probes.rules import Rules
from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl.config.schema import Config, MADDPGConfig
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import Actor
from marl.play.policy import Policy

TASKS = ("simple_adversary", "simple_world_comm", "simple_reference")


def loud_policy(env: History, greedy: bool = True) -> Policy:
    """Untrained actors whose choices differ from observation to observation."""
    config = Config(env=env.spec.id, maddpg=MADDPGConfig(hidden=(16,), frames=env.spec.frames))
    size = Actor(env.spec, (16,), True, Stream(0, "shape", (0,))).mlp.flat.shape[1:]
    return Policy(env.spec, config, torch.randn(size, generator=torch.Generator().manual_seed(4)), greedy)


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_policy_in_play_sees_what_training_sees(task: str, frames: int) -> None:
    """Through two episodes; seen failing with the first frame, the newest action or the reset left out."""
    plain, history = envs.make(task, 6), History(envs.make(task, 6), frames)
    policy = loud_policy(history)
    policy.reset(6)
    obs, wide = plain.reset(3), history.reset(3)
    chosen = []
    for t in range(2 * 25):
        if t == 25:
            policy.reset(6)
        logits = policy._actor(wide[None].float())[0].detach()
        expected = logits.masked_fill(~policy.spec.head_mask[:, None], -torch.inf)
        seen = {name: x.numpy() for name, x in plain.split_obs(obs).items()}
        shown = policy.probabilities(seen)
        ids = policy.act(seen)
        actions = plain.encode_actions(ids)
        assert torch.equal(actions, expected.argmax(-1))
        for n, agent in enumerate(plain.spec.agents):
            for h in range(len(agent.heads)):
                assert np.array_equal(shown[agent.name][:, h].argmax(-1), actions[n, :, h].numpy())
        obs, wide = plain.step(actions).obs, history.step(actions).obs
        chosen.append(actions)
    assert len(torch.stack(chosen).flatten(0, 2).unique(dim=0)) > 3


def test_one_environment_of_ones_own() -> None:
    env = History(envs.make("simple_adversary", 1), 2)
    policy = loud_policy(env)
    plain = envs.make("simple_adversary", 1)
    batched, single = [], []
    for choices in (batched, single):
        policy.reset(1)
        obs = plain.reset(7)
        for _ in range(10):
            seen = {name: x.numpy() for name, x in plain.split_obs(obs).items()}
            if choices is batched:
                ids = policy.act(seen)
            else:
                ids = {name: np.array([i]) for name, i in policy({n: x[0] for n, x in seen.items()}).items()}
            choices.append({name: int(x[0]) for name, x in ids.items()})
            obs = plain.step(plain.encode_actions(ids)).obs
    assert batched == single


@pytest.mark.parametrize("named", [True, False])
def test_agents_that_come_late_or_leave(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an absent agent's name is missing or zeros stand for it: the policy sees what training sees."""

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "helpers"))
    from toy_envs import Toy

    def made() -> PettingZooEnv:
        return PettingZooEnv(make=Toy, births={"a_0": 2}, deaths={"a_1": 4}, length=7)

    plain, history = made(), History(made(), 3)
    for seed in range(4):
        policy = loud_policy(history)
        policy.reset(1)
        obs, wide = plain.reset(seed), history.reset(seed)
        for _ in range(7):
            expected = policy._actor(wide[None].float())[0].argmax(-1)
            seen = {name: x.numpy() for name, x in plain.split_obs(obs).items() if named or x.any()}
            ids = policy.act(seen)
            for n, name in enumerate(plain.spec.agent_names):
                assert name not in seen or ids[name][0] == expected[n, 0, 0]
            arbitrary = torch.where(obs.any(-1, keepdim=True), expected, 1)
            obs, wide = plain.step(arbitrary).obs, history.step(arbitrary).obs


def test_another_number_of_environments_needs_a_reset() -> None:
    env = History(envs.make("simple_adversary", 4), 2)
    policy = loud_policy(env)
    seen = {name: x.numpy() for name, x in env.env.split_obs(env.env.reset(0)).items()}
    policy.act(seen)
    with pytest.raises(UserError, match=r"of 1 environments, 4 before: .* call reset\(num_envs\)"):
        policy.act({name: x[:1] for name, x in seen.items()})
    policy.reset(1)
    policy.act({name: x[:1] for name, x in seen.items()})


# ------------------------------------------------------------------ what memory is for
def remembering() -> Probe:
    """Two steps: a sign of three in the first, which the choice in the second, where nothing is seen, must name."""
    spec = EnvSpec("remembering", (AgentSpec("agent_0", 3, (Head("move", 3),)),), horizon=2)
    rules = Rules(
        spec=spec,
        optimum=(1.0,),
        chance=(1 / 3,),
        highs=(3,),
        observe=lambda drawn, played: [one_hot(drawn[:, 0], 3).float() * (not played)],
        reward=lambda drawn, played: ((played[-1][:, :, 0] == drawn.T) & (len(played) == 2)).float(),
        facts=lambda gamma: [],
    )
    return Probe(rules, 16)


def varying() -> Probe:
    """Two steps, both show the same; the choice of the second must differ from that of the first, which pays for 1."""
    spec = EnvSpec("varying", (AgentSpec("agent_0", 1, (Head("move", 2),)),), horizon=2)
    rules = Rules(
        spec=spec,
        optimum=(1.1,),
        chance=(0.55,),
        highs=(1,),
        observe=lambda drawn, played: [torch.ones(len(drawn), 1)],
        reward=lambda drawn, played: (
            0.1 * played[0][:, :, 0].float() if len(played) == 1 else (played[1] != played[0])[:, :, 0].float()
        ),
        facts=lambda gamma: [],
    )
    return Probe(rules, 16)


def learned(env: Probe, frames: int) -> float:
    """Mean return of the greedy policy after some training."""
    config = MADDPGConfig(hidden=(32,), actor_lr=1e-2, critic_lr=1e-2, tau=0.05, lr_final=1.0, gamma=0.9, frames=frames)
    wide = env if frames == 1 else History(env, frames)
    learner = MADDPG(wide.spec, config, 1)
    wide.reset(seed=1)
    collector = Collector(wide, learner.act, 1)
    replay = Replay(wide.spec, 4096, 16, Stream(1, "replay", range(1)), config.gamma)
    for step in range(700):
        replay.add(collector.collect()[0])
        if step > 8:
            learner.update(replay.sample(128))
    policy = Policy(wide.spec, Config(maddpg=config), learner.actor.mlp.flat[0])
    total = 0.0
    for _ in range(20):
        obs = env.reset()
        policy.reset(16)
        for _ in range(2):
            step = env.step(env.encode_actions(policy.act({"agent_0": obs[0].numpy()})))
            total, obs = total + float(step.reward.mean()), step.obs
    return total / 20


def test_what_was_seen_before_is_learned_to_matter() -> None:
    assert learned(remembering(), 2) >= 0.97
    assert learned(remembering(), 1) <= 0.5


def test_what_one_did_before_is_learned_to_matter() -> None:
    """Both steps show the same and the first observation stands in for those before it: the action alone tells."""
    assert learned(varying(), 2) >= 1.0
    assert learned(varying(), 1) <= 0.6


def test_the_listening_bonus_mutes_messages_in_every_observation() -> None:
    """A listener that obeys the message of one step before is paid for listening, as is one that obeys the newest."""
    spec = envs.make("simple_speaker_listener").spec
    wide, route = spec.stacked(2), spec.routes[0]
    for place in (route.start, spec.agents[1].obs_size + route.start):
        learner = MADDPG(wide, MADDPGConfig(hidden=(8,), listening_bonus=1.0, frames=2), 0)
        batch = SimpleNamespace(obs=torch.zeros(1, 2, 6, wide.obs_size), mask=None, active=None)
        batch.obs[0, 1, :, place + 1] = 1.0
        learner.actor = lambda obs, place=place: one_hot(obs[..., place + 1].long(), 5)[..., None, :] * 9.0  # type: ignore
        logits = learner.actor(batch.obs)
        assert float(learner._bonuses(batch, logits)[0, 1]) > 1.0  # type: ignore[arg-type]
