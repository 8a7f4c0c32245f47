"""Where something was measured, for its record."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path

import torch


def machine() -> str:
    """Processor, cores in use, torch and date, for the record of a measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today()}"
