"""Breaks the learner, the replay, imagination and evaluation one line at a time: do the tests notice?

    python -m benchmarks.reliability.mutations                   a sample of 8 mutants a module: about half an hour
    python -m benchmarks.reliability.mutations --seed 1 --count 30 --modules marl/data/replay.py
    python -m benchmarks.reliability.mutations --again           the survivors of the stored sample once more

For every night, not for a change: `pip install -e ".[test,mutate]"`. Mutants are made by cosmic-ray
(benchmarks/reliability/mutants.py says which) in a copy of the tracked files, never in the working tree. A mutant is
killed where a test of its module (MODULES) fails, or runs longer than `limit` allows in processor time, so that other
work on the machine kills nothing. Every mutant is tested by a process forked from this one, which has imported torch.
Results: benchmarks/results/mutations.json and the table of docs/reliability.md. A survivor that no test could tell from
the original goes into EQUIVALENT with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reliability.equivalent import EQUIVALENT
from benchmarks.reliability.mutants import Mutant, describe, sample

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RESULT = ROOT / "benchmarks" / "results" / "mutations.json"
WARM = ("torch", "numba", "numpy", "scipy.stats", "pytest", "tyro", "gymnasium", "pettingzoo", "mpe2")

LEARNER, MODEL = "tests/marl/learner/test_", "tests/marl/world_model/test_world_model_"
EVALUATE = "tests/marl/evaluate/test_"
QUICK = "-k 'not probes and not central_critic and not every_scenario'"
RULES = f"{LEARNER}update_rules.py {LEARNER}learner.py {LEARNER}explicit_update.py {QUICK}"
EXPLICIT = f"{LEARNER}update_rules.py {LEARNER}explicit_update.py -k 'not autograd and not every_scenario'"
IMAGINATION = f"{MODEL}imagination.py {MODEL}starts.py {MODEL}attach.py -k 'not never_trained_on'"
MODULES = {
    "marl/learner/maddpg.py": RULES,
    "marl/learner/losses.py": RULES,
    "marl/learner/relaxation.py": f"{LEARNER}relaxation.py {LEARNER}relaxation_estimators.py",
    "marl/learner/explicit/update.py": EXPLICIT,
    "marl/learner/explicit/kernels.py": EXPLICIT,
    "marl/data/replay.py": f"{LEARNER}replay.py {LEARNER}frames.py {RULES}",
    "marl/world_model/imagination/choice.py": f"{MODEL}choice.py",
    "marl/world_model/imagination/gate.py": f"{MODEL}gate.py {IMAGINATION}",
    "marl/world_model/imagination/rollouts.py": IMAGINATION,
    "marl/world_model/imagination/source.py": IMAGINATION,
    "marl/world_model/imagination/starts.py": f"{MODEL}starts.py",
    "marl/world_model/imagination/through.py": f"{MODEL}through.py",
    "marl/evaluate/returns.py": " ".join(
        f"tests/marl/evaluate/test_{name}.py" for name in ("spec_of", "returns", "endless")
    ),
    "marl/training/evaluator.py": f"tests/marl/training/test_evaluator.py {EVALUATE}budget.py",
}
"""Module -> what pytest is given: the files that name its behaviour, quick ones first."""


def copy_tree(root: Path) -> None:
    """The tracked files as they are in the working tree."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())


class Run(NamedTuple):
    """What became of the tests."""

    code: int  # 0: all passed; 1: one failed; negative: ended by that signal, -24 at the limit of processor time
    seconds: float  # of processor time
    output: str


def run_tests(root: Path, tests: str, limit: float, compiled: bool = False) -> Run:
    """Tests of the tree `root` in a forked process that may take `limit` seconds of processor time.

    compiled: leave compiled modules behind; for the original alone, so that none of a mutant is ever read.
    """
    with tempfile.TemporaryFile("w+") as output:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _child(root, tests, limit, output.fileno(), compiled)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status, usage = os.wait4(pid, 0)
        output.seek(0)
        told = output.read()
    return Run(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, told)


