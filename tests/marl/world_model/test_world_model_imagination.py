"""Imagination as a batch source: real starts, own observations, exact messages, the gate, the filter, resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from world_model_data import play, random_transitions, two_agents

import envs
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.data.batch import Transitions
from marl.data.replay import Replay
from marl.errors import UserError
from marl.world_model.imagination.rollouts import Imagined, joined, mixed
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.small.model import SmallModel

CONFIG = WorldModelConfig(
    kind="linear", imagined_share=0.5, sequences=8, warmup_steps=100, updates_per_step=0.05, refresh_every=100,
    starts=24, rollout=4, reward_gate=1e9, ensemble=2, validation_share=0.25, blend=False,
)  # fmt: skip

COLOUR = torch.tensor([0.15, 0.15, 0.65])


def uniform_policy(spec: EnvSpec) -> Callable[[Tensor], Tensor]:
    def logits(obs_SNBO: Tensor) -> Tensor:
        return obs_SNBO.new_zeros(*obs_SNBO.shape[:3], spec.num_heads, spec.head_size)

    return logits


def source(
    spec: EnvSpec,
    config: WorldModelConfig = CONFIG,
    policy: Callable[[Tensor], Tensor] | None = None,
    num_envs: int = 10,
    replicas: int = 2,
    seed: int = 0,
) -> ImaginationSource:
    rows = list(range(replicas))
    streams = {name: Stream(seed, name, rows) for name in ("replay", "model", "training", "imagination")}
    replay = Replay(spec, 5000, num_envs, streams["replay"], gamma=0.9)
    return ImaginationSource.of(replay, policy or uniform_policy(spec), spec, config, num_envs, streams)


def filled(env_id: str = "simple_speaker_listener", steps: int = 40, **changes: object) -> ImaginationSource:
    """A source after `steps` joint steps of 10 environments in each of two replicas."""
    env = envs.make(env_id, num_envs=20)
    built = source(env.spec, replace(CONFIG, **changes))  # type: ignore[arg-type]
    for t in play(env, steps, replicas=2):
        built.add(t)
    return built


def from_imagined(built: ImaginationSource, joint_SBD: Tensor) -> Tensor:
    """Which rows stand among the imagined ones of their replica, bool [S, B]."""
    size = joint_SBD.shape[2]
    imagined_SXD = built.imagined.replay.data_SCD[..., :size]
    return (joint_SBD[:, :, None] == imagined_SXD[:, None]).all(-1).any(-1)


def test_batches_are_half_imagined_and_the_real_half_is_the_replays() -> None:
    built = filled()
    assert built.gate.length_S.tolist() == [4, 4]  # linear dynamics is exact
    twin = filled()
    batch, real = built.sample(40), twin.replay.sample(40)
    assert batch.joint.shape == real.joint.shape
    assert torch.equal(batch.joint[:, :20], real.joint[:, :20])
    assert from_imagined(built, batch.joint[:, 20:]).all()
    assert not from_imagined(built, batch.joint[:, :20]).any()
    assert batch.obs.data_ptr() == batch.joint.data_ptr()
    n, o = 2, batch.obs.shape[3]
    assert torch.equal(batch.joint[:, :, : n * o].unflatten(2, (n, o)).transpose(1, 2), batch.obs)
    for name in ("prev_obs", "first", "reward", "discount", "next_obs", "action"):
        assert getattr(batch, name).shape == getattr(real, name).shape


def test_before_the_warm_up_only_real_transitions() -> None:
    built = filled(steps=9)
    twin = filled(steps=9)
    assert torch.equal(built.sample(32).joint, twin.replay.sample(32).joint)
    assert int(built.training.model.optimiser.updates) == 0  # type: ignore[attr-defined]


def test_before_any_episode_is_held_out_nothing_is_imagined() -> None:
    """Four environments hold out their tenth episode first; the model is trained, and trusted only then."""
    config = replace(CONFIG, warmup_steps=20, refresh_every=4, validation_share=0.1)
    spec = envs.make("simple_speaker_listener").spec
    made = source(spec, config, num_envs=4, replicas=1)
    usable = []
    for t in play(envs.make(spec.id, num_envs=4), 75):
        made.add(t)
        made.sample(8)
        usable.append(int(made.imagined.usable_S))
    assert not any(usable[:50]) and usable[-1] > 0


def test_imagined_transitions_are_what_the_environment_would_do() -> None:
    """With exactly linear dynamics an imagined next observation is the true one, message slots to the bit."""
    env = envs.make("simple_reference", num_envs=20)
    built = source(env.spec)
    for t in play(env, 40, replicas=2):
        built.add(t)
    batch = built.imagined.at(torch.arange(96).repeat(2, 1))
    message = env.spec.routes[0]
    heads = batch.action.unflatten(-1, (env.spec.num_heads, env.spec.head_size))
    for route in env.spec.routes:
        assert torch.equal(batch.next_obs[:, route.receiver, :, route.slot], heads[:, route.sender, :, route.head])
    # mpe2's rule: position moves by the old velocity times .1; velocity keeps .75 and gains .5 per push
    velocity, push = batch.obs[:, 0, :, :2], heads[:, 0, :, 0]
    gained = torch.stack([push[..., 2] - push[..., 1], push[..., 4] - push[..., 3]], -1)
    torch.testing.assert_close(batch.next_obs[:, 0, :, :2], 0.75 * velocity + 0.5 * gained, atol=1e-4, rtol=1e-4)
    landmark = batch.obs[:, 0, :, 2:4]
    torch.testing.assert_close(batch.next_obs[:, 0, :, 2:4], landmark - 0.1 * velocity, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch.next_obs[:, 0, :, 8:11], batch.obs[:, 0, :, 8:11], atol=1e-4, rtol=1e-4)
    assert message.size == 10


def test_rollouts_begin_at_real_observations_and_continue_their_own() -> None:
    built = filled()
    seen = {
        tuple(row.tolist())
        for row in built.training.episodes.training.data_SECD[..., : built.rollouts.layout.full_size].flatten(0, 2)
    }
    batch = built.imagined.at(torch.arange(96).repeat(2, 1))
    obs = batch.obs.unflatten(2, (4, 24))
    after = batch.next_obs.unflatten(2, (4, 24))
    starts = built.rollouts.layout.join(obs[:, :, 0])
    assert all(tuple(row.tolist()) in seen for row in starts.flatten(0, 1))
    assert torch.equal(obs[:, :, 1:], after[:, :, :-1])
    prev = batch.prev_obs.unflatten(2, (4, 24))  # of the speaker
    assert torch.equal(prev[:, 0, 1:], obs[:, 0, :-1])
    first = batch.first.unflatten(1, (4, 24))
    assert bool(first[:, 0].any()) and not bool(first[:, 1:].any())
    assert not bool(prev[:, 0, 0][first[:, 0]].any())


def test_previous_observations_of_starts_are_the_frames_before() -> None:
    built = filled()
    _, obs, before, first, valid, *_ = built.rollouts.starts.draw()
    frames = built.training.episodes.training.data_SECD[..., : built.rollouts.layout.full_size]
    rows, rows_before = built.rollouts.layout.join(obs), built.rollouts.layout.join(before)
    for s in range(2):
        flat = frames[s].flatten(0, 1)
        for r in range(24):
            assert bool(valid[s, r])
            at = int((flat == rows[s, r]).all(1).nonzero()[0])
            expected = torch.zeros_like(flat[0]) if bool(first[s, r]) else flat[at - 1]
            assert torch.equal(rows_before[s, r], expected)


def test_starts_in_mid_episode_are_no_first_frames() -> None:
    """Where episodes are longer than the span (26 frames and 6), or their beginnings forgotten (rings of 15 frames).
    Guard: seen failing, with first frames of windows as those of episodes, before which nothing had been said."""
    env_id = "simple_speaker_listener"
    for span, capacity in ((6, 500_000), (26, 150)):
        built = source(envs.make(env_id).spec, replace(CONFIG, capacity=capacity))
        for t in play(envs.make(env_id, num_envs=20), 40, replicas=2):
            built.add(t)
        starts, layout = built.rollouts.starts, built.rollouts.layout
        starts._span = span
        _, obs, before, first, valid, *_ = starts.draw()
        rows, rows_before, data = layout.join(obs), layout.join(before), built.training.episodes.training.data_SECD
        opens = data[..., -2] > 0.5  # before the flag of an episode's last frame
        assert bool(valid.all()) and not bool(first.all())
        for s, r in valid.nonzero().tolist():
            e, c = (data[s, ..., : layout.full_size] == rows[s, r]).all(-1).nonzero()[0].tolist()
            assert opens[s, e, c] == first[s, r]
            expected = data[s, e, c - 1, : layout.full_size] * ~first[s, r]
            assert torch.equal(rows_before[s, r], expected)


def test_actors_see_their_own_observation_only() -> None:
    """What the policy is given is the padded observation per agent: the speaker's row never holds the listener's."""
    given = []

    def spy(obs_SNBO: Tensor) -> Tensor:
        given.append(obs_SNBO)
        return uniform_policy(spec)(obs_SNBO)

    env = envs.make("simple_speaker_listener", num_envs=20)
    spec = env.spec
    built = source(spec, policy=spy)
    for t in play(env, 40, replicas=2):
        built.add(t)
    assert len(given) >= 4 and all(x.shape == (2, 2, 24, spec.obs_size) for x in given)
    assert not any(bool(x[:, 0, :, spec.agents[0].obs_size :].any()) for x in given)
    goal = given[1][:, 0, :, :3]  # decoded: still the colour of the goal, as the dynamics is exact
    torch.testing.assert_close(goal.sort(-1).values, COLOUR.expand_as(goal), atol=1e-3, rtol=0)


def test_actions_follow_the_current_policy() -> None:
    env = envs.make("simple_speaker_listener", num_envs=20)

    def policy(obs_SNBO: Tensor) -> Tensor:
        logits = uniform_policy(env.spec)(obs_SNBO)
        logits[:, 0, :, 0, 2], logits[:, 1, :, 0, 4] = 50.0, 50.0
        return logits

    built = source(env.spec, policy=policy)
    for t in play(env, 40, replicas=2):
        built.add(t)
    action = built.imagined.at(torch.arange(96).repeat(2, 1)).action
    assert bool((action[:, 0].argmax(-1) == 2).all()) and bool((action[:, 1].argmax(-1) == 4).all())
    assert set(action.flatten().tolist()) == {0.0, 1.0}


SMALL_RSSM = {"kind": "rssm", "classes": 4, "latents": 4, "deter": 8, "hidden": 8, "blend": True}


def test_the_most_uncertain_are_dropped() -> None:
    built = filled()
    uncertainty = torch.arange(96.0).flip(0).repeat(2, 1)
    valid = torch.ones(2, 96, dtype=torch.bool)
    valid[1, :48] = False
    built.imagined.fill(Imagined(built.rollouts.imagine(built.gate.length_S).transitions, uncertainty, valid))
    assert built.imagined.usable_S.tolist() == [76, 38]
    assert sorted(built.imagined._order_SX[0, :76].tolist()) == list(range(20, 96))
    assert sorted(built.imagined._order_SX[1, :38].tolist()) == list(range(58, 96))
    batch = built.sample(200)
    rows = built.imagined.at(built.imagined._order_SX[:1, :76].expand(2, -1)).joint[0]
    kept = {tuple(x.tolist()) for x in rows}
    assert all(tuple(x.tolist()) in kept for x in batch.joint[0, 100:])


def test_an_imagined_end_is_terminal_and_ends_the_rollout() -> None:
    built = filled()

    class Ending:
        """The model, but everything terminates at the second step."""

        def __init__(self, model: SmallModel) -> None:
            self.model, self.calls = model, 0
            self.noise_size = model.noise_size

        def __getattr__(self, name: str) -> object:
            return getattr(self.model, name)

        def step(self, *args: object) -> object:
            state, output = self.model.step(*args)  # type: ignore[arg-type]
            self.calls += 1
            output.discount = torch.full_like(output.discount, 0.1 if self.calls == 2 else 0.88)
            return state, output

    built.rollouts.model = Ending(built.rollouts.model)  # type: ignore[arg-type, assignment]
    built.imagine()
    batch = built.imagined.at(torch.arange(96).repeat(2, 1))
    discount = batch.discount.unflatten(2, (4, 24))
    assert bool((discount[:, :, 0] == 0.9).all()) and bool((discount[:, :, 1] == 0.0).all())
    assert built.imagined.usable_S.tolist() == [int(48 * 0.8)] * 2


def test_held_out_episodes_are_never_trained_on() -> None:
    built = filled(steps=100, updates_per_step=1e-3)
    trained, held = (
        {tuple(x.tolist()) for x in store.data_SECD[..., :14].flatten(0, 2) if bool(x.any())}
        for store in (built.training.episodes.training, built.training.episodes.held_out)
    )
    assert not trained & held
    assert (
        built.training.episodes.training.frames_S.tolist() == [3 * 10 * 26] * 2
    )  # of 40 episodes a replica, every fourth is held out
    assert built.training.episodes.held_out.frames_S.tolist() == [10 * 26] * 2


# ------------------------------------------------------------------------- state
@pytest.mark.parametrize("kind", ["linear", "rssm"])
def test_resume_is_exact(kind: str) -> None:
    env = envs.make("simple_speaker_listener", num_envs=20)
    config = replace(CONFIG, **{**SMALL_RSSM, "kind": kind}, gate=1e9)  # type: ignore[arg-type]
    one = source(env.spec, config)
    for t in play(env, 30, replicas=2):
        one.add(t)
    two = source(env.spec, config, seed=7)
    for name in ("replay", "training", "imagination"):  # key of a stream is not state: it comes from the seed
        part = {"replay": two.replay.stream, "training": two.gate._stream, "imagination": two.rollouts.stream}[name]
        part.key_R = Stream(0, name, [0, 1]).key_R
    two.load_state_dict(one.state_dict())
    for built in (one, two):
        for t in play(env, 30, replicas=2, seed=4):
            built.add(t)
    a, b = one.sample(64), two.sample(64)
    assert torch.equal(a.joint, b.joint) and torch.equal(a.reward, b.reward)
    assert all(torch.equal(x, y) for x, y in zip(one.metrics().values(), two.metrics().values(), strict=True))


def test_a_checkpoint_of_another_environment_or_kind_is_refused() -> None:
    built = filled("simple_speaker_listener", steps=2)
    other = source(envs.make("simple_reference", num_envs=10).spec, replace(CONFIG, kind="mlp"))
    with pytest.raises(UserError, match=r"(?s)simple_speaker_listener.*simple_reference.*wm.kind: expected 'linear'"):
        other.load_state_dict(built.state_dict())


def test_metrics_are_numbers_per_replica() -> None:
    metrics = filled().metrics()
    assert {"replay/size", "world_model/rollout", "world_model/rmse_1", "world_model/rmse_4"} <= set(metrics)
    assert all(value.shape in ((), (2,)) for value in metrics.values())
    assert metrics["world_model/rmse_4"].max() < 1e-4


@pytest.mark.parametrize("field, value", [
    ("imagined_share", 0.25), ("rollout", 3), ("gate", 1e-9), ("reward_gate", 1e-9), ("keep", 0.5), ("starts", 30),
    ("refresh_every", 200), ("warmup_steps", 350), ("updates_per_step", 0.1), ("sequences", 9), ("window", 9),
    ("validation_share", 0.1), ("lr", 1e-4), ("average", 0.5), ("lr_warmup", 20), ("max_grad_norm", 1e-3),
    ("capacity", 200), ("kind", "mlp"), ("ensemble", 3),
])  # fmt: skip
def test_every_setting_changes_the_batches(field: str, value: object) -> None:
    batches = [filled(**changes).sample(40) for changes in ({}, {field: value})]
    assert not (torch.equal(batches[0].joint, batches[1].joint) and torch.equal(batches[0].reward, batches[1].reward))


# --------------------------------------------------------------------------- pieces
def test_joined_and_mixed_by_hand() -> None:
    steps = list(random_transitions(two_agents(), 3, 2))
    both = joined(steps)
    assert both.obs.shape[2] == 6 and both.first.shape == (1, 6)
    assert torch.equal(both.reward[:, :, 3:], steps[1].reward)
    replay = Replay(two_agents(), 100, 3, Stream(0, "r", [0]), 0.9)
    for t in steps:
        replay.add(t)
    real, imagined = replay.gather(torch.tensor([[0, 1, 2]])), replay.gather(torch.tensor([[5]]))
    out = mixed(real, imagined, torch.tensor([True]))
    assert torch.equal(out.joint, torch.cat([real.joint[:, :2], imagined.joint], 1))
    assert torch.equal(out.next_obs[:, :, 2], imagined.next_obs[:, :, 0])
    same = mixed(real, imagined, torch.tensor([False]))
    assert torch.equal(same.joint, real.joint) and torch.equal(same.action, real.action)


def test_transitions_pass_through_untouched_by_training() -> None:
    """The replay holds exactly what was added."""
    env = envs.make("simple_speaker_listener", num_envs=20)
    built = source(env.spec)
    plain = Replay(env.spec, 5000, 10, Stream(0, "replay", [0, 1]), gamma=0.9)
    t: Transitions
    for t in play(env, 30, replicas=2):
        built.add(t)
        plain.add(t)
    assert torch.equal(built.replay.data_SCD[:, : plain.size], plain.data_SCD[:, : plain.size])
