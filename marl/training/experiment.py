"""Composes a run from its configuration: the only module that knows all the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import envs
from envs.batched import BatchedEnv
from envs.conditions import Condition, Conditioned
from envs.errors import EnvFailure
from envs.history import History
from envs.ids import names_function
from envs.pettingzoo.construct import callable_id, conversion
from envs.pettingzoo.workers import end_if_importing
from envs.pictures import Small
from envs.relabelled import Relabelled
from envs.streams import Stream
from marl.config.fields import flatten
from marl.config.resolve import from_dict, to_dict, to_yaml, validated
from marl.config.schema import Config
from marl.data.batch import BatchSource
from marl.data.opponents import opponent_widths
from marl.data.pictures import PictureReplay
from marl.data.replay import Replay, population_widths
from marl.data.windows import WindowReplay
from marl.errors import UserError
from marl.evaluate.results import Evaluation
from marl.learner.fitting import idle_settings, refuse_estimator
from marl.learner.maddpg import MADDPG
from marl.learner.messages import LEARNERS
from marl.learner.population.maddpg import PopulationMADDPG
from marl.learner.population.pool import PoolMADDPG, refuse_pool
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks, processes
from marl.runs import checkpoint
from marl.runs.compatibility import check_spec
from marl.runs.logs.logger import Logger, RunLog, Silent
from marl.runs.logs.trackers import require_installed
from marl.runs.resuming import continued, fitting, has_ended
from marl.runs.run_dir import RunDir, fresh_default
from marl.runs.versions import changed_versions
from marl.training.devices import choose_device, choose_threads, keep_freed_memory, repeat_convolutions
from marl.training.evaluator import Evaluator
from marl.training.finish import finish
from marl.training.journal import Journal
from marl.training.memory import named as memory_named
from marl.training.memory import refuse_pictures
from marl.training.phases import Phases
from marl.training.rounds import Rounds
from marl.training.saver import Saver
from marl.training.stop import StopRequest
from marl.training.trainer import Trainer, Watch
from marl.training.warm_start import start_from


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves."""

    run_dir: Path
    step: int
    """Environment steps of a replica."""
    seconds: float
    """Wall time of training."""
    evaluation: Evaluation | None
    """Of the final policy, as in evaluation.json; None where the run was stopped."""


def train(
    config: Config,
    *,
    resume: Path | None = None,
    resume_environment: Literal["replay", "fresh"] = "replay",
    stop: StopRequest | None = None,
    make_env: Callable[..., Any] | None = None,
    ranks: Ranks | None = None,
    began: float | None = None,
    watch: Watch | None = None,
) -> RunResult:
    """Train as `config` says; in a process that torchrun started, together with the others.

    Args:
        config: the run; `run_dir` unset means runs/<env>/<date-time>_seed<seed>/.
        resume: checkpoint or run directory to continue from; `run_dir` is then unset, or the run's own.
        resume_environment: "replay": go on in the middle of the episodes that were running, exactly; "fresh": begin
            new ones, for environments that cannot be replayed.
        stop: polled between rounds; the run saves and returns when it is requested.
        make_env: builds a PettingZoo ParallelEnv from `env_args`, in place of `config.env`, which then becomes its
            package.module:function.
        ranks: the processes of the run, where they have been joined before.
        began: `time.perf_counter` when the command began, for the times that the run's last words name; None: now.
        watch: called as `watch(step, evaluation, policies)` after every evaluation during training, the one before the
            first step included, in every process with the greedy policies that it evaluated. It may request `stop`;
            what it raises ends the run without a save: how a search gives a run up, or a script plots it as it goes.

    Raises:
        UserError: the configuration, environment or run directory is unusable, or a resume changes settings that must
            stay (marl/config/rules.py).
        RunFailed, EnvFailure: the run broke on its way; checkpoints so far are kept.
        Echo: rank 0 has raised one of these (on the other ranks).
    """
    end_if_importing()
    phases = Phases(began)
    if ranks is None:
        with processes() as result:
            return train(
                config, resume=resume, resume_environment=resume_environment, stop=stop, make_env=make_env,
                ranks=result, began=began, watch=watch,
            )  # fmt: skip
    if make_env is None:
        config = validated(config)
    else:
        named = replace(config, backend="pettingzoo", env=callable_id(make_env))
        config = from_dict(to_dict(named))
    require_installed(config.logging.trackers)
    with ranks.watched(), ExitStack() as stack:
        if resume is not None:
            asked, where = config, resume
            config, resume = ranks.broadcast(lambda: continued(asked, where))
        division = Division.of(config, ranks)
        device = choose_device(ranks.device(config.device))
        if device.type == "cuda":
            torch.cuda.set_device(device)
            repeat_convolutions()
        config = replace(config, device=str(device))
        keep_freed_memory()
        notes: list[str] = []
        opened: list[RunDir] = []  # by rank 0

        def describe() -> None:
            for run in opened:
                run.describe(to_yaml(replace(config, run_dir=None)))

        def open_directory() -> Path:
            path = Path(config.run_dir) if config.run_dir else fresh_default(config.env, config.seed)
            run = stack.enter_context(RunDir(path, resume is not None, note=notes.append))
            opened.append(run)
            if resume is None:
                describe()
            return run.path

        path = ranks.broadcast(open_directory)
        env = _environment(config, make_env, division, notes, resume is None and ranks.is_first)
        stack.callback(env.close)
        if resume is None:
            refuse_pictures(env, config)  # in every process
            refuse_estimator(env.spec, config)
        if config.opponents.kind == "pool":
            refuse_pool(env.spec, config)
        fresh = resume_environment == "fresh"
        networks, width = len(division.trained) * env.spec.num_agents, max(config.maddpg.hidden, default=1)
        rows = config.maddpg.batch_size // (ranks.size if division.shared else 1)
        torch.set_num_threads(choose_threads(config.threads, networks, rows, width, ranks.local_size))
        with memory_named(config, env.spec, len(division.trained), device.type == "cpu"):
            return _run(
                config, path, env, resume, stop or StopRequest(), make_env, notes, division, fresh, describe, phases,
                watch,
            )  # fmt: skip


