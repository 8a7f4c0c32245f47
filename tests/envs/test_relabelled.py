"""Other-play for messages: symbols are permuted anew in every episode, and nothing arbitrary is left to agree on.

Guard: seen failing with `final_obs` renamed by the next episode's permutation, with draws at every step, and with one
permutation for all environments.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import envs
from envs import UserError
from envs.relabelled import Relabelled

ROWS = 600
SLOT = slice(8, 11)  # of the listener of simple_speaker_listener


def played(steps: int = 27, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """What the speaker said, what the listener heard of it [steps, rows], and which rows ended at each step."""
    env = Relabelled(envs.make("simple_speaker_listener", rows))
    env.reset(seed=4)
    said, heard, ended = [], [], []
    for t in range(steps):
        actions = torch.zeros(2, rows, env.spec.num_heads, dtype=torch.int64)
        actions[0, :, 0] = (torch.arange(rows) + t // 5) % 3
        step = env.step(actions)
        slot = step.final_obs[1, :, SLOT]
        assert torch.equal(slot.sum(-1), torch.ones(rows)) and slot.max() == 1.0
        said.append(actions[0, :, 0])
        heard.append(slot.argmax(-1))
        ended.append(step.ended)
        assert not step.obs[1, step.ended, SLOT].any(), "silence right after a reset is no symbol"
    return torch.stack(said), torch.stack(heard), ended


def test_a_permutation_lasts_for_an_episode() -> None:
    said, heard, ended = played()
    episode = torch.stack([torch.zeros(ROWS, dtype=torch.bool), *ended[:-1]]).cumsum(0)
    differ = 0
    for row in range(ROWS):
        codes = []
        for number in episode[:, row].unique():
            inside = episode[:, row] == number
            pairs = set(zip(said[inside, row].tolist(), heard[inside, row].tolist(), strict=True))
            assert len(dict(pairs)) == len(pairs) == len({b for _, b in pairs}), "one to one"
            codes.append(dict(pairs))
        differ += any(codes[0].get(m, n) != n for m, n in codes[-1].items())
    assert differ > ROWS / 4, "another episode, another permutation"


def test_nothing_is_told_by_one_symbol() -> None:
    said, heard, _ = played(steps=1)
    table = np.zeros((3, 3))
    np.add.at(table, (said[0].numpy(), heard[0].numpy()), 1)
    expected = table.sum(1, keepdims=True) / 3
    assert (np.abs(table - expected) < 4 * np.sqrt(expected * 2 / 3)).all()


def test_all_codes_are_alike_in_a_tiny_game() -> None:
    """A speaker names one of three goals, a listener without memory picks one: among all permutations every pair of
    codes is right a third of the time, the perfect one too."""
    orders = list(itertools.permutations(range(3)))
    for code in itertools.product(range(3), repeat=3):
        for answer in itertools.product(range(3), repeat=3):
            right = [answer[order[code[goal]]] == goal for order in orders for goal in range(3)]
            assert sum(right) * 3 == len(right)


def test_a_state_goes_on_to_the_bit() -> None:
    env, other = (Relabelled(envs.make("simple_reference", 6), range(2, 8)) for _ in range(2))
    env.reset(seed=1)
    other.reset(seed=9)
    actions = torch.ones(2, 6, 2, dtype=torch.int64)
    for _ in range(7):
        env.step(actions)
    other.load_state_dict(env.state_dict())
    for _ in range(40):
        one, two = env.step(actions), other.step(actions)
        assert torch.equal(one.obs, two.obs) and torch.equal(one.final_obs, two.final_obs)


def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    many, few = Relabelled(envs.make("simple_reference", 6)), envs.make("simple_reference", 2, rows=[3, 4])
    few = Relabelled(few, [3, 4])
    assert torch.equal(many.reset(seed=1)[:, 3:5], few.reset(seed=1))
    for _ in range(30):
        actions = torch.ones(2, 6, 2, dtype=torch.int64)
        assert torch.equal(many.step(actions).obs[:, 3:5], few.step(actions[:, 3:5]).obs)


def test_what_one_says_to_oneself_stays_and_silence_is_refused() -> None:
    env = Relabelled(envs.make("simple_world_comm", 3))
    own = [r for r in env.spec.routes if r.sender == r.receiver]
    assert own and len(env._heard) == len(
        {(r.receiver, r.start) for r in env.spec.routes} - {(r.receiver, r.start) for r in own}
    )
    with pytest.raises(UserError, match="leave out --other-play"):
        Relabelled(envs.make("simple_spread", 2))
