"""Flags as they are stored, learned and imagined: masks, agents that leave, and what a loss makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_world_model_through import through
from torch import Tensor
from toy_envs import Masked, Toy

from envs.pettingzoo.env import PettingZooEnv
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.data.batch import Batch, Transitions
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner import relaxation
from marl.world_model.flags import Flags
from marl.world_model.imagination.choice import AutoModel
from marl.world_model.imagination.gate import rollout_errors
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.protocol import Prediction
from marl.world_model.sequences import FrameStore

CONFIG = WorldModelConfig(
    kind="rssm", classes=4, latents=4, deter=32, hidden=32, sequences=16, warmup_steps=100, updates_per_step=0.1,
    refresh_every=100, starts=24, rollout=4, gate=1e9, reward_gate=1e9, ensemble=2, validation_share=0.2,
    reward_updates=1, window=9, lr=1e-2, lr_warmup=10, average=0.9,
)  # fmt: skip


def uniform(spec: EnvSpec) -> Callable[[Tensor], Tensor]:
    return lambda obs: obs.new_zeros(*obs.shape[:3], spec.num_heads, spec.head_size)


def played(env: PettingZooEnv, steps: int) -> Iterator[Transitions]:
    """Random allowed actions."""
    env.reset(seed=0)
    stream, mask_NHK = Stream(0, "act", [0]), env.spec.head_mask[:, None]

    def act(obs: Tensor, mask: Tensor | None) -> Tensor:
        logits = uniform(env.spec)(obs)
        allowed = mask_NHK if mask is None else mask_NHK & mask
        return relaxation.sample_onehot(logits, stream.gumbel(*logits.shape[1:]), allowed)

    collector = Collector(env, act, 1)
    for _ in range(steps):
        yield collector.collect()[0]


def source(spec: EnvSpec, config: WorldModelConfig = CONFIG, envs: int = 20, seed: int = 0) -> ImaginationSource:
    streams = {name: Stream(seed, name, [0]) for name in ("replay", "model", "training", "imagination")}
    replay = Replay(spec, 5000, envs, streams["replay"], gamma=0.9)
    return ImaginationSource.of(replay, uniform(spec), spec, config, envs, streams)


def filled(env: PettingZooEnv, steps: int, **changes: Any) -> ImaginationSource:
    built = source(env.spec, replace(CONFIG, **changes), env.num_envs)
    for t in played(env, steps):
        built.add(t)
    return built


def test_who_comes_late_is_known_from_the_step_that_follows() -> None:
    """a_1 comes with the third step and leaves with the fifth; of the frame that opens an episode a_0 alone."""
    env = PettingZooEnv(make=Toy, length=7, births={"a_1": 3}, deaths={"a_1": 5})
    built = source(env.spec, envs=1)
    store = FrameStore(built.rollouts.layout.widths, 1, 1, 40, "cpu")
    for t in played(env, 8):
        store.add(rows_of(built.rollouts.layout, t), torch.ones(1, 1, dtype=torch.bool))
    seq = store.from_start(8)
    assert seq.flags[0, :, 0].tolist() == [[1, 0]] * 3 + [[1, 1]] * 2 + [[1, 0]] * 3
    assert bool(seq.last[0, 7, 0]) and not bool(seq.last[0, :7, 0].any())


# ------------------------------------------------------------------------ learned
@pytest.fixture(scope="module")
def masked() -> ImaginationSource:
    return filled(PettingZooEnv(make=Masked, num_envs=20, length=8, fixed_agents=True), 40)


@pytest.fixture(scope="module")
def leaving() -> ImaginationSource:
    return filled(PettingZooEnv(make=Toy, num_envs=20, length=8, deaths={"a_1": 3}), 40)


def accuracy(built: ImaginationSource) -> Tensor:
    """Share of the flags of held-out episodes that are right after 1 .. 4 steps, [K]."""
    model, stream, layout = built.training.model, Stream(5, "held out", [0]), built.rollouts.layout
    seq = built.training.episodes.held_out.windows(9, 24, stream)
    *_, wrong_SK = rollout_errors(model, model.observe(seq, stream), seq, 4, layout, stream)
    return 1.0 - wrong_SK[0]


def every(built: ImaginationSource) -> Batch:
    return built.imagined.at(torch.arange(96)[None])


def test_masks_are_predicted_and_obeyed(masked: ImaginationSource) -> None:
    """A choice is allowed up to the number of the step modulo 4, which the second entry of an observation tells."""
    assert bool((accuracy(masked) > 0.95).all()) and bool((masked.gate.wrong_SK < 0.05).all())  # type: ignore[operator]
    batch = every(masked)
    assert batch.mask is not None and batch.next_mask is not None and batch.active is None
    heads = batch.action.unflatten(-1, (1, 4)) > 0.5
    assert not bool((heads & ~batch.mask).any()) and bool((heads.sum(-1) == 1).all())
    for obs, mask in ((batch.obs, batch.mask), (batch.next_obs, batch.next_mask)):
        time = (obs[..., 1] * 10).round()
        truth = torch.arange(4) <= time[..., None] % 4
        right = (mask[..., 0, :] == truth).all(-1)
        assert right.float().mean() > 0.95
        if mask is batch.mask:
            assert not bool((heads[..., 0, :] & ~truth)[right].any())
    assert bool((batch.mask != masked.rollouts.head_mask).any())


def test_who_leaves_is_predicted_and_imagined_as_the_replay_has_it(leaving: ImaginationSource) -> None:
    """a_1 leaves with the third step: from then on it is not there, in imagined rows as in stored ones."""
    assert bool((accuracy(leaving) > 0.95).all())
    imagined = every(leaving)
    real = leaving.replay.gather(torch.arange(160)[None])
    for batch in (real, imagined):
        assert batch.active is not None
        gone = batch.active[0, 1] < 0.5
        assert batch.next_active is not None and not bool(batch.next_active[0, 1, gone].any())
        assert 0.2 < gone.float().mean() < 0.9 and bool((batch.active[0, 0] == 1).all())
        for name in ("obs", "next_obs", "action"):
            assert not bool(getattr(batch, name)[0, 1, gone].any())
        for name in ("reward", "discount"):
            assert not bool(getattr(batch, name)[0, 1, gone].any())
        time = (batch.obs[0, 0, :, 1] * 10).round()
        assert (gone == (time >= 3)).float().mean() > 0.95
        ends = ~gone & (batch.discount[0, 1] == 0)
        assert (ends == (time == 2)).float().mean() > 0.95
        assert bool(batch.next_obs[0, 1, ends].any())  # it is seen leaving
        assert bool((batch.discount[0, 0] > 0).all())


def test_actors_are_not_asked_what_is_not_theirs_to_see(leaving: ImaginationSource) -> None:
    start = leaving.rollouts.starts.draw()
    there = leaving.rollouts.flags.there(start.flags)
    assert there is not None and not bool(there.all())
    assert not bool((start.obs * ~there[..., None]).any())


def test_a_head_that_is_wrong_closes_the_gate(leaving: ImaginationSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has everybody stay: half of the balanced rate is wrong, whatever the observation's error."""
    model, gate = leaving.training.model, leaving.gate
    step = model.step

    def staying(*args: Any, **more: Any) -> tuple[Any, Prediction]:
        state, seen = step(*args, **more)
        assert seen.flags is not None
        return state, replace(seen, flags=torch.ones_like(seen.flags))

    before = {name: x.clone() for name, x in gate.state_dict().items()}
    monkeypatch.setattr(model, "step", staying)
    gate.measure(model)
    assert gate.length_S.tolist() == [0] and gate.metrics()["flags_wrong_1"].item() > 0.4
    gate.load_state_dict(before)
    assert gate.length_S.tolist() == [4]


