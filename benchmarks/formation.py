"""When did the published protocols form? The published training again, looked at on its way.

    python -m benchmarks.formation --env simple_speaker_listener --until 4000
    python -m benchmarks.formation --env simple_reference --replicas 5 --looks 50
    python -m benchmarks.formation --env E -- --maddpg.signalling-bonus 0     settings that were not published

The configuration of the task trains on the seed of its published row (benchmarks/seeds.py), or, where flags make it
another one, on a seed for studies. At `--looks` evenly spaced steps up to `--until`, the first before the training,
every replica's policies play `--episodes` episodes, the same at every look, untouched and with messages shuffled
between them. The change point of what the messages tell, its interval over episodes and the drift are those of
`python -m marl.communication RUN` (marl/communication/formation.py), which draws the same figure from the checkpoints
of a run that kept some. No checkpoint is written here: each would hold the replay.

Written: benchmarks/results/communication/formation_ENV.json, and .png of the replica whose change is the median one.
The batched port plays (equal to `mpe2` within rounding).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import seeds
from benchmarks.learning.training_runs import placeless, split_at_dashes, train_arm
from benchmarks.machine import machine
from marl import stats
from marl.cli.parse import parse
from marl.communication.analysis import analyse_player
from marl.communication.figures import formation_figure
from marl.communication.formation import FormationRow, Formed, Snapshot, formation, snapshot
from marl.communication.measures.information import Resampler, Undefined
from marl.config.schema import Config
from marl.errors import UserError
from marl.evaluate.anchors import lines_of
from marl.evaluate.results import Evaluation
from marl.figures import plots
from marl.play.policy import Policy

RESULTS = Path(__file__).resolve().parent / "results" / "communication"
STUDY_SEED = seeds.seeds(seeds.RUNS, "studies").first + 600
EPISODES_SEED = seeds.seeds(seeds.EPISODES, "studies").first + 600_000
RESAMPLING = (999, 400)  # permutations, resamples of the bootstrap
Course = tuple[tuple[FormationRow, ...], Formed | Undefined]


class SeenEnough(Exception):
    """Ends a training after its last look."""


class Looks:
    """Measures every replica's protocol whenever it is called with the policies (`marl.training.trainer.Watch`).

    Args:
        config: of the run.
        episodes: of a look.
        until: the last step that is looked at; what comes behind it is not trained.
        say: told what was found.

    Raises:
        SeenEnough: when it is called at a later step.
    """

    def __init__(self, config: Config, episodes: int, until: int, say: Callable[[str], None]) -> None:
        self._config, self._episodes, self._until, self._say = config, episodes, until, say
        self.taken: list[list[Snapshot]] = []  # of every replica

    def __call__(self, step: int, evaluation: Evaluation, policies: list[Policy]) -> None:
        if step > self._until:
            raise SeenEnough
        self.taken = self.taken or [[] for _ in policies]
        for player, one in zip(policies, self.taken, strict=True):
            result, material = analyse_player(
                player, player.env_id, player.spec, episodes=self._episodes, seed=EPISODES_SEED,
                env_args=player.env_args, lines=lines_of(player.env_id, player.env_args), interventions=("shuffled",),
                per_channel=False, resampling=RESAMPLING, backend="torch",
            )  # fmt: skip
            found = snapshot(step, result, material)
            if found is None:
                raise UserError(f"{self._config.env} declares no meaning of its messages, and there is none to form.")
            one.append(found)
        told = [one[-1].analysis.channels[0].signalling.information.corrected for one in self.taken]
        self._say(f"step {step:,}: {', '.join(f'{bits:.2f}' for bits in told)} bits")

    def courses(self) -> list[Course]:
        """Of every replica its rows and when its protocol was formed."""
        again = Resampler(self._episodes, EPISODES_SEED, *RESAMPLING)
        return [formation(one, replica, again) for replica, one in enumerate(self.taken)]


def run_seed(config: Config) -> tuple[int, bool]:
    """The seed of a configuration's published run and True, or a seed for studies and False."""
    try:
        return seeds.find(config).run_seed, True
    except UserError:
        return STUDY_SEED, False


