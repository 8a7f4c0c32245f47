"""What stands in message slots under every condition, by hand, on both backends and in evaluations.

Guard: seen failing with the oracle's meaning taken one step late, with slots kept through the end of an episode, with
`shuffled` across replicas, with noise by the place in the batch, and without the noise's counter in `state_dict`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import envs
from envs import BatchedEnv, UserError, probes
from envs.conditions import KINDS, Condition, Conditioned, another_symbol
from envs.mpe.variants.parallel import VariantWorld
from envs.mpe.variants.settings import Variant
from marl.config.fields import settings
from marl.config.schema import Config
from marl.play.rollout import Mixed, play

BACKENDS = ("torch", "pettingzoo")
SAID = torch.tensor([2, 0, 1, 1, 2, 0])  # by the speakers of six environments


def matching(backend: str) -> BatchedEnv:
    """The speaker sees a goal and says a symbol, the listener sees its slot alone; two steps."""
    if backend == "torch":
        return probes.make("matching_game", num_envs=6)
    return envs.make("envs.probes:matching_game", 6, backend="pettingzoo")


def actions(said: torch.Tensor) -> torch.Tensor:
    return torch.stack([said, torch.zeros_like(said)])[..., None]


def symbols(*numbers: int) -> torch.Tensor:
    return one_hot(torch.tensor(numbers), 3).float()


HEARD = {  # of SAID in two replicas of three environments
    "none": torch.zeros(6, 3),
    "constant": symbols(0, 0, 0, 0, 0, 0),
    "self": torch.zeros(6, 3),  # the listener does not speak
    "shuffled": symbols(1, 2, 0, 0, 1, 2),  # each hears the one before it in its own replica
    "noisy": symbols(2, 0, 1, 1, 2, 0),  # here with noise 0
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_slots_by_hand(kind: str, backend: str) -> None:
    env = Conditioned(matching(backend), Condition(kind), range(6), 3)
    goal = env.reset(3)[0].clone()
    expected = goal if kind == "oracle" else HEARD[kind]
    assert len(goal.argmax(1).unique()) == 3
    first = env.step(actions(SAID))
    assert torch.equal(first.obs[1], expected) and torch.equal(first.obs[0], goal)
    assert torch.equal(first.final_obs, first.obs)
    last = env.step(actions(SAID))
    assert bool(last.ended.all())
    assert torch.equal(last.final_obs[1], expected)
    assert not last.obs[1].any()  # of the next episodes, in which nothing was said yet
    again = env.step(actions(SAID))
    assert torch.equal(again.obs[1], last.obs[0] if kind == "oracle" else HEARD[kind])
    assert [route.exact for route in env.spec.routes] == [False]
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_self_is_ones_own_message_where_one_speaks(backend: str) -> None:
    env = Conditioned(envs.make("simple_reference", 2, backend=backend), Condition("self"), range(2), 2)
    before = env.reset(0)
    assert not before[..., 11:].any()
    moves, said = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[7, 0], [3, 9]])
    obs = env.step(torch.stack([moves, said], -1)).obs
    assert torch.equal(obs[..., 11:], one_hot(said, 10).float())
    assert torch.equal(obs[..., 8:11], before[..., 8:11]) and bool(obs[..., :2].any())


def test_the_oracle_fills_a_wider_slot_from_its_start() -> None:
    env = Conditioned(envs.make("simple_reference", 4), Condition("oracle"), range(4), 4)
    goals = env.reset(1)[..., 8:11]
    obs = env.step(torch.zeros(2, 4, 2, dtype=torch.int64)).obs
    assert torch.equal(obs[0, :, 11:14], goals[1]) and torch.equal(obs[1, :, 11:14], goals[0])
    assert not obs[..., 14:].any()


def test_the_symmetric_channel_is_that_of_the_variants() -> None:
    """Against the PettingZoo variant's own loop, for every symbol and many numbers."""
    noise, size = 0.6, 4
    world = VariantWorld(Variant(num_symbols=size, noise=noise))
    for u in np.linspace(0.001, 0.999, 101):
        for symbol in range(size + 1):
            expected = world.disturb(np.array([symbol]), np.array([u]))
            got = another_symbol(torch.tensor([symbol]), torch.tensor([u]), noise, size)
            assert got.tolist() == expected.tolist()