def _environment(
    config: Config, make_env: Callable[..., Any] | None, division: Division, notes: list[str], tried: bool
) -> BatchedEnv:
    """The environments that this process steps; `notes` gets what a user should know of them, which is `tried` where
    they are new."""
    rows = division.rows(config.num_envs)
    workers = min(config.workers, len(rows))
    if make_env is not None:
        from envs.pettingzoo.env import PettingZooEnv

        env: BatchedEnv = PettingZooEnv(
            make=make_env,
            num_envs=len(rows),
            device=config.device,
            rows=rows,
            workers=workers,
            rebuild=config.rebuild,
            pictures=_small(config),
            env_args=config.env_args,
        )
    else:
        anew: dict[str, Any] = {"rebuild": True} if config.rebuild else {}  # no arguments of MPE's tasks
        anew |= {"pictures": _small(config)} if names_function(config.env) else {}
        env = envs.make(
            config.env, len(rows), config.device, config.backend, rows=rows, workers=workers, env_args=config.env_args,
            **anew,
        )  # fmt: skip
    notes += _remarks(env, config.env) if tried else []
    condition = Condition.of(config.channel, config.channel_noise)
    if condition is not None:
        env = Conditioned(env, condition, rows, config.num_envs)
    if config.other_play:
        env = Relabelled(env, rows)
    if config.maddpg.frames > 1 or config.maddpg.recurrent:
        env = History(env, config.maddpg.frames, own_action=config.maddpg.recurrent)
    if division.shared and division.ranks.size > 1:
        from marl.parallel.data_mode import SplitEnv

        env = SplitEnv(env, division.ranks)
    try:
        env.reset(seed=config.seed)
    except EnvFailure as failure:
        if failure.field is None and failure.agent is None:
            raise
        raise UserError(f"{failure} Nothing was trained. python -m envs.check looks closer.") from failure
    return env


def _small(config: Config) -> Small | None:
    """How pictures are made small; None: they are rows of numbers."""
    return None if config.flatten_pictures else Small(config.picture_side, config.picture_colour)


def _remarks(env: BatchedEnv, name: str) -> list[str]:
    """How an environment is played, and a warning where it does not keep what an exact resume needs."""
    remarks = []
    if getattr(env, "converted", False):
        remarks.append(conversion(name))
    if getattr(env, "still", ""):
        remarks.append(f"warning: environment {name!r}: {getattr(env, 'still', '')}.")
    result = env.unrepeatable()
    if not result:
        return remarks
    if not env.spec.rebuild and not env.unrepeatable(rebuild=True):
        return [
            *remarks,
            f"warning: environment {name!r} carries something from one episode into the next, although it is reset "
            f"with a seed: an episode that was played again behind another one gave another {result}; in a new "
            f"instance it did not. Training goes on, but the run cannot be repeated exactly, and a resume has to begin "
            f"new episodes (--resume-environment fresh). --rebuild makes the environment anew for every episode, in "
            f"evaluations too; python -m envs.check looks closer.",
        ]
    return [
        *remarks,
        f"warning: environment {name!r} is no function of its seed: played again from the same seed with the same "
        f"actions, it gave another {result}. Training goes on, but the run cannot be repeated, and a resume has to "
        f"begin new episodes (--resume-environment fresh). python -m envs.check looks closer.",
    ]