def _child(root: Path, tests: str, limit: float, output: int, compiled: bool) -> int:
    os.dup2(output, 1), os.dup2(output, 2)
    seconds = int(limit) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("benchmarks", "envs", "marl")]:
        del sys.modules[name]
    os.chdir(root)
    sys.path[:] = [str(root), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(root)  # for processes that tests start
    sys.dont_write_bytecode = not compiled
    found = importlib.util.find_spec("marl")
    assert found and str(found.origin).startswith(str(root)), "the tests would run on the original"
    import pytest

    plain = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    return int(pytest.main([*plain, *shlex.split(tests)]))


def limit_of(seconds: float) -> float:
    """Processor seconds that a mutant may take where the original takes `seconds`."""
    return 3 * seconds + 20


def judge(root: Path, mutant: Mutant, limit: float) -> dict[str, Any]:
    """A mutant's row: what it is, and whether it was "killed" or "survived"."""
    path = root / mutant.module
    source = path.read_text(encoding="utf-8")
    path.write_text(mutant.code(source), encoding="utf-8")
    try:
        code = run_tests(root, MODULES[mutant.module], limit).code
    finally:
        path.write_text(source, encoding="utf-8")
    return dataclasses.asdict(mutant) | {"outcome": "killed" if code else "survived"}


def test_all(mutants: list[Mutant]) -> list[dict[str, Any]]:
    """A row for every mutant.

    Raises:
        RuntimeError: the tests of a module do not pass as it is.
    """
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch).resolve() / "tree"
        copy_tree(root)
        for module in dict.fromkeys(mutant.module for mutant in mutants):
            run = run_tests(root, MODULES[module], 3600, compiled=True)
            if run.code:
                raise RuntimeError(f"{run.output}\nwithout a mutation the tests of {module} fail")
            print(f"{module}: its tests take {run.seconds:.0f} s", flush=True)
            for mutant in (mutant for mutant in mutants if mutant.module == module):
                rows.append(judge(root, mutant, limit_of(run.seconds)))
                print(f"  {rows[-1]['outcome']:8} line {mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
    return rows


def equivalent(row: dict[str, Any]) -> str:
    """Why no test can kill this mutant; "" where one could."""
    return EQUIVALENT.get((row["module"], row["before"], row["after"]), "")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row a module, then all."""
    heads = "| module | mutants | equivalent | killed | share killed | killed when first tested |"
    lines = [heads, "|---|--:|--:|--:|--:|--:|"]
    groups = {f"`{module}`": [row for row in rows if row["module"] == module] for module in MODULES}
    for name, group in [*groups.items(), ("all", rows)]:
        same = sum(bool(equivalent(row)) for row in group)
        killed, first = (sum(row[key] == "killed" for row in group) for key in ("outcome", "first"))
        if real := len(group) - same:
            shares = f"{killed / real:.0%} | {first / real:.0%}"
            lines.append(f"| {name} | {len(group)} | {same} | {killed} | {shares} |")
    return "\n".join(lines)


def survivors(rows: list[dict[str, Any]]) -> str:
    """Markdown: every mutant that is alive, with the reason where no test could kill it."""
    alive = [row for row in rows if row["outcome"] == "survived"]
    lines = ["| survivor | changed into | why |", "|---|---|---|"]
    for row in alive:
        place = f"{row['module']}:{row['line']}"
        cells = (f"`{place}` `{row['before']}`", f"`{row['after']}`", equivalent(row) or "no test yet")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) if alive else "No mutant of the sample is alive."


def page_text(page: str, result: dict[str, Any]) -> str:
    """`page` with the sample's command, table and survivors between their marks."""
    begin, end = "<!-- mutations: begin -->", "<!-- mutations: end -->"
    command = f"python -m benchmarks.reliability.mutations --count {result['count']} --seed {result['seed']}"
    head = f"`{command}`, {result['date']}:"
    body = f"{head}\n\n{table(result['mutants'])}\n\n{survivors(result['mutants'])}"
    return page.partition(begin)[0] + f"{begin}\n{body}\n{end}" + page.partition(end)[2]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="mutants of a module (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--modules", nargs="+", default=list(MODULES), choices=MODULES, metavar="PATH", help="%(choices)s"
    )
    parser.add_argument("--again", action="store_true", help="only what survived in the stored sample")
    parser.add_argument("--out", type=Path, default=RESULT, help="default: benchmarks/results/mutations.json")
    options = parser.parse_args(argv)
    for name in WARM:
        if importlib.util.find_spec(name):
            __import__(name)
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.again:
        again([row for row in result["mutants"] if row["outcome"] == "survived" and not equivalent(row)])
    else:
        if (result.get("count"), result.get("seed")) != (options.count, options.seed):
            result = {"count": options.count, "seed": options.seed, "mutants": []}
        for module in options.modules:
            rows = [
                row | {"first": row["outcome"]} for row in test_all(sample(ROOT, module, options.count, options.seed))
            ]
            result["mutants"] = [row for row in result["mutants"] if row["module"] != module] + rows
            write(options.out, result)  # after every module: a night may be cut short
    write(options.out, result)
    print(table(result["mutants"]))
    return int(any(row["outcome"] == "survived" and not equivalent(row) for row in result["mutants"]))


def again(alive: list[dict[str, Any]]) -> None:
    """Test these rows once more and write what became of them into them.

    Raises:
        RuntimeError: a module has changed, so that a row names no mutant of it.
    """
    mutants = [Mutant(**{field.name: row[field.name] for field in dataclasses.fields(Mutant)}) for row in alive]
    for mutant in mutants:
        source = (ROOT / mutant.module).read_text(encoding="utf-8")
        now = describe(mutant.module, source, mutant.line, mutant.operator, mutant.occurrence)
        if (now.before, now.after) != (mutant.before, mutant.after):
            raise RuntimeError(f"{mutant.module} has changed at {mutant.before!r}: draw a new sample")
    for row, new in zip(alive, test_all(mutants), strict=True):
        row |= new


def write(out: Path, result: dict[str, Any]) -> None:
    """The record and, where it is the published one, its page."""
    result["date"] = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    out.write_text(json.dumps(result, indent=1) + "\n")
    if out == RESULT:
        PAGE.write_text(page_text(PAGE.read_text(), result))


if __name__ == "__main__":
    sys.exit(main())
