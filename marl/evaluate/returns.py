"""Plays trained and scripted policies and sums up what they earned; what `python -m marl.evaluate` does.

Episode i is reset with SEED + i. Score: 0 is random, 1 the best known. Gain: 0 is the best without messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.mpe.catalogue import canonical_id
from envs.pettingzoo.construct import close_env, from_callable, parallel_env
from envs.pettingzoo.describe import describe_known
from envs.pictures import Small
from envs.spec import EnvSpec
from marl import scripted, stats
from marl.errors import UserError
from marl.evaluate.anchors import Anchors, anchors, is_competitive, sides
from marl.evaluate.matches import Party, one_pair, play_matches, team_names
from marl.evaluate.results import Evaluation, Matches, ReplicaReturns, Setting
from marl.evaluate.tables import match_table, table
from marl.figures.film import film, write_gif
from marl.play.budget import Budget
from marl.play.rollout import MAX_STEPS, NO_LIMIT, Player, pictures_of, play
from marl.pretrained.library import described, names, read
from marl.runs.durable import replace_text
from marl.runs.logs.counter import Counter

if TYPE_CHECKING:
    from marl.evaluate.command import CommandLine


def evaluate(
    players: Player | Sequence[Player],
    env_id: str,
    *,
    episodes: int = 1000,
    seed: int = 0,
    mode: str = "greedy",
    env_args: dict[str, Any] | None = None,
    backend: str = "pettingzoo",
    make: Callable[..., Any] | None = None,
    spec: EnvSpec | None = None,
    replicas: Sequence[int] | None = None,
    batch: int = 32,
    max_steps: int = MAX_STEPS,
    budget: Budget = NO_LIMIT,
    progress: Callable[[int, int], None] | None = None,
    collect: Callable[[list[ReplicaReturns]], list[ReplicaReturns]] = lambda replicas: replicas,
) -> Evaluation:
    """Play every player for `episodes` episodes and sum up.

    Args:
        players: one player, or one for each replica; all play the same episodes.
        env_id: MPE id with or without version, or package.module:function.
        episodes: of each player, at least 1.
        seed: episode i is reset with `seed + i`.
        mode: "greedy" or "sampled": how the players choose, for the record.
        env_args: keyword arguments of the environment; anchors hold for the default ones only.
        backend: "pettingzoo" (the real environment) or "torch" (the batched port).
        make: builds the environment in place of `env_id`.
        spec: the environment's spec where it is known.
        replicas: numbers of the replicas that the players stand for; default 0, 1, ...
        batch: environments in lockstep.
        max_steps: steps after which an episode is stopped (`play`); where that stops all of the first ones, as in an
            environment without end, `episodes` of what is returned tells how many were played.
        budget: what the episodes of all players together may cost; where not all episodes fit, the first player's
            part of it decides how many all play.
        progress: called after every step with the episodes that have ended, and how many all players shall play.
        collect: adds the entries of the replicas that other processes play, in their order.

    Returns:
        Returns of every player and of all together, whose `to_json` is what `python -m marl.evaluate --json` writes.

    Raises:
        UserError: unknown environment or arguments.
        RunFailed, EnvFailure: the environment broke while it was played.
    """
    several = list(players) if isinstance(players, Sequence) else [players]
    numbers = list(range(len(several)) if replicas is None else replicas)
    spec = spec or _spec_of(env_id, env_args or {}, make, pictures_of(several))
    reference = anchors(env_id, env_args)
    groups = team_names(spec) if is_competitive(spec) else sides(spec)
    results: list[ReplicaReturns] = []
    asked, part = episodes, Budget(budget.steps // max(len(several), 1), budget.seconds / max(len(several), 1))
    for number, player in zip(numbers, several, strict=True):
        before, count = len(results) * episodes, len(several) * episodes
        played = play(
            env_id, player, episodes, seed, env_args=env_args, backend=backend, make=make, spec=spec, batch=batch,
            max_steps=max_steps, budget=NO_LIMIT if results else part,
            progress=None if progress is None else partial(_shown, progress, before, count),
        )  # fmt: skip
        episodes = len(played.returns)
        results.append(
            replace(
                _replica(number, played.returns, spec, groups, reference),
                unfinished=played.unfinished or None,
                episodes=episodes if episodes < asked else None,
            )
        )
    results = collect(results)
    if not results:
        raise UserError("expected at least one player to evaluate, got none.")
    several_played = len(results) > 1
    means = [one.mean_return for one in results]
    mean_return = float(np.mean(means))
    iqm = stats.aggregate(means) if several_played else None
    return Evaluation(
        setting=Setting(
            spec.id,
            dict(env_args or {}),
            max(one.episodes or asked for one in results),
            seed,
            mode,
            backend,
            max_steps if any(one.unfinished for one in results) else None,
            asked if any(one.episodes for one in results) else None,
            channel_of(several),
        ),
        competitive=is_competitive(spec),
        replicas=tuple(results),
        returns=_together([one.returns for one in results]),
        sides=_together([one.sides for one in results]),
        mean_return=mean_return,
        interval=_interval(results, means),
        score=reference.score(mean_return),
        gain=reference.gain(mean_return),
        iqm=iqm,
        iqm_interval=None if iqm is None else _with_luck(iqm, stats.bootstrap_interval(means), results),
        anchors=reference.returns(),
    )


def channel_of(players: Sequence[Player]) -> str | None:
    """The channel that players were trained with, where it is another than gumbel; for the record."""
    names = {str(getattr(player, "channel", "gumbel")) for player in players} - {"gumbel"}
    return ", ".join(sorted(names)) or None


def _shown(progress: Callable[[int, int], None], before: int, count: int, ended: int) -> None:
    progress(before + ended, count)


def _spec_of(
    env_id: str, env_args: dict[str, Any], make: Callable[..., Any] | None = None, pictures: Small | None = None
) -> EnvSpec:
    """The spec, read from an environment that is made for it."""
    env = parallel_env(env_id, **env_args) if make is None else from_callable(make, **env_args)
    spec = describe_known(env_id, env, pictures)
    if canonical_id(env_id) is None:  # closing one mpe2 environment ends rendering in all others
        close_env(env, env_id)
    return spec


def _replica(
    number: int, returns: np.ndarray, spec: EnvSpec, groups: dict[str, list[str]], reference: Anchors
) -> ReplicaReturns:
    """What one replica earned, from its returns [episodes, N]."""
    team = returns.mean(1)
    mean = float(team.mean())
    columns = {side: [spec.agent_names.index(name) for name in names] for side, names in groups.items()}
    return ReplicaReturns(
        replica=number,
        returns={name: stats.summary(returns[:, n]) for n, name in enumerate(spec.agent_names)},
        sides={side: stats.summary(returns[:, own].mean(1)) for side, own in columns.items()},
        mean_return=mean,
        mean_return_se=stats.summary(team).se,
        score=reference.score(mean),
        gain=reference.gain(mean),
    )


def _together(replicas: Sequence[Mapping[str, stats.Estimate]]) -> Mapping[str, stats.Estimate]:
    """{agent or side: over replicas where there are several, else over the episodes of the only one}."""
    if len(replicas) == 1:
        return replicas[0]
    return {name: stats.summary([one[name].mean for one in replicas]) for name in replicas[0]}


def _interval(result: list[ReplicaReturns], means: list[float]) -> stats.Interval | None:
    """95 % interval of the mean return: Student's over replicas with the episodes' luck, or normal over the episodes
    of the only one."""
    if len(result) > 1:
        return _with_luck(float(np.mean(means)), stats.mean_interval(means), result)
    error = result[0].mean_return_se
    return None if error is None else (means[0] - 1.96 * error, means[0] + 1.96 * error)


def _with_luck(middle: float, interval: stats.Interval, replicas: list[ReplicaReturns]) -> stats.Interval:
    """An interval over replicas, widened by the luck of the episodes, which all replicas play and none averages out.

    The two half-widths are added as the root of their squares. Errs to the wide side: what an episode means to one
    replica and not to the others is in both.
    """
    variances = [one.mean_return_se**2 for one in replicas if one.mean_return_se is not None]
    luck = 1.96 * float(np.sqrt(np.mean(variances))) if variances else 0.0
    low, high = (float(np.hypot(end - middle, luck)) for end in interval)
    return middle - low, middle + high


# ------------------------------------------------------------------ the command
def written(options: CommandLine) -> str:
    """The table of `python -m marl.evaluate`, after the files that were asked for.

    Raises:
        UserError: options that do not fit together, or a file that cannot be written.
        RunFailed, EnvFailure: the environment broke while it was played.
    """
    for path in (options.json, options.gif):
        _require_place(path)
    if options.seconds < 0:
        raise UserError(f"--seconds must be at least 0, got {options.seconds}.")
    if options.seconds and options.against is not None:
        raise UserError("--seconds goes with one run alone, not with --against, whose pairs all play --episodes.")
    result, text = _run(options)
    if options.json is not None:
        try:
            replace_text(options.json, json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"cannot write {options.json}: {why}. Give another file.") from error
    return text


def _require_place(path: Path | None) -> None:
    """Tell before anything is played that a file cannot be written where it shall go."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"cannot write {path}: {'it is a' if path.is_dir() else 'there is no such'} directory.")


