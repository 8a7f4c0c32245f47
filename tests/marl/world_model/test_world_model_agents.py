"""A state for every agent: whose is what, the equations agent by agent, who learns of whom, and the model around."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from world_model_data import episodes, two_agents

from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model import losses
from marl.world_model.dreamer.agents import HEADS, AgentNetworks, AgentRSSM, Parts, networks_of
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.dreamer.rssm import State, gated
from marl.world_model.imagination.source import make_model
from marl.world_model.layout import Layout
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import Sequences

SMALL = WorldModelConfig(
    kind="rssm", factors="agent", latents=4, classes=3, deter=6, hidden=10, sequences=3, lr=1e-2, lr_warmup=0,
    ensemble=2,
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def toy(**changes: object) -> tuple[DreamerModel, Sequences]:
    """Two agents of unlike observations and choices, in two replicas."""
    layout = Layout(two_agents())
    config = replace(SMALL, **changes)  # type: ignore[arg-type]
    model = make_model(layout, config, 0.9, Stream(0, "init", [0, 1]))
    assert isinstance(model, DreamerModel)
    first = torch.zeros(2, 5, 3, dtype=torch.bool)
    first[:, 0] = True
    action = (noise(2, 5, 3, layout.action_size, seed=1) > 0.5).float()
    return model, Sequences(
        obs=noise(2, 5, 3, layout.full_size),
        action=action * ~first[..., None],
        reward=noise(2, 5, 3, 2, seed=2),
        alive=torch.ones(2, 5, 3, 2),
        first=first,
        last=torch.zeros_like(first),
        valid=torch.ones_like(first),
    )


def of_agent(state: State, n: int, agents: int = 2) -> tuple[Tensor, Tensor]:
    """h_n and z_n [..., C * L] of a joint state, whose z is laid out as classes, agents, latents."""
    z = state.z.unflatten(-1, (3, agents, 4))[..., n, :].flatten(-2)
    return state.h.unflatten(-1, (agents, -1))[..., n, :], z


# --------------------------------------------------------------------------- whose is what
def test_entries_are_dealt_out_by_hand() -> None:
    """The speaker has entries 0, 1 and choices 0 .. 2; the listener entries 2, 3 (what it hears is copied) and the
    choices 3 .. 8."""
    parts = Parts(Layout(two_agents()))
    obs, action = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.arange(1.0, 10.0)[None, None]
    assert parts.obs(obs).tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
    assert parts.action(action).tolist() == [[[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9]]]
    assert parts.named(parts.obs(obs)).tolist() == [[[1, 2, 1, 0], [3, 4, 0, 1]]]


@pytest.mark.parametrize("env_id", ["simple_speaker_listener", "simple_tag"])
def test_joined_again_an_observation_is_what_it_was(env_id: str) -> None:
    layout, seq, _ = episodes(env_id, 3)
    parts, obs = Parts(layout), seq.obs[..., layout.dynamic_J].flatten(1, 2)
    rows = parts.obs(obs)
    assert rows.shape == (1, 26 * 3 * parts.agents, parts.obs_width)
    assert torch.equal(parts.joint_obs(rows), obs)


# --------------------------------------------------------------------------- the equations
def slow_step(core: AgentRSSM, state: State, action: Tensor, keep: Tensor) -> list[Tensor]:
    """h of every agent [S, n, D], agent by agent and head by head, as the equations stand."""
    both = [of_agent(state, n) for n in range(2)]
    acts = core.parts.action(action).unflatten(1, (-1, 2))
    x = [
        F.silu(core.embed_z(z * keep) + core.embed_a(acts[:, :, n] * keep) + core.who.weight[:, n : n + 1])
        for n, (_, z) in enumerate(both)
    ]
    h = [h * keep for h, _ in both]
    told = [core.attention(torch.cat([x[n], h[n]], -1)).chunk(3, -1) for n in range(2)]
    result = []
    for n in range(2):
        heard = []
        for head in range(HEADS):
            part = slice(16 * head, 16 * head + 16)
            score = torch.stack([(told[n][0][..., part] * told[k][1][..., part]).sum(-1) / 4.0 for k in range(2)])
            share = torch.softmax(score, 0)
            heard.append(sum(share[k][..., None] * told[k][2][..., part] for k in range(2)))
        result.append(gated(core.cell(torch.cat([x[n], *heard, h[n]], -1)), h[n]))
    return result


def slow_observe(core: AgentRSSM, encoded: Tensor, action: Tensor, first: Tensor, uniform: Tensor) -> State:
    replicas, length, rows = first.shape
    state = State(torch.zeros(replicas, rows, 2 * 6), torch.zeros(replicas, rows, 2 * 12))
    hs, zs = [], []
    for t in range(length):
        keep = (~first[:, t, :, None]).float()
        own, samples = slow_step(core, state, action[:, t] * keep, keep), []
        for n, h in enumerate(own):
            pre = core.posterior_e(encoded[:, t].unflatten(-1, (2, -1))[:, :, n])
            if core.posterior_h is not None:
                pre = pre + core.posterior_h(h)
            probs = torch.softmax(core.posterior_out(F.silu(pre)).unflatten(-1, (3, 4)), -2)
            samples.append(losses.straight_through(probs, uniform[:, t, :, 4 * n : 4 * n + 4]))
        state = State(torch.cat(own, -1), torch.cat(samples, -1).flatten(-2))
        hs.append(state.h)
        zs.append(state.z)
    return State(torch.stack(hs, 1), torch.stack(zs, 1))


@pytest.mark.parametrize("posterior", ["state", "observation"])
def test_observe_equals_the_slow_way_with_its_gradients(posterior: str) -> None:
    model, seq = toy(posterior=posterior)
    core = model.networks.rssm
    assert isinstance(core, AgentRSSM)
    seq.first[:, 3, 1] = True  # a second episode begins inside one sequence
    given = noise(2, 5, 3, 2 * 10, seed=3), seq.action, seq.first, noise(2, 5, 3, 2 * 4, seed=4)
    weights, results = noise(2, 5, 3, 2 * 18, seed=5), []
    for observe in (lambda *x: core.observe(*x).state, lambda *x: slow_observe(core, *x)):
        core.zero_grad()
        state = observe(*given)
        (state.features * weights).sum().backward()
        results.append((state, {n: p.grad.clone() for n, p in core.named_parameters() if p.grad is not None}))
    (fast, fast_grads), (slow, slow_grads) = results
    torch.testing.assert_close(fast.h, slow.h)
    assert torch.equal(fast.z, slow.z)
    assert set(slow_grads) <= set(fast_grads) and len(slow_grads) > 8
    for name, grad in slow_grads.items():
        torch.testing.assert_close(fast_grads[name], grad, msg=lambda m, name=name: f"{name}: {m}")


def test_imagining_continues_where_observing_stands() -> None:
    """So does the prior, whose logits are joint as the posterior's are."""
    model, seq = toy()
    core = model.networks.rssm
    uniform = noise(2, 5, 3, 8, seed=4)
    seen = core.observe(noise(2, 5, 3, 20, seed=3), seq.action, seq.first, uniform)
    assert seen.prior.shape == seen.posterior.shape == (2, 5, 3, 3, 8)
    for t in range(4):
        after = core.imagine_step(
            State(seen.state.h[:, t], seen.state.z[:, t]), seq.action[:, t + 1], uniform[:, t + 1]
        )
        torch.testing.assert_close(after.h, seen.state.h[:, t + 1])
        probs = torch.softmax(seen.prior[:, t + 1], losses.CLASSES)
        assert torch.equal(after.z, losses.straight_through(probs, uniform[:, t + 1]).flatten(-2))


