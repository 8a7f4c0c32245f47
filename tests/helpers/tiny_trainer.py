"""A tiny run without files: its trainer, in whose rounds a test looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whole_runs import config

import envs
from envs.history import History
from envs.streams import Stream
from marl.config.schema import Config
from marl.data.opponents import opponent_widths
from marl.data.replay import Replay
from marl.data.windows import WindowReplay
from marl.learner.diagnostics.finite_gradients import FiniteGradients
from marl.learner.maddpg import MADDPG
from marl.learner.population.pool import PoolMADDPG
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks
from marl.runs.logs.logger import Silent
from marl.training.cuda_graphs import Graphs
from marl.training.evaluator import Evaluator
from marl.training.journal import Journal
from marl.training.rounds import Rounds
from marl.training.saver import Saver
from marl.training.stop import StopRequest
from marl.training.trainer import Trainer

ROUNDS = 100


class Records(Silent):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []

    def log(self, step: int, values: Any) -> None:
        self.kept.append({name: value for name, value in values.items() if not name.startswith("time/")})

    def advance(self, *numbers: Any) -> None: ...


def trainer(settings: dict[str, Any], recorder: Any = None, device: str = "cpu", late: bool = False) -> Trainer:
    """A tiny run of ROUNDS rounds, one in ten logged; with a recorder or `late`, faults are told late, as on a GPU."""
    chosen: Config = config(Path("none"), {"logging.every": 40, "total_steps": 4 * ROUNDS, **settings})
    replicas = range(chosen.num_replicas)
    env = envs.make(chosen.env, len(replicas) * chosen.num_envs, device, **chosen.env_args)
    m = chosen.maddpg
    if m.frames > 1 or m.recurrent:
        env = History(env, m.frames, m.recurrent)
    env.reset(seed=chosen.seed)
    stream = Stream(chosen.seed, "replay", replicas, device)
    learner: MADDPG
    if m.recurrent:
        learner = recurrent = RecurrentMADDPG(env.spec, m, chosen.seed, replicas, device)
        stored = m.gamma, m.window, m.burn_in, recurrent.memory_shape, recurrent.stored_team_NN
        replay: Replay = WindowReplay(env.spec, chosen.replay.capacity, chosen.num_envs, stream, *stored)
    else:
        pool = chosen.opponents.kind == "pool"
        learner = (PoolMADDPG if pool else MADDPG)(env.spec, m, chosen.seed, replicas, device)
        further = opponent_widths(env.spec) if pool else {}
        replay = Replay(
            env.spec,
            chosen.replay.capacity,
            chosen.num_envs,
            stream,
            m.gamma,
            m.n_step,
            further,
            learner.stored_team_NN,
        )
    learner.use("autograd", "rounds are recorded as on a GPU")  # where the explicit update does not run
    division, records, stop = Division(Ranks(), len(replicas)), Records(), StopRequest()
    made = Trainer(
        chosen,
        Rounds(chosen, env, learner, replay),
        Journal(records, division, env.spec.agent_names),
        Evaluator(chosen, env, learner, division),
        Saver(Path("none"), chosen, env, records, stop),
        stop,
        division,
    )
    made.rounds.graphs = Graphs(recorder)
    if recorder is not None or late:
        sizes = {"critic": learner.critic.mlp.flat.shape[1], "actor": learner.actor.mlp.flat.shape[1]}
        learner.finite = FiniteGradients(sizes, learner.finite.owners, learner.replicas, learner.device, at_once=False)
        for moments in learner.moments.values():
            moments.optimiser.found_inf = learner.finite.broken  # type: ignore[attr-defined]
    return made


def played(made: Trainer, rounds: int = ROUNDS) -> Trainer:
    for _ in range(rounds):
        made.round()
    return made
