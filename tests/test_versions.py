"""Are the published tables those of the versions that are installed?"""

from __future__ import annotations

from importlib.metadata import version

import pytest

TABLES = {"mpe2": "1.1.1", "pettingzoo": "1.27.0", "gymnasium": "1.4.0"}  # what decides about episodes and rewards


def difference(package: str, installed: str) -> str:
    """What to do where a table was made with another version; "" where it was not."""
    if installed == TABLES[package]:
        return ""
    return (
        f"The tables of README.md, docs/ and benchmarks/results/ were made with {package} {TABLES[package]}, but "
        f"{installed} is installed. Either install that one, or measure again: `python -m benchmarks.learning.anchors` "
        f"for random, scripted and oracle returns, then `python -m benchmarks.learning --env TASK` for every task, "
        f"and write {installed} into tests/test_versions.py."
    )


@pytest.mark.parametrize("package", TABLES)
def test_tables_were_made_with_the_installed_version(package: str) -> None:
    assert difference(package, version(package)) == ""


def test_another_version_is_told_in_words() -> None:
    words = difference("mpe2", "1.1.2")
    assert "mpe2 1.1.1, but 1.1.2 is installed" in words and "benchmarks.learning.anchors" in words