def _run(options: CommandLine) -> tuple[Evaluation | Matches, str]:
    """Play what was asked for; the result and the table."""
    party, env_id, env_args, spec = _first(options)
    mode = "sampled" if options.sampled else "greedy"
    common: dict[str, Any] = {
        "episodes": options.number_of_episodes(),
        "seed": options.seed,
        "env_args": env_args,
        "backend": options.backend,
        "max_steps": options.max_steps,
    }
    opponent = None if options.against is None else _opponent(options, options.against, env_id, env_args, spec)
    if opponent is None:
        missing = [name for name in spec.agent_names if not party.can_play([name])]
        if missing:
            raise UserError(
                f"{party.name!r} leaves {missing} of {spec.id} without a player; join it with a script of the other "
                f"side: --scripted {party.name}+{_other_scripts(env_id, missing)[0]}."
            )
        numbers = options.replicas() or range(len(party.players))
        with Counter(options.seconds) as counter:
            budget = Budget(seconds=options.seconds)
            evaluation = evaluate(
                party.players, env_id, mode=mode, spec=spec, replicas=numbers, budget=budget, progress=counter, **common
            )
        result: Evaluation | Matches = evaluation
        text = table(party.name, evaluation)
        if options.pretrained:
            text += f"\n{described(read(str(options.run)))}"
    else:
        matches = play_matches(party, opponent, env_id, spec, **common)
        channel = channel_of([*party.players, *opponent.players])
        setting = Setting(spec.id, env_args, common["episodes"], options.seed, mode, options.backend, channel=channel)
        result = Matches(setting, opponent.name, tuple(matches), anchors(env_id, env_args).returns())
        text = match_table(result)
    if options.gif is not None:
        player = party.players[0] if opponent is None else one_pair(party, opponent, spec)
        frames = film(player, env_id, episodes=min(3, common["episodes"]), seed=options.seed, env_args=env_args)
        write_gif(frames, options.gif)
    return result, text


