"""Environments whose agents see pictures, for `run.py`: two games of PettingZoo's butterfly family.

    pip install "pettingzoo[butterfly]"
    python run.py --env examples.pictures:pistonball --env-args n_pistons=4 max_cycles=40 --total-steps 20000
    python run.py --env examples.pictures:pong --total-steps 20000

Two things are settled here. Both games draw only where they are made with a `render_mode`, without one the agents of
pistonball never see the ball; and in both all agents stay until the episode ends, which PettingZoo cannot say.
"""

from __future__ import annotations

from typing import Any

from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper


class Together(BaseParallelWrapper):
    """An environment whose agents all stay until the end."""

    def __init__(self, env: ParallelEnv) -> None:
        super().__init__(env)
        self.metadata = {**env.metadata, "fixed_agents": True}


def pistonball(n_pistons: int = 5, max_cycles: int = 60, **more: Any) -> ParallelEnv:
    """Pistons that move a ball to the left wall together; each sees its own neighbourhood and moves up or down."""
    from pettingzoo.butterfly import pistonball_v6

    arguments = {"continuous": False, "render_mode": "rgb_array", **more}
    return Together(pistonball_v6.parallel_env(n_pistons=n_pistons, max_cycles=max_cycles, **arguments))


def pong(max_cycles: int = 300, **more: Any) -> ParallelEnv:
    """Two paddles that keep a ball in the game; both see the whole of it."""
    from pettingzoo.butterfly import cooperative_pong_v6

    return Together(cooperative_pong_v6.parallel_env(max_cycles=max_cycles, **{"render_mode": "rgb_array", **more}))
