"""The tasks and the arms of benchmarks/sample_efficiency.py: what is learned, and in which ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

import envs
from envs.batched import BatchedEnv
from envs.history import History
from envs.pettingzoo.env import PettingZooEnv
from envs.pictures import Small
from marl.evaluate import anchors

EVALUATION_SEED = 2_000_000


@dataclass(frozen=True)
class Task:
    """What is learned in how many steps with how many updates a step, and what counts as learned."""

    steps: int
    updates: float
    measure: Callable[[str, float], float | None]
    thresholds: tuple[float, ...]
    flags: tuple[str, ...]
    env: str = ""  # the environment, where the task's name is not its id
    env_args: Mapping[str, Any] = field(default_factory=dict)
    scale: str | None = ""  # whose anchors measure it, and whose script plays the same episodes; "": its own; None: no
    episodes: int = 200  # of an evaluation
    every: int = 250  # environment steps of a replica between two
    pictures: bool = False  # its agents see pictures
    opponents: Mapping[str, str] = field(default_factory=dict)  # {side: the script that it is measured against}

    def named(self, name: str) -> Task:
        """This task with its environment and its scale filled in from its name."""
        env = self.env or name
        return replace(self, env=env, scale=env if self.scale == "" else self.scale)

    @property
    def real(self) -> bool:
        """Whether the environment is any ParallelEnv, and not MPE as tensors."""
        return ":" in self.env

    def make(self, count: int) -> BatchedEnv:
        """So many environments."""
        if self.real:
            return PettingZooEnv(self.env, count, pictures=Small() if self.pictures else None, env_args=self.env_args)
        return envs.make(self.env, count, env_args=self.env_args)

    def evaluation(self, replicas: int, memory: bool = False) -> tuple[BatchedEnv, Tensor]:
        """Environments in which all replicas play the same episodes, replica by replica, and what is seen first.

        With `memory` of recurrent actors, which see their own last action.
        """
        if self.real:
            assert not memory, "no arm of such a task has one"
            env = _evaluated_in(self, replicas * self.episodes)
            return env, env.reset_to([EVALUATION_SEED + i for i in range(self.episodes)] * replicas)
        rows = list(range(self.episodes)) * replicas
        same: BatchedEnv = envs.make(self.env, len(rows), rows=rows, env_args=self.env_args)
        same = History(same, 1, own_action=True) if memory else same
        return same, same.reset(seed=EVALUATION_SEED)


_OPEN: dict[tuple[str, int], PettingZooEnv] = {}  # copies for evaluations: games with a screen are slow to make


def _evaluated_in(task: Task, count: int) -> PettingZooEnv:
    key = task.env, count
    if key not in _OPEN:
        made = task.make(count)
        assert isinstance(made, PettingZooEnv)
        _OPEN[key] = made
    return _OPEN[key]


@dataclass(frozen=True)
class Arm:
    """One way to learn: flags beside the task's, and whether imagination is by the simulator itself."""

    label: str
    flags: tuple[str, ...] = ()
    updates: float | None = None  # a step; None: the task's
    perfect: bool = False
    stretch: float = 1.0  # of the task's steps


def _task_flags(gamma: str, bonus: str = "0", k: str = "1") -> tuple[str, ...]:
    return (
        *("--maddpg.actor-lr", "5e-3", "--maddpg.critic-lr", "5e-3", "--maddpg.gamma", gamma),
        *("--maddpg.batch-size", "256", "--maddpg.tau", "0.01", "--maddpg.hidden", "64", "64", "--num-envs", "16"),
        *("--maddpg.team-reward", "true", "--maddpg.warmup-steps", "400", "--maddpg.diagnostics-every", "0"),
        *("--maddpg.signalling-bonus", bonus, "--maddpg.signalling-k", k, "--maddpg.signalling-final", "1"),
    )


def share_of(most: float) -> Callable[[str, float], float]:
    """A return as a share of `most`."""

    def share(_env_id: str, value: float) -> float:
        return value / most

    return share


