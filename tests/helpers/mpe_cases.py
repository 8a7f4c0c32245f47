"""What the MPE tests share: keyword variations of every scenario, and play in step with the real environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from envs.mpe import MPE, make, parallel_env

VARIATIONS: list[tuple[str, dict[str, Any]]] = [
    ("simple_v3", {}),
    ("simple_v3", {"max_cycles": 3}),
    ("simple_adversary_v3", {}),
    ("simple_adversary_v3", {"N": 1}),
    ("simple_adversary_v3", {"N": 4, "max_cycles": 10}),
    ("simple_adversary_v3", {"N": 3, "num_agent_neighbors": 2, "num_landmark_neighbors": 2}),
    ("simple_adversary_v3", {"num_agent_neighbors": 5, "num_landmark_neighbors": 4}),
    ("simple_crypto_v3", {}),
    ("simple_push_v3", {}),
    ("simple_reference_v3", {}),
    ("simple_reference_v3", {"local_ratio": 0.0}),
    ("simple_reference_v3", {"local_ratio": 0.8, "max_cycles": 40}),
    ("simple_speaker_listener_v4", {}),
    ("simple_spread_v3", {}),
    ("simple_spread_v3", {"N": 1}),
    ("simple_spread_v3", {"N": 2, "local_ratio": 1.0}),
    ("simple_spread_v3", {"N": 5, "local_ratio": 0.2}),
    ("simple_spread_v3", {"curriculum": True}),
    ("simple_spread_v3", {"N": 1, "terminate_on_success": True, "max_cycles": 40}),
    ("simple_spread_v3", {"num_agent_neighbors": 1, "num_landmark_neighbors": 2}),
    ("simple_spread_v3", {"num_agent_neighbors": 4, "num_landmark_neighbors": 5}),
    ("simple_tag_v3", {}),
    ("simple_tag_v3", {"num_good": 2, "num_adversaries": 2, "num_obstacles": 0}),
    ("simple_tag_v3", {"num_good": 3, "num_adversaries": 1, "num_obstacles": 3}),
    ("simple_tag_v3", {"curriculum": True}),
    ("simple_tag_v3", {"terminate_on_success": True, "num_adversaries": 4}),
    ("simple_tag_v3", {"num_agent_neighbors": 2, "num_landmark_neighbors": 1, "num_good": 2}),
    ("simple_tag_v3", {"num_agent_neighbors": 5, "num_landmark_neighbors": 3}),
    ("simple_tag_v3", {"num_obstacles": 0, "num_landmark_neighbors": 2}),
    ("simple_world_comm_v3", {}),
    (
        "simple_world_comm_v3",
        {"num_good": 1, "num_adversaries": 1, "num_obstacles": 0, "num_food": 1, "num_forests": 0},
    ),
    (
        "simple_world_comm_v3",
        {"num_good": 3, "num_adversaries": 2, "num_obstacles": 2, "num_food": 3, "num_forests": 3},
    ),
    ("simple_world_comm_v3", {"num_forests": 1}),
    ("collect_treasure_v1", {}),
    ("collect_treasure_v1", {"num_collectors": 1, "num_deposits": 1, "num_treasures": 1}),
    ("collect_treasure_v1", {"num_collectors": 4, "num_deposits": 3, "num_treasures": 9}),
    ("simple_formation_v1", {}),
    ("simple_formation_v1", {"N": 1, "terminate_on_success": True, "max_cycles": 40}),
    ("simple_formation_v1", {"N": 2}),
    ("simple_formation_v1", {"N": 6}),
    ("simple_line_v1", {}),
    ("simple_line_v1", {"N": 1}),
    ("simple_line_v1", {"N": 1, "terminate_on_success": True, "max_cycles": 60}),
    ("simple_line_v1", {"N": 6}),
]


def label(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


class Sequel:
    """Stands in for the generator with which collect_treasure draws new treasures: gives what the port draws."""

    def __init__(self, u: np.ndarray, gone: list[int], num_treasures: int) -> None:
        self.u, self.gone, self.count = u, gone, num_treasures
        self.now = -1

    def uniform(self, low: float | None = None, high: float | None = None, size: int | None = None) -> Any:
        if low is None:  # the test whether the next of the treasures that are gone appears
            self.now = self.gone.pop(0)
            return 0.0
        return low + (high - low) * self.u[2 * self.now : 2 * self.now + 2]

    def integers(self, low: int, high: int) -> int:
        return int(self.u[2 * self.count + self.now] * high)


class Pair:
    """Rows of a batched environment beside real environments that get the same actions.

    Actions are random, or lead an agent to another entity for a while, so that things happen.
    """

    def __init__(self, mpe_id: str, rows: int, dtype: torch.dtype = torch.float64, seed: int = 0, **kwargs: Any):
        self.env = make(mpe_id, rows, dtype=dtype, **kwargs)
        self.real = [parallel_env(mpe_id, **kwargs) for _ in range(rows)]
        self.rng = np.random.default_rng(seed)
        self.names = self.env.spec.agent_names
        self.env.reset(seed)
        self.aims: dict[tuple[int, str], Any] = {}

    def reset(self, seed: int) -> None:
        for row, real in enumerate(self.real):
            real.reset(seed=seed + row)
            self.env.load_pettingzoo(row, real)

    def choose(self) -> tuple[list[dict[str, int]], torch.Tensor]:
        """Actions of every row, for the real environments and for the port."""
        rows = []
        for row, real in enumerate(self.real):
            world, actions = real.unwrapped.world, {}
            for agent in world.agents:
                size = int(real.action_space(agent.name).n)
                action = int(self.rng.integers(size))
                key = (row, agent.name)
                if key not in self.aims or self.rng.random() < 0.1:
                    bodies = [body for body in world.entities if body is not agent]
                    chosen = bodies[int(self.rng.integers(len(bodies)))]
                    self.aims[key] = chosen if self.rng.random() < 0.8 else None
                aim = self.aims[key]
                if aim is not None and agent.movable:
                    delta = aim.state.p_pos - agent.state.p_pos - 0.4 * agent.state.p_vel
                    axis = int(abs(delta[1]) > abs(delta[0]))
                    action = action // 5 * 5 + 1 + 2 * axis + int(delta[axis] > 0)
                actions[agent.name] = action
            rows.append(actions)
        return rows, self.env.encode_actions({name: [actions[name] for actions in rows] for name in self.names})

    def follow_treasures(self) -> None:
        """Let the real environments' new treasures be those that the port will draw in its next step."""
        env = self.env
        if not env.scenario.step_draws:
            return
        u = env._draws.step(env.scenario.step_draws).numpy()
        for row, real in enumerate(self.real):
            gone = [index for index, treasure in enumerate(real.unwrapped.world.landmarks) if not treasure.alive]
            real.unwrapped.world._np_random = Sequel(u[:, row], gone, env.scenario.num_treasures)


def real_observation(real: Any, name: str) -> np.ndarray:
    """In double precision, before mpe2 casts it."""
    raw = real.unwrapped
    return raw.scenario.observation(raw.world.agents[raw._index_map[name]], raw.world)


def state_of(env: MPE, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all entities and velocities of those that can move."""
    return env.world.pos[..., row].double().numpy(), env.world.vel[..., row].double().numpy()


def real_state(real: Any, movers: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    world = real.unwrapped.world
    positions = np.stack([entity.state.p_pos for entity in world.entities])
    velocities = np.array([agent.state.p_vel for agent in world.agents[slice(*movers)]]).reshape(-1, 2)
    return positions, velocities
