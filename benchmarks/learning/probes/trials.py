"""Trains a probe and measures what it has learned, beside scripts and random play under the same change.

Shape suffixes: S replicas, N agents, E episodes, A agents of a task, G networks, P parameters.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks import seeds
from benchmarks.learning.probes.catalogue import GROUPS, PROBES, STEPS, Group, Probe
from benchmarks.learning.probes.company import InCompany
from benchmarks.learning.probes.tasks import Task, usual
from envs.batched import BatchedEnv
from envs.history import History
from envs.streams import Stream
from marl import Policy, stats
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.play.rollout import Mixed, Player
from marl.scripted.by_name import scripted
from marl.training.devices import keep_freed_memory
from marl.training.rounds import Rounds

POINTS = 10  # of a learning curve
IN_PLAIN = ("learned", "scripts", "best", "share", "share_interval")  # kept of what policies do in the task as it is
_ONLY = {
    "channel": "gumbel", "population": 1, "other_play": False, "backend": "torch", "from_run": None,
    "world_model": False, "maddpg.recurrent": False, "opponents.kind": Config().opponents.kind,
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- training
def settings(env: str, probe: Probe, flags: Sequence[str], seed: int, replicas: int) -> Config:
    """The shipped configuration, the flags behind --, and what the probe changes, which comes last.

    Raises:
        UserError: a flag that the training of probes does not know.
    """
    args = [f"{name}={value}" for name, value in probe.env_args.items()]
    words = ["--env", env, "--seed", str(seed), "--num-replicas", str(replicas), "--total-steps", str(STEPS[env])]
    words += [*flags, *probe.flags, *(["--env-args", *args] if args else [])]
    config = parse(words).config
    for name, only in _ONLY.items():
        got: Any = config
        for part in name.split("."):
            got = getattr(got, part)
        if got != only:
            flag = name.replace("_", "-")
            raise UserError(f"probes are trained with --{flag} {only} alone, got {got}; leave --{flag} out.")
    return config


@dataclass(frozen=True)
class Trained:
    """What the training of a probe leaves."""

    policies: list[Policy]
    """Of each replica, greedy, for the agents that learned."""
    steps: int
    """Of each replica."""
    processor: float
    """Seconds of the training of all replicas."""
    curve: dict[str, list[Any]]
    """{step: [points], return: [points][S]}: of the sampled policies that trained, mean over the learners, in the
    episodes that ended since the point before."""


def train(env: str, probe: Probe, config: Config) -> Trained:
    """Train a probe on the processor; nothing is written."""
    began = time.process_time()
    keep_freed_memory()
    torch.set_num_threads(config.threads or 1)
    count = config.num_replicas
    replicas = range(count)
    task = Task(env, config.env_args, probe.change)
    made: BatchedEnv = task.environments(count * config.num_envs)
    if probe.learners:
        group = GROUPS[env][probe.learners]
        company = scripted(env, group.others, spec=task.spec, seed=config.seed)
        made = InCompany(made, company, group.agents(task.spec.agent_names))
    if config.maddpg.frames > 1:
        made = History(made, config.maddpg.frames)
    made.reset(config.seed)
    m, stream = config.maddpg, Stream(config.seed, "replay", replicas)
    capacity = min(config.replay.capacity, config.total_steps + config.num_envs)
    learner = MADDPG(made.spec, m, config.seed, replicas)
    sums = m.gamma, m.n_step, None, learner.stored_team_NN
    rounds = Rounds(config, made, learner, Replay(made.spec, capacity, config.num_envs, stream, *sums))
    curve: dict[str, list[Any]] = {"step": [], "return": []}
    while rounds.step < config.total_steps:
        rounds.run()
        if rounds.step * POINTS // config.total_steps > len(curve["step"]):
            rounds.check()
            returns = [round(x, 3) for x in rounds.returns.take().mean(1).tolist()]
            curve["step"].append(rounds.step)
            curve["return"].append([x if x == x else None for x in returns])  # None: no episode ended
    rounds.check()
    flat_SGP = learner.actor.mlp.flat
    policies = [Policy(made.spec, config, flat_SGP[s]) for s in replicas]
    return Trained(policies, rounds.step, time.process_time() - began, curve)


# ---------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Played:
    """Of E episodes of a task, whatever its weights: they change no observation, so no player either."""

    terms: dict[str, dict[str, np.ndarray]]
    """{term of the reward: {agent: what it paid in an episode, float64 [E]}}, with weight 1."""

    def returns(self, task: Task, agents: Sequence[str]) -> np.ndarray:
        """Mean return of some agents under the task's weights, float64 [E]."""
        return sum(  # type: ignore[return-value]
            task.change.weights.get(term, usual(term)) * mean_of(paid, agents) for term, paid in self.terms.items()
        )


def play(task: Task, player: Player, episodes: int, seed: int) -> Played:
    """Play `episodes` episodes side by side; the same ones for every player."""
    made = task.environments(episodes, watched=True)
    names = made.spec.agent_names
    terms: dict[str, np.ndarray] = {}  # [A, E]
    obs_AEO = made.reset(seed)
    player.reset(episodes)
    for _ in range(made.scenario.horizon):
        actions = player.act({name: obs.numpy() for name, obs in made.split_obs(obs_AEO).items()})
        obs_AEO = made.step(made.encode_actions(dict(actions))).obs
        for term, paid in made.scenario.paid.items():  # type: ignore[attr-defined]
            terms[term] = terms.get(term, 0.0) + paid.double().numpy()
    return Played({term: dict(zip(names, paid_AE, strict=True)) for term, paid_AE in terms.items()})