def test_agents_that_are_not_told_apart_may_change_places() -> None:
    """Three agents of one kind, told nothing of who they are: in another order their states are the same."""
    spec = EnvSpec("alike", tuple(AgentSpec(f"agent_{n}", 2, (Head("move", 3),)) for n in range(3)))
    core = AgentNetworks(Layout(spec), SMALL, Stream(0, "init", [0])).rssm
    with torch.no_grad():
        core.who.weight.zero_()
    order = torch.tensor([2, 0, 1])
    state = State(noise(1, 5, 3, 6), noise(1, 5, 3, 3, 4, seed=1))
    action, uniform = noise(1, 5, 3, 3, seed=2), noise(1, 5, 3, 4, seed=3)

    def step(at: Tensor) -> State:
        z = state.z[:, :, at].transpose(2, 3).flatten(2)  # classes, agents, latents
        given = State(state.h[:, :, at].flatten(2), z)
        return core.imagine_step(given, action[:, :, at].flatten(2), uniform[:, :, at].flatten(2))

    here, there = step(torch.arange(3)), step(order)
    for n, k in enumerate(order.tolist()):
        for mine, other in zip(of_agent(there, n, 3), of_agent(here, k, 3), strict=True):
            torch.testing.assert_close(mine, other)


def test_an_agent_learns_of_another_from_step_to_step() -> None:
    """What agent 1 sees at a step is in agent 0's state one step later and not before; what it did, at once."""
    model, seq = toy()
    stream = Stream(0, "n", [0, 1])
    stream_again = Stream(0, "n", [0, 1])
    seen = model.read(model.networks, seq, stream)[1]
    other = replace(seq, obs=seq.obs.clone())
    other.obs[:, 2, :, 2:4] += 50.0
    told = model.read(model.networks, other, stream_again)[1]
    own, changed = seen.posterior.unflatten(-1, (2, 4)), told.posterior.unflatten(-1, (2, 4))
    assert torch.equal(own[:, 2, ..., 0, :], changed[:, 2, ..., 0, :])
    assert not torch.equal(own[:, 2, ..., 1, :], changed[:, 2, ..., 1, :])
    assert not torch.equal(of_agent(seen.state, 0)[0][:, 3], of_agent(told.state, 0)[0][:, 3])
    acted = replace(seq, action=seq.action.clone())
    acted.action[:, 2, :, 3:] = 1.0 - acted.action[:, 2, :, 3:]
    told = model.read(model.networks, acted, Stream(0, "n", [0, 1]))[1]
    mine = of_agent(seen.state, 0)[0], of_agent(told.state, 0)[0]
    assert torch.equal(mine[0][:, 1], mine[1][:, 1]) and not torch.equal(mine[0][:, 2], mine[1][:, 2])


