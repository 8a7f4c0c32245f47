"""What the commands need before they answer, and that installing the package finds all of them."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("home", "flag"),
    [
        ("marl.cli", "--total-steps"),
        ("marl.evaluate.__main__", "--against"),
        ("marl.communication.__main__", "--cross-episodes"),
        ("marl.report.__main__", "--out"),
        ("marl.listen.__main__", "--pretrained"),
        ("marl.export.__main__", "--format"),
        ("marl.teaching.__main__", "--learners"),
        ("marl.world_model.evaluate", "--own-policy"),
        ("envs.check.__main__", "--episodes"),
    ],
)
def test_help_waits_for_nothing_slow(home: str, flag: str) -> None:
    """Guard: seen failing with a leaf of type `tuple` in `flags._leaf`, which tyro checks by typeguard."""
    code = (
        f"import sys; from {home} import main; code = main(['--help']); "
        "sys.exit(code or ', '.join({'torch', 'numpy', 'typeguard', 'asyncio'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert flag in done.stdout


def test_every_console_script_is_a_function() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_package_that_hides_ours_is_named(tmp_path: Path) -> None:
    """Without site-packages: an editable install finds our modules by their full names all the same."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import marl.errors"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"another package named envs, {tmp_path / 'envs' / '__init__.py'}, hides" in done.stderr