def _first(options: CommandLine) -> tuple[Party, str, dict[str, Any], EnvSpec]:
    """Who is evaluated, and where."""
    if (options.run is None) == (options.scripted is None):
        got = "neither" if options.run is None else "both"
        pretrained = f", or one of {', '.join(names())} with --pretrained" if options.pretrained else ""
        raise UserError(f"expected a run directory or --scripted NAME with --env ID{pretrained}, got {got}.")
    if options.scripted is not None:
        if options.env is None:
            raise UserError("--scripted needs --env ID: the environment to play, such as simple_reference.")
        _require_script(options)
        spec = _spec_of(options.env, {})
        return _script(options.env, options.scripted, {}, spec), options.env, {}, spec
    if options.env is not None:
        raise UserError("--env goes with --scripted; a run knows its environment.")
    assert options.run is not None
    if options.pretrained and options.checkpoint is not None:
        raise UserError("--checkpoint goes with a run directory; a pretrained policy is the last one of its run.")
    party = _trained(options, options.run, options.replicas(), options.checkpoint, options.pretrained)
    policy: Any = party.players[0]
    return party, policy.env_id, dict(policy.env_args or {}), policy.spec


def _require_script(options: CommandLine) -> None:
    """Raise `UserError` where --scripted was given options of a run; --sampled may mean the run it plays against."""
    given = {
        "--pretrained": options.pretrained,
        "--replica": bool(options.replica),
        "--checkpoint": options.checkpoint is not None,
        "--sampled": options.sampled and not (options.against and Path(options.against).exists()),
    }
    unread = ", ".join(name for name, there in given.items() if there)
    if unread:
        raise UserError(f"{unread}: expected a trained policy for this, and --scripted plays a script; leave it out.")


def _opponent(options: CommandLine, against: str, env_id: str, env_args: dict[str, Any], spec: EnvSpec) -> Party:
    """--against: a run directory where there is one of that name, else a script."""
    if Path(against).exists():
        party = _trained(options, Path(against))
        other: Any = party.players[0]
        differences = spec.differences(other.spec)
        if differences:
            result = "; ".join(differences)
            raise UserError(f"{against} was trained on something else than {spec.id}: {result}.")
        return party
    known = scripted.names(env_id)
    if any(part.strip() not in known for part in against.split("+")):
        raise UserError(
            f"--against {against}: there is no such run directory, and the scripted policies of {spec.id} are "
            f"{', '.join(known)}."
        )
    return _script(env_id, against, env_args, spec)


def _script(env_id: str, name: str, env_args: dict[str, Any], spec: EnvSpec) -> Party:
    player = scripted.scripted(env_id, name, spec=spec, env_args=env_args)
    return Party(name, [player], frozenset(scripted.plays(env_id, name, spec)))


def _other_scripts(env_id: str, missing: Sequence[str]) -> list[str]:
    """Names of the scripts that play `missing`."""
    known = scripted.names(env_id)
    fitting = [name for name, entry in known.items() if entry.plays and missing[0].startswith(entry.plays)]
    return fitting or ["random"]


def _trained(
    options: CommandLine,
    run: Path,
    replicas: Sequence[int] | None = None,
    checkpoint: int | None = None,
    pretrained: bool = False,
) -> Party:
    """All replicas of a run, or of the pretrained policy of a task, or those that were asked for."""
    from marl.play.policy import Policy  # torch and the networks are not needed for scripts

    def load(number: int) -> Any:
        if pretrained:
            return Policy.pretrained(str(run), number, not options.sampled, options.seed)
        return Policy.load(run, replica=number, greedy=not options.sampled, checkpoint=checkpoint, seed=options.seed)

    name = f"pretrained {run}" if pretrained else str(run)
    if replicas:
        return Party(name, [load(number) for number in replicas])
    first = load(0)
    return Party(name, [first, *(load(r) for r in range(1, first.num_replicas))])