def test_resume_is_exact() -> None:
    env = PettingZooEnv(make=Masked, num_envs=20, length=6, deaths={"a_1": 3})
    steps = list(played(env, 24))
    small = replace(CONFIG, deter=8, hidden=8, updates_per_step=0.05)
    one, two = source(env.spec, small), source(env.spec, small, seed=7)
    for t in steps[:13]:
        one.add(t)
    for stream, other in (
        (two.replay.stream, one.replay.stream), (two.gate._stream, one.gate._stream),
        (two.rollouts.stream, one.rollouts.stream),
    ):  # fmt: skip
        stream.key_R = other.key_R
    two.load_state_dict(one.state_dict())
    for t in steps[13:]:
        one.add(t)
        two.add(t)
    a, b = one.sample(64), two.sample(64)
    for name in ("joint", "reward", "discount", "next_obs", "active", "next_active", "mask", "next_mask"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert all(torch.equal(x, y) for x, y in zip(one.metrics().values(), two.metrics().values(), strict=True))


# ------------------------------------------------------------- which model, and when not
def test_an_environment_that_declares_nothing_is_accepted_while_all_stay() -> None:
    """To the bit as where the agents are declared to stay."""
    wm = {"kind": "auto", "gate": 1e9, "updates_per_step": 0.05}
    declared, silent = (
        filled(PettingZooEnv(make=Toy, num_envs=10, length=6, fixed_agents=fixed), 30, **wm) for fixed in (True, None)
    )
    assert not declared.rollouts.flags.size and silent.rollouts.flags.size == 2
    model = silent.training.model
    assert isinstance(model, AutoModel) and model.dreamer is None and not silent.warnings()
    a, b = declared.sample(40), silent.sample(40)
    assert torch.equal(a.joint, b.joint) and torch.equal(a.reward, b.reward)
    assert bool((silent.imagined.usable_S > 0).all())
    assert b.active is not None and bool((b.active == 1).all())


def leaving_late(kind: str) -> ImaginationSource:
    """All stay in the first 20 steps of each copy; then a_1 leaves with the second step of an episode."""
    env = PettingZooEnv(make=Toy, num_envs=10, length=5)
    small = {"updates_per_step": 0.02, "refresh_every": 20, "deter": 8, "hidden": 8}
    built = source(env.spec, replace(CONFIG, kind=kind, **small), 10)  # type: ignore[arg-type]
    for k, t in enumerate(played(env, 36)):
        built.add(t)
        if k == 20:
            for copy in env._copies._envs:  # type: ignore[union-attr]
                copy.deaths["a_1"] = 2
    return built


def test_who_leaves_late_ends_a_run_with_the_small_model_in_one_sentence() -> None:
    told = (
        r"--wm.kind mlp: \['a_1'\] of .*after all had stayed throughout the warm-up \(nothing is declared in metadata"
    )
    with pytest.raises(UserError, match=told + r"\['fixed_agents'\]\).*--wm.kind rssm"):
        leaving_late("mlp")


def test_auto_goes_over_to_the_model_that_learns_who_is_there() -> None:
    built = leaving_late("auto")
    model = built.training.model
    assert isinstance(model, AutoModel) and model.dreamer is not None and model.dreams_S.tolist() == [True]
    (told,) = built.warnings()
    assert "['a_1']" in told and "rssm" in told and "metadata = {'fixed_agents': True}" in told
    assert int(model.dreamer.optimiser.updates) > 0


def test_masks_are_for_the_state_space_model() -> None:
    env = PettingZooEnv(make=Masked, fixed_agents=True)
    built = source(env.spec, replace(CONFIG, kind="auto", blend=True))
    assert built.config.kind == "rssm" and not built.config.blend
    with pytest.raises(UserError, match=r"--wm.kind linear: .* has action masks, which the small"):
        source(env.spec, replace(CONFIG, kind="linear"))


# --------------------------------------------------------- the loss through the model
@pytest.mark.parametrize(
    "ends, expected",
    [
        ("stays", 1 + 0.9 + 0.9**2 * 10),
        ("terminated", 1.0),
        ("truncated", 1 + 0.9 * 10),  # the critic's value of what it leaves at
    ],
)
def test_the_loss_counts_an_agent_as_long_as_it_is_there(ends: str, expected: float) -> None:
    """Both are paid 1 a step and worth 10 at the end; the listener leaves with the first of two steps."""
    made, _ = through(2, groups=((1,), (0,)))
    made._rollouts.flags = Flags(replace(made._rollouts.layout.spec, fixed_agents=False))
    made._tail = lambda obs, action: torch.full(obs.shape[:3], 10.0)
    start = made._rollouts.starts.draw()
    flags = torch.ones(2, 64, 2)
    made._rollouts.starts.draw = lambda: start._replace(flags=flags)  # type: ignore[method-assign]
    actions = []

    def step(state: Any, action_SnU: Tensor, *_: Any, **__: Any) -> tuple[Any, Prediction]:
        actions.append(action_SnU)
        ones = torch.ones(*action_SnU.shape[:2], 2)
        acted = ones if ends == "stays" or len(actions) == 1 else torch.tensor([1.0, 0.0]).expand_as(ones)
        goes = torch.tensor([1.0, 0.0 if ends == "terminated" else 1.0])
        after = ones if ends == "stays" else torch.tensor([1.0, 0.0]).expand_as(ones)
        return state, Prediction(state.goal, acted, 0.9 * acted * goes, 0 * ones[..., 0], after)

    made._rollouts.model.step = step  # type: ignore[method-assign]
    loss = made.loss(1.0)
    torch.testing.assert_close(loss[:, 0], torch.full((2,), -expected))
    torch.testing.assert_close(loss[:, 1], torch.full((2,), -(1 + 0.9 + 0.9**2 * 10)))
    assert bool(actions[1][..., 2:].any()) == (ends == "stays")  # who is gone does nothing


def test_the_loss_chooses_what_is_allowed() -> None:
    """The listener may not make its second move: at the first step as started, at the second as imagined."""
    made, _ = through(2)
    spec = replace(made._rollouts.layout.spec, has_masks=True)
    made._rollouts.flags = Flags(spec)
    start, actions = made._rollouts.starts.draw(), []
    flags = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(2, 64, 4)
    made._rollouts.starts.draw = lambda: start._replace(flags=flags)  # type: ignore[method-assign]
    game = made._rollouts.model.step

    def step(*args: Any, **more: Any) -> tuple[Any, Prediction]:
        actions.append(args[1])
        state, seen = game(*args, **more)
        return state, replace(seen, flags=torch.tensor([1.0, 0.0, 1.0, 1.0]).expand(2, 64, 4))

    made._rollouts.model.step = step  # type: ignore[method-assign]
    made.loss(1.0)
    first, second = actions
    assert not bool(first[..., 3].any()) and bool(first[..., 1].any())
    assert not bool(second[..., 1].any()) and bool(second[..., 3].any())
