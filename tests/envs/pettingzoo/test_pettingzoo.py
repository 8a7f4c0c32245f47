"""PettingZooEnv: transitions against a plain loop over the real environment, seeds, auto-reset, exact resume."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_envs import Masked, MaskedInfo, Talkers, Toy, Unclosable, Unseeded, Vectors, actions_of, same_step

from envs import EnvSpec, UserError
from envs.mpe import catalogue
from envs.pettingzoo.copies import episode_seed
from envs.pettingzoo.env import PettingZooEnv


@pytest.mark.parametrize("env_id", ["simple_speaker_listener", "simple_world_comm", "simple_reference"])
def test_transitions_equal_a_plain_loop_over_mpe2(env_id):
    env = PettingZooEnv(env_id, num_envs=2, rows=[5, 2], dtype=torch.float64, max_cycles=4)
    generator = torch.Generator().manual_seed(1)
    real = [catalogue.parallel_env(env_id, max_cycles=4) for _ in range(2)]
    expected = [real[e].reset(seed=episode_seed(9, row, 0))[0] for e, row in enumerate([5, 2])]
    obs = env.reset(9)
    for step in range(10):
        for e in range(2):
            for name, rows in env.split_obs(obs).items():
                np.testing.assert_array_equal(rows[e].numpy(), expected[e][name])
        actions = actions_of(env, generator)
        ids = env.decode_actions(actions)
        result = env.step(actions)
        obs = result.obs
        for e, row in enumerate([5, 2]):
            output, rewards, terminations, truncations, _ = real[e].step({n: int(v[e]) for n, v in ids.items()})
            for n, name in enumerate(env.spec.agent_names):
                size = env.spec.agents[n].obs_size
                np.testing.assert_array_equal(result.final_obs[n, e, :size].numpy(), output[name])
                assert not result.final_obs[n, e, size:].any()
                assert float(result.reward[n, e]) == rewards[name]
                assert bool(result.terminated[n, e]) == terminations[name]
                assert bool(result.truncated[n, e]) == truncations[name] == ((step + 1) % 4 == 0)
            expected[e] = output
            assert bool(result.done[e]) == ((step + 1) % 4 == 0)
            if result.done[e]:
                expected[e] = real[e].reset(seed=episode_seed(9, row, (step + 1) // 4))[0]
    assert env.spec.fixed_agents and result.active is None and result.mask is None


def test_obs_starts_the_next_episode_where_final_obs_ends_the_last():
    env = PettingZooEnv(make=Toy, num_envs=3, length=2)
    env.reset(0)
    one = env.step(torch.zeros(2, 3, 1, dtype=torch.int64))
    assert torch.equal(one.obs, one.final_obs) and not one.done.any()
    two = env.step(torch.zeros(2, 3, 1, dtype=torch.int64))
    assert two.done.all() and two.truncated.all() and not two.terminated.any()
    torch.testing.assert_close(two.final_obs[..., 1], torch.full((2, 3), 0.2))  # the entry that holds t / 10
    assert not two.obs[..., 1].any()


def test_returned_tensors_are_never_overwritten():
    env = PettingZooEnv(make=Masked, num_envs=2)
    kept = [env.reset(0), env.mask]
    before = [tensor.clone() for tensor in kept]
    step = env.step(torch.zeros(2, 2, 1, dtype=torch.int64))
    fields = [value for value in vars(step).values() if value is not None]
    copies = [value.clone() for value in fields]
    env.step(torch.zeros(2, 2, 1, dtype=torch.int64))
    assert all(torch.equal(a, b) for a, b in zip(kept + fields, before + copies, strict=True))


# ------------------------------------------------------------------------ seeds
def test_episode_seeds_are_pure_31_bit_and_differ():
    seeds = {episode_seed(s, r, k) for s in range(5) for r in range(20) for k in range(20)}
    assert len(seeds) == 5 * 20 * 20
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30
    digest = hashlib.sha256(b"0/episode/1/2").digest()
    assert episode_seed(0, 1, 2) == int.from_bytes(digest[:4], "little") % 2**31 == 1216865203


def test_a_copy_plays_alike_alone_and_among_others():
    many = PettingZooEnv(make=Toy, num_envs=6, ragged=True)
    few = PettingZooEnv(make=Toy, num_envs=2, rows=[4, 1], ragged=True)
    assert torch.equal(many.reset(3)[:, [4, 1]], few.reset(3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        actions = actions_of(many, generator)
        one, two = many.step(actions), few.step(actions[:, [4, 1]])
        for name in ("obs", "final_obs", "reward", "terminated", "truncated", "active"):
            assert torch.equal(getattr(one, name)[:, [4, 1]], getattr(two, name))
        assert torch.equal(one.done[[4, 1]], two.done)


def test_reset_starts_over_and_remembers_the_seed():
    env = PettingZooEnv(make=Toy, num_envs=2)
    zero = env.reset()
    assert torch.equal(zero, env.reset(0))
    seven = env.reset(7)
    env.step(torch.ones(2, 2, 1, dtype=torch.int64))
    assert torch.equal(env.reset(), seven) and not torch.equal(seven, zero)


@pytest.mark.parametrize("workers", [0, 1])
def test_reset_to_uses_exactly_the_given_seeds(workers):
    env = PettingZooEnv("toy_envs:Toy", num_envs=3, length=2, workers=workers)
    try:
        obs = env.reset_to([1_000_000, 7, 7])
        for e, seed in enumerate([1_000_000, 7, 7]):
            first, _ = Toy(length=2).reset(seed=seed)
            assert {name: rows[e].tolist() for name, rows in env.split_obs(obs).items()} == {
                name: value.tolist() for name, value in first.items()
            }
        actions = torch.ones(2, 3, 1, dtype=torch.int64)
        env.step(actions)
        again = PettingZooEnv("toy_envs:Toy", num_envs=3, length=2)
        again.load_state_dict(env.state_dict())
        one, two = env.step(actions), again.step(actions)
        same_step(one, two)
        same_step(env.step(actions), again.step(actions))
        assert one.done.all() and not torch.equal(one.obs[:, 1], one.obs[:, 2])  # own seeds again
        with pytest.raises(UserError, match=r"3 seeds.*\[1, 2\]"):
            env.reset_to([1, 2])
        with pytest.raises(UserError, match="at least 0"):
            env.reset_to([1, 2, -1])
    finally:
        env.close()


# ---------------------------------------------------------------------- actions
def test_actions_reach_the_environment_as_its_own_plain_ids():
    env = PettingZooEnv(make=Talkers, heads={"a_0": [["move", 2], ["message", 3]]})
    env.reset(0)
    env.step(torch.tensor([[[1, 2]], [[2, 0]]]))
    received = env._copies._envs[0].received[-1]
    assert received == {"a_0": 1 + 1 + 2 * 2, "a_1": 2}  # start + move + 2 * message
    assert all(type(action) is int for action in received.values())
    assert {name: ids.tolist() for name, ids in env.decode_actions(torch.tensor([[[1, 2]], [[2, 0]]])).items()} == {
        "a_0": [6],
        "a_1": [2],
    }


def test_multi_discrete_actions_are_arrays_of_the_space():
    env = PettingZooEnv(make=Vectors)
    assert [len(agent.heads) for agent in env.spec.agents] == [2, 1]
    assert [head.name for head in env.spec.agents[0].heads] == ["choice_0", "choice_1"]
    env.reset(0)
    env.step(torch.tensor([[[1, 2]], [[3, 77]]]))  # the entry of an absent head is ignored
    received = env._copies._envs[0].received[-1]
    assert {name: action.tolist() for name, action in received.items()} == {"a_0": [1, 2], "a_1": [3]}
    assert all(env._copies._envs[0].action_space(name).contains(action) for name, action in received.items())


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (torch.zeros(2, 3, 1), "integer tensor"),
        (torch.zeros(2, 3, dtype=torch.int64), r"\[2, 3, 1\].*\[2, 3\]"),
        (torch.full((2, 3, 1), 4), r"'a_0'.*\[0, 3\], got 4"),
        (torch.tensor([[[0], [0], [0]], [[0], [-1], [0]]]), r"'a_1'.*got -1 in copy 1"),
        (np.zeros((2, 3, 1), int), "integer tensor"),
    ],
)
def test_actions_that_cannot_be_played_are_refused(actions, words):
    env = PettingZooEnv(make=Toy, num_envs=3)
    with pytest.raises(UserError, match="reset"):
        env.step(torch.zeros(2, 3, 1, dtype=torch.int64))
    env.reset(0)
    with pytest.raises(UserError, match=words):
        env.step(actions)


# ------------------------------------------------------------------ exact resume
MAKERS = {
    "toy": (Toy, {"ragged": True}),
    "mortal": (Toy, {"deaths": {"a_1": 3}, "ragged": True}),
    "late": (Toy, {"births": {"a_1": 2}}),
    "masked": (Masked, {}),
    "masked info": (MaskedInfo, {"deaths": {"a_0": 2}}),
    "vectors": (Vectors, {}),
}


def same_state(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k] for k in one)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=8, deadline=None)
@given(steps=st.integers(0, 30), seed=st.integers(0, 2**31))
def test_resume_is_exact_at_any_moment(kind, steps, seed):
    make, options = MAKERS[kind]
    env = PettingZooEnv(make=make, num_envs=3, rows=[2, 9, 4], **options)
    env.reset(seed)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        env.step(actions_of(env, generator))
    state = env.state_dict()
    again = PettingZooEnv(make=make, num_envs=3, rows=[2, 9, 4], **options)
    again.load_state_dict(state)
    same_state(state, again.state_dict())
    assert (env.mask is None) == (again.mask is None) and (env.mask is None or torch.equal(env.mask, again.mask))
    for _ in range(15):
        actions = actions_of(env, generator)
        same_step(env.step(actions), again.step(actions))
    same_state(env.state_dict(), again.state_dict())


def test_resume_of_mpe_survives_a_safe_file(tmp_path):
    env = PettingZooEnv("simple_spread", num_envs=2)
    env.reset(5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        env.step(actions_of(env, generator))
    torch.save(env.state_dict(), tmp_path / "env.pt")
    again = PettingZooEnv("simple_spread", num_envs=2)
    again.load_state_dict(torch.load(tmp_path / "env.pt", weights_only=True))
    for _ in range(30):
        actions = actions_of(env, generator)
        same_step(env.step(actions), again.step(actions))


def test_resume_before_the_first_reset():
    again = PettingZooEnv(make=Toy)
    again.load_state_dict(PettingZooEnv(make=Toy).state_dict())
    with pytest.raises(UserError, match="reset"):
        again.step(torch.zeros(2, 1, 1, dtype=torch.int64))


def test_resume_refuses_an_environment_that_ignores_its_seed():
    env = PettingZooEnv(make=Unseeded)
    env.reset(0)
    env.step(torch.zeros(2, 1, 1, dtype=torch.int64))
    with pytest.raises(UserError, match="'toy_envs:Unseeded' is not deterministic given its seed"):
        PettingZooEnv(make=Unseeded).load_state_dict(env.state_dict())


def test_resume_refuses_a_replay_that_ends_early():
    env = PettingZooEnv(make=Toy, length=6)
    env.reset(0)
    for _ in range(4):
        env.step(torch.zeros(2, 1, 1, dtype=torch.int64))
    with pytest.raises(UserError, match="not deterministic"):
        PettingZooEnv(make=Toy, length=3).load_state_dict(env.state_dict())


def test_resume_refuses_other_agents_alive():
    env = PettingZooEnv(make=Toy)
    env.reset(0)
    state = env.state_dict()
    state["alive"][:, 1] = False
    with pytest.raises(UserError, match="not deterministic"):
        PettingZooEnv(make=Toy).load_state_dict(state)


def test_resume_refuses_other_copies_or_shapes():
    state = PettingZooEnv(make=Toy, num_envs=2).state_dict()
    with pytest.raises(UserError, match=r"\[0, 1\], expected \[0, 5\]"):
        PettingZooEnv(make=Toy, num_envs=2, rows=[0, 5]).load_state_dict(state)
    with pytest.raises(UserError, match="other agents, heads or observations"):
        PettingZooEnv(make=Vectors, num_envs=2, agents=("a_0", "a_1", "b_0")).load_state_dict(state)


def test_history_holds_running_episodes_only():
    env = PettingZooEnv(make=Toy, num_envs=4, ragged=True, length=3)
    env.reset(0)
    for _ in range(200):
        env.step(torch.zeros(2, 4, 1, dtype=torch.int64))
        assert len(env._history) == max(env.state_dict()["steps"]) <= 7


class Leftover(Toy):
    """Carries a counter from one episode to the next, whatever the seed."""

    count = 0

    def reset(self, seed=None, options=None):
        result = super().reset(seed)
        for name in self.agents:
            self.x[name] += self.count
        self.count += 1
        return {name: self.observe(name) for name in self.agents}, result[1]


def test_rebuild_makes_an_environment_with_leftovers_resumable():
    for rebuild in (False, True):
        env = PettingZooEnv(make=Leftover, rebuild=rebuild, length=2)
        env.reset(0)
        for _ in range(5):
            env.step(torch.zeros(2, 1, 1, dtype=torch.int64))
        again = PettingZooEnv(make=Leftover, rebuild=rebuild, length=2)
        if rebuild:
            again.load_state_dict(env.state_dict())
        else:
            with pytest.raises(UserError, match=r"not deterministic.*--resume-environment fresh"):
                again.load_state_dict(env.state_dict())


# ------------------------------------------------------------------------- misc
def test_float64_keeps_rewards_that_float32_rounds():
    class Precise(Toy):
        def reward(self, name):
            return 1.0 + 2.0**-40

    for dtype in (torch.float32, torch.float64):
        env = PettingZooEnv(make=Precise, dtype=dtype)
        env.reset(0)
        step = env.step(torch.zeros(2, 1, 1, dtype=torch.int64))
        assert step.reward.dtype == step.obs.dtype == dtype
        assert (float(step.reward[0, 0]) == 1.0) == (dtype == torch.float32)


def test_a_closed_environment_says_so():
    env = PettingZooEnv(make=Toy)
    env.reset(0)
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(torch.zeros(2, 1, 1, dtype=torch.int64))):
        with pytest.raises(UserError, match="closed"):
            call()


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_cannot_be_closed_costs_a_warning(rebuild, workers):
    """Guard: seen failing where a finished run ended in the environment's own error, before its last evaluation."""
    zeros = torch.zeros(2, 2, 1, dtype=torch.int64)
    with pytest.warns(RuntimeWarning, match=r"'toy_envs:Unclosable': close raised RuntimeError: no window\."):
        env = PettingZooEnv(make=Unclosable, num_envs=2, workers=workers, rebuild=rebuild, length=1)
        env.reset(0)
        assert env.step(zeros).done.all() and env.step(zeros).done.all()
        env.close()


