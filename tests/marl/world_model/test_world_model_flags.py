"""Flags by hand: rows of who is there and what is allowed, their errors and likelihood, and what a step leads to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from world_model_data import two_agents

from envs.spec import EnvSpec
from marl.data.batch import Transitions
from marl.world_model.dreamer.flags import FlagReading
from marl.world_model.flags import Flags
from marl.world_model.sequences import Sequences

BOTH = replace(two_agents(), fixed_agents=False, has_masks=True)  # choices: 3 of the speaker, then 2 and 4


def step_of(spec: EnvSpec, **changes: Any) -> Transitions:
    """One step of one environment in which nothing happens."""
    n, o, a = spec.num_agents, spec.obs_size, spec.action_size
    obs, no = torch.zeros(1, n, 1, o), torch.zeros(1, n, 1, dtype=torch.bool)
    mask = spec.head_mask[None, :, None]
    base = Transitions(
        obs, obs, no[:, 0], torch.zeros(1, n, 1, a), torch.ones(1, n, 1), no, no, obs + 1.0, ~no, mask, mask
    )  # fmt: skip
    return replace(base, **changes)


def test_rows_of_flags_by_hand() -> None:
    flags = Flags(BOTH)
    assert (flags.agents, flags.choices, flags.size) == (2, 9, 11)
    mask = BOTH.head_mask[None, :, None].clone()
    mask[0, 0, 0, 0, 1] = mask[0, 1, 0, 1, 3] = False  # the speaker's second symbol, the listener's last choice
    there = torch.tensor([[[True], [False]]])
    rows = flags.rows(there, mask, torch.zeros(1, 2, 1))
    assert rows.tolist() == [[[1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0]]]
    assert torch.equal(flags.there(rows), there)  # type: ignore[arg-type]
    everybody = torch.ones_like(there)
    assert torch.equal(flags.allowed(rows, everybody), mask)  # type: ignore[arg-type]
    gone = flags.allowed(rows, there)
    assert gone is not None and torch.equal(gone[:, 0], mask[:, 0])
    assert gone[0, 1, 0].tolist() == [[True, False, False, False]] * 2  # of each head choice 0 alone
    assert flags.acted_on(torch.arange(1.0, 8.0), rows[0, 0]).tolist() == [1, 2, 0, 0, 0, 0, 0]
    assert Flags(two_agents()).size == 0 and Flags(two_agents()).there(rows[..., :0]) is None


@pytest.mark.parametrize(
    "terminated, truncated, stays",
    [
        ([False, False], [False, False], [1, 1]),
        ([True, False], [False, False], [0, 1]),
        ([False, False], [False, True], [1, 0]),  # on its own: it leaves
        ([False, False], [True, True], [1, 1]),  # a time limit: nobody leaves
        ([True, False], [False, True], [0, 1]),
        ([True, True], [False, False], [0, 0]),
    ],
)
def test_who_is_there_after_a_step(terminated: list[bool], truncated: list[bool], stays: list[int]) -> None:
    ends = {"terminated": torch.tensor([[terminated]]).mT, "truncated": torch.tensor([[truncated]]).mT}
    before, after = Flags(BOTH).of_step(step_of(BOTH, **ends))
    assert before[0, 0, :2].tolist() == [1, 1] and after[0, 0, :2].tolist() == stays


def test_an_imagined_step_is_as_the_adapter_gives_it() -> None:
    """The listener is gone before, the speaker leaves by a truncation of its own."""
    flags = Flags(BOTH)
    before, after = torch.ones(1, 1, 11), torch.ones(1, 1, 11)
    before[..., 1], after[..., :2] = 0.0, 0.0
    t = flags.joined(step_of(BOTH), before, after)
    assert t.active is not None and t.active[0, :, 0].tolist() == [True, False]
    assert t.next_active is not None and t.next_active[0, :, 0].tolist() == [True, False]  # as after a time limit
    assert t.terminated[0, :, 0].tolist() == [False, True] and t.truncated[0, :, 0].tolist() == [True, False]
    assert t.reward[0, :, 0].tolist() == [1, 0]
    assert bool((t.next_obs[0, 0] == 1).all()) and not bool(t.next_obs[0, 1].any())  # it is seen leaving
    assert t.mask is not None and t.mask[0, 1, 0].tolist() == [[True, False, False, False]] * 2
    assert t.next_mask is not None and torch.equal(t.next_mask[0, 0, 0], BOTH.head_mask[0])
    assert flags.going(t.terminated, after).tolist() == [[False]]


def test_who_comes_in_an_imagined_step_acts_at_the_next() -> None:
    """The listener comes; the speaker is terminated. Guard: seen failing with those that were there alone."""
    flags = Flags(BOTH)
    before, after = torch.ones(1, 1, 11), torch.ones(1, 1, 11)
    before[..., 1], after[..., 0] = 0.0, 0.0
    t = flags.joined(step_of(BOTH, terminated=torch.tensor([[[True], [False]]])), before, after)
    assert t.next_active is not None and t.next_active[0, :, 0].tolist() == [False, True]


def test_every_head_has_a_choice() -> None:
    allowed = Flags(BOTH).some(torch.tensor([[[-3.0, -1.0, -2.0, 1.0, -1.0, 2.0, -1.0, 1.0, -1.0]]]))
    assert allowed.tolist() == [[[False, True, False, True, False, True, False, True, False]]]


def test_balanced_error_rates_by_hand() -> None:
    """Of four agents that are there one is missed, of two that are gone one is thought to be there: (1/4 + 1/2) / 2."""
    flags = Flags(replace(two_agents(), fixed_agents=False))
    truth = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    guess = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]])
    weight = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert flags.wrong(guess, truth, weight).item() == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert flags.wrong(truth, truth, weight).item() == 0.0
    masks = Flags(replace(two_agents(), has_masks=True))
    ones = torch.ones(1, 1, 9)
    forbidden = ones.clone()
    forbidden[..., 4] = 0.0
    assert masks.wrong(ones, forbidden, torch.ones(1, 1)).item() == pytest.approx(0.5)  # all allowed: chance
    both = torch.cat([torch.tensor([[[0.0, 1.0]]]), ones], 2)
    guess = both.clone()
    guess[..., 2:5] = 0.0  # choices of the speaker, who is gone: they do not count
    assert Flags(BOTH).wrong(guess, both, torch.ones(1, 1)).item() == 0.0


def test_likelihood_by_hand() -> None:
    """log Bern of two agents and of the listener's choices alone, since the speaker is gone after the step."""
    flags = Flags(BOTH)
    truth, before = torch.ones(1, 2, 1, 11), torch.ones(11)
    truth[0, 1, 0, :2] = torch.tensor([0.0, 1.0])  # of the second frame: the speaker has left,
    truth[0, 1, 0, 5] = 0.0  # and the listener may no longer make its first move
    zeros = torch.zeros(1, 2, 1, 9)
    first, no = torch.tensor([[[True], [False]]]), torch.zeros(1, 2, 1, dtype=torch.bool)
    seq = Sequences(torch.zeros(1, 2, 1, 7), zeros, zeros[..., :2], zeros[..., :2], first, no, ~no, truth)
    seen: list[Tensor] = []

    def heads(features: Tensor, obs: Tensor, flags_before: Tensor) -> Tensor:
        seen.extend([obs, flags_before])
        return torch.full((1, 2, 11), math.log(3.0))  # a probability of 3/4

    reading = FlagReading(flags, torch.arange(4), 0.9)
    log = reading.log_prob(heads, zeros[:, 0], torch.ones(1, 2, 4), seq)  # type: ignore[arg-type]
    yes, not_ = math.log(3 / 4), math.log(1 / 4)
    assert log[0, 1].item() == pytest.approx(not_ + yes + not_ + 5 * yes)
    assert torch.equal(seen[1][0, 1], before) and not bool(seen[1][0, 0].any())
    assert seen[0][0].tolist() == [
        [0.0] * 4,
        [1.0] * 4,
    ]  # nobody acted before the first frame


def test_what_a_step_leads_to_by_hand() -> None:
    """The speaker's episode ends although the head has it stay; the listener was gone: neither is seen after."""
    reading = FlagReading(Flags(replace(two_agents(), fixed_agents=False)), torch.arange(4), 0.9)
    before = torch.tensor([[[1.0, 0.0]]])

    def heads(*_: Tensor) -> Tensor:
        return torch.tensor([[[5.0, -5.0]]])

    seen, nothing = torch.ones(1, 1, 4), torch.full((1, 1, 4), -7.0)
    for chance, there in ((0.4, 0.0), (0.8, 1.0)):
        flags, obs, discount = reading.settled(
            heads, seen, seen, nothing, torch.full((1, 1, 2), chance), before  # type: ignore[arg-type]
        )  # fmt: skip
        assert flags.tolist() == [[[there, 0.0]]]
        assert obs.tolist() == [[[1.0, 1.0, -7.0, -7.0]]]  # an agent is seen leaving
        assert discount.flatten().tolist() == pytest.approx([chance, 0.0])
    assert reading.paid(torch.ones(1, 1, 2), before).tolist() == [[[1.0, 0.0]]]
