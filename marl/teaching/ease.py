"""Ease of teaching: how soon fresh agents learn beside frozen ones. A language that is easy to learn is soon learnt.

    python -m marl.teaching RUN --learners listener_0        six fresh listeners beside the run's speaker
    python -m marl.teaching RUN --learners speaker_0         six fresh speakers beside the run's listener

The frozen agents become part of the environment, which is a PettingZoo ParallelEnv of the learners alone: anything that
trains on PettingZoo can learn beside them, this package's command line too.

    python run.py --env marl.teaching:beside --env-args run=RUN learners=listener_0 --total-steps 50000

Source: Li and Bowling, "Ease-of-teaching and language structure from emergent communication", NeurIPS 2019.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from envs.pettingzoo.construct import parallel_env
from envs.pettingzoo.reader import Reader
from envs.spec import EnvSpec
from marl.config.opponents import OpponentsConfig
from marl.config.schema import Config, MADDPGConfig
from marl.errors import UserError, did_you_mean
from marl.evaluate.anchors import lines_of
from marl.play.channel import condition_of
from marl.play.policy import Policy
from marl.play.rollout import Player
from marl.results import Record, key
from marl.runs.durable import replace_text
from marl.runs.logs.records import read_run
from marl.stats import median_interval
from marl.training.experiment import train

JSON = "teaching.json"
_GAINS = (0.5, 0.8, 0.9)


@dataclass(frozen=True)
class Threshold(Record):
    """When the students first reached a return, in environment steps of each."""

    returned: float = field(metadata=key("return"))
    steps: tuple[float | None, ...]  # of each student; None: never
    reached: float  # share of the students
    median: float | None  # over students; None: infinite, so are the next two
    low: float | None  # 95 % interval of the median
    high: float | None


@dataclass(frozen=True)
class EaseOfTeaching(Record):
    """How soon fresh agents learn beside frozen ones."""

    learners: tuple[str, ...]
    students: int  # independent sets of learners
    curves: tuple[tuple[tuple[float, float], ...], ...]  # for each student: (steps, return per agent)
    thresholds: Mapping[str, Threshold]  # by "gain 0.5", ...; empty where the task has no gain


class Beside(ParallelEnv):
    """An environment in which some agents are played by a frozen player; the others learn.

    Args:
        env: the whole environment. Observations are what `frozen` takes: anything that a `Policy` was trained on,
            vectors for other players. Action masks are read from `info["action_mask"]`, and by a `Policy` from
            observations that hold them.
        spec: of the whole environment.
        frozen: plays every agent that does not learn.
        learners: the agents of this environment, at least one, not all.

    Raises:
        UserError: an unknown learner, none, or nobody left to be frozen.
    """

    def __init__(self, env: ParallelEnv, spec: EnvSpec, frozen: Player, learners: list[str]) -> None:
        names = list(spec.agent_names)
        for name in learners:
            if name not in names:
                close = did_you_mean(name, names)
                raise UserError(f"learners: {spec.id} has no agent {name!r}.{close} It has {names}.")
        if not learners or len(set(learners)) == len(names):
            raise UserError(f"learners must be some, but not all, of {names}; got {learners}.")
        self.env, self.frozen = env, frozen
        self._reader = Reader.of_rows(spec)
        self._reader.turns = True  # agents may wait for each other
        self.possible_agents = [name for name in names if name in learners]
        self.agents: list[str] = []
        self.max_cycles = spec.horizon
        self.metadata = {
            "name": f"beside_{spec.id}",
            "is_parallelizable": True,
            "fixed_agents": spec.fixed_agents,
            "heads": {
                agent.name: [[head.name, head.size] for head in agent.heads]
                for agent in spec.agents
                if agent.name in learners
            },
            "routes": _routes_among(spec, learners),
        }
        self._seen: dict[str, Any] = {}
        self._infos: dict[str, Any] = {}

    @property
    def unwrapped(self) -> ParallelEnv:
        return self

    def observation_space(self, agent: str) -> Any:
        return self.env.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        return self.env.action_space(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self._seen, self._infos = self.env.reset(seed=seed, options=options)
        self.frozen.reset(1)
        return self._mine(self._seen), self._mine(self._infos)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        there = [name for name in self.env.agents if name not in self.possible_agents]
        played = self._played() if there else {}
        self._seen, *results = self.env.step({**{name: played[name] for name in there}, **actions})
        self._infos = results[-1]
        observations, rewards, terminated, truncated, infos = (self._mine(part) for part in (self._seen, *results))
        return observations, rewards, terminated, truncated, infos

    def _played(self) -> dict[str, Any]:
        """What the frozen player would do for every agent that is there, as PettingZoo actions."""
        seen = {name: self._seen[name] for name in self.env.agents}
        if isinstance(self.frozen, Policy):
            return self.frozen(seen, self._infos)
        given = {name: self._reader.info_mask(self._reader.index[name], self._infos) for name in seen}
        told = {name: mask for name, mask in given.items() if mask is not None}
        masks = None
        if told:
            allowed_NHK = self._reader.masks(told, self._infos, list(seen))
            masks = {name: allowed_NHK[n, None] for name, n in self._reader.index.items()}
        batch = {name: np.asarray(obs, dtype=np.float32)[None] for name, obs in seen.items()}
        rows = {name: action[0] for name, action in self.frozen.act(batch, masks).items()}
        return {name: action if action.ndim else action.item() for name, action in rows.items()}

    def close(self) -> None:
        self.env.close()

    def _mine(self, part: dict[str, Any]) -> dict[str, Any]:
        self.agents = [name for name in self.possible_agents if name in self.env.agents]
        return {name: part[name] for name in self.possible_agents if name in part}


def beside(run: str, learners: str, replica: int = 0) -> Beside:
    """The environment of a run in which all but `learners` are played by the run's trained policy, greedily.

    Args:
        run: run directory.
        learners: names of the agents to train from scratch, separated by commas.
        replica: whose policy is frozen.
    """
    frozen = Policy.load(run, replica=replica, greedy=True)
    if condition_of([frozen]) is not None:
        raise UserError(
            f"{run} was trained with --channel {frozen.channel}, under which what is said does not arrive as it was "
            f"said; expected a run whose messages arrive, as one with --channel gumbel."
        )
    env = parallel_env(frozen.env_id, **frozen.env_args)
    return Beside(env, frozen.spec, frozen, [name.strip() for name in str(learners).split(",") if name.strip()])


def _routes_among(spec: EnvSpec, learners: list[str]) -> list[dict[str, Any]]:
    """Message slots between learners; what a frozen agent says is part of the environment."""
    names = spec.agent_names
    return [
        {
            "sender": names[route.sender],
            "head": spec.agents[route.sender].heads[route.head].name,
            "receiver": names[route.receiver],
            "start": route.start,
            "meaning": None if route.meaning is None else list(route.meaning),
            "exact": route.exact,
        }
        for route in spec.routes
        if names[route.sender] in learners and names[route.receiver] in learners
    ]


# -------------------------------------------------------------------------------------------------- ease of teaching
def ease_of_teaching(
    run: Path | str,
    learners: Sequence[str],
    *,
    replica: int = 0,
    students: int = 6,
    total_steps: int = 50_000,
    episodes: int = 50,
    seed: int = 0,
    out: Path | str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> EaseOfTeaching:
    """Train fresh `learners` beside a run's frozen agents, with the run's own learner settings, and time them.

    What brings agents of the run together, or gave them a start, is not taken over: channels, populations, other-play,
    opponents, `--from`.

    Args:
        run: run directory.
        learners: agents that are trained from scratch.
        replica: whose policy is frozen.
        students: independent sets of learners; six or more for a finite interval.
        total_steps: of each.
        episodes: of each of the 20 evaluations.
        seed: of the students.
        out: directory of the training; None: RUN/teaching_<learners>.
        device: what trains: auto, cpu, cuda or cuda:i.
        progress: show a progress bar.

    Returns:
        What is also written to `out`/teaching.json.

    Raises:
        UserError: no such run or agents, or `out` is not empty.
    """
    frozen = Policy.load(run, replica=replica, greedy=True)
    beside(str(run), ",".join(learners), replica).close()  # a wrong name is told before anything is made
    path = Path(out) if out is not None else Path(run) / f"teaching_{'_'.join(learners)}"
    config = frozen.config
    train(
        replace(
            config,
            env="marl.teaching:beside",
            env_args={"run": str(run), "learners": ",".join(learners), "replica": replica},
            channel="gumbel",
            population=1,
            other_play=False,
            opponents=OpponentsConfig(),
            from_run=None,
            from_parts=Config.from_parts,
            from_greedy=False,
            device=device,
            maddpg=settings_of(config.maddpg, learners),
            backend="pettingzoo",
            num_replicas=students,
            seed=seed,
            total_steps=total_steps,
            run_dir=str(path),
            evaluation=replace(
                config.evaluation,
                every=max(total_steps // 20, 1),
                episodes=episodes,
                final_episodes=episodes,
                share=0.0,
                final_seconds=0.0,  # these episodes are what is measured
            ),
            logging=replace(config.logging, progress=progress, report=False),
        )
    )
    steps, returns = read_run(path).series("evaluation/return")
    curves = tuple(tuple((float(t), float(value)) for t, value in zip(steps, one, strict=True)) for one in returns.T)
    lines = lines_of(frozen.env_id, frozen.env_args)
    low, high = lines.get("no communication"), lines.get("oracle")
    goals = {} if low is None or high is None else {f"gain {g:g}": low + g * (high - low) for g in _GAINS}
    result = EaseOfTeaching(tuple(learners), students, curves, timed(curves, goals))
    replace_text(path / JSON, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    return result


def settings_of(config: MADDPGConfig, learners: Sequence[str]) -> MADDPGConfig:
    """The learner's settings without those that name agents who do not learn."""
    shares = {name: share for name, share in config.actor_lr_shares.items() if name in learners}
    return replace(config, actor_lr_shares=shares)


