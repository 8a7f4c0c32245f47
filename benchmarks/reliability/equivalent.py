"""Mutants that no test could tell from the original, with the reason."""

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""(module, the lines before, the lines after) -> why they do the same."""
