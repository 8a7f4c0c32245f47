"""What a run's results depend on besides its configuration: versions of packages, the machine, the commit."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "numpy", "pettingzoo", "mpe2", "gymnasium")
_OURS = "marl-discrete-communication"


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    results = {"python": platform.python_version(), "platform": platform.platform()}
    for package in (_OURS, *PACKAGES):
        try:
            results[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            results[package] = "not installed"
    results["commit"] = _commit()
    return tuple(results.items())


def versions() -> dict[str, str]:
    """{name: version} of Python, the platform, this package, its main dependencies and its git commit."""
    return dict(_versions())


def _commit() -> str:
    """The git commit of the source tree ("+" where files were changed since), or "unknown" for an installed copy."""
    tree = Path(__file__).resolve().parents[2]
    if not (tree / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(tree), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def changed_versions(saved: dict[str, str]) -> list[str]:
    """Sentences on what differs from `saved` and may make results differ in their last bits."""
    now = versions()
    names = ("python", _OURS, *PACKAGES, "commit")
    return [
        f"{name} was {saved[name]} and is now {now[name]}"
        for name in names
        if name in saved and saved[name] != now[name]
    ]
