"""The real command line around a stand-in for training that only counts and saves; run by the fault tests.

python fault_stub_run.py FLAGS...; SAVE_SECONDS in the environment makes a save slow.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

from marl.cli.launch import main
from marl.config.resolve import to_dict, to_yaml
from marl.config.schema import Config
from marl.parallel.ranks import Ranks
from marl.runs import checkpoint
from marl.runs.run_dir import RunDir
from marl.training.stop import StopRequest

SLOW = float(os.environ.get("SAVE_SECONDS", "0"))


def train(
    config: Config, resume: Path | None, stop: StopRequest, ranks: Ranks, resume_environment: str, began: float
) -> None:
    """Steps of a millisecond; a checkpoint at the first step, then every 300."""
    directory = Path(config.run_dir or "")
    step = 0 if resume is None else checkpoint.load(resume).step
    with RunDir(directory, resume is not None, note=lambda text: print(f"note: {text}", flush=True)) as run:
        run.describe(to_yaml(dataclasses.replace(config, run_dir=None)))
        if step:
            print(f"from {step}", flush=True)
        save(directory, step + 1, config, stop)
        print("saved", flush=True)
        while step < config.total_steps:
            step += 1
            time.sleep(0.001)
            if step % 300 == 0 or stop.requested:
                save(directory, step, config, stop)
            if stop.requested:
                return


def save(directory: Path, step: int, config: Config, stop: StopRequest) -> None:
    parts: dict[str, Any] = {"policy": {"step": step}}
    with stop.saving():
        print("saving", flush=True)
        end = time.monotonic() + SLOW
        while time.monotonic() < end:
            time.sleep(0.01)
        checkpoint.save(directory / "checkpoints", step, parts, {"spec": {}, "config": to_dict(config)})
        print("save done", flush=True)


if __name__ == "__main__":
    module = types.ModuleType("marl.training.experiment")
    module.train = train  # type: ignore[attr-defined]
    sys.modules["marl.training.experiment"] = module
    sys.exit(main())
