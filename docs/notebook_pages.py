"""Notebooks as pages of the site: executed when it is built, shown with what they print and draw.

They are committed without outputs: what a page shows is what this code does, a difference between two versions can be
read, and a notebook that no longer runs ends the build, which is their test. nbconvert turns them into Markdown, so
that they look like every other page, ask no other host for a script, and have their links checked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

SECONDS = 300
"""After which a cell that still runs ends the build."""


def page_of(path: Path, execute: bool) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and {file beside it: its bytes} of the pictures that it draws.

    Args:
        path: an .ipynb.
        execute: run it first, in an empty folder of its own; otherwise its cells alone are shown.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if execute:
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": folder}}).execute()
    exporter = MarkdownExporter()
    text, resources = exporter.from_notebook_node(notebook, {"output_files_dir": f"{path.stem}_files"})
    return text, dict(resources["outputs"])
