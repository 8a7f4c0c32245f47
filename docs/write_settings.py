"""Writes the table of all settings into docs/cli.md, from the configuration: `python -m docs.write_settings`.

A test compares the page with what this writes; run it after every change of marl/config/schema.py.
"""

from __future__ import annotations

from pathlib import Path

from marl.config.fields import Setting, expected, groups, settings, shown
from marl.config.schema import Config

PAGE = Path(__file__).with_name("cli.md")
BEGIN = "<!-- Written by `python -m docs.write_settings`; edit marl/config/schema.py instead. -->"
END = "<!-- End of what docs.write_settings writes. -->"


def tables() -> str:
    """One table a group, in the order of the configuration."""
    parts = []
    for group in groups(Config).values():
        inside = [s for s in settings(Config).values() if s.name.rpartition(".")[0] == group.name]
        title = f"`{group.name}`" if group.name else "The run"
        rows = ["| flag | default | values | meaning |", "|---|---|---|---|", *map(row, inside)]
        parts.append("\n".join([f"### {title}", "", group.doc, "", *rows]))
    return "\n\n".join(parts)


def row(setting: Setting) -> str:
    cells = [f"`{setting.flag}`", default(setting.default), expected(setting.kind), setting.doc.replace("<", "&lt;")]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def default(value: object) -> str:
    """As in a YAML file; "unset" where nothing is given."""
    if value is None or value in ("", {}):
        return "unset"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"`{value:_}`" if value >= 10_000 else f"`{value}`"
    return f"`{value if isinstance(value, str) else shown(value)}`"


def written(page: str) -> str:
    """The page with its tables brought up to date."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in page:
        raise SystemExit(f"{PAGE} lacks the two comments that stand around the tables; expected\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