def has_formed(formed: Formed | Undefined) -> bool:
    """Whether what the messages tell rose measurably."""
    return isinstance(formed, Formed) and formed.rise.low > 0


def median_replica(courses: Sequence[Course]) -> int:
    """The replica whose change point is the (lower) median of those that formed; 0 where none did."""
    there = sorted((one.step, r) for r, (_, one) in enumerate(courses) if isinstance(one, Formed) and has_formed(one))
    return there[(len(there) - 1) // 2][1] if there else 0


def table(record: dict[str, Any]) -> str:
    """Markdown: when the protocol of each replica was formed."""
    lines = ["| replica | formed between the steps | 95 % interval | bits before, after | rise [95 %] | drift after |"]
    lines.append("|---|---|---|---|---|---|")
    for one in record["replicas"]:
        f = one["formed"]
        if "step" not in f:
            lines.append(f"| {one['replica']} | {f['reason']} | | | | |")
            continue
        cells = [str(one["replica"]), f"{f['before']:,}, {f['step']:,}", f"{f['low']:,} to {f['high']:,}"]
        cells += [f"{max(f['bits_before'], 0):.2f}, {max(f['bits_after'], 0):.2f}"]
        cells += ["{mean:.2f} [{low:.2f}, {high:.2f}]".format(**f["rise"])]
        cells += ["" if f["drift_after"] is None else f"{f['drift_after']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _finite(step: float) -> float | None:
    return step if np.isfinite(step) else None


def summary(record: dict[str, Any]) -> str:
    """A sentence: how many formed, and when the median replica had."""
    words = f"{record['formed']} of {len(record['replicas'])} replicas formed a protocol that is measurable"
    if record["median"] is None:
        return f"{words}."
    ends = record["median_interval"]
    span = "" if None in ends else f" (95 % interval {ends[0]:,.0f} to {ends[1]:,.0f})"
    return f"{words}, the median one by step {record['median']:,.0f}{span}."


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.formation`."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, flags = split_at_dashes(words)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.formation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--replicas", type=int, default=10, help="trained side by side (default 10)")
    parser.add_argument("--looks", type=int, default=40, help="evenly spaced (default 40)")
    parser.add_argument("--until", type=int, help="step of the last look (default: that of the training)")
    parser.add_argument("--episodes", type=int, default=400, help="of a look (default 400)")
    parser.add_argument("--out", type=Path, help="the record (default: benchmarks/results/communication/)")
    options = parser.parse_args(own)
    torch.set_num_threads(1)
    config = parse(["--env", options.env, *flags]).config
    seed, published = run_seed(config)
    until = options.until or config.total_steps
    every = max(until // max(options.looks, 2), 1)
    looks = Looks(config, options.episodes, until, lambda text: print(text, flush=True))
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(SeenEnough):
        quiet = ["--evaluation.every", str(every), "--evaluation.episodes", "2", "--checkpoint.every", "0"]
        train_arm(options.env, [*quiet, *flags], seed, options.replicas, Path(scratch) / "run", looks)
    courses = looks.courses()
    shown = median_replica(courses)
    steps = [float(one.step) for _, one in courses if isinstance(one, Formed) and has_formed(one)]
    late = [*steps, *[float("inf")] * (len(courses) - len(steps))]  # who formed none has not yet
    record: dict[str, Any] = {
        "env": options.env,
        "command": " ".join(["python -m benchmarks.formation", *placeless(words)]),
        "machine": machine(),
        "published": published,
        "configuration": seeds.fingerprint(config),
        "seed": seed,
        "episodes": options.episodes,
        "episodes_seed": EPISODES_SEED,
        "processor_seconds": round(time.process_time() - began, 1),
        "formed": len(steps),
        "median": _finite(float(np.median(late))),
        "median_interval": [_finite(x) for x in stats.median_interval(late)],
        "shown": shown,
        "replicas": [
            {"replica": r, "formed": formed.to_json(), "rows": [row.to_json() for row in rows]}
            for r, (rows, formed) in enumerate(courses)
        ],
    }
    path = options.out or RESULTS / f"formation_{options.env}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record) + "\n")
    plots.save(formation_figure(*courses[shown]), path.with_suffix(".png"))
    print(f"{table(record)}\n\n{summary(record)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
