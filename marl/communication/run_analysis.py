"""A run's language in words, numbers and pictures: `analyse_run`, and what `python -m marl.communication` does.

Everything is played in the real environment. Formulas, units and limits of every number: docs/communication.md.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from envs.commands import say
from envs.spec import EnvSpec
from marl.communication.analysis import Material, PlayerAnalysis, analyse_player
from marl.communication.figures import formation_figure, write_formation_csv
from marl.communication.formation import FormationRow, Formed, formation, snapshot
from marl.communication.gallery import pictures
from marl.communication.measures.channels import channels_of, named_function
from marl.communication.measures.crossplay import CrossPlay, Participant, cross_play
from marl.communication.measures.influence import Predictable
from marl.communication.measures.information import Resampler, Undefined
from marl.communication.measures.interventions import Lines, possible
from marl.communication.options import Options, Scope
from marl.communication.verdict import (
    channel_words,
    constant_replicas,
    cross_words,
    describe,
    describe_all,
    formed_words,
    summary,
)
from marl.errors import UserError
from marl.evaluate.anchors import lines_of
from marl.figures.film import film, write_gif
from marl.figures.plots import image, matrix_figure, save
from marl.play.policy import Policy
from marl.results import LEFT_OUT, Record
from marl.runs.checkpoint import DIRECTORY, newest, read_manifest, saved_checkpoints
from marl.runs.durable import replace_text
from marl.runs.logs.event_file import EventFile

if TYPE_CHECKING:
    from marl.communication.command import CommandLine

JSON, FIGURES, FORMATION, GIF = "communication.json", "figures", "formation.csv", "episodes.gif"
_FORMATION_EPISODES = 200
_RESAMPLING = (999, 400)  # permutations, resamples of the bootstrap
_FILMED = 3  # episodes of the GIF
_MOST_CROSS = 8  # participants of a cross-play


@dataclass(frozen=True)
class Analysis(Record):
    """What the players of one environment say to each other; of a run's replicas what communication.json holds."""

    run: str | None = field(metadata=LEFT_OUT)
    """The run directory, or "pretrained NAME"; None (as `mode` and `formation`) of players without a run."""
    mode: str | None = field(metadata=LEFT_OUT)
    """"greedy" or "sampled"."""
    env: str
    """Id of the environment with its version."""
    episodes: int
    """Sample size of every metric and intervention."""
    seed: int
    """Episode i is reset with `seed + i`."""
    lines: Lines
    """Returns that score and gain are measured by."""
    replicas: tuple[PlayerAnalysis, ...]
    """One for each player, each with its `summary`."""
    shown: int
    """Whom the pictures show, of the median return: the replica's number, or the index of a player without a run."""
    figures: tuple[str, ...]
    """Names of the files in figures/."""
    cross_play: CrossPlay | None = field(metadata=LEFT_OUT)
    """Of all players and guests; None of a single one, or where it was not asked for."""
    text: str
    """The verdict in plain words."""
    channel: str | None = field(default=None, metadata=LEFT_OUT)
    """The run's `--channel` where it is another than gumbel, as noisy:0.1; else None."""
    formation: tuple[FormationRow, ...] | None = field(default=None, metadata=LEFT_OUT)
    """How the protocol of the shown replica formed; None where it was not asked for."""
    formed: Formed | Undefined | None = field(default=None, metadata=LEFT_OUT)
    """When it was formed; None where `formation` is, or empty."""


def analyse_run(
    run_dir: Path | str,
    options: Options | None = None,
    *,
    replicas: Sequence[int] | None = None,
    others: Sequence[Path | str] = (),
    greedy: bool = True,
    **changes: Any,
) -> Analysis:
    """Analyse the replicas of a run; write communication.json and the pictures into its directory.

    Args:
        run_dir: of a training run.
        options: what to measure.
        replicas: which; None: all.
        others: further runs, whose first replica joins the cross-play.
        greedy: the argmax of each head, or sampled.
        changes: fields of `options`, as `episodes=200`.

    Returns:
        What communication.json holds as JSON. A film of the shown replica goes to episodes.gif.

    Raises:
        UserError: no such run or replica, an environment without a channel, a bad option.
    """
    run_dir = Path(run_dir)
    chosen = Options(**{**(vars(options) if options else {}), **changes})

    def load(replica: int) -> Policy:
        return Policy.load(run_dir, replica=replica, greedy=greedy)

    return _analyse(load, str(run_dir), run_dir, chosen, replicas, others, greedy)


def analyse_pretrained(
    name: str,
    out: Path | str,
    options: Options | None = None,
    *,
    replicas: Sequence[int] | None = None,
    others: Sequence[Path | str] = (),
    greedy: bool = True,
    **changes: Any,
) -> Analysis:
    """As `analyse_run`, of the pretrained policy of a task; there is one state of it, so that `formation` is not known.

    Args:
        name: the task, as for `Policy.pretrained`.
        out: the directory for communication.json and the pictures; made where it is missing.
        options: as for `analyse_run`, and so are all others.

    Raises:
        UserError: as `analyse_run`, or no such policy.
    """
    chosen = Options(**{**(vars(options) if options else {}), **changes, "formation": False})

    def load(replica: int) -> Policy:
        return Policy.pretrained(name, replica, greedy)

    load(0)  # before a directory is made for it
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror or error}. Give another with --out.") from error
    return _analyse(load, f"pretrained {name}", out, chosen, replicas, others, greedy)


