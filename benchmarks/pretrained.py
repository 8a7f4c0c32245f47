"""The policies that come with the package, from the kept runs behind the tables of results.

    python -m benchmarks.pretrained RUN ...       writes marl/pretrained/ for the tasks of these runs
    python -m benchmarks.pretrained               only prints what is there

RUN is a directory that `benchmarks.learning --keep` or `benchmarks.competition --keep` has kept (a published row is
made again by --repeat of the former and --run of the latter). It must be the run of the row: with the row's settings,
seed, replicas and steps, and equal to its record to the last number: for the learning tables in every evaluation of its
learning curve, for the competition tables in every duel of a replica with itself. Anything else is refused.

The actors of the first `--replicas` replicas are written, chosen by nothing but their number.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.competition.duels import SCRIPTS, Arena
from benchmarks.competition.matches import RESULTS as COMPETITION
from benchmarks.learning.__main__ import RESULTS as LEARNING
from benchmarks.learning.training_runs import curve, steps_of
from marl import Policy
from marl.config.schema import Config
from marl.errors import UserError
from marl.evaluate.anchors import is_competitive
from marl.evaluate.matches import team_names
from marl.play.rollout import play
from marl.pretrained import library
from marl.runs import checkpoint
from marl.runs.logs.records import read_run

FOLDER = Path(library.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
ACTOR_SETTINGS = (
    "hidden",
    "layer_norm",
    "frames",
    "share_actors",
    "recurrent",
    "continuous",
)  # of maddpg: those that an actor is made by
EPISODES = 64  # by which a file is known again


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="kept run directories")
    parser.add_argument("--replicas", type=int, default=3, help="that are kept of each (default 3)")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where the files go")
    options = parser.parse_args(argv)
    for run in options.runs:
        print(f"{written(run, options.replicas, options.out)}: {run}", flush=True)
    for name in library.entries(options.out) if (options.out / library.MANIFEST).exists() else ():
        print(f"{name}: {library.described(library.read(name, options.out))}")
    return 0


def written(run: Path, replicas: int, out: Path) -> str:
    """Write the policies of a kept run; the name of their task.

    Raises:
        UserError: it is not the run of a row.
    """
    config = Policy.load(run).config
    name, count = config.env, min(replicas, config.num_replicas)
    make = _competitive if name in SCRIPTS else _cooperative
    row = make(run, config, count)
    saved = checkpoint.load(checkpoint.locate(run), ["policy"])
    flat_SGP = saved.parts["policy"]["actor"][:count].numpy().astype(np.float32)
    file, buffer = f"{name}.npy", io.BytesIO()
    np.save(buffer, flat_SGP, allow_pickle=False)
    actors = {key: getattr(config.maddpg, key) for key in ACTOR_SETTINGS}
    settings = {"env": name, "env_args": dict(config.env_args), "maddpg": actors}
    entry = library.Entry(
        file=file,
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        shape=flat_SGP.shape,
        settings=settings,
        spec=saved.manifest["spec"],
        row=row,
        played=_played(run, row, count),
    )
    out.mkdir(parents=True, exist_ok=True)
    known = library.entries(out) if (out / library.MANIFEST).exists() else {}
    policies = {task: one.to_json() for task, one in sorted({**known, name: entry}.items())}
    (out / file).write_bytes(buffer.getvalue())
    manifest = {"format": library.FORMAT, "policies": policies}
    (out / library.MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return name


# ------------------------------------------------------------------ the row
def _cooperative(run: Path, config: Config, count: int) -> library.Row:
    """The row of the learning table."""
    path, record = _record(LEARNING, config.env, retired=True)
    judged = record["judged"]["greedy"]
    row = library.Row(
        source=str(path.relative_to(ROOT)),
        purpose=record["purpose"],
        configuration=record.get("configuration") or seeds.fingerprint(config),
        seed=record["seed"],
        replicas=record["replicas"],
        steps=record["steps"],
        mode="greedy",
        episodes=judged["episodes"],
        episodes_seed=judged["seed"],
        returns={"all": judged["iqm"]},
        interval=tuple(judged["interval"]),
        score=judged["score"],
        gain=judged["gain"],
        of_replicas={"all": tuple(judged["returns"][:count])},
    )
    _require_settings(run, config, row)
    ours, theirs = (
        dict(zip(one["step"], one["return"], strict=True)) for one in (curve(read_run(run)), record["curve"])
    )
    if {step: values for step, values in ours.items() if step or 0 in theirs} != theirs:  # older records begin later
        raise UserError(f"{run} has another learning curve than {path}: it is not the run of that row.")
    return row


def _competitive(run: Path, config: Config, count: int) -> library.Row:
    """The row of the competition tables: both sides of every replica, against the side that it trained with."""
    path, record = _record(COMPETITION, config.env)
    returns = {side: np.diagonal(record["returns"][side])[: record["replicas"]] for side in record["sides"]}
    slots = [one for one in seeds.read() if (one.task, one.run_seed) == (config.env, record["seed"])]
    if not slots:
        raise UserError(f"{path}: seed {record['seed']} has no slot of the reporting seeds; report the task first.")
    row = library.Row(
        source=str(path.relative_to(ROOT)),
        purpose=record["purpose"],
        configuration=slots[0].configuration,
        seed=record["seed"],
        replicas=record["replicas"],
        steps=record["steps"],
        mode=record["mode"],
        episodes=record["episodes"],
        episodes_seed=record["episodes_seed"],
        returns={side: float(values.mean()) for side, values in returns.items()},
        interval=None,
        score=None,
        gain=None,
        of_replicas={side: tuple(values[:count].tolist()) for side, values in returns.items()},
    )
    _require_settings(run, config, row)
    arena = Arena(config.env, row.episodes, row.episodes_seed)
    for r in range(count):
        player = Policy.load(run, r, greedy=row.mode == "greedy")
        again = {side: float(values.mean()) for side, values in arena.play(dict.fromkeys(arena.sides, player)).items()}
        if row.mode == "greedy" and any(abs(again[side] - row.of_replicas[side][r]) > 1e-6 for side in again):
            raise UserError(
                f"{run}: replica {r} returns {again}, which is not what {path} has: not the run of that row."
            )
    return row


def _record(folder: Path, env: str, retired: bool = False) -> tuple[Path, dict[str, Any]]:
    """The newest published record of a task, and its file."""
    for path in (folder / f"{env}.json", folder / "retired" / f"{env}.json")[: 1 + retired]:
        if path.exists():
            return path, json.loads(path.read_text())
    raise UserError(f"{env} has no published row in {folder}.")


def _require_settings(run: Path, config: Config, row: library.Row) -> None:
    wanted = {"seed": row.seed, "replicas": row.replicas, "steps": row.steps, "configuration": row.configuration}
    got = {
        "seed": config.seed,
        "replicas": config.num_replicas,
        "steps": steps_of(config),
        "configuration": seeds.fingerprint(config),
    }
    if wanted != got:
        raise UserError(f"{run} is not the run of the row in {row.source}: it has {got}, expected {wanted}.")


# ------------------------------------------------------------------ how they play
def _played(run: Path, row: library.Row, count: int) -> library.Played:
    """Greedy, over the first episodes of the row, in the real environment."""
    returns: dict[str, list[float]] = {}
    for replica in range(count):
        for side, values in returns_of(Policy.load(run, replica), EPISODES, row.episodes_seed).items():
            returns.setdefault(side, []).append(float(values.mean()))
    return library.Played(EPISODES, row.episodes_seed, {side: tuple(values) for side, values in returns.items()})


def returns_of(policy: Policy, episodes: int, seed: int) -> Mapping[str, np.ndarray]:
    """{"all" or side: return per agent, float64 [episodes]} of a policy against itself in the real environment."""
    spec = policy.spec
    groups = team_names(spec) if is_competitive(spec) else {"all": list(spec.agent_names)}
    returns = play(policy.env_id, policy, episodes, seed, env_args=policy.env_args, spec=spec).returns
    return {side: returns[:, [spec.agent_names.index(name) for name in own]].mean(1) for side, own in groups.items()}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
