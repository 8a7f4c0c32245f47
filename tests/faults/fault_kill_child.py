"""Forks a process for every point of a save and kills it there; prints what is left, as JSON lines.

Run by test_fault_save.py: python fault_kill_child.py DIRECTORY STRIDE
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from fault_points import MANIFEST, Points, equal, kill, parts_of

from marl.runs.checkpoint import load, newest, remove_leftovers, save


def main(directory: Path, stride: int) -> None:
    before = directory / "before"
    save(before, 10, parts_of(1), MANIFEST)
    save(before, 20, parts_of(2), MANIFEST)
    point = 1 - stride
    while True:
        point += stride
        root = directory / f"point_{point}"
        shutil.copytree(before, root)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            save_and_die(root, point, writer)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        name = os.read(reader, 100).decode()
        os.close(reader)
        if os.waitstatus_to_exitcode(status) == 0:
            return
        print(json.dumps({"point": point, "name": name, **after(root)}), flush=True)
        shutil.rmtree(root)


def save_and_die(root: Path, point: int, writer: int) -> None:
    """Save; at `point` tell its name and die; exit with 0 where the save has no such point."""

    def act(name: str) -> None:
        os.write(writer, name.encode())
        kill(name)

    with Points(root, lambda count: count == point, act):
        save(root, 30, parts_of(3), MANIFEST)
    os._exit(0)


def after(root: Path) -> dict:
    """What a resumed run finds."""
    result = newest(root)
    loaded = None if result is None else load(result)
    state = None
    if loaded is not None:
        state = next((n for n in (2, 3) if equal(loaded.parts, parts_of(n)) and loaded.step == n * 10), None)
    leftovers = remove_leftovers(root)
    again = save(root, 30, parts_of(3), MANIFEST)
    return {
        "state": state,
        "leftovers": leftovers,
        "again": equal(load(again).parts, parts_of(3)) and newest(root) == again,
        "names": sorted(path.name for path in root.iterdir()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
