"""Composes a run from its configuration: the only module that knows all the others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import envs
from envs.batched import BatchedEnv
from envs.streams import Stream
from marl import checkpoint
from marl.compatibility import check_spec
from marl.config import Config
from marl.configure import to_dict, to_yaml, validated
from marl.devices import choose_device
from marl.durable import replace_text
from marl.errors import UserError
from marl.evaluate import evaluate
from marl.evaluation_table import table
from marl.logger import Logger
from marl.maddpg import MADDPG
from marl.replay import BatchSource, Replay
from marl.rundir import RunDir, fresh_default
from marl.signals import StopRequest
from marl.trainer import Trainer
from marl.versions import changed_versions


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves."""

    run_dir: Path
    step: int  # environment steps of a replica
    seconds: float  # wall time of training
    evaluation: dict[str, Any] | None  # of the final policy, as in evaluation.json; None where the run was stopped


def train(
    config: Config,
    *,
    resume: Path | None = None,
    stop: StopRequest | None = None,
    make_env: Callable[..., Any] | None = None,
) -> RunResult:
    """Train as `config` says.

    Args:
        config: the run; `run_dir` unset means runs/<env>/<date-time>_seed<seed>/.
        resume: checkpoint directory to continue from.
        stop: polled between rounds; the run saves and returns when it is requested.
        make_env: builds a PettingZoo ParallelEnv from `env_args`, in place of `config.env`.

    Raises:
        UserError: the configuration, environment or run directory is unusable.
        RunFailed, EnvFailure: the run broke on its way; checkpoints so far are kept.
    """
    if make_env is not None:
        config = replace(config, backend="pettingzoo", env=config.env or getattr(make_env, "__name__", "custom"))
    else:
        config = validated(config)
    config = replace(config, device=str(choose_device(config.device)))
    torch.set_num_threads(config.threads or 1)
    path = Path(config.run_dir) if config.run_dir else fresh_default(config.env.replace(":", "."), config.seed)
    notes: list[str] = []
    with RunDir(path, resume is not None, note=notes.append) as run:
        env = _environment(config, make_env)
        try:
            run.describe(to_yaml(replace(config, run_dir=None)))
            return _run(config, run.path, env, resume, stop or StopRequest(), make_env, notes)
        finally:
            env.close()


def _environment(config: Config, make_env: Callable[..., Any] | None) -> BatchedEnv:
    count = config.num_replicas * config.num_envs
    if make_env is not None:
        from envs.pettingzoo import PettingZooEnv

        env: BatchedEnv = PettingZooEnv(make=make_env, num_envs=count, device=config.device, **config.env_args)
    else:
        env = envs.make(
            config.env, count, config.device, config.backend, workers=config.workers, **config.env_args
        )
    env.reset(seed=config.seed)
    return env


def _run(
    config: Config,
    path: Path,
    env: BatchedEnv,
    resume: Path | None,
    stop: StopRequest,
    make_env: Callable[..., Any] | None,
    notes: list[str],
) -> RunResult:
    replicas = range(config.num_replicas)
    learner = MADDPG(env.spec, config.maddpg, config.seed, replicas, config.device)
    saved = None if resume is None else checkpoint.load(resume, device=config.device)
    if saved is not None:
        check_spec(saved.manifest["spec"], env.spec, saved.path)
        left = checkpoint.remove_leftovers(path / checkpoint.DIRECTORY)
        notes += [f"removed the unfinished {name}" for name in left]
        notes += changed_versions(saved.manifest.get("versions", {}))
    capacity = min(config.replay.capacity, config.total_steps + config.num_envs)
    replay = Replay(
        env.spec,
        capacity,
        config.num_envs,
        Stream(config.seed, "replay", replicas, config.device),
        config.maddpg.gamma,
        config.maddpg.n_step,
    )
    source: BatchSource = replay
    if config.world_model:
        from marl.world_model.compose import imagining

        source = imagining(replay, learner, config)
    with Logger(
        path,
        total_steps=config.total_steps,
        tensorboard=config.logging.tensorboard,
        progress=config.logging.progress,
        resume_step=None if saved is None else saved.step,
    ) as logger:
        for note in notes:
            logger.say(note)
        trainer = Trainer(config, env, learner, source, logger, path, stop, make_env)
        if saved is not None:
            trainer.restore(saved.parts)
        else:
            _record_settings(config, logger)
        trainer.run()
        if stop.requested:
            return RunResult(path, trainer.step, trainer.seconds, None)
        result = _finish(config, path, trainer, logger, make_env)
    return RunResult(path, trainer.step, trainer.seconds, result)


def _record_settings(config: Config, logger: Logger) -> None:
    plain = to_dict(config)
    groups = [(group, part) for group, part in plain.items() if isinstance(part, dict)]
    flat = {f"{group}.{name}": value for group, part in groups for name, value in part.items()}
    flat |= {name: value for name, value in plain.items() if not isinstance(value, dict)}
    kept = {name: value for name, value in flat.items() if isinstance(value, bool | int | float | str)}
    logger.hparams(kept, ["evaluation/return"])


def _finish(
    config: Config, path: Path, trainer: Trainer, logger: Logger, make_env: Callable[..., Any] | None
) -> dict[str, Any]:
    """The final policy's evaluation in the real environment, the language, the report and the words at the end."""
    spec = trainer.env.spec
    seconds = trainer.seconds
    result = evaluate(
        trainer.policies(),
        config.env,
        episodes=config.evaluation.final_episodes,
        seed=config.evaluation.seed,
        env_args=config.env_args,
        make=make_env,
        spec=spec if make_env is not None or ":" in config.env else None,
    )
    replace_text(path / "evaluation.json", json.dumps(result, indent=1) + "\n")
    trainer.log_evaluation(result)
    logger.flush()
    logger.say(table(spec.id, result))
    if config.logging.report and make_env is None:
        _report(config, path, bool(spec.routes), logger)
    logger.say(
        f"{trainer.step} steps, {trainer.learner.updates} updates in {seconds:.0f} s.\n"
        f"Run directory: {path}\n"
        f"Look further:  python -m marl.evaluate {path}   (more episodes, --sampled, --gif film.gif)\n"
        + (f"               python -m marl.communication {path}\n" if spec.routes else "")
        + f"               tensorboard --logdir {path}"
    )
    return result


def _report(config: Config, path: Path, has_channel: bool, logger: Logger) -> None:
    """Pictures and words; a fault in them is told and does not take the trained run away."""
    from marl.gif import film, write_gif
    from marl.policy import Policy
    from marl.report import write_report

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if has_channel:
                from marl.communication import analyse_run

                logger.say(analyse_run(path, episodes=1000)["text"])
            if ":" not in config.env:
                frames = film(Policy.load(path), config.env, seed=config.evaluation.seed, env_args=config.env_args)
                write_gif(frames, path / "episodes.gif")
            logger.say(f"Report: {write_report(path)}")
    except (UserError, OSError) as error:
        logger.warn(f"the report is incomplete: {error}")

