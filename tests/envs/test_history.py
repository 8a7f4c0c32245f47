"""Observations with those before them, against lists of frames kept by hand, through the ends of episodes.

Guard: seen failing with the first frames of an episode left from the one before it, with `final_obs` taken from the
episode that begins, with agents' frames in the widest one's columns, with the newest action left out, and without the
frames in `state_dict`.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot
from toy_envs import Toy

import envs
from envs import BatchedEnv, Step, UserError
from envs.history import History
from envs.pettingzoo.env import PettingZooEnv

TASKS = ("simple_adversary", "simple_spread", "simple_world_comm", "simple_line", "toy")


def made(task: str) -> BatchedEnv:
    if task == "toy":  # rows end at different times, one agent leaves before the end, the other comes late
        return PettingZooEnv(make=Toy, num_envs=4, ragged=True, deaths={"a_0": 3}, births={"a_1": 2})
    return envs.make(task, 4)


def actions(env: BatchedEnv, generator: torch.Generator) -> torch.Tensor:
    heads = [
        [torch.randint(h.size, (env.num_envs,), generator=generator) for h in agent.heads] for agent in env.spec.agents
    ]
    joint = torch.zeros(env.spec.num_agents, env.num_envs, env.spec.num_heads, dtype=torch.int64)
    for n, own in enumerate(heads):
        joint[n, :, : len(own)] = torch.stack(own, dim=-1)
    return joint


def onehots(chosen: torch.Tensor, env: BatchedEnv) -> list[torch.Tensor]:
    """Of every agent [E, choices of its own heads]."""
    return [
        torch.cat([one_hot(chosen[n, :, h], head.size) for h, head in enumerate(agent.heads)], dim=-1).float()
        for n, agent in enumerate(env.spec.agents)
    ]


def assert_stacked(wide: torch.Tensor, seen: list[torch.Tensor], done: list, env: BatchedEnv) -> None:
    """[N, E, W] holds each agent's own observations, newest first, then its actions, and zeros behind them."""
    for n, agent in enumerate(env.spec.agents):
        own = [obs[n, :, : agent.obs_size] for obs in seen] + [acted[n] for acted in done]
        width = sum(part.shape[-1] for part in own)
        assert torch.equal(wide[n, :, :width], torch.cat(own, dim=-1))
        assert not wide[n, :, width:].any()


def ended(step: Step) -> torch.Tensor:
    return (step.terminated | step.truncated).all(0) if step.done is None else step.done


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_frames_by_hand(task: str, frames: int) -> None:
    """With one frame the last action beside it, which two frames show already."""
    plain, history = made(task), History(made(task), frames, own_action=frames < 3)
    obs = plain.reset(5)
    none = [0 * acted for acted in onehots(torch.zeros(*obs.shape[:2], plain.spec.num_heads, dtype=int), plain)]
    seen, done = [obs.clone()] * frames, [none] * max(frames - 1, 1)
    assert_stacked(history.reset(5), seen, done, plain)
    generator, episodes, away = torch.Generator().manual_seed(0), 0, 0
    for _ in range(60):
        chosen = actions(plain, generator)
        one, many = plain.step(chosen), history.step(chosen)
        there = [plain.spec.fixed_agents | seen[0][n].any(-1, keepdim=True) for n in range(len(obs))]
        done = [[acted * here for acted, here in zip(onehots(chosen, plain), there, strict=True)], *done[:-1]]
        assert_stacked(many.final_obs, [one.final_obs, *seen[:-1]], done, plain)
        over = ended(one)[:, None]
        seen = [one.obs.clone(), *(torch.where(over, one.obs, before) for before in seen[:-1])]
        done = [[torch.where(over, 0.0, acted) for acted in acts] for acts in done]
        if not plain.spec.fixed_agents:  # nothing is kept of who has left
            here = seen[0].any(-1, keepdim=True)
            seen = [obs * here for obs in seen]
            done = [[acted * there for acted, there in zip(acts, here, strict=True)] for acts in done]
        assert_stacked(many.obs, seen, done, plain)
        assert torch.equal(many.reward, one.reward) and torch.equal(many.truncated, one.truncated)
        episodes += int(over.sum())
        away += sum(int((~here).sum()) for here in there if not plain.spec.fixed_agents)
    assert episodes >= 4 and (away > 20 if task == "toy" else away == 0)
    plain.close()
    history.close()


def test_two_frames_and_the_action_between_tell_the_velocity_that_the_task_hides() -> None:
    """mpe2 moves by the old velocity, so that places tell the one before; v' = .75 v + .5 in the pushed direction."""
    env = History(envs.make("simple_adversary", 8, dtype=torch.float64), 2)
    env.reset(3)
    generator = torch.Generator().manual_seed(1)
    directions = torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=torch.float64)
    for t in range(12):
        own = env.step(actions(env, generator)).obs[1]  # a good agent's: [goal from here, ...] twice, its last action
        moved = (own[:, 10:12] - own[:, 0:2]) / 0.1
        velocity = 0.75 * moved + 0.5 * own[:, 20:25] @ directions
        hidden = env.env.world.tensors()["vel"][1].T  # type: ignore[attr-defined]
        touched = (hidden - velocity).abs().amax(1) > 1e-9
        assert float(hidden.abs().max()) > 0.1 and int(touched.sum()) <= 2, t


@pytest.mark.parametrize("task", ["simple_adversary", "simple_line"])
def test_state_dict_continues_bit_for_bit(task: str) -> None:
    env = History(envs.make(task, 4), 3)
    env.reset(2)
    generator = torch.Generator().manual_seed(2)
    for _ in range(9):
        env.step(actions(env, generator))
    state = env.state_dict()
    assert state["frames"].shape[0] == 4
    after = [actions(env, generator) for _ in range(30)]
    expected = [env.step(chosen).obs for chosen in after]
    other = History(envs.make(task, 4), 3)
    other.load_state_dict(state)
    for chosen, obs in zip(after, expected, strict=True):
        assert torch.equal(other.step(chosen).obs, obs)


def test_spec_of_several_frames() -> None:
    spec = envs.make("simple_world_comm").spec
    wide = spec.stacked(3)
    leader = spec.agents[0]
    assert [head.size for head in leader.heads] == [5, 4] and wide.agents[0].obs_size == 3 * leader.obs_size + 2 * 9
    assert wide.routes == spec.routes and wide.kinds == spec.kinds and wide.frames == 3
    assert wide.single() == spec == spec.single()
    assert type(spec).from_dict(wide.to_dict()) == wide
    assert "frames: expected 1, got 3" in spec.differences(wide)

    alone = spec.stacked(1, own_action=True)
    assert alone.agents[0].obs_size == leader.obs_size + 9 and alone.single() == spec
    assert "own_action: expected False, got True" in spec.differences(alone)
    assert spec.stacked(2, own_action=True).agents == spec.stacked(2).agents


def test_one_frame_is_no_history() -> None:
    with pytest.raises(UserError, match="frames must be at least 2, got 1"):
        History(envs.make("simple"), 1)
    with pytest.raises(UserError, match="frames must be at least 1, got 0"):
        History(envs.make("simple"), 0, own_action=True)
