"""Whether the pictures of an environment ever change: some games draw only where they are made with a render_mode."""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from envs.pettingzoo.reader import Reader
from envs.pettingzoo.trials.routes import random_action, valid
from envs.pettingzoo.values import COMMON
from envs.spec import EnvSpec

_STEPS = 6
STILL = (
    "no pixel of any agent's picture changed in the first steps of random play. Games that draw only where they are "
    "made with a render_mode show nothing without one: --env-args render_mode=rgb_array"
)


def still(spec: EnvSpec, env: ParallelEnv) -> str:
    """What to say where no agent's small picture changes in a few steps of random play; empty where one does.

    Args:
        spec: whose observations are pictures.
        env: an environment, which is reset and stepped.
    """
    reader, rng = Reader.of(spec, env), np.random.default_rng(0)
    rows_NO = np.zeros((spec.num_agents, spec.obs_size), np.float32)

    def look(observations: dict[str, Any], infos: Any) -> dict[str, Any]:
        masks = {}
        for name, observation in observations.items():
            if name not in COMMON:
                n = reader.index[name]
                masks[name] = reader.write(n, observation, infos, rows_NO[n])
        return masks

    masks = look(*env.reset(seed=0))
    before = rows_NO.copy()
    for _ in range(_STEPS):
        acting = {name: env.action_space(name) for name in env.agents}
        if not acting:
            break
        agents = {name: spec.agents[reader.index[name]] for name in acting}
        chosen = {name: valid(agents[name], random_action(acting[name], masks.get(name), rng)) for name in acting}
        told, _, _, _, infos = env.step(chosen)
        masks = look(told, infos)
        if not np.array_equal(rows_NO, before):
            return ""
    return STILL
