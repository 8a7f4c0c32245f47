"""A run's records for other tools: a pandas frame, and the raw data that marl-eval reads.

Source of the layout: Gorsane et al. 2022 (arXiv 2209.10485) and the README of github.com/instadeepai/marl-eval.
Differs from source: `absolute_metrics` is the final policy in the real environment, not the best one during training,
and its values are means over episodes, as those of the steps are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.mpe.catalogue import canonical_id
from marl.errors import UserError
from marl.runs.logs.records import RunRecords, differing_settings, read_run

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("return", "score", "gain")
_OF_A_RUN = ("seed", "num_replicas", "env", "env_args", "evaluation.", "checkpoint.")  # no part of an algorithm


def metrics_frame(run_dir: Path | str) -> DataFrame:
    """metrics.jsonl as a pandas frame: a row for each record, its index the step, a column for each metric.

    Metrics that a record lacks are NaN there.

    Raises:
        UserError: no run directory, or pandas is not installed.
    """
    try:
        import pandas as pd  # an extra
    except ModuleNotFoundError as error:
        raise UserError(
            "a frame needs the package pandas: pip install 'marl-discrete-communication[pandas]'."
        ) from error
    return pd.DataFrame(read_run(run_dir).metrics).set_index("step").astype(float)


def marl_eval(runs: Sequence[RunRecords | Path | str]) -> dict[str, Any]:
    """The raw data of marl-eval: {"mpe2": {task: {algorithm: {run: {step_0: {...}, ..., absolute_metrics: {...}}}}}}.

    Every replica is a run. Runs of equal settings are one algorithm, "maddpg"; where settings differ, the names say so.

    Args:
        runs: run directories; marl-eval wants as many runs and steps of every algorithm in every task.

    Raises:
        UserError: no run directory, or a run without evaluations or without its final one.
    """
    read = [run if isinstance(run, RunRecords) else read_run(run) for run in runs]
    result: dict[str, Any] = {}
    for run, algorithm in zip(read, _algorithms(read), strict=True):
        mpe = canonical_id(run.config.env)
        tasks = result.setdefault("mpe2" if mpe else "pettingzoo", {})
        own = tasks.setdefault(run.config.env if mpe is None else mpe.rsplit("_v", 1)[0], {}).setdefault(algorithm, {})
        own |= _replicas(run)
    return result


def _replicas(run: RunRecords) -> dict[str, Any]:
    """{name: steps} of every replica."""
    series = {name: run.series(f"evaluation/{name}") for name in METRICS}
    steps, _ = series["return"]
    final = run.evaluation.get("replicas", [])
    if len(final) == run.config.num_replicas and run.config.evaluation_every == 0:
        raise UserError(
            f"{run.path} has no learning curve, since evaluation.every was 0; expected a run that was evaluated on its "
            f"way."
        )
    if len(steps) < 2 or len(final) != run.config.num_replicas:
        raise UserError(f"{run.path} has no learning curve and final evaluation yet; expected a run that has ended.")
    seconds = {line["step"]: line["time/seconds"] for line in run.metrics if "time/seconds" in line}
    known = [name for name in METRICS if len(series[name][0]) == len(steps)]
    results = {}
    for r in range(run.config.num_replicas):
        rows: dict[str, Any] = {
            f"step_{k}": {
                "step_count": int(step),
                "elapsed_time": seconds.get(step, 0.0),
                **{name: [float(series[name][1][k, r])] for name in known},
            }
            for k, step in enumerate(steps[:-1])  # the last one is that of the final policy
        }
        values = {"return": final[r]["mean_return"], "score": final[r]["score"], "gain": final[r]["gain"]}
        rows["absolute_metrics"] = {name: [float(values[name])] for name in known}
        results[f"seed_{run.config.seed}_replica_{r}"] = rows
    return results


def _algorithms(runs: Sequence[RunRecords]) -> list[str]:
    """A name for the algorithm of each run, from what differs between those of its task; without commas."""
    names = []
    for run in runs:
        same_task = [one for one in runs if one.config.env == run.config.env]
        differing = differing_settings([run, *same_task])
        parts = [f"{name}={values[0]}" for name, values in differing.items() if not name.startswith(_OF_A_RUN)]
        names.append(" ".join(["maddpg", *parts]).replace(",", ";"))
    return names
