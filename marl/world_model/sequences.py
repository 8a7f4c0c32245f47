"""Whole episodes of every environment as frames, and windows of them for training.

A frame is an observation with what led to it: the action before it, the reward that came with it. An episode of 25
steps is 26 frames. Environments write into rings of their own, as their episodes need not end together.

Shape suffixes: S replicas, E environments, C capacity of a ring, T frames of a window, B windows, F observation
entries, U action entries, N agents, V flags (flags.py), D width of a stored row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envs.streams import Stream

NOT_GIVEN = torch.empty(0)  # stands for: what the others say


@dataclass
class Sequences:
    """B windows of T frames per replica; a window's first frame is taken as the first of an episode."""

    obs: Tensor  # [S, T, B, F]
    action: Tensor  # [S, T, B, U] one-hots chosen at the frame before; zeros at an episode's first
    reward: Tensor  # [S, T, B, N] that came with this frame; zeros at an episode's first
    alive: Tensor  # [S, T, B, N] 1 - terminated
    first: Tensor  # bool [S, T, B] no frame of the same episode stands before it in the window
    last: Tensor  # bool [S, T, B] the episode ended here
    valid: Tensor  # bool [S, T, B] False behind the newest frame
    flags: Tensor = NOT_GIVEN  # [S, T, B, V] who is there to act on this frame, and which choices are allowed; or none
    opens: Tensor = NOT_GIVEN  # bool [S, T, B] the episode began here, not the window alone; or wherever `first`

    def __post_init__(self) -> None:
        if self.flags is NOT_GIVEN:
            self.flags = self.reward[..., :0]
        if self.opens is NOT_GIVEN:
            self.opens = self.first.clone()

    @property
    def follows(self) -> Tensor:
        """Bool [S, T, B]: a valid frame with a predecessor, so that action and reward mean something."""
        return self.valid & ~self.first

    @property
    def length_SB(self) -> Tensor:
        """Frames of the episode that each window begins with, int64 [S, B]."""
        return (self.valid & ~self.first)[:, 1:].long().cumprod(1).sum(1) + self.valid[:, 0]

    def select(self, frames: slice) -> Sequences:
        """The window's frames in `frames`."""
        return Sequences(**{name: x[:, frames] for name, x in vars(self).items()})

    def single_frames(self) -> Sequences:
        """Every frame as the first of an episode, T * B windows of one frame [S, 1, T * B, ·]."""
        flat = {name: x.flatten(1, 2)[:, None] for name, x in vars(self).items()}
        flat |= {name: torch.zeros_like(flat[name]) for name in ("action", "reward")}
        return Sequences(**{**flat, "first": torch.ones_like(flat["first"])})

    def pick(self, index_SR: Tensor) -> Sequences:
        """Windows `index_SR` of each replica."""
        s = torch.arange(len(index_SR), device=index_SR.device)[:, None]
        return Sequences(**{name: x.transpose(1, 2)[s, index_SR].transpose(1, 2) for name, x in vars(self).items()})


@dataclass
class StepRows:
    """One joint step of all environments as rows without padding."""

    obs: Tensor  # [S, E, F]
    action: Tensor  # [S, E, U]
    reward: Tensor  # [S, E, N]
    alive: Tensor  # [S, E, N] 1 - terminated
    next_obs: Tensor  # [S, E, F] true next observation
    first: Tensor  # bool [S, E] obs is the first of its episode
    last: Tensor  # bool [S, E] the episode ends with next_obs
    flags: Tensor | None = None  # [S, E, V] at obs; None: there are none
    next_flags: Tensor | None = None  # [S, E, V] at next_obs, as far as this step tells


