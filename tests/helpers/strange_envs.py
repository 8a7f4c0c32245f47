"""Legal environments of the kinds that strangers bring: spaces of every kind, masks here and there, joint actions."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Strange(ParallelEnv):
    """Two agents see which of three doors is open, in a form that a subclass chooses, and are paid for naming it."""

    metadata = {"name": "strange_v0", "render_modes": []}  # noqa: RUF012
    render_mode = None
    names = ("left", "right")
    length = 5

    def __init__(self) -> None:
        self.possible_agents = list(self.names)
        self.agents: list[str] = []
        self.seen = {name: self.see_space(name) for name in self.names}
        self.done = {name: self.act_space(name) for name in self.names}

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(3)

    def act_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(3)

    def observation_space(self, agent: str) -> spaces.Space:
        return self.seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.done[agent]

    def see(self, name: str) -> Any:
        return self.door

    def info(self, name: str) -> dict[str, Any]:
        return {}

    def pay(self, name: str, action: Any) -> Any:
        return float(action == self.door)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.t, self.door = list(self.names), 0, int(self.rng.integers(3))
        return {name: self.see(name) for name in self.names}, {name: self.info(name) for name in self.names}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        paid = {name: self.pay(name, actions[name]) for name in self.agents}
        self.t, self.door = self.t + 1, int(self.rng.integers(3))
        acting = self.agents
        over = self.t >= self.length
        self.agents = [] if over else acting
        seen, infos = {name: self.see(name) for name in acting}, {name: self.info(name) for name in acting}
        return seen, paid, dict.fromkeys(acting, False), dict.fromkeys(acting, over), infos


class Slow(Strange):
    """Takes a fiftieth of a second to begin an episode."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        time.sleep(0.02)
        return super().reset(seed)


class Cells(Strange):
    """Tuples of a MultiDiscrete space, whole numbers as rewards."""

    def see_space(self, name: str) -> spaces.Space:
        return spaces.MultiDiscrete([3, 7])

    def see(self, name: str) -> Any:
        return self.door, self.t

    def pay(self, name: str, action: Any) -> Any:
        return int(action == self.door)


class Images(Strange):
    """Bytes, and MultiDiscrete actions of a narrow type."""

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Box(0, 255, (2, 3, 3), np.uint8)

    def act_space(self, name: str) -> spaces.Space:
        return spaces.MultiDiscrete([3, 2], dtype=np.int8)

    def see(self, name: str) -> Any:
        picture = np.zeros((2, 3, 3), np.uint8)
        picture[:, self.door] = 255
        return picture

    def pay(self, name: str, action: Any) -> Any:
        assert action.dtype == np.int8
        return action[0] == self.door  # a numpy bool


class Nested(Strange):
    """A Dict with a Tuple in it."""

    def see_space(self, name: str) -> spaces.Space:
        near = spaces.Tuple((spaces.MultiBinary(2), spaces.Box(0, 1, (1,), np.float32)))
        return spaces.Dict({"open": spaces.Discrete(3), "near": near})

    def see(self, name: str) -> Any:
        return {"open": self.door, "near": (np.array([1, 0], np.int8), np.array([self.t / 9], np.float32))}


def forbidden_door(env: Strange) -> np.ndarray:
    return (np.arange(3) != (env.door + 1) % 3).astype(np.int8)


class MaskSeen(Strange):
    """The mask stands in the observation."""

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Dict({"observation": spaces.Discrete(3), "action_mask": spaces.Box(0, 1, (3,), np.int8)})

    def see(self, name: str) -> Any:
        return {"observation": self.door, "action_mask": forbidden_door(self)}

    def pay(self, name: str, action: Any) -> Any:
        assert forbidden_door(self)[action], "a forbidden action was played"
        return float(action == self.door)


class MaskTold(Strange):
    """The mask stands in the info."""

    def info(self, name: str) -> dict[str, Any]:
        return {"action_mask": forbidden_door(self)}

    pay = MaskSeen.pay


class MaskBesideBox(MaskTold):
    """`left` has a mask; `right` acts by a number, for which there is none."""

    def act_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(3) if name == "left" else spaces.Box(-1, 1, (2,), np.float32)

    def info(self, name: str) -> dict[str, Any]:
        return super().info(name) if name == "left" else {}

    def pay(self, name: str, action: Any) -> Any:
        return super().pay(name, action) if name == "left" else float(action.sum())


