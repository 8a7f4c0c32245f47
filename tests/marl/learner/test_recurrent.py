"""Recurrent networks against torch's own cell, by hand and by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import envs
from envs.streams import Stream
from marl.learner.recurrent import grouped_gru
from marl.learner.recurrent.networks import (
    GroupedGRU,
    OwnActionInMemory,
    RecurrentActor,
    RecurrentCritic,
    columns,
    rows,
    trace,
)

SPEC = envs.make("simple_world_comm").spec.stacked(1, own_action=True)
S, W = 2, 5


def draws(name: str, *shape: int) -> Tensor:
    return Stream(0, name, [0]).uniform(*shape)[0] * 2 - 1


def cell_of(weight_ZI: Tensor, bias_Z: Tensor, weight_ZW: Tensor, inner_Z: Tensor) -> nn.GRUCell:
    """torch's own cell with these parameters."""
    cell = nn.GRUCell(weight_ZI.shape[1], weight_ZW.shape[1])
    with torch.no_grad():
        for mine, given in (
            (cell.weight_ih, weight_ZI), (cell.bias_ih, bias_Z), (cell.weight_hh, weight_ZW), (cell.bias_hh, inner_Z)
        ):  # fmt: skip
            mine.copy_(given)
    return cell


def test_a_step_is_that_of_torchs_cell() -> None:
    x_XIB, state_XWB = draws("x", 3, 4, 6), draws("h", 3, W, 6)
    weight_XZI, bias_XZ = draws("w", 3, 3 * W, 4), draws("b", 3, 3 * W)
    weight_XZW, inner_XZ = draws("u", 3, 3 * W, W), draws("c", 3, 3 * W)
    gates_XZB = torch.baddbmm(bias_XZ[..., None], weight_XZI, x_XIB)
    after_XWB = grouped_gru.cell(gates_XZB, weight_XZW, inner_XZ[..., None], state_XWB)
    for k in range(3):
        cell = cell_of(weight_XZI[k], bias_XZ[k], weight_XZW[k], inner_XZ[k])
        torch.testing.assert_close(after_XWB[k].T, cell(x_XIB[k].T, state_XWB[k].T).detach())


def test_a_step_by_hand() -> None:
    """One unit: r = sigmoid(0), z = sigmoid(log 3) = 3/4, n = tanh(1/2 * 2 h): h' = tanh(h) / 4 + 3 h / 4."""
    gates_XZB = torch.tensor([[[0.0], [3.0], [0.0]]])
    gates_XZB[0, 1] = torch.log(gates_XZB[0, 1])
    after = grouped_gru.cell(
        gates_XZB, torch.tensor([[[0.0], [0.0], [2.0]]]), torch.zeros(1, 3, 1), torch.ones(1, 1, 1)
    )
    assert after.item() == pytest.approx(0.25 * 0.76159416 + 0.75)


def test_steps_and_their_gradients_are_those_of_single_cells() -> None:
    """Also where another episode begins within the window: the state before it leaves no trace."""
    T, B = 5, 4
    gates = draws("gates", 3, 3 * W, T * B).requires_grad_()
    weight, bias = draws("u", 3, 3 * W, W).requires_grad_(), draws("c", 3, 3 * W, 1).requires_grad_()
    state, keep = draws("h", 3, W, B), torch.ones(3, 1, T, B)
    keep[:, :, 2, 1] = 0.0
    keep[1, :, 0, 3] = 0.0
    before, after = grouped_gru.unroll(gates, weight, bias, state, keep)
    expected, h = [], state
    for t in range(T):
        h = grouped_gru.cell(gates.unflatten(2, (T, B))[:, :, t], weight, bias, h * keep[:, :, t])
        expected.append(h)
    torch.testing.assert_close(after, torch.cat(expected, dim=2))
    assert not before.requires_grad and not before.unflatten(2, (T, B))[:, :, 2, 1].any()
    torch.testing.assert_close(before.unflatten(2, (T, B))[:, :, 3], expected[2])
    direction = draws("direction", *after.shape)
    mine = torch.autograd.grad((after * direction).sum(), (gates, weight, bias))
    theirs = torch.autograd.grad((torch.cat(expected, dim=2) * direction).sum(), (gates, weight, bias))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
    moved = state.clone()
    moved[:, :, 1] += 1.0
    again = grouped_gru.unroll(gates, weight, bias, moved, keep)[1].unflatten(2, (T, B))
    changed = (again != after.unflatten(2, (T, B))).any(1).any(0)  # [T, B]
    assert changed[:2, 1].all() and not changed[2:].any()


