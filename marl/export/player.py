"""Exported files that play: proof that they are the policy, and an example of how they are called.

Shape suffixes: N agents, E environments, O padded observation width, X frames as in envs/history.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.batched import encode_actions
from envs.history import Frames
from envs.spec import AgentSpec, EnvSpec
from marl.errors import UserError
from marl.export.files import DESCRIPTION, Description

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Exported:
    """The actors of a directory of `python -m marl.export`: a `Player` of greedy choices.

    Args:
        directory: with actors.json.
        spec: of the environment (`Policy.spec`).

    Attributes:
        logits: {agent: float32 [E, C]} of the last choices.

    Raises:
        UserError: no such directory, or another environment.
    """

    def __init__(self, directory: Path, spec: EnvSpec) -> None:
        try:
            written = Description.from_json(json.loads((directory / DESCRIPTION).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{directory} holds no exported actors: {error}.") from error
        if written.env != spec.id:
            raise UserError(f"{directory} holds actors of {written.env}, expected {spec.id}.")
        self.spec, self.description = spec, written
        frames = sum(part.name.startswith("observation") for part in written.agents[0].observation)
        self._stacked = spec.stacked(frames)
        self._frames = Frames(self._stacked)
        load = _onnx if written.format == "onnx" else _torch
        self._run = [load(directory / one.file) for one in written.agents]
        self.logits: dict[str, np.ndarray] = {}
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # what was seen and done

    def reset(self, num_envs: int) -> None:
        """Start of episodes: forget what was seen before them."""
        self._last = None

    def act(self, observations: dict[str, Any], masks: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """As `Policy.act`; a mask lists the choices of all heads side by side, or is bool [E, H, K]."""
        spec, count = self.spec, len(next(iter(observations.values())))
        obs_NEO = torch.zeros(spec.num_agents, count, spec.obs_size)
        for n, agent in enumerate(spec.agents):
            if agent.name in observations:
                obs_NEO[n, :, : agent.obs_size] = torch.as_tensor(np.asarray(observations[agent.name]))
        frames = self._frames
        kept_FNEX = frames.first(obs_NEO) if self._last is None else frames.after(*self._last, obs_NEO)
        wide_NEO = frames.wide(kept_FNEX).numpy()
        acted_NEH = torch.zeros(spec.num_agents, count, spec.num_heads, dtype=torch.int64)
        actions = {}
        for n, agent in enumerate(spec.agents):
            inputs = {"observation": np.ascontiguousarray(wide_NEO[n, :, : self._stacked.agents[n].obs_size])}
            if spec.has_masks:
                given = None if masks is None else masks.get(agent.name)
                inputs["action_mask"] = _mask(given, count, agent)
            outputs = self._run[n](inputs)
            acted_NEH[n, :, : len(agent.heads)] = torch.from_numpy(outputs["choices"])
            actions[agent.name], self.logits[agent.name] = outputs["action"], outputs["logits"]
        self._last = kept_FNEX, encode_actions(spec, actions) if spec.continuous else acted_NEH
        return {name: action for name, action in actions.items() if name in observations}


def _mask(given: Any, count: int, agent: AgentSpec) -> np.ndarray:
    """Bool [E, C] of an environment's masks [E, C], or of choices [E, H, K] of every head; None: all is allowed."""
    if given is None:
        return np.ones((count, agent.choices), bool)
    allowed = np.asarray(given).astype(bool)
    if allowed.ndim == 3:
        allowed = np.concatenate([allowed[:, h, : head.size] for h, head in enumerate(agent.heads)], 1)
    if allowed.shape != (count, agent.choices):
        raise UserError(
            f"action masks of {agent.name!r} have shape {list(allowed.shape)}, expected [{count}, {agent.choices}]: "
            f"the choices of all heads side by side. Split one over joint choices into one for each head first."
        )
    return allowed


def _onnx(path: Path) -> Run:
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _torch(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: x.numpy() for name, x in module(*map(torch.from_numpy, inputs.values())).items()}

    return run
