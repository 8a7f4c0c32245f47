"""What MkDocs does not do by itself: files outside docs/ that pages link to become part of the site.

On the repository's host `../benchmarks/results/x.png` and `../README.md` are plain relative links. A site holds
only what lies in docs/, and there is no public address that links could be turned into. So every file that a page
reaches, and those that these reach, is put below `repository/` of the site, and the links are rewritten. All links stay
checked. Notebooks become pages (docs/notebook_pages.py), and formulas MathML (docs/formulas.py).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import formulas
import notebook_pages
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "repository"
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(?=[)\s])")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


_executes = False  # `mkdocs serve` shows notebooks without their outputs: it builds the site at every change


def on_startup(command: str, dirty: bool) -> None:
    """Notebooks are executed where the site is built to be shown."""
    global _executes
    _executes = command != "serve"


def on_files(files: Files, config: Any) -> Files:
    """Put pages in the place of notebooks, and add what lies outside docs/, as far as links lead."""
    pending = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(pending)
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text, pictures = notebook_pages.page_of(Path(str(file.abs_src_path)), _executes)
        files.append(File.generated(config, _page(file.src_uri), content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, posixpath.join(posixpath.dirname(file.src_uri), name), content=content))
    while pending:
        target = pending.pop()
        path = ROOT / target
        if path.is_dir():
            files.append(File.generated(config, _place(target), content=_listing(target)))
            found = _names(target)
        else:
            if not target.startswith("docs/"):
                files.append(File.generated(config, _place(target), abs_src_path=str(path)))
            found = list(_targets(target)) if path.suffix == ".md" else []
        fresh = {name for name in found if name not in seen}
        seen |= fresh
        pending += sorted(fresh)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn the links of a page into those of the site."""
    here = _origin(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def moved(link: str) -> str:
        path, anchor = _split(link)
        target = _resolve(here, path)
        inside = here.startswith("docs/") and target is not None and target.startswith("docs/")
        if not path or target is None or (inside and not target.endswith(".ipynb")):
            return link
        return posixpath.relpath(_place(target), folder or ".") + anchor

    return _rewritten(markdown, moved)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Draw the formulas of a page."""
    try:
        return formulas.drawn(html)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


# ------------------------------------------------------------------ paths
def _place(target: str) -> str:
    """Where a file of the repository lies in the site's sources."""
    if target.startswith("docs/"):
        return _page(target.removeprefix("docs/"))
    return f"{OUTSIDE}/{target}" + ("/index.md" if (ROOT / target).is_dir() else "")


def _page(place: str) -> str:
    """A notebook's page lies where the notebook does."""
    return place.removesuffix(".ipynb") + ".md" if place.endswith(".ipynb") else place


def _origin(place: str) -> str:
    """The inverse of `_place`."""
    return place.removeprefix(f"{OUTSIDE}/") if place.startswith(f"{OUTSIDE}/") else f"docs/{place}"


def _split(link: str) -> tuple[str, str]:
    path, mark, anchor = link.partition("#")
    return path, mark + anchor


def _resolve(page: str, path: str) -> str | None:
    """A relative link as a path from the root of the repository; None for addresses and for what is not there."""
    if re.match(r"[a-z]+:", path):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    return None if target.startswith("..") or not (ROOT / target).exists() else target


def _targets(page: str) -> Iterator[str]:
    found: list[str] = []
    text = (ROOT / page).read_text(encoding="utf-8")

    def keep(link: str) -> str:
        found.append(link)
        return link

    _rewritten(text, keep)
    for link in found:
        target = _resolve(page, _split(link)[0]) if _split(link)[0] else None
        if target is not None:
            yield target


def _rewritten(markdown: str, change: Callable[[str], str]) -> str:
    """`markdown` with every link outside code blocks replaced by `change` of it."""

    def links(text: str) -> str:
        return _LINK.sub(lambda match: match[1] + change(match[2]), text)

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [links(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, links(markdown[end:])])


def _names(folder: str) -> list[str]:
    return [f"{folder}/{path.name}" for path in sorted((ROOT / folder).iterdir()) if path.is_file()]


def _listing(folder: str) -> str:
    """A page for a folder, with links as from the folder itself."""
    lines = [f"- [{posixpath.basename(name)}]({posixpath.basename(name)})" for name in _names(folder)]
    return "\n".join([f"# {folder}", "", *lines, ""])