# --------------------------------------------------------------------------- the model around it
@pytest.mark.parametrize("changes", [{}, {"decoder": "state", "kl": "sampled", "posterior": "observation"}])
def test_a_model_learns_predicts_and_is_saved(changes: dict[str, object]) -> None:
    model, seq = toy(**changes)
    pairs = None if model.rewards is None else seq
    model.update(seq, Stream(0, "noise", [0, 1]), pairs)
    model.check()
    before = model.networks.rssm.features
    assert before == 2 * 18 and model.noise_size == 8
    output = open_loop(model, seq, 2, Stream(0, "test", [0, 1]))
    assert output.obs.shape == (2, 2, 3, 4) and output.reward.shape == output.discount.shape == (2, 2, 3, 2)
    assert output.uncertainty.shape == (2, 2, 3) and bool((output.uncertainty > 0).all())
    told = model.diagnose(seq, Stream(0, "test", [0, 1]))
    assert told["kl"].shape == (2, 5) and told["active_latents"].shape == (2,)
    again, _ = toy(**changes)
    again.load_state_dict(model.state_dict())
    repeated = open_loop(again, seq, 2, Stream(0, "test", [0, 1]))
    assert torch.equal(repeated.obs, output.obs) and torch.equal(repeated.reward, output.reward)
    joint, _ = toy(**changes | {"factors": "joint"})
    with pytest.raises(UserError, match="parameters"):
        joint.load_state_dict(model.state_dict())


def test_a_head_reads_its_own_agent_alone() -> None:
    model, _ = toy()
    h, z = noise(2, 3, 12, seed=1).requires_grad_(), noise(2, 3, 24, seed=2).requires_grad_()
    state = State(h, z)
    model.networks.discount(state.features)[..., 1].sum().backward()
    assert h.grad is not None and z.grad is not None
    grads = [of_agent(State(h.grad, z.grad), n) for n in range(2)]
    assert not grads[0][0].any() and not grads[0][1].any() and bool(grads[1][0].any()) and bool(grads[1][1].any())
    mean = model.networks.decoder.state(state.features)
    assert mean.shape == (2, 3, 4)
    (grad,) = torch.autograd.grad(mean[..., 2:].sum(), h)
    assert not grad[..., :6].any() and bool(grad[..., 6:].any())


def test_a_single_agent_has_a_state_of_its_own() -> None:
    spec = EnvSpec("alone", (AgentSpec("agent_0", 2, (Head("move", 3),)),))
    networks = networks_of(Layout(spec), SMALL, Stream(0, "init", [0]))
    assert networks is not None
    core = networks.rssm
    after = core.imagine_step(State(noise(1, 5, 6), noise(1, 5, 12)), noise(1, 5, 3), noise(1, 5, 4))
    assert bool(after.h.isfinite().all()) and after.h.shape == (1, 5, 6)


def test_what_one_agent_does_the_other_is_shown() -> None:
    """Agent 1 sees what agent 0 chose one step before, which the linear part of the decoder is kept from: only
    attention can tell."""
    spec = EnvSpec("told", (AgentSpec("agent_0", 1, (Head("move", 4),)), AgentSpec("agent_1", 4, (Head("move", 4),))))
    config = replace(SMALL, decoder="state", classes=8, deter=24, hidden=32, nx=20.0)
    model = DreamerModel(Layout(spec), config, 0.9, s := Stream(0, "init", [0]), networks_of(Layout(spec), config, s))
    draw, stream = torch.Generator().manual_seed(0), Stream(0, "noise", [0])

    def batch(rows: int) -> Sequences:
        action = F.one_hot(torch.randint(4, (1, 5, rows, 2), generator=draw), 4).flatten(3).float()
        first = torch.zeros(1, 5, rows, dtype=torch.bool)
        first[:, 0] = True
        action[:, 0] = 0.0
        none, reward = torch.zeros_like(first), torch.zeros(1, 5, rows, 2)
        obs = torch.cat([reward[..., :1], action[..., :4]], -1)
        return Sequences(obs, action, reward, reward + 1.0, first, none, ~none)

    for _ in range(150):
        model.update(batch(24), stream)
    test = batch(200)
    right = open_loop(model, test, 1, stream).obs[..., 1:].argmax(-1) == test.obs[:, 2:, :, 1:].argmax(-1)
    assert right.float().mean() > 0.95


def test_masks_and_leaving_agents_are_refused_in_words() -> None:
    spec = EnvSpec("masked", (AgentSpec("agent_0", 2, (Head("move", 3),)),), has_masks=True)
    with pytest.raises(UserError, match="may leave or have masks"):
        networks_of(Layout(spec), SMALL, Stream(0, "init", [0]))
    assert networks_of(Layout(spec), replace(SMALL, factors="joint"), Stream(0, "init", [0])) is None
