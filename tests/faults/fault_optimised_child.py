"""Every refusal once more under python -O, where `assert` does nothing; run by test_fault_configuration.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from envs.spec import AgentSpec, EnvSpec, Head
from marl.cli.parse import parse
from marl.config.fields import with_values
from marl.config.resolve import check_resume, validated
from marl.config.schema import Config
from marl.errors import UserError
from marl.runs import checkpoint
from marl.runs.compatibility import check_spec
from marl.runs.logs.logger import drop_after
from marl.runs.plain_data import NotPlain
from marl.runs.run_dir import RunDir
from marl.training.devices import choose_device


def cases(root: Path) -> dict[str, Callable[[], Any]]:
    """Name -> something that must be refused."""
    damaged = checkpoint.save(root / "a", 1, {"policy": {"x": 1}}, {})
    (damaged / "policy.pt").write_bytes(b"")
    (root / "full").mkdir()
    (root / "full" / "file").write_text("")
    spec = EnvSpec("a", (AgentSpec("x", 2, (Head("move", 5),)),))
    other = EnvSpec("b", (AgentSpec("x", 3, (Head("move", 5),)),))
    base = Config(env="simple")
    flags = ["--env", "simple"]
    return {
        "range": lambda: parse([*flags, "--maddpg.gamma", "1.5"]),
        "type": lambda: parse([*flags, "--seed", "x"]),
        "unknown flag": lambda: parse([*flags, "--sed", "1"]),
        "choice": lambda: parse([*flags, "--backend", "jax"]),
        "environment": lambda: parse(["--env", "simpl"]),
        "rule": lambda: parse([*flags, "--replay.capacity", "20"]),
        "python configuration": lambda: validated(with_values(base, {"seed": -1})),
        "resume": lambda: check_resume(base, with_values(base, {"seed": 5})),
        "device": lambda: choose_device("cuda:99"),
        "damaged checkpoint": lambda: checkpoint.load(damaged),
        "not plain": lambda: checkpoint.save(root / "b", 1, {"policy": np.float32(1)}, {}),
        "occupied directory": lambda: RunDir(root / "full").__enter__(),
        "specification": lambda: check_spec(spec.to_dict(), other, root),
        "metrics": lambda: drop_after(root / "full", 3),
    }


def main(root: Path) -> int:
    if __debug__:
        print("this must run under python -O")
        return 1
    missed = []
    for name, case in cases(root).items():
        try:
            case()
        except (UserError, NotPlain):
            continue
        missed.append(name)
    print(f"not refused: {', '.join(missed)}" if missed else "every case was refused")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
