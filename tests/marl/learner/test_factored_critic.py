"""Critics of teams that are sums: the formula, who shares a term, its gradients, and what the terms tell.

Guard: seen failing with the sum over all agents in place of the team's, with the term of another kind, and with the
error of the sum left at one term.
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


def term(net: FactoredCritic, s: int, group: int, x_BI: Tensor) -> Tensor:
    """The value of one's own observation and action by a group of parameters, by torch's own layers."""
    layers, out = net.mlp.layers(), x_BI
    for k, (weight, bias) in enumerate(layers):
        out = functional.linear(out, weight[s, group].T, bias[s, group])
        if k < len(layers) - 1:
            out = functional.relu(functional.layer_norm(out, out.shape[-1:]) if net.mlp.layer_norm else out)
    return out[:, 0]


@pytest.mark.parametrize("shared, owners", [(True, (0, 1, 1, 1, 2)), (False, (0, 1, 2, 3, 4))])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_value_is_the_sum_of_the_team(layer_norm: bool, shared: bool, owners: tuple[int, ...]) -> None:
    """Followers have one term where terms are shared; nobody else's is."""
    net = critic(shared, layer_norm)
    obs, action = rows()
    values, groups = net(joint_rows(obs, action)), max(owners) + 1
    for s in range(S):
        for c in range(C):
            x_NBI = torch.cat([obs[s], action[s]], dim=-1)
            terms = torch.stack([term(net, s, c * groups + owner, x_NBI[n]) for n, owner in enumerate(owners)])
            expected = torch.stack([terms[:4].sum(0)] * 4 + [terms[4]])
            torch.testing.assert_close(values[s, c], expected, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_are_those_of_finite_differences(shared: bool) -> None:
    """Of the parameters, in float64, of the joint rows (the end of an imagined rollout) and of the own action."""
    trio = EnvSpec(id="trio", agents=(agent("a_0", 2, 2), agent("a_1", 2, 2), agent("b_0", 1, 2)), teams=((0, 1), (2,)))
    net = FactoredCritic(trio, (3, 2), True, Stream(3, "critic", [0]), 1, shared).double()
    net.sum_NN = net.sum_NN.double()
    g = torch.Generator().manual_seed(0)
    obs, action = (torch.rand(1, 3, 2, width, generator=g, dtype=torch.float64) for width in (2, 2))
    joint, start = joint_rows(obs, action), net.mlp.flat.detach().clone()

    def value(flat: Tensor) -> Tensor:
        return torch.func.functional_call(net, {"mlp.flat": flat}, (joint,))

    assert torch.autograd.gradcheck(value, start.requires_grad_())
    assert torch.autograd.gradcheck(net, joint.clone().requires_grad_())
    assert torch.autograd.gradcheck(net.own_action(joint), action.clone().requires_grad_())


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
