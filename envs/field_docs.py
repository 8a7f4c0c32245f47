"""The docstrings of a dataclass's fields, from its source: the help of every command and setting."""

from __future__ import annotations

import ast
import inspect
from functools import lru_cache
from itertools import pairwise
from pathlib import Path


def field_docs(cls: type) -> dict[str, str]:
    """{field: the string that follows it in the source, in one line}, inherited ones too.

    Args:
        cls: a class that was written in a file, of such classes.
    """
    docs: dict[str, str] = {}
    for one in reversed(cls.__mro__[:-1]):
        tree = _classes(inspect.getsourcefile(one) or "").get(one.__qualname__)
        for here, after in pairwise(tree.body if tree else []):
            if not isinstance(here, ast.AnnAssign) or not isinstance(here.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[here.target.id] = " ".join(str(after.value.value).split())
    return docs


@lru_cache
def _classes(path: str) -> dict[str, ast.ClassDef]:
    """Every class of a file by its qualified name; `inspect.getsource` would parse the file again for each of them."""
    classes = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                classes[prefix + child.name] = child
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                visit(child, f"{prefix}{child.name}.<locals>.")
            else:
                visit(child, prefix)

    visit(ast.parse(Path(path).read_text(encoding="utf-8")), "")
    return classes
