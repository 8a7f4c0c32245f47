"""The gate: how long rollouts may be, from which states they start, and the errors that decide it."""

from __future__ import annotations

import pytest
import torch
from test_world_model_imagination import SMALL_RSSM, filled, from_imagined, source
from torch import Tensor
from world_model_data import episodes, play

import envs
from envs.streams import Stream
from marl.world_model.imagination.gate import rollout_errors
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction
from marl.world_model.sequences import FrameStore, Normaliser, Sequences


@pytest.mark.parametrize(
    "errors, rewards, gate",
    [
        ([0.01, 0.05, 0.09, 0.2], [0.0] * 4, 3),
        ([0.01, 0.2, 0.05, 0.05], [0.0] * 4, 1),  # the longest k such that all shorter ones are good, too
        ([0.2] * 4, [0.0] * 4, 0),
        ([0.01] * 4, [0.1, 0.1, 0.5, 0.6], 2),
        ([float("inf")] * 4, [0.0] * 4, 0),  # no held-out episode yet
    ],
)
def test_gate(monkeypatch: pytest.MonkeyPatch, errors: list[float], rewards: list[float], gate: int) -> None:
    built = filled(reward_gate=0.3)
    made = torch.tensor([errors, [0.0] * 4]), torch.tensor([rewards, [0.0] * 4])
    monkeypatch.setattr("marl.world_model.imagination.gate.rollout_errors", lambda *_: made)
    built.gate.measure(built.training.model)
    assert built.gate.length_S.tolist() == [gate, 4]
    metrics = built.gate.metrics()
    for name, row in (("rmse", made[0]), ("reward_rmse", made[1])):
        assert torch.equal(metrics[f"{name}_1"], row[:, 0]) and torch.equal(metrics[f"{name}_4"], row[:, 3])
    built.imagine()
    assert built.imagined.usable_S.tolist() == [int(24 * gate * 0.8), int(24 * 4 * 0.8)]
    kept = built.imagined._order_SX[0, : int(built.imagined.usable_S[0])]
    assert bool((kept // 24 < gate).all())


@pytest.mark.parametrize(
    "remembered, alone, blended, length",
    [
        (3, 3, True, 3),  # memory predicts no better
        (2, 4, True, 4),
        (4, 3, False, 4),  # memory predicts further: it is kept
        (0, 0, False, 0),
    ],
)
def test_a_model_that_remembers_is_blended_where_its_memory_is_worth_nothing(
    monkeypatch: pytest.MonkeyPatch, remembered: int, alone: int, blended: bool, length: int
) -> None:
    built = filled(steps=9, **SMALL_RSSM)

    def errors(good: int) -> Tensor:
        return torch.tensor([[0.01] * good + [9.0] * (4 - good), [0.0] * 4])

    made = iter([(errors(remembered), torch.zeros(2, 4)), (errors(alone), torch.zeros(2, 4))])
    states = []

    def measured(model: object, state: object, *_: object) -> tuple[Tensor, Tensor]:
        states.append(state)
        return next(made)

    monkeypatch.setattr("marl.world_model.imagination.gate.rollout_errors", measured)
    built.gate._held_out = built.training.episodes.training  # after nine steps nothing is held out yet
    built.gate.measure(built.training.model)
    assert built.gate.blended_S.tolist() == [blended, True]
    assert built.gate.length_S.tolist() == [length, 4]
    assert torch.equal(built.gate.errors_SK[0], errors(alone if blended else remembered)[0])
    assert states[0].h.shape == states[1].h.shape and not torch.equal(states[0].h, states[1].h)
    assert built.gate.metrics()["blended"].tolist() == [float(blended), 1.0]


def test_a_model_without_memory_is_measured_once_and_always_blended(monkeypatch: pytest.MonkeyPatch) -> None:
    built = filled(blend=True)
    calls = []

    def measured(*_: object) -> tuple[Tensor, Tensor]:
        calls.append(None)
        return torch.zeros(2, 4), torch.zeros(2, 4)

    monkeypatch.setattr("marl.world_model.imagination.gate.rollout_errors", measured)
    built.gate.measure(built.training.model)
    assert len(calls) == 1 and built.gate.blended_S.tolist() == [True, True]


def test_a_closed_gate_leaves_a_replica_its_real_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    built, twin = filled(), filled()
    made = torch.tensor([[9.0] * 4, [0.0] * 4])
    monkeypatch.setattr("marl.world_model.imagination.gate.rollout_errors", lambda *_: (made, made))
    built.gate.measure(built.training.model)
    built.imagine()
    batch, real = built.sample(40), twin.replay.sample(40)
    assert torch.equal(batch.joint[0], real.joint[0])
    assert not from_imagined(built, batch.joint)[0].any()
    assert from_imagined(built, batch.joint)[1].tolist() == [False] * 20 + [True] * 20


def test_rollout_errors_of_an_exact_model_and_the_slow_way() -> None:
    layout, seq, _ = episodes("simple_spread", 12)
    built = source(layout.spec, replicas=1)
    for t in play(envs.make("simple_spread", num_envs=10), 50):
        built.add(t)
    model = built.training.model
    stream = Stream(0, "n", [0])
    output, rewards = rollout_errors(model, model.observe(seq, stream), seq, 3, layout, stream)
    truth = model.obs_scale.apply(seq.obs[..., layout.dynamic_J].flatten(1, 2)).unflatten(1, (26, 12))
    squares: list[list[float]] = [[], [], []]
    for t in range(26):
        state = model.observe(seq.select(slice(t, t + 1)), Stream(0, "n", [0]))
        for k in range(1, min(3, 25 - t) + 1):
            state, seen = model.step(state, seq.action[:, t + k], torch.full((1, 12, 1), 0.5))
            # of a value more than a deviation from the mean an error counts relative to it
            off = (model.obs_scale.apply(seen.obs) - truth[:, t + k]) / truth[:, t + k].abs().clamp(min=1.0)
            squares[k - 1] += off.square().mean(2).flatten().tolist()
    slow = torch.tensor([sum(x) / len(x) for x in squares]).sqrt()
    torch.testing.assert_close(output[0], slow, rtol=1e-4, atol=1e-5)
    assert output[0, 0] < output[0, 2] and rewards.shape == (1, 3)


class Clairvoyant:
    """Knows what follows in `seq`, but for some entries, in which it is off by five."""

    noise_size = 1

    def __init__(self, seq: Sequences, layout: Layout, off_J: list[int]) -> None:
        self.seq, self.layout, self.off_J = seq, layout, off_J
        self.obs_scale, self.reward_scale = Normaliser(1, layout.obs_size, "cpu"), Normaliser(1, 2, "cpu")

    def step(self, state: int, action: Tensor, noise: Tensor, uncertain: bool = True) -> tuple[int, Prediction]:
        obs, reward = (torch.roll(x, -(state + 1), 1).flatten(1, 2) for x in (self.seq.obs, self.seq.reward))
        obs = obs[..., self.layout.dynamic_J].clone()
        obs[..., self.off_J] += 5.0
        return state + 1, Prediction(obs, reward, torch.ones_like(reward), 0 * obs[..., 0])


def test_rows_that_do_not_count_may_be_infinite() -> None:
    """From the last frame of a window nothing follows. Guard: seen failing, with a gate that they closed."""
    layout, seq, _ = episodes("simple_speaker_listener", 4)
    model = Clairvoyant(seq, layout, [])
    step = model.step

    def overflowing(state: int, action: Tensor, noise: Tensor, uncertain: bool = True) -> tuple[int, Prediction]:
        after, seen = step(state, action, noise, uncertain)
        seen.obs[:, -1] = 1e25  # whose square is infinite
        return after, seen

    model.step = overflowing  # type: ignore[method-assign]
    errors, rewards = rollout_errors(model, 0, seq, 3, layout, Stream(0, "n", [0]))
    assert errors.tolist() == rewards.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("arguments", [{"delay": 1}, {"noise": 0.3}, {"erasure": 0.2}, {}])
def test_what_a_channel_lets_be_heard_is_not_judged(arguments: dict[str, float]) -> None:
    """Of the listener's eleven entries the last three are heard; of an exact channel they are copied, not predicted."""
    env = envs.make("speaker_listener_variant", num_envs=8, env_args=arguments)
    layout = Layout(env.spec)
    store = FrameStore((layout.full_size, layout.action_size, 2), 1, 8, 10**4, "cpu")
    for step in play(env, 25):
        store.add(rows_of(layout, step), torch.ones(1, 8, dtype=torch.bool))
    seq = store.from_start(26)
    assert len(layout.judged_J) == 3 + 8 and layout.obs_size == (14 if arguments else 11)
    heard = list(range(11, layout.obs_size))
    for off, wrong in ((heard, False), ([10], True)):
        model = Clairvoyant(seq, layout, off)
        errors, rewards = rollout_errors(model, 0, seq, 3, layout, Stream(0, "n", [0]))
        assert bool((errors > 0).all()) == wrong and not bool(rewards.any())
