"""What numbers a setting allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Closed interval of allowed values; `None` is open. `above` excludes the low end."""

    low: float | None = None
    high: float | None = None
    above: bool = False


Positive = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
Rate = Annotated[float, Range(0.0, above=True)]
Weight = Annotated[float, Range(0.0)]
Share = Annotated[float, Range(0.0, 1.0)]
