"""Ablations of DreamerV2's model: cores with a part taken out, hidden entries, the record, the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import OneHotCategorical

from benchmarks.world_model import ablated, ablations
from benchmarks.world_model.ablations import ARMS, TASKS, Mixture, Protocol
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.world_model.dreamer.rssm import State
from marl.world_model.layout import Layout
from marl.world_model.sequences import Sequences

TINY = Protocol(replicas=2, episodes=6, choosing=3, test=4, updates=2, samples=2, latents=3, hidden=6, deter=5)


@pytest.fixture(scope="module")
def played() -> tuple[Layout, Sequences]:
    return ablations.episodes(TASKS["messages 3 steps late"], 2, 6, 1)


@pytest.mark.parametrize("make", [ablated.without_z, ablated.without_h])
def test_imagining_goes_on_where_observing_stands(make: ablations.Make, played: tuple[Layout, Sequences]) -> None:
    layout, seq = played
    model = make(layout, TINY.config(), 0.9, Stream(0, "model", [0, 1]))
    obs, seen = model.read(model.networks, seq, Stream(0, "n", [0, 1]))
    rssm = model.networks.rssm
    for t in (0, 7):
        before = State(seen.state.h[:, t], seen.state.z[:, t], obs[:, t])
        uniform = torch.full((2, 6, rssm.sizes.latents), 0.5)
        after = rssm.imagine_step(before, seq.action[:, t + 1], uniform)
        torch.testing.assert_close(after.h, seen.state.h[:, t + 1])
        assert (after.h - seen.state.h[:, t]).abs().max() > 1e-3


def test_without_z_the_state_is_h_alone(played: tuple[Layout, Sequences]) -> None:
    """The latent is a constant, and what was observed is remembered all the same."""
    layout, seq = played
    model = ablated.without_z(layout, TINY.config(), 0.9, Stream(0, "model", [0, 1]))
    one, other = (model.read(model.networks, seq, Stream(seed, "n", [0, 1]))[1] for seed in (0, 1))
    assert bool((one.state.z == 1).all()) and torch.equal(one.state.h, other.state.h)
    changed = replace(seq, obs=seq.obs.clone())
    changed.obs[:, 2] += 1.0
    told = model.read(model.networks, changed, Stream(0, "n", [0, 1]))[1]
    assert torch.equal(told.state.h[:, :3], one.state.h[:, :3])  # h before the observation, which the decoder predicts
    assert (told.state.h[:, 9] - one.state.h[:, 9]).abs().max() > 1e-5
    loss_S, metrics = model.loss(seq, Stream(0, "n", [0, 1]))
    assert not metrics["kl"].any() and bool(loss_S.isfinite().all())


def test_without_h_nothing_passes_but_the_sample(played: tuple[Layout, Sequences]) -> None:
    layout, seq = played
    model = ablated.without_h(layout, TINY.config(), 0.9, Stream(0, "model", [0, 1]))
    rssm, seen = model.networks.rssm, model.read(model.networks, seq, Stream(0, "n", [0, 1]))[1]
    for t in (0, 7):
        before = State(torch.full_like(seen.state.h[:, t], 9.0), seen.state.z[:, t])
        after = rssm.imagine_step(before, seq.action[:, t + 1], torch.full((2, 6, 3), 0.5))
        torch.testing.assert_close(after.h, seen.state.h[:, t + 1])


def test_the_circulated_kl_is_what_its_code_says(played: tuple[Layout, Sequences]) -> None:
    """Against torch's distributions, with the means over latents that the code in circulation takes."""
    layout, seq = played
    model = ablated.circulated_kl(layout, TINY.config(), 0.9, Stream(0, "model", [0, 1]))
    seen = model.read(model.networks, seq, Stream(0, "n", [0, 1]))[1]
    loss_STB, kl_STB, _ = model._kl(seen)

    def log_prob(logits: Tensor) -> Tensor:
        z = seen.state.z.unflatten(-1, logits.shape[-2:]).transpose(-1, -2).detach()
        return OneHotCategorical(logits=logits.transpose(-1, -2), validate_args=False).log_prob(z).mean(-1)

    told = -0.08 * log_prob(seen.prior) + 0.1 * log_prob(seen.posterior)
    torch.testing.assert_close(model.config.beta * loss_STB, told)
    assert bool((kl_STB >= 0).all()) and not kl_STB.requires_grad


