"""Checkpoints that are cut, overwritten, flipped bit by bit, or made to run code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fault_points import MANIFEST, equal, parts_of

from marl.errors import UserError
from marl.runs import checkpoint
from marl.runs.checkpoint import Damaged, load, newest, save


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint with a good one before it."""
    save(tmp_path / "checkpoints", 10, parts_of(1), MANIFEST)
    return save(tmp_path / "checkpoints", 20, parts_of(2), MANIFEST)


def flips(size: int, stride: int) -> list[int]:
    """Positions over the whole file, the first and last 64 bytes densely."""
    return sorted({*range(0, min(64, size)), *range(0, size, stride), *range(max(0, size - 64), size)})


def flip_everywhere(saved: Path, stride: int) -> tuple[int, str]:
    """Returns how many bits were flipped, one at a time, and the last words."""
    whole, tries, output = load(saved), 0, ""
    for file in sorted(saved.iterdir()):
        content = file.read_bytes()
        for position in flips(len(content), stride):
            broken = bytearray(content)
            broken[position] ^= 1 << (position % 8)
            file.write_bytes(broken)
            tries += 1
            try:
                result = load(saved)
            except UserError as error:
                output = str(error)
                newer = file.name == "manifest.json" and "this build reads up to" in str(error)
                assert newer or "is damaged" in str(error), f"{file.name}[{position}]: {error}"
                assert newer or f"The newest good one is {saved.with_name('step_000000010')}" in str(error)
            else:  # harmless: white space of the manifest
                same = result.manifest == whole.manifest and equal(result.parts, whole.parts)
                assert file.name == "manifest.json" and same, f"{file.name}[{position}]"
        file.write_bytes(content)
    assert equal(load(saved).parts, parts_of(2))
    return tries, output


@pytest.mark.fault
def test_every_byte_region_flipped(saved: Path, seen: Callable) -> None:
    """Guard: seen failing with the comparison of sha256 removed (flips in tensor data load silently), and with that of
    the manifest's own checksum removed (another step, another configuration)."""
    tries, output = flip_everywhere(saved, 5)
    seen("truncated, empty, text or bit-flipped checkpoint", "one bit in every fifth byte of a file", output, tries, 2)


def test_some_byte_regions_flipped(saved: Path) -> None:
    flip_everywhere(saved, 301)


def test_the_pointer_flipped_everywhere(tmp_path: Path) -> None:
    """A broken pointer never leads to another checkpoint than the newest.

    Guard: seen failing without the checksum in the pointer (one flipped bit turns the 3 of step 30 into a 1).
    """
    save(tmp_path, 10, parts_of(1), MANIFEST)
    saved = save(tmp_path, 30, parts_of(3), MANIFEST)
    pointer = tmp_path / "latest"
    content = pointer.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            broken = bytearray(content)
            broken[position] ^= 1 << bit
            pointer.write_bytes(broken)
            assert newest(saved.parent) == saved


@pytest.mark.parametrize("name", ["policy.pt", "replay.pt", "manifest.json"])
def test_cut_empty_and_text(saved: Path, name: str) -> None:
    file = saved / name
    content = file.read_bytes()
    for size in (0, 1, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(Damaged, match="The newest good one is"):
            load(saved)
    for text in (b"Not found\n", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * len(content)):
        file.write_bytes(text)
        with pytest.raises(Damaged, match="The newest good one is"):
            load(saved)


# ------------------------------------------------------------------ files that mean harm
class Harm:
    """Unpickles by running a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def replace_part(path: Path, name: str, content: bytes) -> None:
    """Another file, with a manifest that vouches for it: anyone can make one."""
    (path / f"{name}.pt").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["checksum"] = checkpoint._checksum(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def harmful_files(harm: Harm) -> dict[str, bytes]:
    files = {f"pickle protocol {number}": pickle.dumps(harm, protocol=number) for number in range(6)}
    for new in (True, False):
        for place, value in (("alone", harm), ("hidden", {"weight": torch.ones(3), "x": [1, {"y": harm}]})):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=new)
            files[f"{place}, {'zip' if new else 'legacy'}"] = buffer.getvalue()
    return files


def test_malicious_pickles_are_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    """Guard: seen failing with `weights_only=False`: the marker appears."""
    marker = tmp_path / "harm"
    for kind, content in harmful_files(Harm(marker)).items():
        replace_part(saved, "policy", content)
        with pytest.raises(UserError) as caught:
            load(saved, parts=["policy"])
        text = str(caught.value)
        assert "policy.pt is refused" in text and "Nothing of it was executed" in text, kind
        assert "weights_only" not in text and "torch.load" not in text
        assert not marker.exists(), kind
    pickle.loads(harmful_files(Harm(marker))["pickle protocol 4"])
    assert marker.exists(), "the file would have done harm"


@pytest.mark.parametrize("value", [torch.nn.Linear(1, 1), torch.device("cpu"), torch.Size([1]), {1.5: 2}, {2, 3}])
def test_what_torch_allows_but_we_never_save_is_refused(saved: Path, value: object) -> None:
    buffer = io.BytesIO()
    torch.save({"x": value}, buffer)
    replace_part(saved, "policy", buffer.getvalue())
    with pytest.raises(UserError, match=r"policy\.pt is refused"):
        load(saved)


def fuzz_inside(saved: Path, tries: int) -> tuple[int, int]:
    """Random damage that the manifest vouches for; (times refused, times loaded as plain data)."""
    generator = random.Random(0)
    content = (saved / "policy.pt").read_bytes()
    refused = loaded = 0
    for _ in range(tries):
        broken = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 8))):
            broken[generator.randrange(len(broken) if generator.random() < 0.3 else 600)] = generator.randrange(256)
        if generator.random() < 0.2:
            del broken[generator.randrange(len(broken)) :]
        replace_part(saved, "policy", bytes(broken))
        try:
            load(saved, parts=["policy"])
            loaded += 1
        except UserError:
            refused += 1
    return refused, loaded


@pytest.mark.fault
def test_random_damage_behind_a_right_checksum_is_refused_or_plain(saved: Path, seen: Callable) -> None:
    """The second line of defence: whatever the bytes, never another exception, never code."""
    refused, loaded = fuzz_inside(saved, 2000)
    assert refused > 150 and refused + loaded == 2000
    output = "policy.pt is refused: its checksum is right, but it holds something other than tensors, numbers and text"
    seen("malicious pickle", "random bytes behind a right checksum: refused, or plain data", output, 2000, 2)


def test_some_random_damage_behind_a_right_checksum(saved: Path) -> None:
    fuzz_inside(saved, 200)


def test_a_link_out_of_the_checkpoint_is_no_way_to_other_files(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    for name in ("../../secret", "/etc/passwd", "a/b", "..", "Policy", ""):
        manifest["files"] = {name: {"sha256": "0", "bytes": 1}}
        manifest["checksum"] = checkpoint._checksum(manifest)
        (saved / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(Damaged):
            load(saved)


def test_copies_and_moves_are_fine(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved.parent, tmp_path / "elsewhere")
    assert equal(load(newest(tmp_path / "elsewhere") or Path()).parts, parts_of(2))
