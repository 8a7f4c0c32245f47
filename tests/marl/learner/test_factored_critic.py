"""Critics of teams that are sums: the formula, who shares a term, the gradient of a shared one, and what they tell.

Guard: seen failing with the sum over all agents in place of the team's, with copies whose rows are not exchanged, with
a sum in place of the mean of their gradients, and with the error of the sum left at one term.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.data.batch import Batch
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows
from marl.learner.networks.factored_critic import FactoredCritic


def agent(name: str, obs_size: int, *sizes: int) -> AgentSpec:
    return AgentSpec(name, obs_size, tuple(Head(f"choice_{h}", size) for h, size in enumerate(sizes)))


SPEC = EnvSpec(
    id="toy",
    agents=(agent("leader_0", 2, 3, 2), *(agent(f"follower_{k}", 4, 3) for k in range(3)), agent("prey_0", 3, 2)),
    teams=((0, 1, 2, 3), (4,)),
)
S, N, B, C, WIDTH, A = 2, 5, 6, 2, 4, 6


def critic(shared: bool = True, layer_norm: bool = True) -> FactoredCritic:
    return FactoredCritic(SPEC, (7, 5), layer_norm, Stream(1, "critic", range(S)), C, shared)


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(S, N, B, WIDTH, generator=g), torch.rand(S, N, B, A, generator=g)


def term(net: FactoredCritic, s: int, c: int, owner: int, x_BI: Tensor) -> Tensor:
    """The term whose parameters agent `owner` holds, of one's own observation and action, by torch's own layers."""
    layers = net.mlp.layers()
    seen, out = N * WIDTH, x_BI
    for k, (weight, bias) in enumerate(layers):
        w, b = weight[s, c * N + owner], bias[s, c * N + owner]
        if k == 0:
            own_o = w[owner * WIDTH : (owner + 1) * WIDTH]
            own_a = w[seen + owner * A : seen + (owner + 1) * A]
            w = torch.cat([own_o, own_a])
        out = functional.linear(out, w.T, b)
        if k < len(layers) - 1:
            out = functional.relu(functional.layer_norm(out, out.shape[-1:]) if net.mlp.layer_norm else out)
    return out[:, 0]


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_value_is_the_sum_of_the_team(layer_norm: bool) -> None:
    """With shared terms, the followers' are those of the first of them."""
    net = critic(layer_norm=layer_norm)
    obs, action = rows()
    values = net(joint_rows(obs, action))
    for s in range(S):
        for c in range(C):
            x_NBI = torch.cat([obs[s], action[s]], dim=-1)
            owners = (0, 1, 1, 1, 4)
            terms = torch.stack([term(net, s, c, owner, x_NBI[n]) for n, owner in enumerate(owners)])
            expected = torch.stack([terms[:4].sum(0)] * 4 + [terms[4]])
            torch.testing.assert_close(values[s, c], expected, atol=1e-5, rtol=1e-5)


def test_who_is_of_another_kind_shares_nothing() -> None:
    own = critic(shared=False)
    obs, action = rows()
    terms = [term(own, 0, 0, n, torch.cat([obs[0, 1], action[0, 1]], dim=-1)) for n in range(N)]
    assert all(not torch.allclose(terms[n], terms[m]) for n in range(N) for m in range(n))


def test_an_actor_follows_the_gradient_of_the_whole_sum() -> None:
    net = critic()
    obs, action = rows()
    theirs = action.clone().requires_grad_()
    value = net(joint_rows(obs, theirs))[:, 0]
    own = action.clone().requires_grad_()
    (found,) = torch.autograd.grad(net.own_action(joint_rows(obs, action))(own).sum(), own)
    for n in range(N):
        (whole,) = torch.autograd.grad(value[:, n].sum(), theirs, retain_graph=True)
        torch.testing.assert_close(found[:, n], whole[:, n], atol=1e-5, rtol=1e-4)


