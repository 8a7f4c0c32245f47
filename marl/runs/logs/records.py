"""What a run left on disk, read back: configuration, records over training, the last evaluation, versions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from marl.config.fields import flatten
from marl.config.resolve import from_dict
from marl.config.schema import Config
from marl.config.yaml12 import read
from marl.errors import UserError
from marl.runs.logs.logger import METRICS
from marl.runs.run_dir import CONFIG, VERSIONS

EVALUATION, COMMUNICATION = "evaluation.json", "communication.json"
_NO_RESULT = ("run_dir", "device", "threads")  # settings that do not change what is learned


@dataclass
class RunRecords:
    """One run directory's files; what is absent is empty."""

    path: Path
    config: Config
    config_text: str
    metrics: list[dict[str, Any]] = field(default_factory=list)  # lines of metrics.jsonl, in order of their step
    evaluation: dict[str, Any] = field(default_factory=dict)
    communication: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The directory's last two parts, as `simple_speaker_listener/20250101-120000_seed0`."""
        return "/".join(self.path.resolve().parts[-2:])

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A metric over training: steps [n] and values [n, replicas], rows without any number left out.

        Columns are NAME/replica_0, NAME/replica_1, ... where the run has several, else NAME; gaps are nan.
        """
        steps, rows = [], []
        several = f"{name}/replica_0"
        columns = [name]
        if any(several in line for line in self.metrics):
            columns = [f"{name}/replica_{r}" for r in range(self.config.num_replicas)]
        for line in self.metrics:
            row = [_number(line.get(column)) for column in columns]
            if np.isfinite(row).any():
                steps.append(float(line["step"]))
                rows.append(row)
        return np.array(steps), np.array(rows, dtype=float).reshape(len(rows), len(columns))

    def last(self, name: str) -> float | None:
        """The last finite value of a metric; None where there is none."""
        for line in reversed(self.metrics):
            value = _number(line.get(name))
            if np.isfinite(value):
                return value
        return None


def read_run(run_dir: Path | str) -> RunRecords:
    """Read a run directory.

    Raises:
        UserError: no run directory, or a configuration that cannot be read.
    """
    path = Path(run_dir)
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} is no run directory: {CONFIG} cannot be read ({error.strerror or error}). "
            f"Expected a directory that a training run wrote, as runs/<env>/<date-time>_seed<K>."
        ) from error
    document = read(text)
    if document.problems or not isinstance(document.value, dict):
        raise UserError(f"{path / CONFIG} is not a configuration: {'; '.join(document.problems) or 'not a mapping'}.")
    return RunRecords(
        path=path,
        config=from_dict(document.value, str(path / CONFIG)),
        config_text=text,
        metrics=_lines(path / METRICS),
        evaluation=_object(path / EVALUATION),
        communication=_object(path / COMMUNICATION),
        versions=_object(path / VERSIONS),
    )


def differing_settings(runs: list[RunRecords]) -> dict[str, list[Any]]:
    """{setting: its value in each run} of the settings that are not the same in all; where a run lies is left out."""
    flat = [flatten(run.config) for run in runs]
    compared = [name for name in flat[0] if name not in _NO_RESULT and not name.startswith("logging.")]
    return {name: [one[name] for one in flat] for name in compared if any(one[name] != flat[0][name] for one in flat)}


def _lines(path: Path) -> list[dict[str, Any]]:
    """The readable lines: a run that is still going, or was killed, may have half a line at the end."""
    results = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for text in file:
                line = _parsed(text)
                if isinstance(line, dict) and np.isfinite(_number(line.get("step"))):
                    results.append(line)
    except OSError:
        return []
    return sorted(results, key=lambda line: line["step"])


def _object(path: Path) -> dict[str, Any]:
    try:
        value = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