def _run(
    config: Config,
    path: Path,
    env: BatchedEnv,
    resume: Path | None,
    stop: StopRequest,
    make_env: Callable[..., Any] | None,
    notes: list[str],
    division: Division,
    fresh: bool,
    describe: Callable[[], None],
    phases: Phases,
    watch: Watch | None,
) -> RunResult:
    ranks = division.ranks

    def saved_parts() -> checkpoint.Checkpoint | None:
        if resume is None:
            return None
        saved = checkpoint.load(resume)
        check_spec(saved.manifest["spec"], env.spec, saved.path)
        left = checkpoint.remove_leftovers(path / checkpoint.DIRECTORY)
        notes.extend(f"removed the unfinished {name}" for name in left)
        notes.extend(changed_versions(saved.manifest.get("versions", {})))
        return saved

    saved = ranks.first_only(saved_parts)
    ended = ranks.broadcast(lambda: saved is not None and has_ended(saved))
    learner, source = _learner(config, env, division)
    if resume is None and config.from_run is not None:
        notes.append(start_from(config, path, learner, division))
    with closing(_logger(config, path, saved, ended, ranks)) as logger:
        if config.maddpg.recurrent and config.maddpg.communication_correction and any(r.exact for r in env.spec.routes):
            notes.append("recurrent networks learn from the messages that were heard: no communication correction.")
        notes += idle_settings(config, env.spec)
        if config.other_play:
            notes.append("symbols are permuted in every episode (--other-play): no communication correction.")
        for note in notes:
            text = note.removeprefix("warning: ")
            (logger.say if text == note else logger.warn)(text)
        trainer = Trainer(
            config,
            Rounds(config, env, learner, source),
            Journal(logger, division, env.spec.agent_names),
            Evaluator(config, env, learner, division, make_env),
            Saver(path, config, env, logger, stop),
            stop,
            division,
            watch,
        )
        if resume is not None:
            with fitting(saved):
                trainer.restore(None if saved is None else saved.parts, fresh, ended)
            describe()  # now: a resume that is refused leaves the run's own words
            if fresh:
                logger.warn("new episodes begin: the run goes on, but not as it would have without the interruption.")
            saved = None  # its tensors are no longer needed
        else:
            logger.hparams(_plain_settings(config), ["evaluation/return"])
        phases.end("start")
        stopped = trainer.run()
        phases.end("training")
        if stopped:
            stop.request()
            return RunResult(path, trainer.step, trainer.journal.clock.seconds, None)
        with stop.at_once():  # everything is saved
            draw: Callable[[], str] | None = None
            if config.world_model and env.spec.picture and ranks.size == 1:
                from marl.world_model import strips

                draw = partial(strips.of_run, source, path)
            result = finish(config, path, trainer, logger, phases, draw)
    return RunResult(path, trainer.step, trainer.journal.clock.seconds, result)


def _learner(config: Config, env: BatchedEnv, division: Division) -> tuple[MADDPG, BatchSource]:
    """The learner of the replicas trained here, and where its batches come from."""
    replicas, ranks = division.trained, division.ranks
    split = division.shared and ranks.size > 1
    if split:
        from marl.parallel.data_mode import PartSource, SplitUpdates

    share = SplitUpdates(ranks) if split else None
    settings = config.maddpg
    if config.other_play:  # what a speaker would say now is not what its listeners would hear
        settings = replace(settings, communication_correction=False)
    capacity = min(config.replay.capacity, config.total_steps + config.num_envs)
    stream = Stream(config.seed, "replay", replicas, config.device)
    learner: MADDPG
    replay: Replay
    pool = config.opponents.kind == "pool"
    if settings.recurrent:
        learner = RecurrentMADDPG(env.spec, settings, config.seed, replicas, config.device)
    elif config.population > 1:
        learner = PopulationMADDPG(
            env.spec, settings, config.seed, replicas, config.device, population=config.population
        )
    elif pool:
        learner = PoolMADDPG(env.spec, settings, config.seed, replicas, config.device)
    else:
        learner = LEARNERS.get(config.channel, MADDPG)(env.spec, settings, config.seed, replicas, config.device, share)
    further = population_widths(env.spec) if config.population > 1 else opponent_widths(env.spec) if pool else {}
    if isinstance(learner, RecurrentMADDPG):
        replay = WindowReplay(
            env.spec, capacity, config.num_envs, stream, settings.gamma,
            settings.window, settings.burn_in, learner.memory_shape, learner.stored_team_NN,
        )  # fmt: skip
    else:
        kind = PictureReplay if env.spec.picture else Replay
        replay = kind(
            env.spec, capacity, config.num_envs, stream, settings.gamma,
            settings.n_step, further, learner.stored_team_NN,
        )  # fmt: skip
    source: BatchSource = replay
    if config.world_model:
        from marl.world_model.attach import imagining

        source = imagining(replay, learner, config)
    return learner, PartSource(source, ranks) if split else source


def _logger(config: Config, path: Path, saved: checkpoint.Checkpoint | None, ended: bool, ranks: Ranks) -> RunLog:
    def writer() -> Logger:
        return Logger(
            path,
            total_steps=config.total_steps,
            tensorboard=config.logging.tensorboard,
            progress=config.logging.progress,
            trackers=config.logging.trackers,
            resume_step=None if saved is None else saved.step,
            ended=ended,
        )

    return ranks.first_only(writer) or Silent()


def _plain_settings(config: Config) -> dict[str, bool | int | float | str]:
    return {name: value for name, value in flatten(config).items() if isinstance(value, bool | int | float | str)}