def _analyse(
    load: Callable[[int], Policy],
    name: str,
    out: Path,
    chosen: Options,
    replicas: Sequence[int] | None,
    others: Sequence[Path | str],
    greedy: bool,
) -> Analysis:
    """Analyse the replicas that `load` gives by their number, and write into `out`, for a run its directory."""
    first = load(0)
    count = first.num_replicas
    wanted = list(range(count)) if replicas is None else list(replicas)
    bad = [r for r in wanted if not 0 <= r < count]
    if bad or not wanted:
        raise UserError(f"{name} has the replicas 0 to {count - 1}, got {bad or 'none'}.")
    players = {f"replica {r}": load(r) for r in wanted}
    guests = {str(other): Policy.load(other, replica=0, greedy=greedy) for other in others}
    result = analyse_players(
        players, first.env_id, first.spec, chosen, env_args=first.env_args, guests=guests, out=out / FIGURES
    )
    numbered = [replace(one, replica=number) for number, one in zip(wanted, result.replicas, strict=True)]
    shown, figures = wanted[result.shown], list(result.figures)
    rows, formed, words = None, None, []
    if chosen.formation and first.spec.routes:
        rows, formed, drawn = _formation(out, shown, chosen, greedy)
        figures += drawn
        words = formed_words(rows, formed)
    if chosen.figures:
        _film(players[f"replica {shown}"], first.env_id, first.env_args, out / GIF, chosen)
    trained_with = channel_words(first.channel)
    result = replace(
        result,
        run=name,
        mode="greedy" if greedy else "sampled",
        replicas=tuple(numbered),
        shown=shown,
        figures=tuple(figures),
        text="\n".join([*trained_with, result.text, *constant_replicas(numbered), *words]),
        channel=first.channel if trained_with else None,
        formation=rows,
        formed=formed,
    )
    replace_text(out / JSON, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    return result


def analyse_players(
    players: Mapping[str, Predictable],
    env_id: str,
    spec: EnvSpec,
    options: Options,
    *,
    env_args: dict[str, Any] | None = None,
    guests: Mapping[str, Predictable] | None = None,
    out: Path | None = None,
) -> Analysis:
    """Analyse any players of one environment: trained, scripted or one's own.

    Args:
        players: name to player; each plays all agents.
        env_id: of the environment.
        spec: its specification.
        options: what to measure.
        env_args: its keyword arguments.
        guests: more players for the cross-play only.
        out: directory for the pictures; None: none are drawn.

    Returns:
        As `analyse_run`, without what belongs to a run; `shown` is the index of the player with the median return.
    """
    possible(spec, channels_of(spec), options.interventions)  # faults are told before anything is played
    lines = lines_of(env_id, env_args or {})
    analysed, shown, material = _measure(players, env_id, spec, options, env_args)
    player = list(players.values())[shown]
    everybody = {**players, **(guests or {})}
    crossed = None
    if options.cross_episodes and len(everybody) > 1:
        crossed = _cross(everybody, env_id, spec, options, env_args)
    figures: list[str] = []
    if out is not None and options.figures:
        drawn = pictures(player, analysed[shown], material, lines)
        if crossed is not None:
            drawn["cross_play"] = matrix_figure(
                crossed.participants, crossed.raw, crossed.relabelled, crossed.rows, crossed.columns
            )
        figures = _write_figures(drawn, out, options)
    named = list(zip(players, analysed, strict=True))
    text = [describe(analysed[shown], f"{spec.id}, {named[shown][0]}")]
    if len(named) > 1:
        text += ["", *describe_all(named)]
    if crossed is not None:
        text += ["", cross_words(crossed)]
    return Analysis(
        run=None,
        mode=None,
        env=spec.id,
        episodes=options.episodes,
        seed=options.seed,
        lines=lines,
        replicas=tuple(analysed),
        shown=shown,
        figures=tuple(figures),
        cross_play=crossed,
        text="\n".join(text),
    )


def _measure(
    players: Mapping[str, Predictable], env_id: str, spec: EnvSpec, options: Options, env_args: dict[str, Any] | None
) -> tuple[list[PlayerAnalysis], int, Material]:
    """Every player's numbers, the index of the one with the median return, and what was recorded of that one.

    Of several players only the shown one meets all interventions; the others are shuffled.
    """

    def measure(name: str, interventions: Sequence[str], per_channel: bool) -> tuple[PlayerAnalysis, Material]:
        return analyse_player(
            players[name], env_id, spec, episodes=options.episodes, seed=options.seed, env_args=env_args,
            lines=lines_of(env_id, env_args or {}), meaning=options.meaning, interventions=interventions,
            per_channel=per_channel, progress=lambda text: options.progress(f"{name}: {text}"),
            backend=options.backend, make=options.make,
        )  # fmt: skip

    names = list(players)
    if len(names) == 1:
        one, material = measure(names[0], options.interventions, True)
        analysed, shown = [one], 0
    else:
        few = [one for one in options.interventions if one == "shuffled"]
        analysed = [measure(name, few, False)[0] for name in names]
        order = np.argsort([one.outcome.team_return.mean for one in analysed], kind="stable")
        shown = int(order[(len(order) - 1) // 2])
        analysed[shown], material = measure(names[shown], options.interventions, True)
    return [replace(one, summary=summary(one)) for one in analysed], shown, material


def _cross(
    players: dict[str, Predictable], env_id: str, spec: EnvSpec, options: Options, env_args: dict[str, Any] | None
) -> CrossPlay:
    some = list(players.items())[:_MOST_CROSS]
    participants = [
        Participant(name.removeprefix("replica "), player, getattr(player, "spec", spec)) for name, player in some
    ]
    return cross_play(
        participants, env_id, episodes=options.cross_episodes, seed=options.seed, env_args=env_args,
        progress=lambda text: options.progress(f"cross-play: {text}"), backend=options.backend, make=options.make,
    )  # fmt: skip


def _write_figures(drawn: dict[str, Figure], out: Path, options: Options) -> list[str]:
    """Names of the files."""
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        save(figure, out / f"{name}.png")
        options.on_figure(name, figure)
    return [f"{name}.png" for name in drawn]


def _film(player: Predictable, env_id: str, env_args: dict[str, Any] | None, path: Path, options: Options) -> None:
    """A GIF of whole episodes; none of an environment that gives no pictures."""
    options.progress("film")
    try:
        frames = film(player, env_id, episodes=_FILMED, seed=options.seed, env_args=env_args, make=options.make)
        write_gif(frames, path)
    except UserError as error:
        options.progress(f"no film: {error}")


def _formation(
    run_dir: Path, replica: int, options: Options, greedy: bool
) -> tuple[tuple[FormationRow, ...], Formed | Undefined | None, list[str]]:
    """One row for each checkpoint that is kept, when the protocol was formed, and the names of the pictures."""
    taken, episodes = [], min(options.episodes, _FORMATION_EPISODES)
    for checkpoint in saved_checkpoints(run_dir / DIRECTORY):
        step = int(read_manifest(checkpoint)["step"])
        options.progress(f"checkpoint of step {step}")
        player = Policy.load(run_dir, replica=replica, greedy=greedy, checkpoint=checkpoint)
        result, material = analyse_player(
            player, player.env_id, player.spec, episodes=episodes, seed=options.seed, env_args=player.env_args,
            lines=lines_of(player.env_id, player.env_args), meaning=options.meaning, interventions=("shuffled",),
            per_channel=False, resampling=_RESAMPLING, backend=options.backend, make=options.make,
        )  # fmt: skip
        taken.append(snapshot(step, result, material))
    seen = [one for one in taken if one is not None]
    if not seen:
        return (), None, []
    rows, formed = formation(seen, replica, Resampler(episodes, options.seed, *_RESAMPLING))
    names: list[str] = []
    if len(rows) > 1 and options.figures:
        names = _write_figures({"formation": formation_figure(rows, formed)}, run_dir / FIGURES, options)
    write_formation_csv(rows, run_dir / FORMATION)
    return rows, formed, names


# --------------------------------------------------------------------------------------------- the command line
@contextlib.contextmanager
def _tensorboard(run_dir: Path) -> Iterator[Callable[[str, Figure], None]]:
    """Shows figures in the run's TensorBoard, where it has one."""
    if not any(run_dir.glob("events.out.tfevents.*")):
        yield lambda name, figure: None
        return
    newest_checkpoint = newest(run_dir / DIRECTORY)
    step = int(read_manifest(newest_checkpoint)["step"]) if newest_checkpoint else 0
    events = EventFile(run_dir, lambda path, error: None)
    try:
        yield lambda name, figure: events.image(step, f"communication/{name}", torch.from_numpy(image(figure)))
    finally:
        events.close()


def analysed(options: CommandLine) -> str:
    """What `python -m marl.communication` prints, after the files that it writes.

    Raises:
        UserError: as `analyse_run`, or an unknown function of --meaning.
    """
    meaning = named_function(options.meaning) if options.meaning else None
    out = options.run
    common: dict[str, Any] = {
        **options.sizes(),
        **{field.name: getattr(options, field.name) for field in fields(Scope)},
        "others": options.others,
        "greedy": not options.sampled,
        "meaning": meaning,
        "progress": lambda text: say(f"... {text}"),
    }
    if options.pretrained:
        name = str(options.run)
        out = options.out or Path("runs") / "pretrained" / name
        result = analyse_pretrained(name, out, **common)
    elif options.out is not None:
        raise UserError("--out goes with --pretrained; the analysis of a run is written into its directory.")
    else:
        with _tensorboard(options.run) as show:
            result = analyse_run(options.run, on_figure=show, **common)
    if options.json:
        replace_text(options.json, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
    return f"{result.text}\n\nNumbers: {out / JSON}" + (f"\nPictures: {out / FIGURES}/" if result.figures else "")
