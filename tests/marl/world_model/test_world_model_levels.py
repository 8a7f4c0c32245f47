"""No open loop is worse than a simpler one: which level of the small model imagines is chosen on held-out episodes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.world_model.limits import WORLDS, measure, table
from benchmarks.world_model.prediction import steps_of
from envs.errors import UserError
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.assess import collect
from marl.world_model.imagination.gate import Gate
from marl.world_model.layout import Layout
from marl.world_model.protocol import open_loop
from marl.world_model.sequences import FrameStore, Sequences
from marl.world_model.small.model import COPY, LINEAR, NETWORKS, PUSHES, SmallModel


def trained(env_id: str, updates: int = 1, count: int = 60) -> tuple[SmallModel, Sequences]:
    """A model of an MPE task, and other episodes."""
    import envs

    layout = Layout(envs.make(env_id).spec)
    model = SmallModel(layout, WorldModelConfig(), 0.95, Stream(0, "init", [0]))
    seq = collect(env_id, None, 1, count, 25, 3)
    for step in steps_of(seq, slice(None)):
        model.absorb(step, torch.ones(1, count, dtype=torch.bool))
    stream = Stream(0, "noise", [0])
    for _ in range(updates):
        model.update(seq, stream)
    return model, collect(env_id, None, 1, 30, 25, 4)


def error(model: SmallModel, seq: Sequences) -> float:
    output = open_loop(model, seq, 0, Stream(0, "noise", [0]))
    return float((output.obs - seq.obs[:, 1:][..., model.layout.dynamic_J]).square().mean().sqrt())


def test_levels_that_go_wrong_are_not_used() -> None:
    """Networks, then pushes, then linear dynamics are spoilt: imagination falls back, at last to the observation."""
    model, held_out = trained("simple_spread")
    stream = Stream(0, "noise", [0])
    model.calibrate(held_out, stream)
    assert model.level_S.tolist() == [PUSHES], "a network after one update knows nothing"
    errors = [error(model, held_out)]
    assert model.solved.pushes is not None
    model.solved.pushes.fitted.weight_SPJ = 1.5 * model.solved.pushes.fitted.weight_SPJ
    model.calibrate(held_out, stream)
    assert model.level_S.tolist() == [LINEAR]
    errors.append(error(model, held_out))
    model.solved.linear.weight_SPJ = 1.5 * model.solved.linear.weight_SPJ
    model.calibrate(held_out, stream)
    assert model.level_S.tolist() == [COPY]
    errors.append(error(model, held_out))
    assert errors[0] < 0.1 * errors[1] and errors[1] < errors[2]
    last = held_out.obs[:, :1, :, model.layout.dynamic_J]
    output = open_loop(model, held_out, 0, stream)
    assert torch.equal(output.obs, last.expand_as(output.obs))


def test_networks_that_help_are_used_and_those_that_diverge_are_not() -> None:
    model, held_out = trained("simple_tag", 150)
    stream = Stream(0, "noise", [0])
    errors = [float(model._open_loop_error(held_out, level, stream)) for level in range(4)]
    model.calibrate(held_out, stream)
    chosen = int(model.level_S)
    assert errors[chosen] <= min(errors) / 0.95
    residual = model.averaged.residual
    assert residual is not None
    for parameter in residual.parameters():
        parameter.data.mul_(30.0)
    assert not float(model._open_loop_error(held_out, NETWORKS, stream)) < errors[COPY]
    model.calibrate(held_out, stream)
    assert int(model.level_S) != NETWORKS


def test_every_replica_has_its_own_level() -> None:
    model, held_out = trained("simple_spread")
    two = SmallModel(model.layout, model.config, 0.95, Stream(0, "init", [0, 1]))
    for step in steps_of(held_out, slice(None)):
        rows = {name: x.repeat(2, *[1] * (x.dim() - 1)) for name, x in vars(step).items()}
        two.absorb(SimpleNamespace(**rows), torch.tensor([[True], [False]]).expand(2, 30))  # type: ignore[arg-type]
    both = Sequences(**{name: x.repeat(2, *[1] * (x.dim() - 1)) for name, x in vars(held_out).items()})
    two.update(both, Stream(0, "noise", [0, 1]))
    two.calibrate(both, Stream(0, "noise", [0, 1]))
    assert two.level_S[0] >= LINEAR and two.level_S[1] == COPY, "the second has learned nothing"
    output = open_loop(two, both, 0, Stream(0, "noise", [0, 1])).obs[1]
    last = both.obs[1, :1, :, two.layout.dynamic_J].expand_as(output)
    assert torch.equal(output, last)


def test_gate_chooses_before_it_measures() -> None:
    model, held_out = trained("simple_spread")
    store = FrameStore((model.layout.full_size, model.layout.action_size, 3), 1, 30, 30 * 26, "cpu")
    for step in steps_of(held_out, slice(None)):
        store.add(step, torch.ones(1, 30, dtype=torch.bool))
    assert int(model.level_S) == NETWORKS
    Gate(store, 26, model.layout, WorldModelConfig(rollout=3), Stream(0, "gate", [0])).measure(model)
    assert int(model.level_S) == PUSHES
    assert model.metrics()["level"].tolist() == [PUSHES]


@pytest.mark.parametrize("name", ["simple_tag", "torus of 5 x 5", "simple_spread, bodies of .16"])
def test_off_its_ground_it_is_no_worse_than_simple_predictors(name: str) -> None:
    result = measure(WORLDS[name], episodes=60, test=60, replicas=1, updates=30)
    own, last, linear = (torch.tensor(result["rmse"][kind]["steps"][0]) for kind in ("model", "copy last", "linear"))
    assert (own <= 1.02 * torch.minimum(last, linear)).all(), "the baseline's tenth more episodes are worth less"
    assert f"| {name} |" in table({name: result})


def test_choice_and_pushes_continue_bit_for_bit() -> None:
    one, seq = trained("simple_spread", 2)
    one.calibrate(seq, Stream(0, "noise", [0]))
    two = SmallModel(one.layout, one.config, 0.95, Stream(9, "init", [0]))
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.level_S, one.level_S)
    for step in steps_of(seq, slice(None)):
        for model in (one, two):
            model.absorb(step, torch.ones(1, 30, dtype=torch.bool))
    outputs = []
    for model in (one, two):
        model.update(seq, Stream(5, "noise", [0]))
        outputs.append(open_loop(model, seq, 3, Stream(6, "noise", [0])))
    assert torch.equal(outputs[0].obs, outputs[1].obs) and torch.equal(outputs[0].reward, outputs[1].reward)


def test_state_with_fixed_radii_is_refused_in_words() -> None:
    model, _ = trained("simple_speaker_listener", count=5)
    state = model.state_dict()
    del state["level"]
    with pytest.raises(UserError, match=r"earlier version.*fixed radii.*Train anew"):
        model.load_state_dict(state)
