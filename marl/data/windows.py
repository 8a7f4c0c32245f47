"""The replay of recurrent networks: windows of consecutive steps, each with the networks' states before it.

Shape suffixes: S replicas, N agents, E environments, L steps of the burn-in, T steps that are learned from, b windows,
B = T * b rows, O observation, G networks of a replica, W width of their states.

Source: Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning" (R2D2), section 3.
Differs from source: windows start anywhere, also across the end of an episode, where memory is emptied; uniform draws.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.data.batch import Batch, Transitions, Windows
from marl.data.replay import Replay


def further_widths(spec: EnvSpec, networks: int, width: int) -> dict[str, int]:
    """{field: numbers} of a stored row beside those of `row_widths`.

    Args:
        spec: of the environment.
        networks: G.
        width: W.
    """
    return {"ended": spec.num_agents, "memory": networks * width}


class WindowReplay(Replay):
    """Uniform replay of windows.

    Args:
        spec, capacity, num_envs, stream, gamma, team: as for `Replay`; the capacity holds a window of each environment.
        window: T.
        burn_in: L.
        memory: (G, W), shape of an environment's states.
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        num_envs: int,
        stream: Stream,
        gamma: float,
        window: int,
        burn_in: int,
        memory: tuple[int, int],
        team: Tensor | None = None,
    ) -> None:
        super().__init__(spec, capacity, num_envs, stream, gamma, further=further_widths(spec, *memory), team=team)
        self.window, self.burn_in, self._memory = window, burn_in, memory
        device = stream.key_R.device
        self._steps_L1 = torch.arange(burn_in + window, device=device)[:, None]
        self._row_widths = {name: width for name, width in self._widths.items() if name != "memory"}

    def _fields(self, t: Transitions) -> dict[str, Tensor]:
        assert t.memory is not None
        return {**super()._fields(t), "memory": t.memory.transpose(1, 2).flatten(2)}

    def sample(self, batch_size: int) -> Windows:
        """As many windows as `batch_size` steps hold, per replica, drawn uniformly with replacement.

        There must be `burn_in + window` steps of every environment.
        """
        envs, steps = self.num_envs, len(self._steps_L1)
        slots = self.capacity // envs
        filled = self._size // envs
        starts = (filled - steps + 1) * envs
        draw_Sb = self.stream.integers(starts, batch_size // self.window)
        env_Sb, oldest_1 = draw_Sb % envs, (self._slot_1 - filled) % slots
        slot_Sb = oldest_1 + torch.div(draw_Sb, envs, rounding_mode="floor")
        index_SLb = (slot_Sb[:, None] + self._steps_L1) % slots * envs + env_Sb[:, None]
        return self._windows(index_SLb + self._offset_S1[..., None])

    def _windows(self, index_SLb: Tensor) -> Windows:
        """The windows at positions of the flattened [S * capacity] store, the burn-in first."""
        windows = index_SLb.shape[2]
        parts = self._parts(index_SLb.flatten(1), self._row_widths)
        whole = self._batch(parts)
        start = self.burn_in * windows
        learned = whole.rows(slice(start, None))
        begins_SB = torch.nn.functional.pad(learned.first[:, windows:], (0, windows), value=True)
        ended_SBN = parts["ended"][:, start:] > 0.5
        going_on_SBN = (~(ended_SBN | begins_SB[..., None])).to(parts["reward"].dtype)
        first = self.data_SCD.flatten(0, 1)[:, -self._widths["memory"] :].index_select(0, index_SLb[:, 0].flatten())
        memory_SbGW = first.unflatten(0, (-1, windows)).unflatten(2, self._memory)
        return Windows(
            **{field.name: getattr(learned, field.name) for field in fields(Batch)},
            lead=whole.rows(slice(start)),
            memory=memory_SbGW.transpose(1, 2),
            going_on=going_on_SBN.transpose(1, 2),
        )
