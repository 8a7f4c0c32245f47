"""The README names what there is: modules, flags, commands, environments, and code that compiles."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from envs.mpe.catalogue import MPE_IDS
from marl.config.fields import settings
from marl.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_FLAGS = {"--config", "--resume", "--help"}  # of run.py, besides the settings


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_paths_and_links_exist() -> None:
    named = set(re.findall(r"`((?:marl|envs|docs|benchmarks|configs)/[\w/.]*)`", README))
    named |= {link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")}
    headings = {
        "#" + re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert sorted(path for path in named - headings if not (ROOT / path).exists()) == []


def test_every_module_has_its_place() -> None:
    modules = {f"{p}/{m.name}" for p in ("marl", "envs") for m in (ROOT / p).glob("*.py") if m.name != "__init__.py"}
    assert sorted(m for m in modules if f"`{m}`" not in README) == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(marl\.[a-z_]+\.[A-Za-z_]+)`", README))))
def test_symbols_exist(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if module == "marl.world_model":
        importlib.import_module(name)
    else:
        assert hasattr(importlib.import_module(module), attribute)


def test_flags_of_training_exist() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in settings(Config)} | RUN_FLAGS
    words = re.findall(r"python run\.py (.+)", README)
    table = README.split("| flag | meaning |")[1].split("\n\n")[0]
    named = re.findall(r"--[a-z][\w.-]*", "\n".join([*words, table])) + re.findall(r"--maddpg\.[\w-]+", README)
    assert named
    assert sorted(set(named) - flags) == []


def test_every_environment_is_named() -> None:
    assert [i for i in MPE_IDS if f"`{i.rsplit('_v', 1)[0]}`" not in README] == []


@pytest.mark.parametrize("code", python_blocks())
def test_python_compiles_and_imports_what_exists(code: str) -> None:
    tree = ast.parse(code)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


def test_the_two_commands_stand_in_it() -> None:
    assert "pip install -e . && python run.py --env simple_speaker_listener" in README
    assert 'pip install -e ".[test]" && pytest' in README


@pytest.mark.parametrize("code", python_blocks())
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands but for the length of training."""
    monkeypatch.chdir(tmp_path)
    short = 'total_steps=320, run_dir="run"'
    exec(compile(code.replace("total_steps=20_000", short), "README.md", "exec"), {})
    if "train(" in code:
        assert (tmp_path / "run" / "evaluation.json").exists()