def test_closing_mpe_leaves_the_renderer_of_others_alone():
    shown = catalogue.parallel_env("simple_reference", render_mode="rgb_array")
    shown.reset(seed=0)
    env = PettingZooEnv("simple_reference")
    env.close()
    assert shown.render().shape == (700, 700, 3)


@pytest.mark.parametrize("env_id", catalogue.MPE_IDS)
def test_every_mpe_task_plays_an_episode(env_id):
    env = PettingZooEnv(env_id, num_envs=2)
    assert env.spec == catalogue.describe(env_id, catalogue.parallel_env(env_id))
    assert EnvSpec.from_dict(env.spec.to_dict()) == env.spec
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    steps = [env.step(actions_of(env, generator)) for _ in range(25)]
    assert [bool(step.done.all()) for step in steps] == [False] * 24 + [True]
    assert steps[-1].truncated.all() and not steps[-1].terminated.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_envs": 0}, "num_envs.*got 0"),
        ({"num_envs": 2, "rows": [1, 1]}, r"2 different integers.*\[1, 1\]"),
        ({"num_envs": 2, "rows": [1]}, "2 different integers"),
        ({"dtype": torch.float16}, "float32 or torch.float64, got torch.float16"),
        ({"workers": -1}, "workers.*got -1"),
        ({"worker_timeout": 0}, "worker_timeout"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        PettingZooEnv(make=Toy, **options)
