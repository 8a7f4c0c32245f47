"""Rules of the house that no linter knows: import direction, no global random state, no printing in library code."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPOSES = "marl/training/experiment.py"  # the one module outside marl/world_model/ that may import from it
PRINTERS = {("marl/cli/launch.py", "_tell"), ("marl/runs/logger.py", "_print")}  # besides functions called main
SEEDERS = {"manual_seed", "manual_seed_all", "set_rng_state"}
GENERATORS = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence", "Random"}  # states of their own


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Every module that a tree imports, anywhere in it, `from a import b` also as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and dotted(node.func).endswith("import_module"):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def misplaced_imports(tree: ast.AST, path: str) -> list[str]:
    """Imports against the direction run.py -> marl -> envs, and of the optional world model."""
    module = path.removesuffix(".py").replace("/", ".")
    upward = ("marl", "run", "benchmarks", "tests") if path.startswith("envs/") else ("run", "benchmarks", "tests")
    optional = not path.startswith("marl/world_model/") and path != COMPOSES
    forbidden = (*upward, "marl.world_model") if optional else upward
    return sorted({name for name in imports(tree, module) if any(within(name, p) for p in forbidden)})


def global_randomness(tree: ast.AST) -> list[str]:
    """Uses of the process-wide random state of random, NumPy or torch."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        head, _, last = name.rpartition(".")
        if (head in {"random", "np.random", "numpy.random"} and last not in GENERATORS) or (
            last in SEEDERS and head.split(".")[0] == "torch"
        ):
            found.append(f"line {node.lineno}: {name}")
    return found


def prints(tree: ast.Module, path: str) -> list[str]:
    """Calls of print outside a command's main and the printers."""
    found = []
    for top in tree.body:
        owner = getattr(top, "name", "")
        if owner == "main" or (path, owner) in PRINTERS:
            continue
        found += [
            f"line {node.lineno}: print in {owner or 'the module'}"
            for node in ast.walk(top)
            if isinstance(node, ast.Call) and dotted(node.func) == "print"
        ]
    return found


def sources() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for package in ("envs", "marl") for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources())
def test_library_source_keeps_the_rules(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert misplaced_imports(tree, path) == []
    assert global_randomness(tree) == []
    assert prints(tree, path) == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("envs/a.py", "import marl"),
        ("envs/mpe/a.py", "def f():\n    from marl.config.schema import Config"),
        ("marl/a.py", "from marl import world_model"),
        ("marl/a.py", "from .world_model import dreamer"),
        ("marl/a.py", "import importlib\nimportlib.import_module('marl.world_model.dreamer.model')"),
        ("marl/world_model/a.py", "import benchmarks.gumbel"),
    ],
)
def test_imports_against_the_direction_are_seen(path: str, code: str) -> None:
    assert misplaced_imports(ast.parse(code), path)


def test_imports_along_the_direction_pass() -> None:
    assert not misplaced_imports(ast.parse("from marl.world_model import dreamer"), COMPOSES)
    assert not misplaced_imports(ast.parse("from marl.world_model.dreamer.rssm import RSSM"), "marl/world_model/a.py")
    assert not misplaced_imports(ast.parse("from envs.spec import EnvSpec"), "marl/a.py")


@pytest.mark.parametrize(
    "code",
    ["np.random.seed(0)", "torch.manual_seed(0)", "torch.cuda.manual_seed_all(0)", "random.seed(1)", "random.random()"],
)
def test_global_randomness_is_seen(code: str) -> None:
    assert global_randomness(ast.parse(code))


def test_generators_of_their_own_pass() -> None:
    assert not global_randomness(ast.parse("np.random.default_rng(0).normal()\nself.generator.manual_seed(0)"))


def test_print_is_seen_outside_of_main() -> None:
    assert prints(ast.parse("def helper():\n    print(1)"), "marl/a.py")
    assert prints(ast.parse("print(1)"), "marl/a.py")
    assert not prints(ast.parse("def main():\n    print(1)"), "marl/a.py")


def test_setuptools_is_told_of_every_package() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for package in ("marl", "envs", "configs")
        for p in (ROOT / package).rglob("__init__.py")
    }
    assert set(told) == found
