"""Mutants: which places change, that a seed repeats them, and what the published record says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="the extra 'mutate' is not installed")
from benchmarks.reliability import mutations
from benchmarks.reliability.mutants import describe, places, sample, used

SOURCE = """
from __future__ import annotations

def f(x: int | None, y: float = 2.0) -> int | None:
    z: list[int] | None = None
    if x == 3:
        return x + 1
    return -x
"""


def test_annotations_and_what_cannot_run_are_left_out() -> None:
    at = places(SOURCE)
    assert {line for line, _ in at} == {4, 6, 7, 8}
    operators = {name for row in at.values() for name, _ in row}
    assert "core/ReplaceBinaryOperator_Add_Sub" in operators and "core/ReplaceComparisonOperator_Eq_NotEq" in operators
    assert not any("BitOr" in name or "Shift" in name or name.endswith("_Is") for name in operators)
    assert used("core/NumberReplacer") and not used("core/VariableReplacer"), "which needs arguments"


def test_a_mutant_is_one_change_and_says_which(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(SOURCE)
    every = sample(tmp_path, "f.py", 100, 0)
    assert len(every) == len(places(SOURCE)) and every == sample(tmp_path, "f.py", 100, 0)
    for mutant in every:
        assert mutant.before != mutant.after and mutant.code(SOURCE) != SOURCE
        assert describe("f.py", SOURCE, mutant.line, mutant.operator, mutant.occurrence) == mutant
    assert len(sample(tmp_path, "f.py", 2, 0)) == 2


def test_a_mutant_in_a_tree_is_killed_where_a_test_fails(tmp_path: Path) -> None:
    """The child runs the tree's own marl; one test that passes and one that does not."""
    (tmp_path / "marl").mkdir()
    (tmp_path / "marl" / "__init__.py").write_text("")
    (tmp_path / "test_good.py").write_text("def test_good(): assert True\n")
    (tmp_path / "test_bad.py").write_text("import marl\ndef test_bad(): assert 'site' in marl.__file__\n")
    assert mutations.run_tests(tmp_path, "test_good.py", 60).code == 0
    assert mutations.run_tests(tmp_path, "test_bad.py", 60).code == 1


def test_the_page_shows_the_record() -> None:
    result = json.loads(mutations.RESULT.read_text())
    page = mutations.PAGE.read_text()
    assert mutations.page_text(page, result) == page
    assert mutations.page_text(page.replace("% |", "% !"), result) == page
    for row in result["mutants"]:
        assert (mutations.ROOT / row["module"]).is_file() and row["module"] in mutations.MODULES
        assert row["outcome"] == "killed" or mutations.equivalent(row), row
    for key in mutations.EQUIVALENT:
        assert key in {(row["module"], row["before"], row["after"]) for row in result["mutants"]}