class Joint(Strange):
    """`left` moves and speaks by one action, 2 x 3 choices from 5 on; the mask over the six is a product."""

    metadata = {"name": "joint_v0", "heads": {"left": [["move", 2], ["message", 3]]}}  # noqa: RUF012
    masks = (np.array([0, 0, 1, 1, 1, 1], np.int8), np.array([0, 1, 0, 1, 0, 1], np.int8))

    def act_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(6, start=5) if name == "left" else spaces.Discrete(3)

    def info(self, name: str) -> dict[str, Any]:
        return {"action_mask": self.masks[self.t % 2] if name == "left" else np.ones(3, np.int8)}

    def pay(self, name: str, action: Any) -> Any:
        assert name != "left" or self.masks[self.t % 2][action - 5], f"forbidden: {action}"
        return float(action == self.door)


class NoProduct(Joint):
    """A mask that no pair of masks of the heads can obey."""

    masks = (np.array([1, 0, 0, 1, 1, 1], np.int8),) * 2


class Rests(MaskTold):
    """In its third step `right` may choose nothing."""

    def info(self, name: str) -> dict[str, Any]:
        output = super().info(name)
        return {"action_mask": output["action_mask"] * 0} if name == "right" and self.t == 2 else output

    def pay(self, name: str, action: Any) -> Any:
        return float(action == self.door)


class OneLeaves(Strange):
    """`left` leaves in the second step."""

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        seen, paid, ended, cut, infos = super().step(actions)
        if self.t == 2:
            ended["left"], self.agents = True, ["right"]
        return seen, paid, ended, cut, infos


class Spaced(Strange):
    names = ("left arm", "right arm/№1")


class OneStep(Strange):
    names = ("solo",)
    length = 1


class Common(Strange):
    """Keys beside those of agents, which PettingZoo's own test lets pass."""

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        seen, paid, ended, cut, infos = super().step(actions)
        return seen, paid, ended | {"__all__": False}, cut | {"__all__": not self.agents}, infos | {"__common__": {}}


class Shuffled(Strange):
    """`env.agents` stands in another order in every second episode."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        result = super().reset(seed)
        self.agents = sorted(self.agents, reverse=seed is not None and seed % 2 == 1)
        return result


class ComesLate(Strange):
    """`right` comes in the third step."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        seen, infos = super().reset(seed)
        self.agents = ["left"]
        return {"left": seen["left"]}, {"left": infos["left"]}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        if self.t == 2:
            self.agents = ["left", "right"]
        seen, paid, ended, cut, infos = super().step({"right": 0, **actions})
        return seen, {name: pay if name in actions else 0.0 for name, pay in paid.items()}, ended, cut, infos


class OneBuffer(Strange):
    """Both agents get the same array at every step, and every step writes into it."""

    buffer = np.zeros(3, np.float32)

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Box(0, 1, (3,), np.float32)

    def see(self, name: str) -> Any:
        self.buffer[:] = np.eye(3, dtype=np.float32)[self.door]
        return self.buffer


class OldReset(Strange):
    """Observations only, as environments of old returned them."""

    names = ("left", "middle", "right")

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(seed)[0]


class Endless(Strange):
    length = 10**9


class WrongHeads(Joint):
    metadata = {**Joint.metadata, "heads": {"left": [["move", 2], ["message", 4]]}}  # noqa: RUF012


class Speaks(Strange):
    """`right` hears what `left` said one step before, behind its own door."""

    metadata = {  # noqa: RUF012
        "name": "speaks_v0",
        "heads": {"left": [["message", 3]]},
        "routes": [{"sender": "left", "head": "message", "receiver": "right", "start": 3, "meaning": [0, 3]}],
    }

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Box(0, 1, (3 if name == "left" else 6,), np.float32)

    def see(self, name: str) -> Any:
        doors = np.eye(3, dtype=np.float32)
        return doors[self.door] if name == "left" else np.concatenate([doors[0], self.heard()])

    def heard(self) -> np.ndarray:
        return np.zeros(3, np.float32) if self.said is None else np.eye(3, dtype=np.float32)[self.said]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.said: int | None = None
        return super().reset(seed)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        self.said = int(actions["left"])
        return super().step(actions)


class RouteOutside(Speaks):
    metadata = {**Speaks.metadata, "routes": [{**Speaks.metadata["routes"][0], "start": 4}]}  # noqa: RUF012


class FalseRoute(Speaks):
    """The message is never heard."""

    def heard(self) -> np.ndarray:
        return np.zeros(3, np.float32)
