"""Random numbers as a pure function of (seed, name, row, counter).

A counter-based generator needs no hidden state: the numbers of row r do not depend on how many other rows are drawn
beside it, so a replica trains alike alone, among others and on any rank; a checkpoint holds one integer a stream; and
the same integer arithmetic runs on any device and inside a CUDA graph.

Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the idea of
counters as state from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# 64-bit constants of SplitMix64, written as the signed integers that torch computes with
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (wraps around modulo 2^64); a bijection of 64-bit words."""
    z = (z >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(z).mul_(_MIX_1)
    z = (z >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(z).mul_(_MIX_2)
    return (z >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(z)


def name_key(seed: int, name: str) -> int:
    """A signed 64-bit key from a root seed and a stream's name: the first 8 bytes of SHA-256."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def uniform_from(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in the open interval (0, 1) from int64 words: 2^23 of them for float32, 2^52 for float64."""
    if dtype == torch.float64:
        return ((bits >> 12) & 0xFFFFFFFFFFFFF).to(torch.float64).add_(0.5).mul_(2.0**-52)
    return ((bits >> 41) & 0x7FFFFF).to(torch.float32).add_(0.5).mul_(2.0**-23).to(dtype)


class Stream:
    """Uniform numbers for `rows` independent rows (replicas or environments); every draw advances one counter.

    Args:
        seed: the root seed of the run.
        name: what the numbers are for; different names give unrelated numbers.
        rows: the global index of every row that is drawn here.
        device: where the numbers are made.
    """

    def __init__(self, seed: int, name: str, rows: Sequence[int], device: torch.device | str = "cpu") -> None:
        key = name_key(seed, name)
        row_R = torch.tensor(list(rows), dtype=torch.int64, device=device)
        self.name = name
        self.key_R = mix(key + _GOLDEN * (row_R + 1))
        self.counter = torch.zeros((), dtype=torch.int64, device=device)
        self._index: dict[int, Tensor] = {}

    def bits(self, *shape: int) -> Tensor:
        """Int64 words [R, *shape]; advances the counter by one."""
        self.counter += 1
        start_R = mix(self.key_R + _GOLDEN * self.counter)
        return mix(start_R[:, None] + self._words(shape)).view(-1, *shape)

    def bits_ahead(self, draws: int, *shape: int) -> Tensor:
        """Int64 words [draws, R, *shape]: bit for bit those of so many calls of `bits`."""
        counter_D = self.counter + torch.arange(1, draws + 1, device=self.key_R.device)
        start_DR = mix(self.key_R + _GOLDEN * counter_D[:, None])
        self.counter += draws
        return mix(start_DR[..., None] + self._words(shape)).view(draws, -1, *shape)

    def _words(self, shape: tuple[int, ...]) -> Tensor:
        """What tells the numbers of one draw apart, int64, one for every entry of `shape`."""
        count = math.prod(shape)
        if count not in self._index:
            self._index[count] = _GOLDEN * torch.arange(1, count + 1, device=self.key_R.device)
        return self._index[count]

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in (0, 1), [R, *shape]."""
        return uniform_from(self.bits(*shape), dtype)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel noise -log(-log(U)), float32 [R, *shape], finite by construction."""
        return self.uniform(*shape).log_().neg_().log_().neg_()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, float32 [R, *shape], at most 5.8 in size.

        Source: Box and Muller, "A note on the generation of random normal deviates", 1958; of each pair the cosine's.
        """
        radius, angle = self.uniform(2, *shape).unbind(1)
        return radius.log_().mul_(-2).sqrt_().mul_(angle.mul_(2 * math.pi).cos_())

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """Int64 numbers in [0, high), [R, *shape]; bias below high / 2^31. `high` may be a 0-d tensor."""
        return (((self.bits(*shape) >> 33) & 0x7FFFFFFF) * high) >> 31

    def integers_ahead(self, draws: int, high: int | Tensor, *shape: int) -> Tensor:
        """Int64 numbers in [0, high), [draws, R, *shape]: bit for bit those of so many calls of `integers`."""
        return (((self.bits_ahead(draws, *shape) >> 33) & 0x7FFFFFFF) * high) >> 31

    def state_dict(self) -> dict[str, Any]:
        return {"counter": int(self.counter)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counter.fill_(state["counter"])
