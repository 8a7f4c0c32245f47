"""Tiny whole runs for tests: trained, stopped after so many rounds, resumed, and compared to the last bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from marl import train
from marl.cli.parse import parse
from marl.config.fields import with_values
from marl.config.schema import Config
from marl.runs import checkpoint
from marl.training.experiment import RunResult
from marl.training.stop import StopRequest

ENVS = Path(__file__).parent  # its toy_envs are environments of one's own, by module:function
BASE = {
    "env": "simple_speaker_listener",
    "seed": 3,
    "num_envs": 4,
    "total_steps": 240,
    "threads": 1,
    "device": "cpu",
    "maddpg.batch_size": 16,
    "maddpg.hidden": (8, 8),
    "maddpg.warmup_steps": 24,
    "maddpg.updates_per_step": 0.25,
    "maddpg.actor_lr": 0.01,
    "evaluation.every": 0,
    "evaluation.final_episodes": 1,
    "logging.every": 20,
    "logging.tensorboard": False,
    "logging.progress": False,
    "logging.report": False,
    "checkpoint.every": 0,
}
MANY_OPTIONS = {  # of the learner, at once
    "maddpg.estimator": "reinmax",
    "maddpg.message_estimator": "rao_blackwell",
    "maddpg.twin_critics": True,
    "maddpg.actor_delay": 2,
    "maddpg.n_step": 3,
    "maddpg.share_actors": True,
    "maddpg.team_reward": True,
    "maddpg.other_actions": "current",
    "maddpg.signalling_bonus": 0.5,
    "maddpg.listening_bonus": 0.2,
    "maddpg.temperature_final": 0.5,
    "replay.capacity": 100,
}
MODEL = {  # DreamerV2's, tiny, and trusted whatever its error
    "world_model": True,
    "wm.kind": "rssm",
    "wm.latents": 4,
    "wm.classes": 4,
    "wm.deter": 12,
    "wm.hidden": 12,
    "wm.layers": 1,
    "wm.sequences": 4,
    "wm.warmup_steps": 60,
    "wm.updates_per_step": 0.125,
    "wm.refresh_every": 24,
    "wm.rollout": 3,
    "wm.starts": 12,
    "wm.gate": 1e6,
    "wm.reward_gate": 1e6,
    "wm.validation_share": 0.3,
}


def config(run: Path, settings: dict[str, Any] | None = None) -> Config:
    """The tiny run with dotted `settings` changed."""
    return with_values(Config(), {**BASE, **(settings or {}), "run_dir": str(run)})


class StopAfter(StopRequest):
    """Is requested once the trainer has played so many rounds (joint steps of every environment)."""

    def __init__(self, rounds: int) -> None:
        self._left = rounds + 1
        super().__init__()

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self._left -= 1
        return self._left <= 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def whole(run: Path, settings: dict[str, Any] | None = None) -> Path:
    """A run from start to end; returns its directory."""
    assert train(config(run, settings)).evaluation is not None
    return run


def begun(run: Path, settings: dict[str, Any] | None = None, rounds: int = 23) -> Path:
    """A run that was stopped after `rounds` rounds, in the middle of episodes."""
    result = train(config(run, settings), stop=StopAfter(rounds))
    assert result.evaluation is None and result.step == rounds * config(run, settings).num_envs
    return run


def resumed(run: Path, *flags: str, rounds: int | None = None) -> RunResult:
    """What `run.py --resume RUN flags` does, in this process."""
    launch = parse(["--resume", str(run), *flags])
    stop = None if rounds is None else StopAfter(rounds)
    return train(launch.config, resume=launch.resume, stop=stop)


# ------------------------------------------------------------------ comparison
def state(run: Path) -> dict[str, Any]:
    """Every part of the newest checkpoint without the wall time."""
    result = checkpoint.newest(run / checkpoint.DIRECTORY)
    assert result is not None
    loaded = checkpoint.load(result)
    parts = dict(loaded.parts)
    parts["progress"] = {name: value for name, value in parts["progress"].items() if name != "seconds"}
    return {"step": loaded.step, **parts}


def records(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its time columns."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.startswith("time/")} for line in lines]


def differences(one: Any, two: Any, place: str = "") -> list[str]:
    """Places where two trees of plain data are not equal to the bit; NaN equals NaN."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        if one.shape != two.shape or one.dtype != two.dtype:
            return [f"{place}: {one.dtype} {list(one.shape)} and {two.dtype} {list(two.shape)}"]
        bytes_of = [x.detach().cpu().numpy().tobytes() for x in (one, two)]
        return [] if bytes_of[0] == bytes_of[1] else [place]
    if type(one) is not type(two):
        return [f"{place}: {type(one).__name__} and {type(two).__name__}"]
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return [f"{place}: keys {sorted(map(str, one.keys() ^ two.keys()))} in one of both"]
        return [d for key in one for d in differences(one[key], two[key], f"{place}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return [f"{place}: {len(one)} and {len(two)} entries"]
        return [d for i, (a, b) in enumerate(zip(one, two, strict=True)) for d in differences(a, b, f"{place}/{i}")]
    both_nan = isinstance(one, float) and math.isnan(one) and math.isnan(two)
    return [] if one == two or both_nan else [f"{place}: {one!r} and {two!r}"]


def assert_same(one: Path, two: Path) -> None:
    """Parameters, optimisers, replay, environments, streams, counters, every record and the final evaluation."""
    results = [json.loads((run / "evaluation.json").read_text()) for run in (one, two)]
    result = differences([state(one), records(one), results[0]], [state(two), records(two), results[1]])
    assert not result, result[:20]


def assert_learned(run: Path) -> None:
    """The comparison means something: the networks moved and the schedules ran."""
    parts = state(run)
    networks = parts["learner"]["networks"]
    assert parts["learner"]["updates"] > 5
    assert all(differences(networks[name], networks[f"target_{name}"]) for name in ("actor", "critic"))