def test_noise_is_a_share_of_other_symbols_and_a_function_of_the_row() -> None:
    said = torch.arange(3).repeat(1000)

    def heard(rows: range, noise: float = 0.3) -> torch.Tensor:
        env = probes.make("matching_game", num_envs=len(rows))
        env = Conditioned(env, Condition("noisy", noise), rows, len(rows))
        env.reset(5)
        return env.step(actions(said[rows.start : rows.stop])).obs[1].argmax(1)

    whole = heard(range(3000))
    shift = (whole - said) % 3
    assert (shift > 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert (shift == 1).float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert torch.equal(heard(range(1000, 1100)), whole[1000:1100])
    assert not bool((heard(range(100), 1.0) == said[:100]).any())


def test_who_is_not_there_hears_nothing() -> None:
    """Walkers leave the corridor one by one; a constant message would else fill their observations."""
    plain = envs.make("examples.own_environment:make", 6, backend="pettingzoo")
    env = Conditioned(
        envs.make("examples.own_environment:make", 6, backend="pettingzoo"), Condition("constant"), range(6), 6
    )
    plain.reset(0)
    env.reset(0)
    mask, away = plain.mask, 0
    for _ in range(30):
        chosen = mask.int().argmax(-1)
        one, other = plain.step(chosen), env.step(chosen)
        gone = ~one.obs.any(-1)
        assert not other.obs[gone].any()
        there = one.obs[1].any(-1) & ~one.ended
        assert bool((other.obs[1, there][:, plain.spec.routes[0].slot][:, 0] == 1).all())
        mask, away = one.mask, away + int(gone.sum())
    assert away > 0
    plain.close()
    env.close()


@pytest.mark.parametrize("kind", ["oracle", "noisy"])
def test_state_dict_continues_bit_for_bit(kind: str) -> None:
    def made() -> Conditioned:
        condition = Condition(kind, 0.5 if kind == "noisy" else 0.0)
        return Conditioned(envs.make("simple_reference", 4), condition, range(4), 4)

    env = made()
    env.reset(2)
    zeros = torch.zeros(2, 4, 2, dtype=torch.int64)
    for _ in range(7):
        env.step(zeros)
    state = env.state_dict()
    assert state["channel"]["told"].shape[0] == 4
    expected = [env.step(zeros).obs for _ in range(30)]
    other = made()
    other.reset(9)
    other.load_state_dict(state)
    for obs in expected:
        assert torch.equal(other.step(zeros).obs, obs)
    assert made().reset(2)[..., 11:].any().item() is False


# ------------------------------------------------------------------ evaluations
class Says:
    """Speaker e of a batch says symbol e mod 3; the listener stands still."""

    def __init__(self, condition: Condition | None) -> None:
        self.condition = condition

    def reset(self, num_envs: int) -> None:
        self.said = np.arange(num_envs) % 3

    def act(self, observations: dict, masks: dict | None = None) -> dict:
        return {"speaker_0": self.said, "listener_0": np.zeros_like(self.said)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_hear_the_same(kind: str, backend: str) -> None:
    condition = Condition(kind)
    played = play("simple_speaker_listener", Says(condition), 6, 4, backend=backend, record=True, batch=3)
    assert played.obs is not None
    slot, goal = played.obs["listener_0"][..., 8:], played.obs["speaker_0"]
    assert not slot[0].any() and slot.shape == (25, 6, 3)
    said = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    expected = {
        "none": np.zeros((6, 3)), "self": np.zeros((6, 3)), "noisy": said, "constant": np.eye(3)[[0] * 6],
        "shuffled": np.eye(3)[[2, 0, 1, 2, 0, 1]], "oracle": goal[0],
    }[kind]  # fmt: skip
    for t in range(1, 25):
        np.testing.assert_allclose(slot[t], expected, atol=1e-6)


def test_batches_are_even_where_episodes_hear_each_other() -> None:
    played = play("simple_speaker_listener", Says(Condition("shuffled")), 4, 0, record=True, backend="torch", batch=3)
    assert played.obs is not None and bool(played.obs["listener_0"][1:, :, 8:].any(-1).all())  # 2 + 2, not 3 + 1


def test_noise_of_an_evaluation_follows_the_episode() -> None:
    def heard(episodes: int, seed: int, batch: int) -> np.ndarray:
        player = Says(Condition("noisy", 0.5))
        played = play("simple_speaker_listener", player, episodes, seed, record=True, batch=batch)
        assert played.obs is not None
        return played.obs["listener_0"][:, :, 8:]

    alone = heard(1, 8, 1)[:, 0]  # the second episode of the four; first in its batch, it says 0 where that says 1
    np.testing.assert_array_equal(heard(4, 7, 4)[:, 1], np.roll(alone, 1, axis=-1))
    assert len(np.unique(alone[1:].argmax(-1))) == 3


def test_players_of_different_channels_do_not_play_together() -> None:
    with pytest.raises(UserError, match="different channels"):
        Mixed({"speaker_0": Says(Condition("none")), "listener_0": Says(None)})
    script = object.__new__(Says)  # knows of no channel
    assert Mixed({"speaker_0": Says(Condition("none")), "listener_0": script}).condition == Condition("none")


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("task", "condition", "words"),
    [
        ("simple_spread", Condition("none"), "channel none: no agent of simple_spread_v3 hears another"),
        ("simple_world_comm", Condition("oracle"), "does not declare what its senders have to tell"),
    ],
)
def test_impossible_combinations(task: str, condition: Condition, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Conditioned(envs.make(task, 2), condition, range(2), 2)


def test_more_refusals() -> None:
    narrow = envs.make("speaker_listener_variant", 2, num_landmarks=5)
    with pytest.raises(UserError, match=r"takes 5 numbers, and the slot of 'listener_0' holds 3"):
        Conditioned(narrow, Condition("oracle"), range(2), 2)
    parts = envs.make("speaker_listener_variant", 2, attributes=[3, 2], num_symbols=4)
    with pytest.raises(UserError, match=r"takes 5 numbers, and the slot of 'listener_0' holds 4"):
        Conditioned(parts, Condition("oracle"), range(2), 2)
    with pytest.raises(UserError, match="num_envs of at least 2"):
        Conditioned(envs.make("simple_reference", 3), Condition("shuffled"), range(3), 1)
    with pytest.raises(UserError, match=r"unknown condition 'orcale'. Did you mean 'oracle'\?"):
        Condition("orcale")
    with pytest.raises(UserError, match=r"a probability in \[0, 1\], got 2"):
        Condition("noisy", 2)


def test_a_speaker_without_a_listeners_goal_tells_it_nothing() -> None:
    env = envs.make("speaker_listener_variant", 2, num_speakers=2, num_listeners=2)
    told = Conditioned(env, Condition("oracle"), range(2), 2)
    goals = told.reset(0)[:2, :, :3]
    obs = told.step(torch.zeros(4, 2, 1, dtype=torch.int64)).obs
    start = 2 + 2 * 3
    assert torch.equal(obs[2, :, start : start + 3], goals[0]) and not obs[2, :, start + 3 :].any()
    assert torch.equal(obs[3, :, start + 3 :], goals[1]) and not obs[3, :, start : start + 3].any()


def test_every_channel_is_a_condition_or_a_way_to_learn() -> None:
    names = settings(Config)["channel"].kind.__args__
    assert [name for name in names if Condition.of(name, 0.1) is not None] == list(KINDS)
    assert Condition.of("noisy", 0.2) == Condition("noisy", 0.2) and Condition.of("none", 0.2) == Condition("none")
    assert replace(Config(), channel="noisy").channel_name == "noisy:0.1"