_PISTONBALL = (
    *("--maddpg.actor-lr", "3e-3", "--maddpg.critic-lr", "3e-3", "--maddpg.gamma", "0.9", "--maddpg.tau", "0.02"),
    *("--maddpg.batch-size", "32", "--maddpg.hidden", "64", "64", "--num-envs", "4", "--maddpg.team-reward", "true"),
    *("--maddpg.warmup-steps", "400", "--maddpg.diagnostics-every", "0"),
)
SEPARATE = ("--maddpg.share-actors", "false")  # where an arm does not say otherwise
TASKS = {
    "simple_speaker_listener": Task(2500, 10.0, anchors.gain, (0.8, 0.9), _task_flags("0.7", "3")),
    "simple_reference": Task(12000, 4.0, anchors.gain, (0.8, 0.9), (*_task_flags("0.75", "0.1", "0.5"), *SEPARATE)),
    "simple_spread": Task(
        4000, 5.0, anchors.score, (0.3, 0.5, 0.8, 0.9),
        (*_task_flags("0.9"), *SEPARATE, "--maddpg.frames", "1", "--maddpg.n-step", "1"),
    ),
    # the listener does not see its velocity; and a channel that delays and mishears: on the scale of the plain task
    "without_velocity": Task(
        2500, 10.0, anchors.gain, (0.3, 0.5, 0.6, 0.7), _task_flags("0.7", "3"),
        "speaker_listener_variant", {"velocity": False}, "simple_speaker_listener",
    ),
    "late_and_misheard": Task(
        2500, 10.0, anchors.gain, (0.4, 0.5), _task_flags("0.7", "3"),
        "speaker_listener_variant", {"delay": 2, "noise": 0.1}, "simple_speaker_listener",
    ),
    # both sides learn against each other, and are measured against scripts (contests.py): 0 as much as random play, 1
    # as much as the best script of the same side; the mean of the sides
    "simple_adversary": Task(
        4000, 4.0, share_of(1.0), (0.6, 0.8),
        (*_task_flags("0.75"), *SEPARATE, "--maddpg.frames", "1"),
        scale=None, every=500, opponents={"adversaries": "direct", "good": "midpoint"},
    ),
    "simple_tag": Task(
        4000, 2.0, share_of(1.0), (0.3, 0.5), (*_task_flags("0.9"), *SEPARATE), scale=None,
        every=500, opponents={"adversaries": "flee", "good": "chase"},
    ),
    "torus": Task(  # no body, no distance: cells, of which opposite edges meet; a share of the 25 steps of an episode
        2500, 10.0, share_of(25.0), (0.4, 0.6), _task_flags("0.9"), "benchmarks.world_model.torus:torus", scale=None,
    ),
    # five pistons that see pictures: the ball's way to the left wall, of which the whole is 100, less .1 for every
    # step, so that 100 cannot be reached; a ball that stays where it is pays -5
    "pistonball": Task(
        4000, 0.5, share_of(100.0), (0.5, 0.6, 0.7), _PISTONBALL, "examples.pictures:pistonball",
        {"n_pistons": 5, "max_cycles": 50}, scale=None, episodes=16, every=500, pictures=True,
    ),
}  # fmt: skip
TASKS = {name: task.named(name) for name, task in TASKS.items()}
# nine tenths of every batch are imagined, and no loss through the model
ALONE = ("--wm.through-horizon", "0", "--wm.starts", "256", "--wm.ensemble", "5", "--wm.updates-per-step", "0.25")
PERFECT = ("--world-model", "--wm.kind", "linear", *ALONE)
IMAGINED = ("--world-model", "--wm.kind", "mlp")
RSSM = ("--world-model", "--wm.kind", "rssm")  # with the settings that ship
MEMORY = ("--maddpg.recurrent", "true")
UNTHROUGH = ("--wm.through-horizon", "0", "--wm.starts", "256", "--wm.ensemble", "5")
STORED = ("--wm.no-blend",)  # rollouts start where an episode has been, not between two of them
# a loss through 8 steps costs as much as several updates even with few rollouts and the least ensemble that there is
THROUGH = ("--wm.through-horizon", "8", "--wm.starts", "64", "--wm.ensemble", "2", "--wm.updates-per-step", "0.0625")
# as in the paper: not right to .1 deviations within these steps, so that by default nobody would learn from it
STATE = ("--wm.decoder", "state", "--wm.deter", "200", "--wm.hidden", "200")
LENIENT = ("--wm.gate", "0.4", "--wm.reward-gate", "1.0")
SHORT_THROUGH = ("--wm.through-horizon", "3", "--wm.starts", "64", "--wm.ensemble", "2")
WIDE_REWARDS = ("--wm.reward-gate", "0.8")
SHARED = ("--maddpg.share-actors", "true")
IMAGE = ("--world-model", "--wm.kind", "rssm", "--wm.observation", "image", "--wm.rollout", "5")
OFTEN = ("--wm.updates-per-step", "0.125", "--wm.refresh-every", "80", "--wm.imagined-share", "0.5")
WIDE = ("--wm.gate", "0.6", "--wm.reward-gate", "0.8")  # deviations: at these sizes no picture is right to .1
ARMS = {
    "maddpg": Arm("MADDPG", updates=0.25, stretch=12.0),
    "updates_1": Arm("MADDPG", updates=1.0, stretch=6.0),
    "updates": Arm("MADDPG", stretch=2.5),
    "ceiling": Arm("perfect model", PERFECT, perfect=True),
    "ceiling_stored": Arm("perfect model, stored starts", (*PERFECT, *STORED), perfect=True),
    "mlp": Arm("small model", (*IMAGINED, *ALONE)),
    "mlp_stored": Arm("small model, stored starts", (*IMAGINED, *ALONE, *STORED)),
    "mlp_through": Arm("small model, loss through it", (*IMAGINED, *THROUGH), updates=1.0, stretch=1.5),
    "updates_1_short": Arm("MADDPG, gamma .75", ("--maddpg.gamma", "0.75"), updates=1.0, stretch=6.0),  # best on spread
    "mlp_through_long": Arm("small model, loss through it", (*IMAGINED, *THROUGH), updates=1.0, stretch=4.0),
    "mlp_through_wide": Arm(  # where rewards are paid for touching, no model is right to .3 deviations
        "small model, loss through it, wide gate of rewards", (*IMAGINED, *THROUGH, *WIDE_REWARDS), 1.0, stretch=1.5
    ),
    "rssm": Arm("RSSM", (*RSSM, *UNTHROUGH), updates=1.0, stretch=1.5),
    "rssm_through": Arm("RSSM, loss through it", RSSM, updates=1.0, stretch=1.5),
    "rssm_through_wide": Arm("RSSM, loss through it, wide gate of rewards", (*RSSM, *WIDE_REWARDS), 1.0, stretch=1.5),
    "rssm_state": Arm("RSSM, decoded from its state", (*RSSM, *STATE, *UNTHROUGH), updates=1.0, stretch=1.5),
    "rssm_state_through": Arm(
        "RSSM, decoded from its state, loss through it, wide gates",
        (*RSSM, *STATE, *LENIENT, *SHORT_THROUGH),
        updates=1.0,
        stretch=1.5,
    ),
    "recurrent": Arm("MADDPG with a GRU", MEMORY, updates=1.0, stretch=1.5),
    "rssm_recurrent": Arm("RSSM, loss through it, actors with a GRU", (*RSSM, *MEMORY), updates=1.0, stretch=1.5),
    "updates_1_long": Arm("MADDPG", updates=1.0, stretch=15.0),
    "rssm_through_long": Arm("RSSM, loss through it", RSSM, updates=1.0, stretch=4.0),
}


PICTURES = {
    "pixels": Arm("MADDPG on pictures", stretch=2.0),
    "pixels_1": Arm("MADDPG on pictures", updates=1.0, stretch=1.5),
    "pixels_rssm": Arm("RSSM of pictures", (*IMAGE, *OFTEN, *WIDE), updates=1.0),
}
"""Arms of tasks whose agents see pictures."""


def arms_of(name: str) -> dict[str, Arm]:
    """The arms that a task has; where agents may share an actor and say so, every arm also with one for all."""
    task = TASKS[name]
    if task.pictures:
        return PICTURES
    if SEPARATE[0] not in task.flags:
        return ARMS
    return ARMS | {
        f"{key}_shared": replace(arm, label=f"{arm.label}, one actor for all", flags=(*arm.flags, *SHARED))
        for key, arm in ARMS.items()
    }
