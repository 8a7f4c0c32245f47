"""The end of a run: the final policy's evaluation, what its agents say, the report and the last words."""

from __future__ import annotations

import json
import shlex
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envs.pettingzoo.construct import is_importable
from marl.config.schema import Config
from marl.evaluate.helpers import Helpers, beside, processes_for
from marl.evaluate.results import Evaluation
from marl.evaluate.tables import table
from marl.parallel.ranks import Ranks
from marl.play.budget import Budget
from marl.runs import checkpoint
from marl.runs.durable import replace_text
from marl.runs.logs.counter import Counter
from marl.runs.logs.logger import RunLog
from marl.training.phases import Phases
from marl.training.trainer import Trainer


def finish(
    config: Config,
    path: Path,
    trainer: Trainer,
    logger: RunLog,
    phases: Phases,
    draw: Callable[[], str] | None = None,
) -> Evaluation:
    """Evaluate, analyse and report what a run has trained, and say where all of it is.

    Args:
        config: the run.
        path: its directory.
        trainer: at its last step, saved.
        logger: told all words.
        phases: of the run so far; those of its end are added and all named.
        draw: draws a further figure for the report, and says so.

    Returns:
        What evaluation.json holds as JSON.
    """
    trained, spec, evaluated = trainer.journal.clock.seconds, trainer.rounds.env.spec, _EVALUATION
    language: Callable[[], None] | None = None
    logger.trained()
    began = time.perf_counter()
    if _language_first(config, path, trainer):
        own, wanted = trainer.division.evaluated, config.evaluation
        _announce(config, trainer, logger, ", and looking at what the agents say beside it ...")
        with Helpers(path, [own], wanted.final_episodes, wanted.seed, wanted.max_steps) as helpers:
            language = _attempt("language", lambda: _language(path, config, list(own), None), logger)
            result = trainer.evaluator.evaluated(wanted.final_episodes, wanted.seed, "pettingzoo", 32, helpers, 0)
        evaluated += " with the analysis beside it"
    else:
        result = _final_evaluation(config, path, trainer, logger)
    trainer.journal.evaluation(trainer.step, result)
    phases.end(evaluated)
    if not trainer.division.ranks.is_first:
        return result
    logger.say(f"{table(str(path), result)}\n({time.perf_counter() - began:.0f} s)")
    try:
        replace_text(path / "evaluation.json", json.dumps(result.to_json(), indent=1) + "\n")
    except OSError as error:  # the run is trained and saved
        logger.warn(
            f"{path / 'evaluation.json'} cannot be written: {error.strerror or error}. The table above is the result; "
            f"a resume of the run evaluates again and writes it."
        )
    logger.flush()
    if config.logging.report:
        if not spec.routes:
            _attempt("film", lambda: _film(path, config, trainer.evaluator.make), logger)()
            phases.end("film")
        elif language is None:
            _attempt("language", lambda: _language(path, config, _extremes(result), trainer.evaluator.make), logger)()
            phases.end("analysis")
        else:
            language()
        if _playable(config) and _loadable(path, trainer):
            _attempt("page to play", lambda: _page_to_play(path), logger)()
        if draw is not None:
            _attempt("film strip", draw, logger)()
        _attempt("report", lambda: _page(path), logger)()
        phases.end("report")
    logger.say(_closing_message(config, path, trainer, trained, phases))
    return result


_EVALUATION = "evaluation in the real environment"


def _closing_message(config: Config, path: Path, trainer: Trainer, trained: float, phases: Phases) -> str:
    place, learner = shlex.quote(str(path)), trainer.rounds.learner
    make, speaks = trainer.evaluator.make, bool(trainer.rounds.env.spec.routes)
    if make is None or is_importable(make):
        filmed = not config.logging.report or (path / "episodes.gif").exists()  # else it gives no pictures
        options = "more episodes, --sampled, --gif film.gif" if filmed else "more episodes, --sampled"
        further = [f"python -m marl.evaluate {place}   ({options})"]
        further += [f"python -m marl.communication {place}"] if speaks else []
    else:
        loaded = f"Policy.load({str(path)!r})"
        further = [f"evaluate({loaded}, {config.env!r}, make=...)   (in Python, with the same function)"]
        further += [f"analyse_run({str(path)!r}, make=...)"] if speaks else []
        further.append("or give the function a name in a module of its own: commands find it there")
    if config.logging.tensorboard:
        further.append(f"tensorboard --logdir {place}")
    return (
        f"{trainer.step} steps, {learner.updates} updates in {trained:.0f} s ({learner.path}).\n"
        f"Time: {phases.words()}; {trainer.journal.aside_seconds:.1f} s of the training for its evaluations.\n"
        f"Run directory: {path}\nLook further:  " + "\n               ".join(further)
    )


