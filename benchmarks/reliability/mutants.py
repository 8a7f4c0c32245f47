"""Mutants of a module: places sampled by a seed, one change each, by cosmic-ray's operators.

Left out: annotations, which are never evaluated; bit shifts and bitwise operators in the place of arithmetic, and
identity in the place of a comparison, which die of a TypeError in any test and would flatter the tests.
"""

from __future__ import annotations

import ast
import difflib
import random
import re
from dataclasses import dataclass
from pathlib import Path

try:
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names
except ModuleNotFoundError as error:
    raise SystemExit("This needs cosmic-ray: pip install -e '.[mutate]'") from error

ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
BITWISE = {"BitOr", "BitAnd", "BitXor"}


@dataclass(frozen=True)
class Mutant:
    """One change of one place."""

    module: str  # path below the root
    line: int
    operator: str  # cosmic-ray's name
    occurrence: int  # of the operator in the module, as cosmic-ray counts
    before: str  # the lines that differ, without indentation
    after: str

    def code(self, source: str) -> str:
        """The mutated module."""
        mutated: str | None = mutate_code(source, get_operator(self.operator)(), self.occurrence)
        assert mutated is not None, f"{self} is no mutant of this source"
        return mutated


def used(operator: str) -> bool:
    """Whether an operator can leave code that runs."""
    kind, _, rest = operator.removeprefix("core/").partition("_")
    if kind == "ReplaceBinaryOperator":
        pair = set(rest.split("_"))
        return pair <= ARITHMETIC or pair <= BITWISE
    if kind == "ReplaceComparisonOperator":
        old, new = rest.split("_")
        return new not in ("Is", "IsNot") or old in ("Is", "IsNot")
    return not get_operator(operator).arguments()


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end, (line, column) each."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                begin, end = (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)
                spans.append((begin, end))
    return spans


def places(source: str) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """(line, column) -> the operators that change this place, each with its occurrence."""
    nodes, skipped = list(ast_nodes(get_ast(source))), annotations(source)
    result: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in filter(used, sorted(operator_names())):
        operator = get_operator(name)()
        starts = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(starts):
            if not any(begin <= start < end for begin, end in skipped):
                result.setdefault(start, []).append((name, occurrence))
    return result


def sample(root: Path, module: str, count: int, seed: int) -> list[Mutant]:
    """`count` mutants (fewer where there are not so many places) at different places, in the order of their lines."""
    source, stream = (root / module).read_text(encoding="utf-8"), random.Random(f"{seed} {module}")
    at = places(source)
    chosen = sorted(stream.sample(sorted(at), min(count, len(at))))
    return [describe(module, source, place[0], *stream.choice(at[place])) for place in chosen]


def describe(module: str, source: str, line: int, operator: str, occurrence: int) -> Mutant:
    """The mutant with its difference in words."""
    mutated = Mutant(module, line, operator, occurrence, "", "").code(source)
    changes = [row for row in difflib.ndiff(source.splitlines(), mutated.splitlines()) if row[0] in "-+"]
    before, after = (
        re.sub(r"\s+", " ", " ".join(row[2:].strip() for row in changes if row[0] == sign)) for sign in "-+"
    )
    return Mutant(module, line, operator, occurrence, before, after)
