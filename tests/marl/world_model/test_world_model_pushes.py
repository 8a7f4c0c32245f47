"""Pushes of bodies that touch: which, and within which radius, is learned and not built in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from world_model_data import episodes, play, two_agents

from benchmarks.world_model.limits import WORLDS, spread
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.assess import collect_in
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.protocol import open_loop
from marl.world_model.small.model import SmallModel
from marl.world_model.small.pushes import Pushes, _Search
from marl.world_model.small.regression import LeastSquares
from marl.world_model.small.sample import Rows, Sample


def rows_with(radius: float, strength: float, count: int = 1500) -> Rows:
    """Six entries, three vectors: linear dynamics, and the second vector pushes the last two entries."""
    g = torch.Generator().manual_seed(0)
    obs = 2 * torch.rand(1, count, 6, generator=g) - 1
    action = torch.rand(1, count, 2, generator=g)
    inputs = torch.cat([obs, action, torch.ones(1, count, 1)], dim=2)
    after = inputs @ torch.randn(9, 6, generator=g)
    d = obs[..., 2:4]
    length = d.norm(dim=2, keepdim=True)
    after[..., 4:] += strength * (radius - length).clamp(min=0) * d / length
    return Rows(inputs, obs, after, torch.zeros(1, count, 1), torch.ones(1, count))


def found(rows: Rows) -> tuple[Pushes, LeastSquares]:
    """The pushes of rows, and least squares without them."""
    linear = LeastSquares(9, 6, 1, "cpu")
    linear.add(rows.inputs, rows.after, rows.weight)
    linear.solve()
    pushes = Pushes(torch.tensor([0, 2, 4]), 9, 6, 1, "cpu")
    pushes.fit(rows, linear)
    return pushes, linear


@pytest.mark.parametrize("radius", [0.2371, 0.3, 0.611])
def test_pair_and_radius_are_learned(radius: float) -> None:
    rows = rows_with(radius, 3.0)
    pushes, linear = found(rows)
    assert pushes.pair_SK[0, 0] == 1
    assert pushes.radius_SK[0, 0] == pytest.approx(radius, abs=1e-4)
    assert not pushes.radius_SK[0, 1:].any(), "one push explains all"
    predicted = pushes.fitted(torch.cat([rows.inputs, pushes.features(rows.obs)], dim=2))
    assert (predicted - rows.after).square().mean() < 1e-6 * linear.residual_S1J.square().max()


def test_what_is_linear_needs_no_push() -> None:
    pushes, linear = found(rows_with(0.3, 0.0))
    assert not pushes.radius_SK.any()
    assert torch.equal(pushes.fitted.weight_SPJ[:, :9], linear.weight_SPJ)
    assert not pushes.fitted.weight_SPJ[:, 9:].any()


def test_a_push_that_few_rows_show_is_not_used() -> None:
    """Within .07 of the second vector lie 5 of 1500 rows, exactly pushed; with more rows the same push is learned."""
    few, many = rows_with(0.07, 30.0), rows_with(0.07, 30.0, 6000)
    touching = [int((rows.obs[0, :, 2:4].norm(dim=1) < 0.07).sum()) for rows in (few, many)]
    assert 0 < touching[0] < Pushes.LEAST <= touching[1]
    assert not found(few)[0].radius_SK.any()
    assert found(many)[0].radius_SK[0, 0] == pytest.approx(0.07, abs=1e-3)


def test_kicks_without_a_law_are_no_pushes() -> None:
    """Where the second vector is short, the last entries are kicked anywhere: no push predicts rows left out."""
    for seed in range(5):
        rows = rows_with(0.3, 0.0)
        g = torch.Generator().manual_seed(seed)
        near = rows.obs[..., 2:4].norm(dim=2, keepdim=True) < 0.12
        # few large kicks among small ones: least squares follows them
        kick = torch.randn(1, 1500, 2, generator=g) * torch.rand(1, 1500, 1, generator=g) ** -1.0
        rows.after[..., 4:] += near * kick
        pushes, linear = found(rows)
        assert not pushes.radius_SK.any()
        assert torch.equal(pushes.fitted.weight_SPJ[:, :9], linear.weight_SPJ)


def test_the_same_rows_give_the_same_bits() -> None:
    """Exact resume depends on it: a fit of several pushes, which are not all that there is, again and again."""
    rows = rows_with(0.3, 3.0)
    for first, radius in ((0, 0.4), (2, 0.5), (4, 0.25)):
        d = rows.obs[..., first : first + 2]
        length = d.norm(dim=2, keepdim=True)
        rows.after[..., :2] += 2.0 * (radius - length).clamp(min=0) * d / length + 0.3 * (length < radius)
    radii = []
    for turn in range(6):
        _ = [torch.full((size,), turn) for size in range(1, 100)]  # other numbers where memory is free
        pushes = Pushes(torch.tensor([0, 2, 4]), 9, 6, 1, "cpu")
        radii.append(_Search(pushes, rows.inputs[0], rows.obs[0], rows.after[0]).run())  # in double precision
    assert len(radii[0]) >= 3
    assert all(other == radii[0] for other in radii)


def test_pushes_by_hand() -> None:
    """A vector (.06, .08) is .1 long: within .3 it pushes by .2, within .05 not at all, and touches accordingly."""
    pushes = Pushes(torch.tensor([0, 2]), 5, 4, 1, "cpu")
    pushes.pair_SK[0, :2], pushes.radius_SK[0, :3] = 1, torch.tensor([0.3, 0.05, 0.2])
    obs = torch.tensor([[[9.0, 9.0, 0.06, 0.08]]])
    first, second = pushes.features(obs)[0, 0].view(2, -1)
    assert first[:3].tolist() == pytest.approx([0.2 * 0.6, 0.0, 0.0], abs=1e-6)
    assert second[:3].tolist() == pytest.approx([0.2 * 0.8, 0.0, 0.0], abs=1e-6)
    assert not first[3:].any() and not second[3:].any()
    assert pushes.touching(obs)[0, 0, :4].tolist() == [1.0, 0.0, 0.0, 0.0]


def spread_error(size: float, count: int = 100) -> tuple[SmallModel, float]:
    """A model of spread with such bodies, and its error over twenty steps of other episodes."""
    layout = Layout(spread(size, 1).spec)
    model = SmallModel(layout, WorldModelConfig(), 0.95, Stream(0, "init", [0]))
    for t in play(spread(size, count), 25):
        model.absorb(rows_of(layout, t), torch.ones(1, count, dtype=torch.bool))
    seq = collect_in(spread(size, 60), None, 1, 25, 7)
    model.update(seq, Stream(0, "noise", [0]))
    model.calibrate(seq, Stream(0, "noise", [0]))
    test = collect_in(spread(size, 100), None, 1, 25, 8)
    output = open_loop(model, test, 5, Stream(0, "noise", [0]))
    return model, (output.obs - test.obs[:, 6:][..., layout.dynamic_J]).square().mean().sqrt().item()


def test_bodies_of_another_size_are_no_harder() -> None:
    """With a grid of radii that holds .30, bodies of .16 (which touch at .32) had many times the error of .15."""
    usual, other = spread_error(0.15), spread_error(0.16)
    for (model, error), touch in ((usual, 0.30), (other, 0.32)):
        radii = model.solved.pushes.radius_SK[0]  # type: ignore[union-attr]
        assert radii[radii > 0].tolist() == pytest.approx([touch] * 3, abs=2e-3)
        assert error < 0.003  # linear: .18 and .21
    assert other[1] < 3 * usual[1]


def test_held_out_rows_enter_no_fit() -> None:
    """Garbage outside of the mask changes nothing, and choosing on other episodes fits nothing to them."""
    layout, seq, _ = episodes("simple_spread", 20)
    models = [SmallModel(layout, WorldModelConfig(), 0.95, Stream(0, "init", [0])) for _ in range(2)]
    mask = (torch.arange(40) % 4 > 0)[None]
    for t in play(spread(0.15, 40), 25):
        step = rows_of(layout, t)
        for model, scale in zip(models, (1.0, 1e3), strict=True):
            for x in (step.obs, step.next_obs, step.reward):
                x[~mask] *= scale
            model.absorb(step, mask)
    for model in models:
        model.update(seq, Stream(0, "noise", [0]))
    one, two = (flat(model.state_dict()) for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)
    models[0].calibrate(episodes("simple_spread", 20, seed=5)[1], Stream(0, "noise", [0]))
    chosen = flat(models[0].state_dict())
    assert all(torch.equal(one[name], chosen[name]) for name in one if name != "/level")


def flat(state: object, name: str = "") -> dict[str, Tensor]:
    """The tensors of a nested state by path."""
    if isinstance(state, Tensor):
        return {name: state}
    if not isinstance(state, dict):
        return {}
    return {path: x for key, part in state.items() for path, x in flat(part, f"{name}/{key}").items()}


def test_sample_is_bounded_even_and_continues() -> None:
    """Of 1200 rows at most 100 stay, as many of every phase of episodes of 24 steps; masked rows leave nothing."""
    sample, again = (Sample(100, (1, 1, 1), 1, "cpu") for _ in range(2))
    for t in range(300):
        number = torch.arange(4 * t, 4 * t + 4.0)[None, :, None]
        sample.add(number, 0 * number, number + 1, number + 2, number[..., 0] % 4 > 0)
        if t == 150:
            again.load_state_dict(sample.state_dict())
        if t > 150:
            again.add(number, 0 * number, number + 1, number + 2, number[..., 0] % 4 > 0)
    rows = sample.rows()
    assert 50 <= rows.obs.shape[1] <= 100
    kept = rows.weight[0] > 0
    numbers = rows.obs[0, kept, 0]
    assert not (rows.obs[0, ~kept].any() or rows.after[0, ~kept].any() or rows.reward[0, ~kept].any())
    assert torch.equal(rows.after[0, kept, 0], numbers + 1) and torch.equal(rows.reward[0, kept, 0], numbers + 2)
    assert numbers.max() > 1150 and numbers.min() < 50
    phases = torch.bincount((numbers.long() // 4 % 24) // 6, minlength=4)
    assert phases.min() > 0.15 * len(numbers) and phases.max() < 0.35 * len(numbers)
    assert torch.equal(again.rows().obs, rows.obs)


def test_every_world_of_the_table_can_be_imagined() -> None:
    for make in WORLDS.values():
        assert make(2).spec.num_agents >= 2
    assert Pushes(Layout(two_agents()).dynamic_J[:1], 5, 4, 1, "cpu").features(torch.ones(1, 3, 4)).shape == (1, 3, 48)