def test_the_circulated_loss_has_its_weights_and_label() -> None:
    layout = Layout(spec_of("simple_speaker_listener"))
    model = ablated.circulated_loss(layout, TINY.config(), 0.95, Stream(0, "model", [0]))
    assert (model.config.nx, model.config.nr, model.gamma) == (1 / layout.obs_size**2, 1.0, 1.0)


def test_where_memory_is_needed_the_observation_does_not_tell() -> None:
    """Velocities are not seen; messages are no copies of what was just said, and have to be predicted."""
    sizes = {task: Layout(spec_of(task)) for task in TASKS}
    assert [layout.obs_size for layout in sizes.values()] == [11, 9, 14, 14]
    assert [layout.full_size for layout in sizes.values()] == [14, 12, 14, 14]


def spec_of(task: str) -> EnvSpec:
    return ablations.episodes(TASKS[task], 1, 1, 0)[0].spec


def test_a_third_of_the_episodes_is_uniformly_random() -> None:
    spec = spec_of("simple_speaker_listener")
    policy, obs = Mixture(spec, 2, 3), torch.ones(2, 2, 6, spec.obs_size)
    logits = policy(obs)
    assert logits.shape == (2, 2, 6, spec.num_heads, spec.head_size)
    size_B = logits.abs().mean((0, 1, 3, 4))
    assert not size_B[[0, 3]].any() and bool((size_B[[1, 4]] < size_B[[2, 5]]).all())
    assert torch.equal(policy(2 * obs), 2 * logits)  # one policy an episode
    assert not torch.equal(logits[0, :, 1], logits[0, :, 4]) and not torch.equal(logits[0, :, 1], logits[1, :, 1])


def test_errors_are_taken_after_their_steps() -> None:
    """Squares 1 .. 20 over two entries, of which one is right: half of k under the root."""
    squares = torch.stack([torch.arange(1.0, 21.0), torch.zeros(20)], 1)[None, :, None].expand(2, 20, 3, 2)
    assert ablations._after(squares) == [[round((k / 2) ** 0.5, 4) for k in (1, 3, 8, 20)]] * 2


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    told: list[str] = []
    path, task = tmp_path / "record.json", ["3 steps late, a tenth misheard"]
    ablations.run(["full"], TINY, path, told.append, task)
    first = json.loads(path.read_text())["tasks"][task[0]]
    both = ablations.run(["full", "without z", "small model"], TINY, path, told.append, task)["tasks"][task[0]]
    assert [line.partition(": ")[0] for line in told] == [f"{task[0]}, {arm}" for arm in both] and len(told) == 3
    assert both["full"] == first["full"] and json.loads(path.read_text())["tasks"][task[0]] == both
    for arm in both.values():
        assert [len(rows) for rows in (arm["observation"], arm["expected"], arm["reward"])] == [2, 2, 2]
    sampled, expected = both["full"]["observation"], both["full"]["expected"]
    assert all(mean <= one for rows in zip(expected, sampled, strict=True) for mean, one in zip(*rows, strict=True))
    assert expected != sampled and both["without z"]["expected"] == both["without z"]["observation"]
    other = ablations.record(replace(TINY, updates=3), path)
    assert other["tasks"] == {} and other["protocol"]["updates"] == 3


def test_a_row_by_hand() -> None:
    arm = {
        "observation": [[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.8]], "expected": [[0.0, 0.0, 0.0, 0.2]] * 2,
        "reward": [[1.0, 1.0, 1.0, 2.0]] * 2, "processor_seconds": 9.0,
    }  # fmt: skip
    head, _, row = ablations.table({"tasks": {"without velocities": {"without h": arm}}}).splitlines()
    cells = "0.200 / 0.300 / 0.400 / 0.600 | 0.400 to 0.800 | 0.200 | 1.000 / 1.000 / 1.000 / 2.000 | 4"
    assert row == f"| without velocities | without h | {cells} |"
    assert head.count("|") == row.count("|")


def test_the_page_repeats_the_record() -> None:
    page = ablations.PAGE.read_text(encoding="utf-8")
    numbers = ablations.record(Protocol(), ablations.RECORD)
    assert ablations.written(page, numbers) == page, "run: python -m benchmarks.world_model.ablations --page"
    assert set(numbers["tasks"]) <= set(TASKS) and all(set(arms) <= set(ARMS) for arms in numbers["tasks"].values())
