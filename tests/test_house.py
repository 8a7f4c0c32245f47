"""Rules of the house that neither ruff nor import-linter knows (pyproject.toml has theirs)."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEEDERS = {"manual_seed", "manual_seed_all", "set_rng_state"}
GENERATORS = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence", "Random"}  # states of their own
# the probe of other people's environments, which may draw from it, leaves the process's state as it was
RESTORED = {
    "envs/pettingzoo/trials/seeded.py": [
        "random.getstate", "np.random.get_state", "random.setstate", "np.random.set_state",
    ]
}  # fmt: skip


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def global_randomness(tree: ast.AST) -> list[str]:
    """Uses of the process-wide random state of random, NumPy or torch."""
    result = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        head, _, last = name.rpartition(".")
        if (head in {"random", "np.random", "numpy.random"} and last not in GENERATORS) or (
            last in SEEDERS and head.split(".")[0] == "torch"
        ):
            result.append(f"line {node.lineno}: {name}")
    return result


def sources() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for package in ("envs", "marl") for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources())
def test_library_source_keeps_the_rules(path: str) -> None:
    result = global_randomness(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    assert [use.split(": ")[1] for use in result] == RESTORED.get(path, [])


@pytest.mark.parametrize(
    "code",
    ["np.random.seed(0)", "torch.manual_seed(0)", "torch.cuda.manual_seed_all(0)", "random.seed(1)", "random.random()"],
)
def test_global_randomness_is_seen(code: str) -> None:
    assert global_randomness(ast.parse(code))


def test_generators_of_their_own_pass() -> None:
    assert not global_randomness(ast.parse("np.random.default_rng(0).normal()\nself.generator.manual_seed(0)"))


def test_setuptools_is_told_of_every_package() -> None:
    output = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    result = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for package in ("marl", "envs", "configs")
        for p in (ROOT / package).rglob("__init__.py")
    }
    assert set(output) == result


def test_every_extra_is_explained() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    table = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").partition("| extra | for |")[2].split("\n\n")[0]
    assert [name for name in extras if f"`{name}`" not in table] == []


def test_setuptools_is_told_of_every_other_file() -> None:
    """What a wheel needs besides Python: settings, pretrained policies, marks of types."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = [(package, glob) for package, globs in setuptools["package-data"].items() for glob in globs]
    told = {path for package, glob in patterns for path in (ROOT / package).glob(glob)}
    others = {
        path
        for package in ("marl", "envs", "configs")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert len(others) > 15 and others - told == set()
