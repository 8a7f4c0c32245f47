"""Writes the tables of all settings and of the commands' options into docs/cli.md: `python -m docs.write_settings`.

They come from the configuration and from the commands' dataclasses. A test compares the page with what this writes;
run it after every change of marl/config/schema.py or of a command's options.
"""

from __future__ import annotations

from pathlib import Path

from docs import command_tables
from marl.config.fields import Setting, expected, groups, settings, shown
from marl.config.schema import Config

PAGE = Path(__file__).with_name("cli.md")
BEGIN = "<!-- Written by `python -m docs.write_settings`; edit marl/config/schema.py instead. -->"
END = "<!-- End of what docs.write_settings writes. -->"
BEGIN_COMMANDS = "<!-- Written by `python -m docs.write_settings`; edit the commands' dataclasses instead. -->"
END_COMMANDS = "<!-- End of the commands. -->"


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
    page = _between(page, BEGIN_COMMANDS, END_COMMANDS, command_tables.tables())
    return _between(page, BEGIN, END, tables())


def _between(page: str, begin: str, end: str, text: str) -> str:
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or end not in page:
        raise SystemExit(f"{PAGE} lacks the two comments that stand around the tables; expected\n{begin}\n{end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
