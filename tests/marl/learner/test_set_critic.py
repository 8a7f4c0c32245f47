"""Critics that see the others as sets: the formula, its invariance, its gradient, and what it can learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_learning_gates import reached
from torch import Tensor
from torch.nn import functional

from envs.spec import AgentSpec, EnvSpec, Head
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import Critic, joint_rows
from marl.learner.networks.set_critic import SetCritic, parts_of


def agent(name: str, obs_size: int, *sizes: int) -> AgentSpec:
    return AgentSpec(name, obs_size, tuple(Head(f"choice_{h}", size) for h, size in enumerate(sizes)))


SPEC = EnvSpec(
    id="toy",
    agents=(agent("leader_0", 2, 3, 2), *(agent(f"follower_{k}", 4, 3) for k in range(3)), agent("prey_0", 3, 2)),
    teams=((0, 1, 2, 3), (4,)),
)
S, N, B, C, WIDTH, A = 2, 5, 6, 2, 4, 6


def critic(hidden: tuple[int, ...] = (7, 5), layer_norm: bool = True, kind: type[Critic] = SetCritic) -> Critic:
    return kind(SPEC, hidden, layer_norm, Stream(1, "critic", range(S)), C)


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(S, N, B, WIDTH, generator=g), torch.rand(S, N, B, A, generator=g)


def swapped(x_SNBF: Tensor, one: int, other: int) -> Tensor:
    order = list(range(N))
    order[one], order[other] = other, one
    return x_SNBF[:, order]


def reference(net: SetCritic, obs_SNBO: Tensor, action_SNBA: Tensor) -> Tensor:
    """The formula with loops and torch's own layers."""
    norm = net.mlp.layer_norm
    (inputs, width), parts = net.mlp.below, net.mlp.parts
    kinds = SPEC.kinds

    def hidden(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pre = functional.linear(x, weight.T, bias)
        return functional.relu(functional.layer_norm(pre, pre.shape[-1:]) if norm else pre)

    values = torch.zeros(S, C, N, B)
    for s in range(S):
        x_NBI = torch.cat([obs_SNBO[s], action_SNBA[s]], dim=-1)
        for c in range(C):
            for i in range(N):
                flat = net.mlp.flat[s, c * N + i]
                blocks = flat[: parts * (inputs + 1) * width].view(parts, inputs + 1, width)
                joined = [hidden(x_NBI[i], blocks[0, :-1], blocks[0, -1])]
                for kind in range(max(kinds) + 1):
                    block, others = blocks[kind + 1], [j for j in range(N) if j != i and kinds[j] == kind]
                    each = [hidden(x_NBI[j], block[:-1], block[-1]) for j in others]
                    joined.append(torch.stack(each).mean(0) if each else torch.zeros(B, width))
                y = torch.cat(joined, dim=-1)
                *layers, (weight, bias) = [(w[s, c * N + i], b[s, c * N + i]) for w, b in net.mlp.layers()]
                for w, b in layers:
                    y = hidden(y, w, b)
                values[s, c, i] = (y @ weight + bias)[:, 0]
    return values


# ------------------------------------------------------------------ the formula
def test_parts_are_kinds_of_agents_and_the_agent_itself() -> None:
    assert SPEC.kinds == (0, 1, 1, 1, 2)
    part_NNZ = parts_of(SPEC)
    assert part_NNZ.sum(2).eq(1).all()
    assert part_NNZ.int().argmax(2).tolist() == [
        [0, 2, 2, 2, 3], [1, 0, 2, 2, 3], [1, 2, 0, 2, 3], [1, 2, 2, 0, 3], [1, 2, 2, 2, 0],
    ]  # fmt: skip


def test_a_value_by_hand() -> None:
    """Own embedding relu(2), mean of relu(1 * 3) and relu(1 * -5), weights 10 and 100 behind them, bias 1."""
    trio = EnvSpec(id="trio", agents=tuple(agent(f"agent_{k}", 1, 2) for k in range(3)))
    net = SetCritic(trio, (1,), False, Stream(0, "critic", [0]))
    with torch.no_grad():
        net.mlp.flat.zero_()
        below, behind = net.mlp.flat[0, 0, :8].view(2, 4), net.mlp.flat[0, 0, 8:]
        below[:, 0] = 1.0  # observations count once, actions do not
        behind[:] = torch.tensor([10.0, 100.0, 1.0])
    obs, action = torch.tensor([2.0, 3.0, -5.0]).view(1, 3, 1, 1), torch.zeros(1, 3, 1, 2)
    assert net(joint_rows(obs, action))[0, 0, 0].item() == 10 * 2 + 100 * (3 + 0) / 2 + 1


@pytest.mark.parametrize(("hidden", "layer_norm"), [((7, 5), True), ((6,), True), ((7, 5, 4), False)])
def test_values_are_those_of_the_formula_in_loops(hidden: tuple[int, ...], layer_norm: bool) -> None:
    net = critic(hidden, layer_norm)
    assert isinstance(net, SetCritic)
    obs, action = rows()
    torch.testing.assert_close(net(joint_rows(obs, action)), reference(net, obs, action), atol=2e-5, rtol=2e-5)


def test_the_order_of_interchangeable_others_does_not_matter_and_that_of_different_ones_does() -> None:
    """Followers 1 and 2 change places: nobody else's critic sees it, and a joint critic does."""
    obs, action = rows()

    def change(kind: type[Critic], one: int, other: int) -> list[bool]:
        net = critic(kind=kind)
        before, after = (
            net(joint_rows(*pair)) for pair in ((obs, action), (swapped(obs, one, other), swapped(action, one, other)))
        )
        return ((before - after).abs().amax((0, 1, 3)) > 1e-5).tolist()

    assert change(SetCritic, 1, 2) == [False, True, True, False, False]
    assert change(SetCritic, 2, 3) == [False, False, True, True, False]
    assert change(SetCritic, 3, 4) == [True] * N
    assert change(Critic, 1, 2) == [True] * N


def test_own_action_value_equals_the_full_critic() -> None:
    net = critic()
    obs, action = rows()
    other = rows(1)[1]
    fast = net.own_action(joint_rows(obs, action))(other)
    for n in range(N):
        replaced = action.clone()
        replaced[:, n] = other[:, n]
        torch.testing.assert_close(fast[:, n], net(joint_rows(obs, replaced))[:, 0, n], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradients_are_those_of_finite_differences(layer_norm: bool) -> None:
    """Of the parameters, in float64, of the joint rows (the end of an imagined rollout) and of the own action."""
    duo = EnvSpec(id="duo", agents=(agent("a_0", 2, 2), agent("a_1", 2, 2), agent("b_0", 1, 2)))
    net = SetCritic(duo, (3, 2), layer_norm, Stream(3, "critic", [0])).double()
    net.part_GNZ, net.mean_GZN = net.part_GNZ.double(), net.mean_GZN.double()
    g = torch.Generator().manual_seed(0)
    obs, action = (torch.rand(1, 3, 2, width, generator=g, dtype=torch.float64) for width in (2, 2))
    joint, start = joint_rows(obs, action), net.mlp.flat.detach().clone()

    def value(flat: Tensor) -> Tensor:
        return torch.func.functional_call(net, {"mlp.flat": flat}, (joint,))

    assert torch.autograd.gradcheck(value, start.requires_grad_())
    assert torch.autograd.gradcheck(net, joint.clone().requires_grad_())
    assert torch.autograd.gradcheck(net.own_action(joint), action.clone().requires_grad_())


# ------------------------------------------------------------------ in the learner
def test_the_learner_says_why_its_update_is_by_autograd() -> None:
    config = MADDPGConfig(hidden=(8,), critic="sets")
    learner = MADDPG(SPEC, config, 0)
    assert isinstance(learner.critic, SetCritic) and isinstance(learner.target_critic, SetCritic)
    assert learner.path == "autograd, since critics see sets of agents"
    assert MADDPG(SPEC, replace(config, critic="joint"), 0).form != "autograd"


def test_it_learns_what_needs_the_others_observation() -> None:
    """The probe in which independent critics reach nothing (test_learning_gates.py)."""
    assert reached("witness_game", steps=250, critic="sets") >= 0.95
