"""The lowest versions: what is named as tested is what pyproject.toml lists."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reliability import lowest


def test_direct_dependencies_by_hand(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["torch>=2.11,<2.14", "a-b", "c[d]~=1", "e ; sys_platform"]\n')
    assert lowest.direct(project) == ["torch", "a-b", "c", "e"]
    assert {"torch", "PyYAML", "Pillow"} <= set(lowest.direct())


def test_versions_are_shown_by_the_projects_names(tmp_path: Path) -> None:
    pinned = tmp_path / "lowest.txt"
    pinned.write_text("pyyaml==6.0\ntorch==2.11.0\nsympy==1.14\n")
    words = lowest.shown(pinned).split(", ")
    assert "PyYAML 6.0" in words and "torch 2.11.0" in words and "numba ?" in words  # a missing one is seen
    assert len(words) == len(lowest.direct())


def test_the_smoke_tests_exist() -> None:
    assert [path for path in lowest.SMOKE if not (lowest.ROOT / path).exists()] == []
