"""Every benchmark can be started: its imports still exist. Peers' scripts run in environments of their own."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = {"learning_agilerl", "throughput_worker", "update_agilerl", "update_jax"}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if path.stem not in PEERS and path.name != "__init__.py"
)


EXTRAS = {
    "mutants": "cosmic_ray",
    "mutations": "cosmic_ray",
    "search_study": "optuna",
}  # of pyproject.toml, which not every installation has


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_imports(name: str) -> None:
    if extra := EXTRAS.get(name.rpartition(".")[2]):
        pytest.importorskip(extra)
    importlib.import_module(name)