def timed(curves: Sequence[Sequence[Sequence[float]]], goals: Mapping[str, float]) -> dict[str, Threshold]:
    """When learning curves first reach each return.

    Args:
        curves: for each student a list of (steps, return).
        goals: name to return.

    Returns:
        For each name its threshold; an interval is infinite where a goal is never reached or students are too few.
    """
    results = {}
    for name, goal in goals.items():
        first = [next((float(steps) for steps, value in curve if value >= goal), np.inf) for curve in curves]
        low, high = median_interval(first)
        middle = float(np.quantile(first, 0.5, method="higher")) if np.isinf(first).any() else float(np.median(first))
        results[name] = Threshold(
            returned=goal,
            steps=tuple(_finite(value) for value in first),
            reached=float(np.mean(np.isfinite(first))),
            median=_finite(middle),
            low=_finite(low),
            high=_finite(high),
        )
    return results


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def in_words(result: EaseOfTeaching) -> str:
    """One line for each threshold."""
    lines = [f"{result.students} fresh {', '.join(result.learners)} beside frozen partners:"]
    for name, one in result.thresholds.items():
        if one.median is None:
            lines.append(f"  {name}: reached by {one.reached:.0%}")
            continue
        low, high = (f"{value:,.0f}" if value is not None else "never" for value in (one.low, one.high))
        lines.append(f"  {name}: {one.median:,.0f} steps [{low}, {high}], reached by {one.reached:.0%}")
    if not result.thresholds:
        ends = [curve[-1][1] for curve in result.curves]
        lines.append(f"  return at the end: {np.mean(ends):.2f} (the task has no gain to measure by)")
    return "\n".join(lines)
