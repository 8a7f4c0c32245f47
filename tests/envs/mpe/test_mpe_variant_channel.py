"""The channel of speaker_listener_variant: noise, erasure, delay, cost and silence, in the port and the ParallelEnv."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from envs.mpe import make, make_scenario
from envs.mpe.variants.parallel import VariantWorld
from envs.mpe.variants.parallel import parallel_env as by_name
from envs.mpe.variants.settings import Variant

ID = "speaker_listener_variant"


def heard_by_port(said: list[int], rows: int, **kwargs: Any) -> torch.Tensor:
    """What listener_0 hears of speaker_0 at each step: symbols [steps, rows], K for nothing."""
    env = make(ID, rows, **kwargs)
    slot = env.spec.routes[0].slot
    receiver = env.spec.routes[0].receiver
    heard = []
    for symbol in said:
        actions = torch.zeros(env.spec.num_agents, rows, env.spec.num_heads, dtype=torch.int64)
        actions[0, :, 0] = symbol
        slots = env.step(actions).final_obs[receiver, :, slot]
        assert torch.equal(slots.amax(1), slots.sum(1))  # one-hot or zeros
        heard.append(torch.where(slots.sum(1) > 0, slots.argmax(1), slots.shape[1]))
    return torch.stack(heard)


def heard_by_parallel_env(symbols: np.ndarray, **kwargs: Any) -> np.ndarray:
    world = VariantWorld(Variant(**kwargs))
    world.np_random = np.random.default_rng(0)
    return np.array([world.disturb(np.array([symbol]), world.draw())[0] for symbol in symbols])


@pytest.mark.parametrize("which", ["port", "parallel_env"])
@pytest.mark.parametrize(("noise", "erasure"), [(0.3, 0.0), (0.0, 0.25), (0.4, 0.3), (1.0, 0.0), (0.0, 1.0)])
def test_rates_of_noise_and_erasure(which: str, noise: float, erasure: float) -> None:
    """Four symbols: kept, each of the three others, lost."""
    kwargs = {"num_symbols": 4, "noise": noise, "erasure": erasure}
    if which == "port":
        heard = heard_by_port([2] * 10, 2000, **kwargs).numpy().reshape(-1)
    else:
        heard = heard_by_parallel_env(np.full(20_000, 2), **kwargs)
    expected = np.array([noise / 3, noise / 3, 1 - noise, noise / 3, 0]) * (1 - erasure)
    expected[4] = erasure
    counts = np.bincount(heard, minlength=5)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], 20_000 * expected[possible]).pvalue > 1e-4


def test_noise_is_independent_over_steps_and_rows() -> None:
    wrong = (heard_by_port([0] * 20, 2000, noise=0.5, num_symbols=2) != 0).double()
    for one, other in ((wrong[:-1], wrong[1:]), (wrong[:, :-1], wrong[:, 1:])):
        correlation = np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1]
        assert abs(correlation) < 4 / one.numel() ** 0.5


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_delay_is_exact(delay: int) -> None:
    """What is said at a step is heard `delay` steps after the observation that mpe2 would show it in; zeros before."""
    said = [0, 2, 1, 1, 0, 2, 2, 0]
    expected = [3] * delay + said[: len(said) - delay]
    assert heard_by_port(said, 2, delay=delay)[:, 0].tolist() == expected
    env = by_name(delay=delay)
    observed, _ = env.reset(seed=0)
    assert observed["listener_0"][8:].tolist() == [0, 0, 0]
    for symbol, heard in zip(said, expected, strict=True):
        observed = env.step({"speaker_0": symbol, "listener_0": 0})[0]
        assert observed["listener_0"][8:].tolist() == np.eye(4)[heard][:3].tolist()


def test_a_new_episode_hears_nothing_of_the_last() -> None:
    heard = heard_by_port([1] * 12, 2, delay=2, max_cycles=5, erasure=1e-9)[:, 0]
    assert heard.tolist() == [3, 3, 1, 1, 1] * 2 + [3, 3]


@pytest.mark.parametrize("which", ["port", "parallel_env"])
def test_messages_cost_and_silence_does_not(which: str) -> None:
    """Two speakers, messages of two symbols; 0.25 for each symbol said that is not silence (the last symbol, 3)."""
    kwargs = {"num_speakers": 2, "message_length": 2, "silence": True, "message_cost": 0.25}
    said = {(3, 3, 3, 3): 0, (0, 3, 3, 3): 1, (0, 1, 2, 3): 3, (2, 2, 1, 0): 4}
    for (a, b, c, d), priced in said.items():
        if which == "port":
            env = make(ID, 1, dtype=torch.float64, **kwargs)
            step = env.step(torch.tensor([[[a, b]], [[c, d]], [[0, 0]]]))
            distance = float((env.world.facts["target"] - env.world.pos[2]).square().sum())
            rewards = step.reward[:, 0].tolist()
        else:
            real = by_name(**kwargs)
            real.reset(seed=1)
            rewards = list(real.step({"speaker_0": a + 4 * b, "speaker_1": c + 4 * d, "listener_0": 0})[1].values())
            world = real.unwrapped.world
            goal = world.landmarks[world.goals[0]].state.p_pos
            distance = float(np.square(goal - world.listeners[0].state.p_pos).sum())
        np.testing.assert_allclose(rewards, [-distance - 0.25 * priced] * 3, rtol=0, atol=1e-12)


def test_silence_is_heard_as_its_own_symbol() -> None:
    assert heard_by_port([3, 0], 1, silence=True)[:, 0].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("kwargs", "exact"),
    [({}, True), ({"silence": True, "message_cost": 1.0, "message_length": 2}, True), ({"num_symbols": 9}, True)]
    + [({name: value}, False) for name, value in (("noise", 0.01), ("erasure", 0.01), ("delay", 1))],
)
def test_routes_are_exact_where_nothing_stands_between(kwargs: dict[str, Any], exact: bool) -> None:
    assert {route.exact for route in make_scenario(ID, **kwargs).spec().routes} == {exact}
    assert {route["exact"] for route in by_name(**kwargs).metadata["routes"]} == {exact}
