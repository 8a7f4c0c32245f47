"""A policy with recurrent actors: what it remembers in play is what the actors remembered in training.

Guard: seen failing with the state left at the reset, with a state that `probabilities` moves on, and with the candidate
state of the numpy cell without its reset gate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from envs.batched import BatchedEnv
from envs.history import History
from envs.pettingzoo.env import PettingZooEnv
from envs.streams import Stream
from marl.config.schema import Config, MADDPGConfig
from marl.errors import UserError
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.learner.recurrent.networks import RecurrentActor
from marl.play.policy import Policy

TASKS = ("simple_adversary", "simple_world_comm", "simple_reference")


def loud(env: BatchedEnv, frames: int = 1, **changes: object) -> tuple[RecurrentMADDPG, Policy]:
    """An untrained learner whose choices differ from step to step, and its policy."""
    settings = MADDPGConfig(**{"hidden": (16, 12), "recurrent": True, "frames": frames, **changes})  # type: ignore[arg-type]
    learner = RecurrentMADDPG(env.spec, settings, 0)
    flat = learner.actor.mlp.flat
    with torch.no_grad():
        flat.copy_(torch.randn(flat.shape, generator=torch.Generator().manual_seed(6)))
    return learner, Policy(env.spec, Config(env=env.spec.id, maddpg=settings), flat[0], reader=env.reader)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_a_policy_in_play_remembers_what_training_remembers(task: str, frames: int) -> None:
    """Through two episodes, all agents of six environments; asking for probabilities changes nothing."""
    plain, history = envs.make(task, 6), History(envs.make(task, 6), frames, own_action=True)
    learner, policy = loud(history, frames)
    memory = learner.memory(6)
    policy.reset(6)
    obs, wide = plain.reset(3), history.reset(3)
    without = 0
    for t in range(2 * 25):
        if t == 25:
            policy.reset(6)
            memory.state.zero_()
        parameters, state = learner.actor.prepared(), memory.state[:, : plain.spec.num_agents]
        logits, after = learner.actor.step(wide[None].float(), state, parameters)
        state.copy_(after.detach())
        expected = logits[0].detach().masked_fill(~policy.spec.head_mask[:, None], -torch.inf)
        without += int((learner.actor(wide[None].float())[0].argmax(-1) != expected.argmax(-1)).sum())
        seen = {name: x.numpy() for name, x in plain.split_obs(obs).items()}
        shown = policy.probabilities(seen)
        actions = plain.encode_actions(policy.act(seen))
        assert torch.equal(actions, expected.argmax(-1))
        for n, agent in enumerate(plain.spec.agents):
            own = expected[n, :, : len(agent.heads)].softmax(-1)
            np.testing.assert_allclose(shown[agent.name][:, : len(agent.heads)], own, atol=1e-5)
        obs, wide = plain.step(actions).obs, history.step(actions).obs
    assert without > 100  # memory matters


@pytest.mark.parametrize("hidden", [(16, 12), (9,)])
def test_one_environment_of_ones_own(hidden: tuple[int, ...]) -> None:
    """The call for one environment, in numpy, against `act`; twice, with a reset between."""
    plain = envs.make("simple_adversary", 1)
    _, policy = loud(History(envs.make("simple_adversary", 1), 1, own_action=True), hidden=hidden)
    assert policy.remembers
    played: dict[bool, list[dict[str, int]]] = {True: [], False: []}
    for batched, choices in played.items():
        for seed in (7, 8):
            policy.reset(1)
            obs = plain.reset(seed)
            for _ in range(25):
                seen = {name: x.numpy() for name, x in plain.split_obs(obs).items()}
                if batched:
                    ids = policy.act(seen)
                else:
                    ids = {name: np.array([i]) for name, i in policy({n: x[0] for n, x in seen.items()}).items()}
                choices.append({name: int(x[0]) for name, x in ids.items()})
                obs = plain.step(plain.encode_actions(ids)).obs
    assert played[True] == played[False]
    assert len({tuple(one.items()) for one in played[True]}) > 3


@pytest.mark.parametrize("named", [True, False])
def test_agents_that_come_late_or_leave(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "helpers"))
    from toy_envs import Toy

    def made() -> PettingZooEnv:
        return PettingZooEnv(make=Toy, births={"a_0": 2}, deaths={"a_1": 4}, length=7)

    plain, history = made(), History(made(), 1, own_action=True)
    learner, policy = loud(history)
    for seed in range(4):
        memory = learner.memory(1)
        policy.reset(1)
        obs, wide = plain.reset(seed), history.reset(seed)
        for step in range(7):
            parameters, state = learner.actor.prepared(), memory.state[:, :2].clone()
            expected = learner.actor.step(wide[None].float(), state, parameters)[0][0].argmax(-1)
            memory.act(wide[None].float(), None)
            seen = {name: x.numpy() for name, x in plain.split_obs(obs).items() if named or x.any()}
            ids = policy.act(seen)
            for n, name in enumerate(plain.spec.agent_names):
                gone = name == "a_1" and step >= 4  # what it would do is sent nowhere
                assert name not in seen or gone or ids[name][0] == expected[n, 0, 0]
            arbitrary = torch.where(obs.any(-1, keepdim=True), expected, 1)
            obs, wide = plain.step(arbitrary).obs, history.step(arbitrary).obs


def test_another_number_of_environments_needs_a_reset() -> None:
    env = History(envs.make("simple_adversary", 4), 1, own_action=True)
    policy = loud(env)[1]
    seen = {name: x.numpy() for name, x in env.env.split_obs(env.env.reset(0)).items()}
    policy.act(seen)
    with pytest.raises(UserError, match=r"of 1 environments, 4 before: .* call reset\(num_envs\)"):
        policy.act({name: x[:1] for name, x in seen.items()})
    policy.reset(1)
    policy.act({name: x[:1] for name, x in seen.items()})


def test_parameters_of_actors_without_memory_are_refused() -> None:
    env = History(envs.make("simple_adversary", 1), 1, own_action=True)
    settings = MADDPGConfig(hidden=(16, 12), recurrent=True)
    size = RecurrentActor(env.spec, (16, 12), True, Stream(0, "shape", (0,))).mlp.flat.shape[1:]
    with pytest.raises(UserError, match="the policy's parameters have shape"):
        Policy(env.spec, Config(env=env.spec.id, maddpg=settings), torch.zeros(*size[:1], size[1] - 1))


def test_recurrent_actors_are_no_chain_of_layers() -> None:
    _, policy = loud(envs.make("simple_reference", 1))
    with pytest.raises(UserError, match="recurrent actors are no chain of layers"):
        policy.layers("agent_0")
