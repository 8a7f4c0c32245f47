"""The decoder of changes, and rewards as products: by hand, and learned."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.streams import Stream
from marl.world_model.dreamer.heads import CHANGE, ChangeDecoder, RewardHead, StateHead
from marl.world_model.layers import Dense
from marl.world_model.optimiser import ReplicaAdam


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_change_by_hand() -> None:
    """1 + (3 * 1 + 5 * 2) + .1 * 4 where an observation goes before; 4 at the first frame, whatever is given."""
    decoder = ChangeDecoder((1, 1), 1, Stream(0, "init", [0]))
    with torch.no_grad():
        decoder.linear.weight.copy_(torch.tensor([[[3.0], [5.0]]]))
        decoder.state.layers[0].weight.fill_(4.0)
        decoder.state.layers[0].bias.zero_()
    before, action, follows = torch.tensor([[[1.0], [7.0]]]), torch.full((1, 2, 1), 2.0), torch.tensor([[[1.0], [0.0]]])
    mean = decoder(torch.ones(1, 2, 1), before, action, follows)
    torch.testing.assert_close(mean.flatten(), torch.tensor([1.0 + 13.0 + CHANGE * 4.0, 4.0]))


def test_at_first_nothing_moves_but_by_the_state() -> None:
    decoder = ChangeDecoder((3, 2), 4, Stream(0, "init", [0]))
    before, features = noise(1, 5, 2), noise(1, 5, 3, seed=1)
    mean = decoder(features, before, noise(1, 5, 4, seed=2), torch.ones(1, 5, 1))
    torch.testing.assert_close(mean, before + CHANGE * decoder.state(features))


def test_products_by_hand() -> None:
    """With A = e_0 and B = e_1 the first product is x_0 x_1 / sqrt 2; that of it and the action is a x_0 x_1 / 2."""
    head = RewardHead(3, 1, Stream(0, "init", [0]))
    with torch.no_grad():
        for p in head.parameters():
            p.zero_()
        head.left[0].weight[0, 0, 0] = head.right[0].weight[0, 1, 0] = 1.0
        head.left[1].weight[0, 3, 0] = head.right[1].weight[0, 2, 0] = 1.0
        head.linear.weight[0, 3 + 128, 0] = 10.0
    obs, action = torch.tensor([[[2.0, 3.0]]]), torch.tensor([[[7.0]]])
    torch.testing.assert_close(head(obs, action), torch.tensor([[[10 * 7.0 * 6.0 / 2]]]))


def test_weights_shrink_by_hand_and_biases_do_not() -> None:
    """Without a gradient, one update moves a weight by force * step size towards zero, and never beyond."""
    layer = Dense(2, 1, Stream(0, "init", [0]))
    optimiser = ReplicaAdam(layer, 1, lr=0.1, max_grad_norm=1.0)
    optimiser.shrink(layer, 0.5)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[0.3], [-0.02]]]))
        assert layer.bias is not None
        layer.bias.fill_(0.3)
    optimiser.zero_grad()
    optimiser.step()
    torch.testing.assert_close(layer.weight.flatten(), torch.tensor([0.25, 0.0]))
    assert layer.bias.item() == torch.tensor(0.3).item()


def test_products_teach_a_chosen_distance_from_few_episodes() -> None:
    """-|goal|^2 of the one of three goals that is named, from 300 examples: the error on others is less than a third of
    that of a perceptron of the same inputs, after as many updates."""

    def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
        place = noise(1, count, 3, 2, seed=seed)
        which = torch.nn.functional.one_hot(torch.arange(count) % 3, 3)[None].float()
        reward = -(which * place.square().sum(-1)).sum(-1, keepdim=True)
        return torch.cat([place.flatten(2), 2 * which], -1), 3 * (reward + 2 / 3)

    seen, other = examples(300, 1), examples(2000, 2)
    errors = []
    for head in (RewardHead(9, 1, Stream(0, "init", [0])), StateHead((9, 128, 128, 1), Stream(0, "init", [0]))):
        optimiser = ReplicaAdam(head, 1, lr=3e-3, max_grad_norm=10.0)
        if isinstance(head, RewardHead):
            optimiser.shrink(head, 0.3)

        def predicted(x: Tensor, head: RewardHead | StateHead = head) -> Tensor:
            return head(x, x[..., :0]) if isinstance(head, RewardHead) else head(x)

        for _ in range(300):
            optimiser.zero_grad()
            (predicted(seen[0]) - seen[1]).square().mean().backward()
            optimiser.step()
        with torch.no_grad():
            errors.append(float((predicted(other[0]) - other[1]).square().mean().sqrt()))
    assert errors[0] < errors[1] / 3
