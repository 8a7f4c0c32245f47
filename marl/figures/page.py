"""One self-contained HTML page: no file, script or font from anywhere else, readable on a phone and on paper."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

_KINDS = {".png": "image/png", ".gif": "image/gif"}

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222;
  background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ccc; }
p, ul { margin: .5rem 0; }
.where { color: #555; font-size: .9rem; }
.verdict { font-size: 1.1rem; }
.link a { color: inherit; font-weight: 600; }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.card { flex: 1 1 8rem; border: 1px solid #ccc; border-radius: .5rem; padding: .5rem .7rem; }
.card b { display: block; font-size: 1.5rem; }
.card span { color: #555; font-size: .85rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; }
figure img { width: 100%; height: auto; }
figure.small img { width: auto; max-width: 100%; }
figcaption { font-size: .9rem; color: #444; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
pre { overflow-x: auto; overflow-wrap: normal; background: #f5f5f5; border-radius: .3rem; padding: .6rem;
  font: .8rem/1.4 ui-monospace, monospace; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 30rem) { table { font-size: .85rem; } th, td { padding: .25rem .45rem; } }
@media print { details > * { display: block; } }
"""


def escape(text: object) -> str:
    """Text that is shown as it is."""
    return html.escape(str(text))


def image(content: bytes, kind: str, caption: str, small: bool = False) -> str:
    """A picture inside the page. `kind` is the file's ending; the caption is also the text for who cannot see it."""
    data = base64.b64encode(content).decode("ascii")
    shown = escape(caption)
    size = ' class="small"' if small else ""
    return (
        f'<figure{size}><img alt="{shown}" src="data:{_KINDS[kind]};base64,{data}">'
        f"<figcaption>{shown}</figcaption></figure>"
    )


def picture(path: Path, caption: str, small: bool = False) -> str:
    """`image` of a PNG or GIF file."""
    return image(path.read_bytes(), path.suffix, caption, small)


def gallery(pictures: Sequence[str]) -> str:
    """Pictures side by side where there is room."""
    return f'<div class="pictures">{"".join(pictures)}</div>'


def section(title: str, *parts: str) -> str:
    """A heading with what belongs to it; nothing at all where no part has content."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def paragraph(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def link(target: str, text: str) -> str:
    """A paragraph that leads to a file beside the page."""
    return f'<p class="link"><a href="{escape(target)}">{escape(text)}</a></p>'


def bullets(items: Sequence[str]) -> str:
    """A list of sentences; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def cards(numbers: Mapping[str, str]) -> str:
    """Few large numbers with their names."""
    boxes = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in numbers.items()
    )
    return f'<div class="cards">{boxes}</div>' if boxes else ""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that scrolls sideways by itself on a narrow screen."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def verbatim(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def folded(title: str, content: str) -> str:
    """Content that opens at a touch."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def page(title: str, *parts: str) -> str:
    """The whole document."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</body></html>\n"
    )
