"""Pages that are made from the code, or state what the code does, agree with it."""

from __future__ import annotations

import re
from pathlib import Path

from docs import write_settings
from marl.config.fields import settings
from marl.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------ docs/cli.md
def test_the_table_of_settings_is_the_configurations() -> None:
    page = write_settings.PAGE.read_text(encoding="utf-8")
    assert page == write_settings.written(page), "run: python -m docs.write_settings"
    assert [s.flag for s in settings(Config).values() if f"| `{s.flag}` |" not in page] == []


def test_a_changed_table_is_noticed() -> None:
    page = write_settings.PAGE.read_text(encoding="utf-8")
    changed = page.replace("| `--maddpg.gamma` | `0.95` |", "| `--maddpg.gamma` | `0.9` |")
    assert changed != page and write_settings.written(changed) == page


# ------------------------------------------------------------------ mkdocs.yml
def test_the_menu_has_every_page() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    assert sorted(re.findall(r"[\w/]+\.md", menu)) == pages