def test_the_gradient_of_a_shared_term_is_the_mean_of_its_copies() -> None:
    """Against autograd of one parameter that all copies are made of."""
    net = critic()
    obs, action = rows()
    weight = torch.randn(S, C, N, B, generator=torch.Generator().manual_seed(2))
    flat = net.mlp.flat.detach().clone().requires_grad_()
    values = torch.func.functional_call(net, {"mlp.flat": flat}, (joint_rows(obs, action),))
    (gradient,) = torch.autograd.grad((values * weight).sum(), flat)
    net.copies.average(gradient)

    own = net.mlp.flat.detach().clone().requires_grad_()
    net.mlp.flat = torch.nn.Parameter(own.detach())
    copied = own.clone()
    for g in range(C * N):
        if g % N in (2, 3):  # followers: the first of them is agent 1, whose own rows stand where theirs would
            member, first = g % N, g - g % N + 1
            head = own[:, first, : net.mlp.sizes[0] * 7].unflatten(1, (-1, 7))
            order = list(range(net.mlp.sizes[0]))
            for start, width in ((0, WIDTH), (N * WIDTH, A)):
                for k in range(width):
                    i, j = start + width + k, start + member * width + k
                    order[i], order[j] = j, i
            copied = copied.clone()
            copied[:, g] = torch.cat([head[:, order].flatten(1), own[:, first, net.mlp.sizes[0] * 7 :]], dim=1)
    again = torch.func.functional_call(net, {"mlp.flat": copied}, (joint_rows(obs, action),))
    torch.testing.assert_close(again, values)
    (expected,) = torch.autograd.grad((again * weight).sum(), own)
    for g in range(C * N):
        if g % N not in (2, 3):
            share = 3 if g % N == 1 else 1
            torch.testing.assert_close(gradient[:, g], expected[:, g] / share, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------ in the learner
DUO = EnvSpec(id="duo", agents=(agent("a_0", 2, 3), agent("a_1", 2, 3)), teams=((0, 1),))
CONFIG = MADDPGConfig(
    hidden=(16,), critic="factored", team_reward=True, share_actors=True, critic_lr=1e-2, lr_final=1.0
)


def paid(rows_: int, seed: int) -> Batch:
    """Episodes of one step: everybody is paid what each earns whose choice is that of its larger number."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.rand(1, 2, rows_, 2, generator=g)
    choice = torch.randint(3, (1, 2, rows_), generator=g)
    action = functional.one_hot(choice, 3).float()
    earned = (choice == obs.argmax(-1)).float()
    zeros = torch.zeros(1, 2, rows_)
    return Batch(
        joint=joint_rows(obs, action), prev_obs=torch.zeros(1, 0, rows_, 2),
        first=torch.ones(1, rows_, dtype=torch.bool), reward=earned.sum(1, keepdim=True).repeat(1, 2, 1),
        discount=zeros, next_obs=torch.zeros_like(obs), active=None, mask=None, next_mask=None,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["explicit", "autograd"])
def test_terms_learn_who_earned_what_is_paid_to_all(form: str) -> None:
    learner = MADDPG(DUO, CONFIG, 0)
    assert isinstance(learner.critic, FactoredCritic) and isinstance(learner.target_critic, FactoredCritic)
    if form == "autograd":
        learner.use("autograd")
    for k in range(400):
        learner.update(paid(64, k))
    batch = paid(200, 999)
    own = learner.critic.own_action(batch.joint)
    choices = torch.eye(3).expand(1, 2, 200, 3, 3).unbind(3)
    value = torch.stack([own(one.contiguous()) for one in choices], dim=-1)[0]  # [N, B, choices]
    larger = batch.obs[0].argmax(-1)
    clear = (batch.obs[0, :, :, 0] - batch.obs[0, :, :, 1]).abs() > 0.2
    better = value.gather(2, larger[..., None])[..., 0] - value.gather(2, 1 - larger[..., None])[..., 0]
    assert abs(float(better[clear].mean()) - 1.0) < 0.1, "one's own pay, not the half and not the sum"
    joint = learner.critic(batch.joint)[0, 0]
    assert torch.equal(joint[0], joint[1])
    swapped = joint_rows(batch.obs.flip(1), batch.action.flip(1))
    torch.testing.assert_close(learner.critic(swapped)[0, 0], joint, atol=1e-4, rtol=1e-4)


def test_without_shared_actors_every_agent_has_a_term_of_its_own() -> None:
    learner = MADDPG(DUO, replace(CONFIG, share_actors=False), 0)
    for k in range(3):
        learner.update(paid(16, k))
    batch = paid(16, 9)
    swapped = joint_rows(batch.obs.flip(1), batch.action.flip(1))
    assert not torch.allclose(learner.critic(swapped), learner.critic(batch.joint), atol=1e-3)
