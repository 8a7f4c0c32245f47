"""What trained teams are worth against others than those that they trained with.

    python -m benchmarks.competition --env simple_tag --replicas 5       trains, plays, writes, prints the tables
    python -m benchmarks.competition --env simple_tag --run RUN          the same for a run that there is
    python -m benchmarks.competition --env simple_tag --exploitability   trains fresh opponents against frozen teams
    python -m benchmarks.competition --env simple_tag --exploitability --variant pool -- --opponents pool
                                                                         the same for teams that trained otherwise
    python -m benchmarks.competition                                     only prints the tables of what was written

Every replica trains for the `total_steps` of configs/<env>.yaml. What is written among the published results has run
seeds and episodes that nothing has seen before, once for each configuration (benchmarks/seeds.py); with another --out
it is a trial on the tuning seed --seed. The final policies then play, greedily or sampled, in the batched port (equal
to `mpe2` within rounding and far faster), all duels over the same episodes:

- the first side of every replica against the second side of every other replica;
- every trained side against every scripted opponent, beside the best script of the same side against that opponent
  (the pairing to beat; scripts that see more than their own agents' observations, marked *, are no candidates);
- simple_crypto: Alice and Bob of every replica, frozen, against a fresh Eve that trained beside them for as many steps
  with the same settings, and against the best Eve without memory. Ciphers with synonyms want --sampled: greedy Alice
  may use one of two synonyms with one secret and the other with the other, which tells Eve.

With --exploitability the teams of <env>.json are trained again (seed, replicas, mode and flags are those of the file;
or the replicas of --run), then each side is frozen and a fresh other side learns against it, with the same settings,
for as many steps (`marl.exploit`). Exploitability: what the frozen side earned with the opponent of its own training,
less what it earns against the fresh one, in the same episodes; a lower bound, since the fresh one need not be the best.

A pairing is beaten where the mean paired difference exceeds two standard errors, which hold the spread of replicas and
that of episodes; a replica beats it where its own difference exceeds two of its own.

Written: benchmarks/results/competition/<env>.json and .png, <env>_exploitability.json or, of teams that trained with
other flags, <env>_<variant>_exploitability.json, and README.md with the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.competition import exploited
from benchmarks.competition.duels import SCRIPTS, Arena, against_scripts, tournament
from benchmarks.competition.fresh_eve import ENV as CRYPTO
from benchmarks.competition.fresh_eve import fresh_eves, guaranteed, require_no_memory
from benchmarks.competition.summary import overview
from benchmarks.learning.training_runs import placeless, split_at_dashes, steps_of, train_arm
from benchmarks.machine import machine
from marl import Policy
from marl.cli.parse import parse
from marl.figures import plots
from marl.runs.logs.records import read_run

RESULTS = Path(__file__).resolve().parents[1] / "results" / "competition"
EPISODES_SEED = seeds.seeds(seeds.EPISODES, "duels").first  # of trials; a report has those of its slot
EVE_SEED = 1001  # of the fresh Eves


def main() -> int:
    own, flags = split_at_dashes(sys.argv[1:])
    parser = _parser()
    options = parser.parse_args(own)
    if options.env:
        options.episodes_seed = EPISODES_SEED
        options.out.mkdir(parents=True, exist_ok=True)
        (_exploitability if options.exploitability else _duels)(options, own, flags)
    written = sorted(options.out.glob("*.json"))
    tables = "\n\n".join(_table_of(path) for path in written)
    if written:
        tables = f"## All tasks\n\n{overview(written)}\n\n{tables}"
        (options.out / "README.md").write_text(f"{__doc__}\n{tables}\n")
    print(tables)
    return 0


def _duels(options: argparse.Namespace, own: Sequence[str], flags: Sequence[str]) -> None:
    """Write the duels of a task and their picture."""
    slot = None
    if options.env == CRYPTO and options.run is None:
        require_no_memory(parse(["--env", options.env, *flags]).config)
    if options.out == RESULTS and options.run is None:
        slot = seeds.reserve(parse(["--env", options.env, *flags]).config)
        options.seed, options.episodes_seed = slot.run_seed, slot.episodes_seed
    elif options.run is None:
        seeds.require(seeds.RUNS, "tuning", options.seed)
    record = measured(options, flags) | _made(own, flags)
    (options.out / f"{options.env}.json").write_text(json.dumps(record) + "\n")
    plots.save(figure(record), options.out / f"{options.env}.png")
    if slot is not None:
        seeds.finish(slot)


def _exploitability(options: argparse.Namespace, own: Sequence[str], flags: Sequence[str]) -> None:
    """Write the exploitability of a task's teams."""
    record = exploited.measured(options, exploited.as_published(options, flags)) | _made(own, flags)
    name = f"{options.env}_{options.variant}" if options.variant else options.env
    (options.out / f"{name}{exploited.SUFFIX}.json").write_text(json.dumps(record) + "\n")