class Bench:
    """Measures groups in the same episodes; what scripts do is played once for every task.

    Args:
        episodes: E, of every player.
        seed: of the episodes.
    """

    def __init__(self, episodes: int, seed: int) -> None:
        self.episodes, self.seed = episodes, seed
        self._known: dict[str, Played] = {}

    def row(self, task: Task, group: Group, learned: Sequence[Played]) -> dict[str, Any]:
        """A group's return by what it has learned, of each replica, by its scripts and at random: `compared`, and
        `terms`, what every term of the reward paid to the learned, the best script and random play, with weight 1."""
        agents = group.agents(task.spec.agent_names)
        scripts = {name: self.script(task, group, name) for name in (*group.scripts, "random")}
        result = compared(
            np.stack([one.returns(task, agents) for one in learned]),
            {name: one.returns(task, agents) for name, one in scripts.items()},
        )
        who = {"learned": learned, result["best"]: [scripts[result["best"]]], "random": [scripts["random"]]}
        terms = {
            name: {
                term: round(float(np.mean([mean_of(one.terms[term], agents) for one in played])), 4)
                for term in played[0].terms
                if usual(term) or term in task.change.weights
            }
            for name, played in who.items()
        }
        return result | {"terms": terms}

    def script(self, task: Task, group: Group, name: str) -> Played:
        """What a script does in a group."""
        key = repr((task.unweighted(), group.prefixes, group.others, name))
        if key not in self._known:
            player = scripted(task.env, name, spec=task.spec, seed=self.seed)
            self._known[key] = self.beside(task, group, player)
        return self._known[key]

    def beside(self, task: Task, group: Group, player: Player) -> Played:
        """`player` plays the group, the group's scripts all others."""
        names = task.spec.agent_names
        own = group.agents(names)
        everybody: dict[str, Player] = dict.fromkeys(own, player)
        if len(own) < len(names):
            others = scripted(task.env, group.others, spec=task.spec, seed=self.seed)
            everybody |= {name: others for name in names if name not in everybody}
        return play(task, Mixed(everybody), self.episodes, self.seed)


def mean_of(values: Mapping[str, np.ndarray], agents: Sequence[str]) -> np.ndarray:
    """Mean over some agents of {agent: [E]}."""
    return np.mean([values[name] for name in agents], axis=0)


def compared(learned_SE: np.ndarray, scripts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Learned returns beside those of scripts in the same episodes.

    Args:
        learned_SE: mean return of the group's agents, float64 [S, E].
        scripts: {script: the same, float64 [E]}, "random" among them.

    Returns:
        `learned`: the replicas' means, their mean and its 95 % interval over replicas and episodes; `scripts`: {name:
        mean and standard error}; `best` of them; `share` = (learned - random) / (best - random) and its interval, which
        takes random play and script as they are; None where the best script is no better than random play.
    """
    means = {name: stats.mean_and_se(returns) for name, returns in scripts.items()}
    best = max((name for name in means if name != "random"), key=lambda name: float(means[name][0]))
    low, high = float(means["random"][0]), float(means[best][0])
    mean = float(learned_SE.mean())
    interval = stats.crossed_interval(learned_SE, stats.mean)

    def share(value: float) -> float | None:
        return round((value - low) / (high - low), 4) if high > low else None

    return {
        "learned": {
            "replicas": [round(x, 4) for x in learned_SE.mean(1).tolist()],
            "mean": round(mean, 4),
            "interval": [round(x, 4) for x in interval],
        },
        "scripts": {name: [round(float(m), 4), round(float(se), 4)] for name, (m, se) in means.items()},
        "best": best,
        "share": share(mean),
        "share_interval": [share(x) for x in interval],
    }


# --------------------------------------------------------------------------------------------------------- one record
@np.errstate(over="ignore")  # a prey that flees far from the field is out of reach of a script's exponential
def run(env: str, name: str, flags: Sequence[str], seed: int, replicas: int, bench: Bench) -> dict[str, Any]:
    """Train and measure a probe: its record, plain data."""
    probe = PROBES[env][name]
    config = settings(env, probe, flags, seed, replicas)
    trained = train(env, probe, config)
    began = time.process_time()
    task, plain = Task(env, config.env_args, probe.change), Task(env)
    same_agents = task.spec.agents == plain.spec.agents
    rows = {}
    for measured in probe.measured:
        group = GROUPS[env][measured]
        learned = [bench.beside(task, group, policy) for policy in trained.policies]
        row = rows[measured] = bench.row(task, group, learned)
        plainly: dict[str, Any] | None = row
        if not same_agents:
            plainly = None
        elif task != plain:
            if task.unweighted() != plain:
                learned = [bench.beside(plain, group, policy) for policy in trained.policies]
            plainly = bench.row(plain, group, learned)
        row["in_plain"] = plainly and {key: plainly[key] for key in IN_PLAIN}
    return {
        "probe": name,
        "asks": probe.asks,
        "flags": list(flags),
        "own_flags": list(probe.flags),
        "env_args": config.env_args,
        "purpose": seeds.purpose_of(seeds.EPISODES, bench.seed),
        "configuration": seeds.fingerprint(config),
        "seed": seed,
        "episodes_seed": bench.seed,
        "episodes": bench.episodes,
        "replicas": replicas,
        "steps": trained.steps,
        "processor": round(trained.processor, 1),
        "measuring": round(time.process_time() - began, 1),
        "learners": probe.learners or "everybody",
        "curve": trained.curve,
        "rows": rows,
    }