@pytest.mark.parametrize("hidden", [(W,), (W, 7), (W, 6, 7)])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_network_is_a_cell_and_a_perceptron_of_input_and_state(
    hidden: tuple[int, ...], norm: bool, shared: bool
) -> None:
    """Every network of every replica by itself, from torch's own modules."""
    net = GroupedGRU((4, *hidden, 2), 3, norm, Stream(0, "net", range(S)), predicts=(1, 3))
    x_SIB, state_SGBW = draws("x", S, 4, 6), draws("h", S, 3, 6, W)
    parameters = net.prepare(net.flat, shared_input=shared)
    entered_XIB = parameters.enter(x_SIB if shared else x_SIB.repeat_interleave(3, 0))
    after_XWB = parameters.step(entered_XIB, columns(state_SGBW))
    beside_X1B = draws("beside", S * 3, 1, 6)
    told_SGBO = rows(parameters.predicted(torch.cat([after_XWB, beside_X1B], dim=1)), (S, 3))
    after_SGBW, out_SGBO = rows(after_XWB, (S, 3)), rows(parameters.output(entered_XIB, after_XWB), (S, 3))

    def passed_on(x_BW: Tensor) -> Tensor:
        return torch.relu(nn.functional.layer_norm(x_BW, x_BW.shape[-1:]) if norm else x_BW)

    for s in range(S):
        for g in range(3):
            x = x_SIB[s].T
            mine = [(weight[s, g], shift[s, g]) for weight, shift in net.layers()]
            (enter, bias), (inner, inner_bias), (read, read_bias), (ahead, ahead_bias), *behind = mine
            cell = cell_of(enter[:, : 3 * W].T, bias[: 3 * W], inner.T, inner_bias)
            after = cell(x, state_SGBW[s, g])
            torch.testing.assert_close(after_SGBW[s, g], after)
            # the first hidden layer is one of the input and the state side by side
            out = torch.cat([x, after], dim=1) @ torch.cat([enter[:, 3 * W :], read]) + bias[3 * W :] + read_bias
            for weight, further in behind:
                out = passed_on(out) @ weight + further
            torch.testing.assert_close(out_SGBO[s, g], out)
            told = torch.cat([after, beside_X1B[s * 3 + g].T], dim=1) @ ahead + ahead_bias
            torch.testing.assert_close(told_SGBO[s, g], told)


def critic_and_rows(**options: object) -> tuple[RecurrentCritic, Tensor, Tensor]:
    critic = RecurrentCritic(SPEC, (W, 7), True, Stream(0, "critic", range(S)), 2, **options)  # type: ignore[arg-type]
    n = SPEC.num_agents
    return critic, draws("joint", S, 6, n * (SPEC.obs_size + SPEC.action_size)), draws("h", S, 2 * n, 6, W)


@pytest.mark.parametrize("independent", [False, True])
def test_the_own_action_replaces_that_of_the_row(independent: bool) -> None:
    critic, joint_SBD, state_SGBW = critic_and_rows(independent=independent)
    n, size = SPEC.num_agents, SPEC.action_size
    before_XWB = columns(state_SGBW[:, :n])
    value = OwnActionInMemory(critic, critic.first(), joint_SBD, before_XWB)
    own_SNBA = draws("own", S, n, 6, size).requires_grad_()
    value_SNB = value(own_SNBA)
    parameters = critic.prepared()
    for i in range(n):
        changed = joint_SBD.clone()
        start = n * SPEC.obs_size + i * size
        changed[..., start : start + size] = own_SNBA[:, i].detach()
        expected_SCNB = critic.values(changed, columns(state_SGBW), parameters)
        torch.testing.assert_close(value_SNB[:, i], expected_SCNB[:, 0, i], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(value_SNB[:, 1].sum(), own_SNBA)
    assert gradient[:, 1].any() and not gradient[:, 0].any()


def test_an_independent_critic_sees_its_own_agent_alone() -> None:
    critic, joint_SBD, _ = critic_and_rows(independent=True)
    changed = joint_SBD.clone()
    changed[..., : SPEC.obs_size] += 1.0  # agent 0's observation
    moved = (critic(changed) != critic(joint_SBD)).any(-1)
    assert moved[:, :, 0].all() and not moved[:, :, 1:].any()


def test_no_gradient_flows_into_the_burn_in() -> None:
    """The learned steps depend on the burn-in, but not by gradient: it is that of a constant state."""
    net = GroupedGRU((4, W, 6, 2), 2, True, Stream(0, "net", range(S)))
    L, T, B, X = 3, 4, 2, 2 * S
    lead, x, state = draws("lead", X, 4, L * B), draws("x", X, 4, T * B), draws("h", X, W, B)
    keep, lead_keep = torch.ones(X, 1, T, B), torch.ones(X, 1, L, B)
    parameters = net.prepare(net.flat)
    lead.requires_grad_()
    burned = trace(parameters, lead, x, state, lead_keep, keep)
    (with_burn_in,) = torch.autograd.grad(burned.output().square().sum(), net.flat, retain_graph=True)
    assert torch.autograd.grad(burned.after_XWR.sum(), lead, allow_unused=True) == (None,)
    known = burned.before_XWR[..., :B].clone()
    parameters = net.prepare(net.flat)
    alone = trace(parameters, lead[..., :0], x, known, lead_keep[:, :, :0], keep)
    (without,) = torch.autograd.grad(alone.output().square().sum(), net.flat)
    assert torch.equal(with_burn_in, without)
    other = trace(parameters, lead.detach() + 1.0, x, state, lead_keep, keep)
    assert not torch.equal(other.after_XWR, burned.after_XWR)
    whole = torch.cat([lead.detach(), x], dim=2)
    at_once = trace(parameters, lead[..., :0], whole, state, keep[:, :, :0], torch.ones(X, 1, L + T, B))
    torch.testing.assert_close(at_once.after_XWR[..., L * B :], burned.after_XWR)


def test_actors_share_parameters_by_kind() -> None:
    actor = RecurrentActor(SPEC, (W, 7), True, Stream(0, "actor", range(S)), shared=True)
    assert actor.mlp.flat.shape[1] == max(SPEC.kinds) + 1 < SPEC.num_agents
    obs, state = draws("obs", S, 1, 6, SPEC.obs_size), draws("h", S, 1, 6, W)
    n = SPEC.num_agents
    logits, after = actor.step(obs.expand(-1, n, -1, -1), state.expand(-1, n, -1, -1), actor.prepared())
    assert logits.shape == (S, n, 6, SPEC.num_heads, SPEC.head_size) and after.shape == (S, n, 6, W)
    same = [m for m in range(n) if SPEC.kinds[m] == SPEC.kinds[2]]
    assert len(same) > 1
    for m in range(n):
        assert torch.allclose(after[:, m], after[:, 2]) == (m in same)
