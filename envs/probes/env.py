"""Tiny environments with known answers, each isolating one fault of a learner.

| probe | right only if | otherwise |
|---|---|---|
| constant_value | the critic regresses on the reward | value is not 1 |
| value_from_observation | the critic reads its observation | both values are 0 |
| discounted_value | the target is r + gamma * Q', cut at a termination | 1 or 0 for gamma; 1 / (1 - gamma) for 1 |
| truncated_value | a time limit is bootstrapped, from the *true* next observation | 0; .23 with that after the reset |
| choose_action | the actor follows the critic | return 1/3 |
| answer_observation | the actor reads its observation, each agent its own | return 1/3 |
| matching_game | the gradient reaches the speaker through messages and one step of time | return 1/goals |
| track_observation | the actor follows the critic's gradient at its numbers, each its own | return -.43 |
| recall | actor and critic remember what they saw (`--maddpg.recurrent`) | return 1/3 |
| witness_game | the critic sees what *all* agents observe | return .25 instead of 1 |

As tensors, for tests: `make("matching_game", num_envs=64)`. As PettingZoo environments, e.g. for the command line:
`--env envs.probes:matching_game`. Returns here are per agent and episode, undiscounted.

Source: the idea of one probe a fault from Andy Jones, "Debugging RL, Without the Agonizing Pain", 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.continuous import row_shape
from envs.errors import UserError, did_you_mean
from envs.probes.rules import (
    History,
    Rules,
    answer_observation_rules,
    choose_action_rules,
    constant_value_rules,
    discounted_value_rules,
    matching_game_rules,
    recall_rules,
    track_observation_rules,
    truncated_value_rules,
    value_from_observation_rules,
    witness_game_rules,
)
from envs.streams import Stream


class Probe(BatchedEnv):
    """E copies of a game; see `Rules`. The numbers of a row are a pure function of the seed and its global index.

    Args:
        rules: the game.
        num_envs: E.
        device, dtype: of the tensors that are returned.
        rows: the global index of every copy; None: 0 to E - 1.
    """

    def __init__(
        self,
        rules: Rules,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.rules, self.spec = rules, rules.spec
        self.num_envs, self.device, self.dtype = num_envs, torch.device(device), dtype
        self._rows = list(range(num_envs)) if rows is None else [int(row) for row in rows]
        if len(self._rows) != num_envs:
            raise UserError(f"rows must hold one index for each of {num_envs} environments, got {len(self._rows)}.")
        self._highs = torch.tensor(rules.highs, dtype=torch.int64, device=self.device)
        self._seed = 0
        self._played: History = []
        self._start(0)

    def _start(self, seed: int) -> None:
        self._seed = seed
        self._stream = Stream(seed, f"probe/{self.spec.id}", self._rows, self.device)
        self._draw()

    def _draw(self) -> None:
        self._drawn = self._stream.integers(self._highs, len(self.rules.highs))
        self._played = []

    def reset(self, seed: int | None = None) -> Tensor:
        self._start(self._seed if seed is None else seed)
        return self._observed()

    def step(self, actions: Tensor) -> Step:
        self.check_actions(actions)
        drawn = self._drawn
        kind = torch.float32 if self.spec.continuous else torch.int64
        self._played = [*self._played, actions.to(self.device, kind)]
        reward = self.rules.reward(drawn, self._played).to(self.dtype)
        final_obs = obs = self._observed()
        ended = len(self._played) == self.rules.length
        done = torch.full((self.num_envs,), ended, device=self.device)
        cut = torch.zeros_like(done) if self.rules.truncated is None else self.rules.truncated(drawn)
        if ended:
            self._draw()
            obs = self._observed()
        agents = self.spec.num_agents
        return Step(
            obs=obs,
            final_obs=final_obs,
            reward=reward,
            terminated=(done & ~cut).expand(agents, -1).clone(),
            truncated=(done & cut).expand(agents, -1).clone(),
            done=done,
        )

    def _observed(self) -> Tensor:
        obs = torch.zeros(self.spec.num_agents, self.num_envs, self.spec.obs_size, dtype=self.dtype, device=self.device)
        for n, own in enumerate(self.rules.observe(self._drawn, self._played)):
            obs[n, :, : own.shape[-1]] = own
        return obs

    def state_dict(self) -> dict[str, Any]:
        """Seed, counter of the stream, what was drawn and played in the running episodes."""
        shape = (0, self.spec.num_agents, self.num_envs, *row_shape(self.spec))
        kind = torch.float32 if self.spec.continuous else torch.int64
        played = torch.stack(self._played) if self._played else torch.zeros(shape, dtype=kind)
        return {
            "seed": self._seed,
            "stream": self._stream.state_dict(),
            "drawn": self._drawn.cpu().clone(),
            "played": played.cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start(state["seed"])
        self._stream.load_state_dict(state["stream"])
        self._drawn = state["drawn"].to(self.device)
        self._played = list(state["played"].to(self.device))


PROBES: dict[str, Callable[..., Rules]] = {
    "constant_value": constant_value_rules,
    "value_from_observation": value_from_observation_rules,
    "discounted_value": discounted_value_rules,
    "truncated_value": truncated_value_rules,
    "choose_action": choose_action_rules,
    "answer_observation": answer_observation_rules,
    "matching_game": matching_game_rules,
    "witness_game": witness_game_rules,
    "recall": recall_rules,
    "track_observation": track_observation_rules,
}


def make(
    name: str,
    num_envs: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: Sequence[int] | None = None,
    **options: Any,
) -> Probe:
    """A probe by name; `options` are those of its rules (agents, goals, symbols, bait, length)."""
    if name not in PROBES:
        raise UserError(f"unknown probe {name!r}, expected one of {list(PROBES)}.{did_you_mean(name, PROBES)}")
    return Probe(PROBES[name](**options), num_envs, device, dtype, rows)