class FrameStore:
    """Rings of frames.

    Args:
        widths: (F, U, N), and V where there are flags.
        replicas: S.
        num_envs: E.
        capacity: frames kept per replica.
        device: where they are kept.
    """

    def __init__(
        self, widths: tuple[int, ...], replicas: int, num_envs: int, capacity: int, device: torch.device | str
    ) -> None:
        obs, action, agents, *flags = widths
        self._flags = sum(flags)
        self._widths = [obs, action, agents, agents, 1, 1, self._flags]
        self.ring = max(capacity // num_envs, 2)
        self.data_SECD = torch.zeros(replicas, num_envs, self.ring, sum(self._widths), device=device)
        self.start_SEC = torch.zeros(replicas, num_envs, self.ring, dtype=torch.int64, device=device)
        self.written_SE = torch.zeros(replicas, num_envs, dtype=torch.int64, device=device)
        self._episode_SE = torch.zeros_like(self.written_SE)  # first frame of the running episode
        self._s_S1 = torch.arange(replicas, device=device)[:, None]
        self._e_E = torch.arange(num_envs, device=device)

    def add(self, step: StepRows, mask_SE: Tensor) -> None:
        """Append the frames of one joint step in the environments of `mask_SE`.

        A frame's flags are those of the step that follows it, and are set right when that comes.
        """
        ones, zeros = torch.ones_like(step.reward), torch.zeros_like(step.reward)
        opens_SE = mask_SE & step.first
        self._episode_SE = torch.where(opens_SE, self.written_SE, self._episode_SE)
        flag = torch.ones_like(step.reward[..., :1])
        flags, next_flags = self._of_flags(step, mask_SE)
        opening = [step.obs, torch.zeros_like(step.action), zeros, ones, flag, 0 * flag, *flags]
        self._append(torch.cat(opening, dim=2), opens_SE)
        last = step.last[..., None].to(flag.dtype)
        after = [step.next_obs, step.action, step.reward, step.alive, 0 * flag, last, *next_flags]
        self._append(torch.cat(after, dim=2), mask_SE)

    def _of_flags(self, step: StepRows, mask_SE: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Flags of the opening and of the next frame; those of the frame before, in mid-episode, are set right."""
        if not self._flags or step.flags is None or step.next_flags is None:
            return [], []
        at = (self._s_S1, self._e_E, (self.written_SE - 1) % self.ring)
        known = self.data_SECD[at]
        now = torch.cat([known[..., : -self._flags], step.flags], dim=2)
        self.data_SECD[at] = torch.where((mask_SE & ~step.first)[..., None], now, known)
        return [step.flags], [step.next_flags]

    def _append(self, rows_SED: Tensor, mask_SE: Tensor) -> None:
        at = (self._s_S1, self._e_E, self.written_SE % self.ring)
        self._write(at, torch.where(mask_SE[..., None], rows_SED, self._read(at)))
        self.start_SEC[at] = torch.where(mask_SE, self._episode_SE, self.start_SEC[at])
        self.written_SE = self.written_SE + mask_SE

    def _write(self, at: Any, rows_SED: Tensor) -> None:
        """Put rows at an index of [S, E, C]."""
        self.data_SECD[at] = rows_SED

    def _read(self, at: Any) -> Tensor:
        """The rows [..., D] at an index of [S, E, C]."""
        return self.data_SECD[at]

    @property
    def frames_S(self) -> Tensor:
        """Frames kept, int64 [S]."""
        return self.written_SE.clamp(max=self.ring).sum(1)

    def windows(self, length: int, count: int, stream: Stream) -> Sequences:
        """`count` windows of `length` frames per replica, around uniformly drawn frames.

        A window starts at its frame's episode where the frame lies within `length` of the start, so that episodes of
        at most `length` frames are always whole; else the frame is the window's last.
        """
        kept_SE = self.written_SE.clamp(max=self.ring)
        ends_SE = kept_SE.cumsum(1)
        pick_SB = stream.integers(ends_SE[:, -1:], count)
        env_SB = torch.searchsorted(ends_SE, pick_SB, right=True)
        written_SB = self.written_SE.gather(1, env_SB)
        oldest_SB = written_SB - kept_SE.gather(1, env_SB)
        frame_SB = oldest_SB + pick_SB - (ends_SE - kept_SE).gather(1, env_SB)
        start_SB = self.start_SEC[self._s_S1, env_SB, frame_SB % self.ring]
        begin_SB = torch.maximum(torch.maximum(start_SB, frame_SB - length + 1), oldest_SB)
        frame_STB = begin_SB[:, None] + torch.arange(length, device=begin_SB.device)[:, None]
        rows = self._read((self._s_S1[..., None], env_SB[:, None], frame_STB % self.ring))
        return self._sequences(rows, frame_STB < written_SB[:, None])

    def from_start(self, length: int) -> Sequences:
        """The first `length` frames of every environment: B = E whole windows; the ring must still hold them.

        Raises:
            ValueError: the ring is shorter, or has overwritten them.
        """
        written = int(self.written_SE.max())
        if length > self.ring or written > self.ring:
            raise ValueError(f"the first {length} frames are not in a ring of {self.ring} with {written} written")
        rows = self._read((slice(None), slice(None), slice(length))).transpose(1, 2)
        valid = torch.arange(length, device=rows.device)[:, None] < self.written_SE[:, None]
        return self._sequences(rows, valid)

    def _sequences(self, rows_STBD: Tensor, valid_STB: Tensor) -> Sequences:
        obs, action, reward, alive, first, last, flags = rows_STBD.split(self._widths, dim=3)
        opens_STB = first[..., 0] > 0.5
        first_STB = opens_STB.clone()
        first_STB[:, 0] = True
        action = torch.where(first_STB[..., None], 0.0, action)
        return Sequences(obs, action, reward, alive, first_STB, last[..., 0] > 0.5, valid_STB, flags, opens_STB)

    def state_dict(self) -> dict[str, Any]:
        used = int(self.written_SE.max().clamp(max=self.ring))
        return {
            "data": self.data_SECD[:, :, :used].clone(),
            "start": self.start_SEC[:, :, :used].clone(),
            "written": self.written_SE,
            "episode": self._episode_SE,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.data_SECD.device
        used = state["data"].shape[2]
        self.data_SECD[:, :, :used] = state["data"].to(device)
        self.start_SEC[:, :, :used] = state["start"].to(device)
        self.written_SE, self._episode_SE = state["written"].to(device), state["episode"].to(device)


class Episodes:
    """Stored episodes of every environment, of which a share is held out from training.

    Args:
        widths: (F, U, N), and V where there are flags.
        replicas: S.
        num_envs: E.
        capacity: frames kept per replica for training.
        share: of the episodes that is held out: every 1 / share-th.
        device: where they are kept.
        store: of what kind.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        replicas: int,
        num_envs: int,
        capacity: int,
        share: float,
        device: torch.device | str,
        store: type[FrameStore] = FrameStore,
    ) -> None:
        self.training = store(widths, replicas, num_envs, capacity, device)
        self.held_out = store(widths, replicas, num_envs, max(int(capacity * share), 2 * num_envs), device)
        self._share = share
        self._number_SE = torch.arange(num_envs, device=device).expand(replicas, -1) - num_envs  # of running episodes

    def add(self, step: StepRows) -> Tensor:
        """Store one joint step; bool [S, E]: the environments whose running episode is for training."""
        envs = step.first.shape[1]
        self._number_SE = self._number_SE + envs * step.first
        training_SE = ((self._number_SE + 1) * self._share).floor() <= (self._number_SE * self._share).floor()
        self.training.add(step, training_SE)
        self.held_out.add(step, ~training_SE)
        return training_SE

    def state_dict(self) -> dict[str, Any]:
        parts = {"store": self.training.state_dict(), "validation": self.held_out.state_dict()}
        return {**parts, "_episode_SE": self._number_SE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["store"])
        self.held_out.load_state_dict(state["validation"])
        self._number_SE = state["_episode_SE"].to(self._number_SE.device)


class Normaliser:
    """Running mean and standard deviation of every column, per replica; constant columns keep deviation 1.

    Args:
        replicas: S.
        width: number of columns.
        device: where the sums are kept, in float64.
    """

    def __init__(self, replicas: int, width: int, device: torch.device | str) -> None:
        self.sums_S3X = torch.zeros(replicas, 3, width, dtype=torch.float64, device=device)
        self.mean_S1X = torch.zeros(replicas, 1, width, device=device)
        self.std_S1X = torch.ones(replicas, 1, width, device=device)

    def add(self, rows_SEX: Tensor, weight_SE: Tensor) -> None:
        """Take rows with weight 0 or 1 into account."""
        x, w = rows_SEX.double(), weight_SE.double()[..., None]
        sums = torch.stack([w.expand_as(x).sum(1), (w * x).sum(1), (w * x * x).sum(1)], dim=1)
        self.sums_S3X = self.sums_S3X + sums
        count, total, squares = self.sums_S3X.split(1, dim=1)
        mean = total / count.clamp(min=1.0)
        variance = (squares / count.clamp(min=1.0) - mean * mean).clamp(min=0.0)
        self.mean_S1X = mean.float()
        # below this the column is constant up to rounding: no scale is learned from it
        self.std_S1X = torch.where(variance > 1e-8 + 1e-12 * mean * mean, variance.sqrt(), 1.0).float()

    def apply(self, x_SnX: Tensor) -> Tensor:
        """(x - mean) / std for rows [S, n, X]."""
        return (x_SnX - self.mean_S1X) / self.std_S1X

    def invert(self, x_SnX: Tensor) -> Tensor:
        """The inverse of `apply`."""
        return torch.addcmul(self.mean_S1X, x_SnX, self.std_S1X)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums_S3X, "mean": self.mean_S1X, "std": self.std_S1X}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.sums_S3X.device
        self.sums_S3X, self.mean_S1X = state["sums"].to(device), state["mean"].to(device)
        self.std_S1X = state["std"].to(device)
