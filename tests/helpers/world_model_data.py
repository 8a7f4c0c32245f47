"""Specs and transitions for the tests of the world model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import envs
from envs.spec import AgentSpec, EnvSpec, Head, Route
from envs.streams import Stream
from marl.data.batch import Transitions
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.sequences import FrameStore, Sequences


def two_agents() -> EnvSpec:
    """A speaker (2 entries, 3 symbols) and a listener (5 entries, of which 2 .. 4 hear; 2 x 4 choices)."""
    speaker = AgentSpec("speaker_0", 2, (Head("message", 3),))
    listener = AgentSpec("listener_0", 5, (Head("move", 2), Head("choice_1", 4)))
    return EnvSpec("toy", (speaker, listener), horizon=4, routes=(Route(0, 0, 1, 2, 3),))


def play(env: envs.BatchedEnv, steps: int, replicas: int = 1, seed: int = 0) -> Iterator[Transitions]:
    """Transitions of a random policy; the environments are dealt out to the replicas in blocks."""
    spec, stream = env.spec, Stream(seed, "play", [0])
    obs = env.reset(seed=seed)
    prev, first = torch.zeros_like(obs), torch.ones(env.num_envs, dtype=torch.bool)

    def dealt(x: Tensor, dim: int) -> Tensor:
        return x.unflatten(dim, (replicas, -1)).movedim(dim, 0)

    sizes = torch.zeros(spec.num_agents, 1, spec.num_heads)
    for n, agent in enumerate(spec.agents):
        for h, head in enumerate(agent.heads):
            sizes[n, 0, h] = head.size
    for _ in range(steps):
        action = (stream.uniform(spec.num_agents, env.num_envs, spec.num_heads)[0] * sizes).long()
        onehot = torch.nn.functional.one_hot(action, spec.head_size).float() * spec.head_mask[:, None]
        step = env.step(action)
        yield Transitions(
            dealt(obs, 1), dealt(prev, 1), dealt(first, 0), dealt(onehot.flatten(2), 1), dealt(step.reward, 1),
            dealt(step.terminated, 1), dealt(step.truncated, 1), dealt(step.final_obs, 1),
        )  # fmt: skip
        first = (step.terminated | step.truncated).all(0)
        prev = torch.where(first[:, None], 0.0, obs)
        obs = step.obs


def random_transitions(spec: EnvSpec, num_envs: int, steps: int, replicas: int = 1) -> Iterator[Transitions]:
    """Unrelated numbers with episodes of length `spec.horizon`; environment e starts e steps late."""
    g = torch.Generator().manual_seed(3)
    n, o, horizon = spec.num_agents, spec.obs_size, spec.horizon or 4
    widths = torch.tensor([agent.obs_size for agent in spec.agents])
    seen = (torch.arange(o) < widths[:, None])[:, None]
    obs = torch.rand(replicas, n, num_envs, o, generator=g) * seen
    prev = torch.zeros_like(obs)
    for t in range(steps):
        age = (t + torch.arange(num_envs)) % horizon
        first = (age == 0) | torch.full((num_envs,), t == 0)
        choice = torch.rand(replicas, n, num_envs, spec.num_heads, spec.head_size, generator=g)
        choice = choice.masked_fill(~spec.head_mask[:, None], -1.0).argmax(-1)
        action = torch.nn.functional.one_hot(choice, spec.head_size) * spec.head_mask[:, None]
        after = torch.rand(replicas, n, num_envs, o, generator=g) * seen
        reward = torch.rand(replicas, n, num_envs, generator=g)
        ended = (age == horizon - 1).expand(replicas, n, num_envs)
        none = torch.zeros_like(ended)
        yield Transitions(
            obs, torch.where(first[:, None], 0.0, prev), first.expand(replicas, num_envs), action.flatten(3).float(),
            reward, none, ended, after,
        )  # fmt: skip
        prev = obs
        fresh = torch.rand(replicas, n, num_envs, o, generator=g) * seen
        obs = torch.where(ended[..., None], fresh, after)


def episodes(env_id: str, count: int, horizon: int = 25, seed: int = 0) -> tuple[Layout, Sequences, FrameStore]:
    """`count` whole random episodes of an MPE task."""
    env = envs.make(env_id, num_envs=count)
    layout = Layout(env.spec)
    store = FrameStore((layout.full_size, layout.action_size, env.spec.num_agents), 1, count, 10**5, "cpu")
    for transitions in play(env, horizon, seed=seed):
        store.add(rows_of(layout, transitions), torch.ones(1, count, dtype=torch.bool))
    return layout, store.from_start(horizon + 1), store
