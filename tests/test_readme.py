"""README and docs name what there is: files, modules, flags, commands, environments, and code that runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from envs.mpe.catalogue import MPE_IDS
from marl import Config

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}
README = PAGES["README.md"]
MODULES = {f"docs/{name}.md": PAGES[f"docs/{name}.md"] for name in ("architecture", "world_model")}  # list every module
RUN_FLAGS = {"--config", "--resume", "--resume-environment", "--from", "--opponents", "--help"}  # besides the settings


def settings_flags() -> set[str]:
    """One flag for every field of the configuration, and the other flags of run.py."""
    from dataclasses import fields, is_dataclass

    def names(value: object, prefix: str = "") -> list[str]:
        assert is_dataclass(value)
        result = []
        for field in fields(value):
            inner, name = getattr(value, field.name), f"{prefix}{field.name.replace('_', '-')}"
            result += names(inner, f"{name}.") if is_dataclass(inner) else [name]
        return result

    flags = {f"--{name}" for name in names(Config())}
    switched_off = {re.sub(r"^--((?:[\w-]+\.)*)", r"--\1no-", flag) for flag in flags}
    return flags | switched_off | RUN_FLAGS


def blocks(language: str, *pages: str) -> list[str]:
    return [code for page in pages for code in re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)}


def links(page: str) -> list[str]:
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        known = target.resolve().is_relative_to(ROOT) and target.exists()
        if known and anchor:
            known = anchor in anchors(target.read_text(encoding="utf-8"))
        if not known:
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_a_table_has_its_head(page: str) -> None:
    """A blank line before a row ends the table: the row is shown as text. Guard: one was."""
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert [table.split("\n")[0] for table in tables if not re.match(r".*\n\|[\s:|-]+\n", table)] == []


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    named = set(re.findall(r"`((?:marl|envs|docs|benchmarks|configs|examples|tests)/[\w/.]*)`", PAGES[page]))
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_every_module_has_its_place() -> None:
    """In the file table, or, for packages with a file a case, by their folder."""
    text = "\n".join(MODULES.values())
    whole = re.findall(r"`((?:marl|envs)/[\w/]+/)`", PAGES["docs/architecture.md"])
    modules = {
        str(path.relative_to(ROOT))
        for package in ("marl", "envs")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert sorted(m for m in modules if f"`{m}`" not in text and not m.startswith(tuple(whole))) == []


@pytest.mark.parametrize(
    "name",
    sorted({name for text in PAGES.values() for name in re.findall(r"`(marl(?:\.[a-z_]+)+\.[A-Za-z_]+)`", text)}),
)
def test_symbols_exist(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("page", PAGES)
def test_flags_of_training_exist(page: str) -> None:
    text = PAGES[page]
    tables = [part.split("\n\n")[0] for part in text.split("| flag | meaning |")[1:]]
    commands = re.findall(r"python run\.py ([^`#\n]+)", text)
    named = re.findall(r"--[a-z][\w.-]*[\w]", "\n".join([*commands, *tables])) + re.findall(
        r"--(?:maddpg|wm)\.[\w-]+", text
    )
    assert sorted(set(named) - settings_flags()) == []


def test_flags_are_found() -> None:
    assert "| flag | meaning |" in README and "| flag | meaning |" in PAGES["docs/cli.md"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    """Every `python -m module` of ours can be found; it is not run."""
    named = set(re.findall(r"python -m ((?:marl|envs|benchmarks|examples)[\w.]*)", PAGES[page]))
    missing = [name for name in sorted(named) if importlib.util.find_spec(name.rstrip(".")) is None]
    assert missing == []


def test_every_environment_is_named() -> None:
    assert [i for i in MPE_IDS if f"`{i.rsplit('_v', 1)[0]}`" not in README] == []


@pytest.mark.parametrize("code", blocks("python", *PAGES))
def test_python_compiles_and_imports_what_exists(code: str) -> None:
    tree = ast.parse(code)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


def test_the_two_commands_stand_in_it() -> None:
    assert "pip install -e . && python run.py --env simple_speaker_listener" in README
    assert 'pip install -e ".[test]" && pytest' in README


def test_the_readme_is_one_page() -> None:
    assert len(README.encode()) < 16_000
    assert README.count("\n") < 170


@pytest.mark.parametrize("code", blocks("python", "README.md", "docs/extending.md"))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands but for the length of training and evaluation."""
    monkeypatch.chdir(tmp_path)
    short = 'total_steps=320, run_dir="run"'
    if "make_env" in code:  # reported in tests/test_examples.py
        short += ", evaluation=schema.EvaluationConfig(final_episodes=4), logging=schema.LoggingConfig(report=False)"
        code = "from marl.config import schema\n" + code
    else:
        short += ', evaluation={"final_episodes": 20}'
    exec(compile(code.replace("total_steps=20_000", short), "README.md", "exec"), {})
    if "train(" in code:
        assert (tmp_path / "run" / "evaluation.json").exists()


def test_the_index_names_every_page() -> None:
    index = {str(Path("docs") / link.partition("#")[0]) for link in links("docs/index.md")}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.ipynb")} <= index
    assert (
        sorted(page for page in PAGES if page.startswith("docs/") and page != "docs/index.md" and page not in index)
        == []
    )
