"""Gates of the learner: environments with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_learner import OPTIONS

from envs import probes
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner import relaxation
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows


def train_probe(name: str, steps: int, **changes: object) -> tuple[MADDPG, Collector, Replay]:
    config = replace(
        MADDPGConfig(hidden=(32,), actor_lr=1e-2, critic_lr=1e-2, tau=0.05, lr_final=1.0, gamma=0.9), **changes
    )
    env = probes.make(name, num_envs=16)
    agent = MADDPG(env.spec, config, 1)
    env.reset(seed=1)
    collector = Collector(env, agent.act, 1)
    buffer = Replay(env.spec, 4096, 16, Stream(1, "replay", range(1)), config.gamma, config.n_step)
    for step in range(steps):
        buffer.add(collector.collect()[0])
        if step > 8:
            agent.update(buffer.sample(128))
    return agent, collector, buffer


@pytest.mark.parametrize("name", ["constant_value", "value_from_observation", "discounted_value", "truncated_value"])
def test_values_of_probes_are_learned(name: str) -> None:
    """Against the values that the game's rules name, for every action, not against the learner's own targets."""
    agent, collector, _ = train_probe(name, 400)
    for obs, _, values in collector.env.rules.facts(agent.config.gamma):  # type: ignore[attr-defined]
        rows = torch.tensor(obs)[None, :, None]  # [1, N, 1, O]
        for action in torch.eye(agent.spec.action_size):
            joint = joint_rows(rows, action.expand(1, agent.spec.num_agents, 1, -1))
            q = agent.critic(joint)[0, 0, :, 0].detach()
            torch.testing.assert_close(q, torch.tensor(values), atol=0.1, rtol=0)


def reached(name: str, steps: int = 900, **options: object) -> float:
    """Share of the way from chance to the optimum that the greedy policy makes."""
    agent, collector, _ = train_probe(name, steps, **options)

    def greedy(obs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return relaxation.greedy_onehot(agent.actor(obs).detach(), agent.head_mask)

    collector.act = greedy
    rules = collector.env.rules  # type: ignore[attr-defined]
    total, count = torch.zeros(collector.env.spec.num_agents), 0
    for _ in range(200):
        _, finished = collector.collect()
        if finished is not None:
            returns_SN, episodes_S = finished
            total, count = total + returns_SN[0], count + int(episodes_S[0])
    optimum = torch.as_tensor(rules.optimum, dtype=torch.float32)
    chance = torch.as_tensor(rules.chance, dtype=torch.float32)
    return float(((total / count - chance) / (optimum - chance)).mean())


GATES = [{}, {"twin_critics": True, "actor_delay": 2}, {"estimator": "gapped"}]
GENTLE = {"listening_bonus": 0.1, "logit_penalty": 0.01}  # weights that leave the reward the last word
MORE_GATES = [
    {name: GENTLE.get(name, value) for name, value in options.items()}
    for options in [*OPTIONS, {"n_step": 2}, {"share_actors": True}]
    if options not in GATES
]


@pytest.mark.parametrize(
    "options", [*GATES, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_GATES)], ids=str
)
@pytest.mark.parametrize("name", ["choose_action", "answer_observation", "matching_game"])
def test_policies_of_probes_reach_the_optimum(name: str, options: dict[str, object]) -> None:
    bonus = {"signalling_bonus": 0.3} if name == "matching_game" else {}
    assert reached(name, **{**bonus, **options}) >= 0.95


def test_what_a_later_step_pays_needs_the_central_critic() -> None:
    """The witness's observation tells the critic what the actor's choice will be worth."""
    assert reached("witness_game") >= 0.95
    assert reached("witness_game", independent_critics=True) <= 0.1