# ------------------------------------------------------------------ evaluation
def _loadable(path: Path, trainer: Trainer) -> bool:
    """Whether another process can play the final policy: it is saved, and its environment has an id."""
    saved = checkpoint.newest(path / checkpoint.DIRECTORY)
    return trainer.evaluator.make is None and saved is not None and saved.name.startswith(f"step_{trainer.step:09d}")


def _language_first(config: Config, path: Path, trainer: Trainer) -> bool:
    """Whether the only replica is worth evaluating in a process of its own while this one analyses its language."""
    alone = trainer.division.ranks.size == 1 and config.num_replicas == 1
    wanted = config.logging.report and bool(trainer.rounds.env.spec.routes)
    worth = beside(config.evaluation.final_episodes) and not trainer.evaluator.cost_unknown  # else a counter is due
    return alone and wanted and worth and _loadable(path, trainer)


def _announce(config: Config, trainer: Trainer, logger: RunLog, end: str) -> None:
    players = f"each of {config.num_replicas} replicas" if config.num_replicas > 1 else "the policy"
    logger.say(
        f"{_how_long(trainer)} Playing {config.evaluation.final_episodes} episodes with {players} in the real "
        f"environment{end}"
    )


def _how_long(trainer: Trainer) -> str:
    if trainer.began == trainer.step:
        return f"All {trainer.step} steps were trained before."
    before = " in all" if trainer.began else ""
    return f"Training took {trainer.journal.clock.seconds:.0f} s{before}."


def _final_evaluation(config: Config, path: Path, trainer: Trainer, logger: RunLog) -> Evaluation:
    """Every replica in the real environment; where it takes long, on all cores, from the checkpoint just saved."""
    ranks, own = trainer.division.ranks, trainer.division.evaluated
    episodes, seed = config.evaluation.final_episodes, config.evaluation.seed
    count = processes_for(len(own), episodes, ranks.local_size) if _loadable(path, trainer) else 1
    seconds = config.evaluation.final_seconds if trainer.evaluator.cost_unknown else 0.0
    limit = f" or for {seconds:g} s (--evaluation.final-seconds)" if seconds else ""
    _announce(config, trainer, logger, f"{limit}, in {count} processes ..." if count > 1 else f"{limit} ...")
    with Counter(seconds, config.logging.progress and ranks.is_first) as counter:
        played: dict[str, Any] = {"budget": Budget(seconds=seconds), "progress": counter}
        if count == 1:
            return trainer.evaluator.evaluated(episodes, seed, "pettingzoo", 32, **played)
        parts = [[own[i] for i in part] for part in Ranks(size=count).shares(len(own))]
        with Helpers(path, parts[1:], episodes, seed, config.evaluation.max_steps, seconds) as helpers:
            return trainer.evaluator.evaluated(episodes, seed, "pettingzoo", 32, helpers, len(parts[0]), **played)


# ------------------------------------------------------------------ pictures and words
def _attempt(name: str, step: Callable[[], str], logger: RunLog) -> Callable[[], None]:
    """Do a step now; what is returned tells its words, or that it failed, which does not take the run away."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            words = step()
    except Exception as error:  # whatever it is: the run is trained and saved
        failure = f"no {name}: {str(error) or type(error).__name__}"
        return lambda: logger.warn(failure)
    said = f"{words}\n({time.perf_counter() - began:.0f} s)"
    return lambda: logger.say(said)


def _extremes(result: Evaluation) -> list[int]:
    """The replicas of the least, the middle and the greatest return."""
    by_return = sorted(result.replicas, key=lambda one: one.mean_return)
    last = len(by_return) - 1
    return sorted({by_return[i].replica for i in (0, last // 2, last)})


def _language(path: Path, config: Config, chosen: list[int], make: Callable[..., Any] | None) -> str:
    from marl.communication.options import QUICK
    from marl.communication.run_analysis import analyse_run

    text = analyse_run(path, QUICK, replicas=chosen, make=make).text
    if len(chosen) < config.num_replicas:
        listed = ", ".join(map(str, chosen))
        text += f"\n(replicas {listed}, the least, the middle and the greatest return"
        known = make is None or is_importable(make)
        text += f"; all of them: python -m marl.communication {shlex.quote(str(path))})" if known else ")"
    return text


def _film(path: Path, config: Config, make: Callable[..., Any] | None) -> str:
    from marl.figures.film import film, write_gif
    from marl.play.policy import Policy

    frames = film(Policy.load(path), config.env, seed=config.evaluation.seed, env_args=config.env_args, make=make)
    write_gif(frames, path / "episodes.gif")
    return f"Film: {path / 'episodes.gif'}"


def _playable(config: Config) -> bool:
    from marl.listen.content import plays

    return plays(config)


def _page_to_play(path: Path) -> str:
    from marl.listen.page import write_listen

    return f"Listen yourself: {write_listen(path)}"


def _page(path: Path) -> str:
    from marl.report.run_page import write_report

    return f"Report: {write_report(path)}"