def _made(own: Sequence[str], flags: Sequence[str]) -> dict[str, str]:
    """Where and by which command a record was made."""
    words = ["python -m benchmarks.competition", *placeless(own), *(["--", *flags] if flags else [])]
    return {"machine": machine(), "command": " ".join(words)}


def _table_of(path: Path) -> str:
    record = json.loads(path.read_text())
    return exploited.table(record) if path.stem.endswith(exploited.SUFFIX) else table(record)


def measured(options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """Train where there is no run, play everything; what the file of a task holds."""
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or options.keep or Path(scratch) / "run"
        if options.run is None:
            train_arm(options.env, flags, options.seed, options.replicas, run)
        first = Policy.load(run)
        replicas = range(first.num_replicas)
        arena = Arena(options.env, options.episodes, options.episodes_seed)
        arena.require(first)
        players, greedy = ([Policy.load(run, r, greedy=g) for r in replicas] for g in (not options.sampled, True))
        eves = fresh_eves(arena, run, EVE_SEED, not options.sampled) if options.env == CRYPTO else {}
        seconds = [float(line["time/seconds"]) for line in read_run(run).metrics if "time/seconds" in line][-1]
    config = first.config
    played = tournament(arena, players)
    record = {
        "env": options.env,
        "purpose": seeds.purpose_of(seeds.RUNS, config.seed),
        "seed": config.seed,
        "replicas": len(players),
        "steps": steps_of(config),
        "seconds": round(seconds, 1),
        "episodes": arena.episodes,
        "episodes_seed": options.episodes_seed,
        "backend": "torch",
        "mode": "sampled" if options.sampled else "greedy",
        "sides": arena.sides,
        "names": played.names,
        "returns": played.table(),
        "against": against_scripts(played),
    }
    if options.env == CRYPTO:
        record["fresh_eves"] = {**eves, "guaranteed, greedy": [guaranteed(pair) for pair in greedy]}
    return record


# ----------------------------------------------------------------------------------------------------------- tables
def table(record: dict[str, Any]) -> str:
    """A task's tables as Markdown."""
    count = record["replicas"]
    head = [
        "side",
        "against",
        "trained",
        "pairing to beat",
        "verdict",
        "replicas above it",
        "other scripts of the side",
    ]
    lines = [
        f"## {record['env']}",
        "",
        f"{count} replicas, {record['steps']} steps, seed {record['seed']}, {record['seconds'] / count:.0f} s of "
        f"training a replica, {record['machine']}; {record['episodes']} episodes a duel, {record['mode']} policies. "
        f"Returns per agent ± standard error. `{record['command']}`",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row in record["against"]:
        scripts = dict(row["scripts"])
        best = scripts.pop(row["best"])
        cells = [
            row["side"],
            row["opponent"] + (" *" if row["informed"] else ""),
            _plus_minus(row["trained"]),
            f"{row['best']} {_plus_minus(best)}",
            best["verdict"],
            f"{best['beating']} of {count}",
            ", ".join(f"{name} {result['mean']:.1f} {result['verdict']}" for name, result in scripts.items()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_cross_play(record)]
    if "fresh_eves" in record:
        lines += ["", *_eves(record["fresh_eves"])]
    return "\n".join([*lines, "", f"![who against whom]({record['env']}.png)"])


def _plus_minus(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['se']:.2f}"


def _cross_play(record: dict[str, Any]) -> list[str]:
    """Replicas against each other in one line a side: trained together, and against another replica."""
    lines = []
    for side in record["sides"]:
        found_RR = np.array(record["returns"][side])[: record["replicas"], : record["replicas"]]
        own, count = float(np.trace(found_RR)), len(found_RR)
        text = f"- {side}: {own / count:.2f} against the opponent of its own training"
        if count > 1:
            text += f", {(found_RR.sum() - own) / (count * count - count):.2f} against those of other replicas"
        lines.append(f"{text} (single duels {found_RR.min():.2f} to {found_RR.max():.2f})")
    return lines


def _eves(result: dict[str, list[float]]) -> list[str]:
    """Alice and Bob against Eves, one column a replica."""
    count = len(result["guaranteed"])
    names = {
        "with their own eve": "Alice and Bob, each, with the Eve of their training",
        "with a fresh eve": "Alice and Bob, each, with a fresh Eve",
        "guaranteed": "Alice and Bob, each, with the best Eve without memory",
        "guaranteed, greedy": "the same, greedy",
        "fresh eve": "the fresh Eve",
    }
    lines = [f"| return in replica | {' | '.join(map(str, range(count)))} | mean |", f"|---|{'---|' * (count + 1)}"]
    for key, text in names.items():
        lines.append(f"| {text} | {' | '.join(f'{x:.2f}' for x in result[key])} | {np.mean(result[key]):.2f} |")
    return lines


# ----------------------------------------------------------------------------------------------------------- figure
def figure(record: dict[str, Any]) -> Any:
    """A heat map for each side: its return with every row (first side) against every column (second side)."""
    first, second = record["sides"]
    rows, columns, count = record["names"][first], record["names"][second], record["replicas"]
    size = 1.1 + 0.36 * len(rows)
    result, axes = plots.canvas(2 * size, width=max(plots.WIDTH, 1.8 + 0.52 * len(columns)), rows=2)
    for ax, side in zip(axes, (first, second), strict=True):
        values = np.array(record["returns"][side])
        low, high = float(values.min()), float(values.max())
        ax.imshow(values, cmap=plots.MAP, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
        for i, j in np.ndindex(*values.shape):
            plots.cell_text(ax, j, i, f"{values[i, j]:.1f}", (values[i, j] - low) / ((high - low) or 1.0), 8)
        ax.axhline(count - 0.5, color="white", linewidth=2)
        ax.axvline(count - 0.5, color="white", linewidth=2)
        ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(rows)), rows)
        ax.spines[:].set_visible(False)
        plots.label(
            ax, f"{record['env']}: return of {side}", f"{second}: replica or script", f"{first}: replica or script"
        )
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.competition",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", choices=list(SCRIPTS), help="task; none: only the tables")
    parser.add_argument("--seed", type=int, default=0, help="of a trial with another --out: a tuning seed")
    parser.add_argument("--replicas", type=int, default=5, help="independent runs (default 5)")
    parser.add_argument("--episodes", type=int, default=1000, help="of every duel (default 1000)")
    parser.add_argument("--exploitability", action="store_true", help="fresh opponents against frozen teams")
    parser.add_argument("--variant", metavar="NAME", help="of the flags behind --, in the name of the record")
    parser.add_argument("--sampled", action="store_true", help="play sampled policies, not greedy ones")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the run directory there")
    parser.add_argument("--run", type=Path, metavar="RUN", help="play with the replicas of this run; train nothing")
    parser.add_argument("--out", type=Path, metavar="DIR", default=RESULTS, help="where the results are written")
    parser.epilog = "Everything behind -- are flags of run.py."
    return parser
