"""What users may get wrong, and promises of `step` about the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mpe_cases import VARIATIONS, label

import envs
from envs import AgentSpec, EnvSpec, Head, UserError
from envs.batched import encode_actions
from envs.mpe import MPE, MPE_IDS, VARIANT_IDS, make
from envs.mpe.game import side_by_side


def refuses(match: str, **kwargs: Any) -> None:
    kwargs = {"env_id": "simple_spread", "num_envs": 2, **kwargs}
    with pytest.raises(UserError, match=match):
        envs.make(**kwargs)


def test_make() -> None:
    env = envs.make("simple_spread", num_envs=3, dtype=torch.float64, N=2, rows=torch.tensor([4, 5, 9]))
    assert isinstance(env, MPE) and env.num_envs == 3 and env.spec.num_agents == 2
    obs = env.reset(seed=0)
    assert obs.shape == (2, 3, env.spec.obs_size) and obs.dtype == torch.float64
    assert envs.make("simple").num_envs == 1


def test_bad_arguments_of_make() -> None:
    refuses(r"unknown environment 'simple_spred'.*Did you mean 'simple_spread'", env_id="simple_spred")
    refuses("unknown backend 'tourch'.*Did you mean 'torch'", backend="tourch")
    refuses(r"num_envs must be an integer of at least 1, got 0", num_envs=0)
    refuses("num_envs must be an integer of at least 1, got -3", num_envs=-3)
    refuses("num_envs must be an integer of at least 1, got 2.0", num_envs=2.0)
    refuses("device 'cuda:99' is not usable here", device="cuda:99")
    refuses("device 'gpu' is not usable here", device="gpu")
    if not torch.cuda.is_available():
        refuses("device 'cuda' is not usable here", device="cuda")
    refuses("dtype must be torch.float32 or torch.float64, got torch.float16", dtype=torch.float16)
    refuses("rows must be 2 integers", rows=[1])
    refuses("rows must be 2 integers", rows=[0.5, 1.5])
    refuses("rows must be 2 integers of at least 0", rows=[0, -1])
    refuses('needs backend="pettingzoo"', env_id="pettingzoo.butterfly:pistonball")
    refuses('workers=2 needs backend="pettingzoo"', workers=2)
    refuses('stagger=True needs backend="torch"', backend="pettingzoo", stagger=True)


def test_bad_arguments_of_scenarios() -> None:
    refuses(r"no argument 'n'.*Its arguments are N, local_ratio", n=3)
    refuses("N must be an integer at least 1", N=0)
    refuses("N must be an integer at least 1", N=2.5)
    refuses(r"local_ratio must be a number in \[0, 1\], got 1.5", local_ratio=1.5)
    refuses("max_cycles must be an integer at least 1", max_cycles=0)
    refuses("num_agent_neighbors must be an integer at least 1", num_agent_neighbors=0)
    refuses(r'N must be an integer in \[1, 10\] with backend="torch", got 11', env_id="simple_line", N=11)
    refuses("num_food must be", env_id="simple_world_comm", num_food=0)
    refuses("num_adversaries must be", env_id="simple_tag", num_adversaries=0)
    refuses(r"num_deposits must be an integer in \[1, 6\]", env_id="collect_treasure", num_deposits=7)


@pytest.mark.parametrize(("key", "value"), [("render_mode", "human"), ("benchmark_data", True)])
def test_what_the_port_does_not_support_is_refused_by_name(key: str, value: Any) -> None:
    refuses(rf'{key}={value!r} is not supported.*backend="pettingzoo"', **{key: value})


def test_how_mpe2_draws_does_not_matter() -> None:
    assert envs.make("simple_spread", dynamic_rescaling=False).num_envs == 1


def test_stages_only_where_there_are_any() -> None:
    env = make("simple_spread", 1)
    with pytest.raises(UserError, match="curriculum=True"):
        env.set_curriculum_stage(1)


# ------------------------------------------------------------------ actions
@pytest.mark.parametrize("count", [1, 3, 1000])
@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_actions_out_of_range(mpe_id: str, count: int) -> None:
    """In every head of every agent, below and above, in any row, at any step: named, and nothing is corrupted."""
    env = make(mpe_id, count)
    good = torch.zeros(env.spec.num_agents, count, env.spec.num_heads, dtype=torch.int64)
    env.step(good)
    for n, agent in enumerate(env.spec.agents):
        for h, head in enumerate(agent.heads):
            for bad in (-1, head.size, 10**6):
                actions = good.clone()
                actions[n, -1, h] = bad
                pattern = rf"action of agent '{agent.name}', head '{head.name}' .* \[0, {head.size - 1}\], got {bad}\."
                with pytest.raises(UserError, match=pattern):
                    env.step(actions)
    before = {name: value.clone() for name, value in env.world.tensors().items() if name != "said"}
    with pytest.raises(UserError):
        env.step(torch.full_like(good, 77))
    assert all(torch.equal(env.world.tensors()[name], value) for name, value in before.items())
    assert bool(torch.isfinite(env.step(good).obs).all())


def test_entries_of_absent_heads_are_ignored() -> None:
    one, other = make("simple_world_comm", 2), make("simple_world_comm", 2)
    actions = torch.ones(6, 2, 2, dtype=torch.int64)
    garbage = actions.clone()
    garbage[1:, :, 1] = -(10**9)
    assert torch.equal(one.step(actions).obs, other.step(garbage).obs)


def test_actions_of_wrong_form() -> None:
    env = make("simple_reference", 3)
    good = torch.ones(2, 3, 2, dtype=torch.int64)
    for bad, message in (
        (good.float(), r"integer tensor \[2, 3, 2\] \[agents, envs, heads\], got torch.float32"),
        (good.bool(), "got torch.bool"),
        (good.tolist(), "got list"),
        (good[:, :2], r"shape \[2, 3, 2\] \[agents, envs, heads\], got \[2, 2, 2\]"),
        (good[..., 0], r"got \[2, 3\]"),
        (good.to("meta"), "must be on cpu.*got meta"),
    ):
        with pytest.raises(UserError, match=message):
            env.step(bad)
    other = make("simple_reference", 3)
    expected = other.step(good).obs
    for dtype in (torch.int32, torch.int16, torch.uint8):
        other.reset(0)
        assert torch.equal(other.step(good.to(dtype)).obs, expected)


def test_actions_that_are_not_contiguous() -> None:
    one, other = make("simple_reference", 3), make("simple_reference", 3)
    actions = torch.randint(5, (3, 2, 2), generator=torch.Generator().manual_seed(0)).transpose(0, 1)
    assert torch.equal(one.step(actions).obs, other.step(actions.contiguous()).obs)


@pytest.mark.parametrize("ids", [[0.7, 1.0], [float("nan"), 0.0], [True, False]])
def test_pettingzoo_ids_that_are_no_integers(ids: list[Any]) -> None:
    """Rounding 0.7 to 0 would play another action than the one that was meant."""
    env = make("simple_speaker_listener", 2)
    with pytest.raises(UserError, match=r"actions of agent 'speaker_0' must be integers, got torch.(float64|bool)"):
        env.encode_actions({"speaker_0": ids, "listener_0": [0, 1]})


SHAPED = EnvSpec(
    "shaped",
    (
        AgentSpec("one", 1, (Head("move", 5),)),
        AgentSpec("two", 1, (Head("choice_0", 3), Head("choice_1", 2)), multi_discrete=True),
    ),
)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"one": 3}, r"agent 'one' must have shape \[environments\], got \[\]"),
        ({"one": [[0], [1]]}, r"agent 'one' must have shape \[environments\], got \[2, 1\]"),
        ({"two": [0, 1]}, r"agent 'two' must have shape \[environments, 2\], got \[2\]"),
        ({"two": [[0], [1]]}, r"agent 'two' must have shape \[environments, 2\], got \[2, 1\]"),
        ({"two": 1}, r"agent 'two' must have shape \[environments, 2\], got \[\]"),
        ({"one": [0, 1, 2]}, r"the same number of environments, got \{'one': 3, 'two': 2\}"),
    ],
)
def test_pettingzoo_ids_of_another_shape(changed: dict[str, Any], words: str) -> None:
    """Guard: seen failing where one choice of a MultiDiscrete was played by all of its heads, or torch refused."""
    good: dict[str, Any] = {"one": [4, 0], "two": [[2, 1], [0, 1]]}
    assert encode_actions(SHAPED, good).tolist() == [[[4, 0], [0, 0]], [[2, 1], [0, 1]]]
    with pytest.raises(UserError, match=words):
        encode_actions(SHAPED, good | changed)


# ------------------------------------------------------------------ states
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_states_with_numbers_that_are_not_finite(bad: float) -> None:
    env, state = make("simple_spread", 2), make("simple_spread", 2).state_dict()
    state["world"]["vel"][1, 0, 1] = bad
    before = env.observe()
    with pytest.raises(UserError, match="state of simple_spread_v3: 'vel' holds numbers that are not finite"):
        env.load_state_dict(state)
    assert torch.equal(env.observe(), before)


@pytest.mark.parametrize("mpe_id", [*MPE_IDS, *VARIANT_IDS])
def test_nothing_that_can_be_played_makes_nan(mpe_id: str) -> None:
    """All bodies at one place, then whole episodes of every action at its extremes."""
    env = make(mpe_id, 8)
    env.world.pos.zero_()
    actions = torch.zeros(env.spec.num_agents, 8, env.spec.num_heads, dtype=torch.int64)
    for count in range(60):
        for n, agent in enumerate(env.spec.agents):
            for h, head in enumerate(agent.heads):
                actions[n, :, h] = (torch.arange(8) + (count if count % 3 else 0)) % head.size
        step = env.step(actions)
        for part in (step.obs, step.final_obs, step.reward):
            assert bool(torch.isfinite(part).all())


def test_states_that_do_not_match() -> None:
    env = make("simple_spread", 2)
    for state, message in (
        (make("simple_tag", 2).state_dict(), "state of simple_tag_v3, expected one of simple_spread_v3"),
        (make("simple_spread", 3).state_dict(), r"'pos' is \[6, 2, 3\].*expected \[6, 2, 2\]"),
        (make("simple_spread", 2, N=4).state_dict(), r"'pos' is \[8, 2, 2\]"),
        (make("simple_spread", 2, dtype=torch.float64).state_dict(), "torch.float64, expected .* torch.float32"),
    ):
        with pytest.raises(UserError, match=message):
            env.load_state_dict(state)
    tag = make("simple_tag", 2, curriculum=True)
    with pytest.raises(UserError, match="'pace' is missing"):
        tag.load_state_dict(make("simple_tag", 2).state_dict())
    with pytest.raises(UserError, match=r"'pace' is \[4, 2\] of torch.float32, expected missing"):
        make("simple_tag", 2).load_state_dict(tag.state_dict())


# ------------------------------------------------------------------ the device
@pytest.mark.parametrize("case", VARIATIONS, ids=label)
def test_step_never_asks_the_device(case: tuple[str, dict[str, Any]]) -> None:
    """Tensors without data: any look at a value raises."""
    mpe_id, kwargs = case
    env = make(mpe_id, 3, device="meta", stagger=True, **{**kwargs, "max_cycles": 2})
    env._check_next = False
    actions = torch.zeros(env.spec.num_agents, 3, env.spec.num_heads, dtype=torch.int64, device="meta")
    for _ in range(env.scenario.horizon + 1):
        step = env.step(actions)
    assert step.obs.device.type == "meta" and step.obs.shape == (env.spec.num_agents, 3, env.spec.obs_size)


def test_range_is_checked_once_off_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []
    env = make("simple_spread", 3, device="meta")
    monkeypatch.setattr(env, "check_actions", checks.append)
    actions = torch.zeros(3, 3, 1, dtype=torch.int64, device="meta")
    env.step(actions)
    env.step(actions)
    assert len(checks) == 1
    env.reset(1)
    env.step(actions)
    assert len(checks) == 2


@pytest.mark.parametrize("mpe_id", MPE_IDS)
def test_the_step_is_one_graph(mpe_id: str) -> None:
    """torch.compile traces it without a break (the tracing backend only, nothing is compiled)."""
    torch._dynamo.reset()
    env, plain = make(mpe_id, 3), make(mpe_id, 3)
    traced = torch.compile(env._advance, backend="eager", fullgraph=True, dynamic=False)
    actions = torch.ones(env.spec.num_agents, 3, env.spec.num_heads, dtype=torch.int64)
    for _ in range(2):
        for one, other in zip(traced(actions)[:2], plain._advance(actions)[:2], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mpe_id", ["simple_speaker_listener", "simple_spread", "simple_world_comm"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports what torch itself deprecates
def test_compiled_steps_agree(mpe_id: str) -> None:
    torch._dynamo.reset()
    env, plain = make(mpe_id, 64, dtype=torch.float64), make(mpe_id, 64, dtype=torch.float64)
    env.compile()
    generator = torch.Generator().manual_seed(0)
    sizes = env.spec.head_mask.sum(2).clamp(min=1)[:, None]
    for _ in range(30):
        actions = (torch.rand(env.spec.num_agents, 64, env.spec.num_heads, generator=generator) * sizes).long()
        one, other = env.step(actions), plain.step(actions)
        for field in ("obs", "final_obs", "reward"):
            torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=0, atol=1e-9)
    with pytest.raises(UserError, match="must lie in"):
        env.step(actions + 99)


@pytest.mark.parametrize("envs_count", [1, 16, 512, 1000, 1024, 4096])
def test_joined_pieces_have_no_power_of_two_stride(envs_count: int) -> None:
    pieces = [torch.rand(2, width, envs_count) for width in (1, 4, 2)]
    joined = side_by_side(pieces)
    assert torch.equal(joined, torch.cat(pieces, 1))
    stride = joined.stride(1) * joined.element_size()
    assert envs_count < 512 or (stride % 64 == 0 and stride // 64 % 2 == 1)
