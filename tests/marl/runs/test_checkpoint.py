"""marl/runs/checkpoint.py and marl/runs/plain_data.py: what is saved comes back, what was not saved is refused."""

from __future__ import annotations

import collections
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from marl.errors import UserError
from marl.runs import checkpoint
from marl.runs.checkpoint import Damaged, load, locate, newest, read_manifest, remove_leftovers, save, saved_checkpoints
from marl.runs.plain_data import NotPlain, num_bytes, plain

MANIFEST = {"spec": {"id": "simple_v3"}, "config": {"seed": 1}}


def some_parts(number: int = 0) -> dict:
    generator = torch.Generator().manual_seed(number)
    return {
        "policy": {"weight": torch.randn(2, 3, generator=generator), "bias": torch.zeros(0)},
        "learner": {"steps": number, "moments": [torch.ones(2, dtype=torch.bfloat16), (1.5, None, True)], 3: "text"},
    }


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


# ------------------------------------------------------------------ round trip
def test_saves_and_loads(tmp_path: Path) -> None:
    root = tmp_path / "run" / "checkpoints"
    path = save(root, 20_000, some_parts(7), MANIFEST)
    assert path == root / "step_000020000"
    assert sorted(file.name for file in path.iterdir()) == ["learner.pt", "manifest.json", "policy.pt"]
    result = load(path)
    assert result.step == 20_000 and same(result.parts, some_parts(7))
    assert result.manifest["spec"] == MANIFEST["spec"] and result.manifest["config"] == MANIFEST["config"]
    assert result.manifest["versions"]["torch"] == torch.__version__
    only = load(path, parts=["policy"])
    assert list(only.parts) == ["policy"] and same(only.parts["policy"], some_parts(7)["policy"])


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"policy": {}}, MANIFEST)
    with pytest.raises(UserError, match="has no part 'replay'; it has policy"):
        load(path, parts=["replay"])


def test_views_are_saved_without_the_rest_of_their_storage(tmp_path: Path) -> None:
    """Guard: seen failing with `_narrow` returning its argument: the file then holds the whole buffer."""
    buffer = torch.arange(1_000_000, dtype=torch.float32).view(1000, 1000)
    parts = {
        "rows": buffer[:3],
        "middle": buffer[5:7],
        "columns": buffer[:, :2],
        "half": buffer.to(torch.bfloat16)[:2],
        "grown": torch.ones(1).expand(5),
    }
    path = save(tmp_path, 1, {"replay": parts}, MANIFEST)
    assert (path / "replay.pt").stat().st_size < 60_000
    assert same(load(path).parts["replay"], {name: value.contiguous() for name, value in parts.items()})


def test_a_leading_view_is_not_copied() -> None:
    buffer = torch.zeros(1000, 10)
    assert plain(buffer[:4], "x").data_ptr() == buffer.data_ptr()
    assert plain(buffer, "x").untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


def test_num_bytes_covers_the_file(tmp_path: Path) -> None:
    parts = {"a": {f"t{i}": torch.zeros(i) for i in range(50)}, "b": [torch.zeros(1000, 100)]}
    path = save(tmp_path, 1, parts, MANIFEST)
    written = sum(file.stat().st_size for file in path.iterdir())
    assert written <= num_bytes(parts) + (1 << 20)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.float32(1), "learner.a[1] is a numpy.float32"),
        (np.zeros(2), "learner.a[1] is a numpy.ndarray"),
        (Path("x"), "learner.a[1] is a pathlib"),
        (collections.deque(), "learner.a[1] is a collections.deque"),
        (collections.defaultdict(int), "learner.a[1] is a collections.defaultdict"),
        ({1.5: 2}, "learner.a[1] has a key 1.5 of type float"),
        (
            torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0), (2,), check_invariants=True),
            "expected a dense one",
        ),
        (lambda: 0, "learner.a[1] is a builtins.function"),
    ],
)
def test_anything_but_plain_data_is_refused_by_name(tmp_path: Path, value: object, words: str) -> None:
    with pytest.raises(NotPlain) as caught:
        save(tmp_path, 1, {"learner": {"a": [0, value]}}, MANIFEST)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_state_of_modules_optimisers_and_numpy_generators_is_plain(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    generator = np.random.default_rng(3)
    parts = {
        "learner": {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "weight": module.weight},
        "env": generator.bit_generator.state,
    }
    loaded = load(save(tmp_path, 1, parts, MANIFEST)).parts
    assert torch.equal(loaded["learner"]["module"]["weight"], module.weight)
    generator.bit_generator.state = loaded["env"]
    assert generator.random() == np.random.default_rng(3).random()


# ------------------------------------------------------------------ several checkpoints
def test_keeps_the_newest_and_points_at_the_last(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, some_parts(step), MANIFEST, keep=3)
    assert [path.name for path in saved_checkpoints(tmp_path)] == [f"step_00000000{step}" for step in (2, 3, 4)]
    assert newest(tmp_path) == tmp_path / "step_000000004"
    assert (tmp_path / "latest").read_text().split()[0] == "step_000000004"


def test_a_second_save_at_a_step_replaces_nothing_in_place(tmp_path: Path) -> None:
    save(tmp_path, 1, some_parts(0), MANIFEST)
    first = save(tmp_path, 2, some_parts(1), MANIFEST)
    second = save(tmp_path, 2, some_parts(2), MANIFEST)
    assert second.name == "step_000000002_2" and newest(tmp_path) == second
    assert saved_checkpoints(tmp_path) == [first, second]
    assert same(load(second).parts, some_parts(2)) and same(load(first).parts, some_parts(1))


def test_a_run_resumed_from_earlier_gives_up_its_later_checkpoints(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, some_parts(step), MANIFEST, keep=3)
    save(tmp_path, 15, some_parts(15), MANIFEST, keep=3)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["step_000000010", "step_000000015"]
    assert newest(tmp_path) == tmp_path / "step_000000015"


def test_a_lost_or_broken_pointer_is_made_up_for(tmp_path: Path) -> None:
    save(tmp_path, 1, some_parts(), MANIFEST)
    last = save(tmp_path, 2, some_parts(), MANIFEST)
    checksum = read_manifest(last)["checksum"]
    for content in ("", "step_000000001", "../.. x", f"step_000000001 {checksum}\n", "a b c", "\0"):
        (tmp_path / "latest").write_text(content)
        assert newest(tmp_path) == last
    (tmp_path / "latest").unlink()
    assert newest(tmp_path) == last
    assert newest(tmp_path / "nowhere") is None


def test_leftovers_are_named_and_removed(tmp_path: Path) -> None:
    path = save(tmp_path, 1, some_parts(), MANIFEST)
    (tmp_path / ".saving-000000002-77").mkdir()
    (tmp_path / ".saving-000000002-77" / "policy.pt").write_bytes(b"half")
    (tmp_path / ".deleting-step_000000000").mkdir()
    (tmp_path / ".saving-latest").write_text("x")
    assert remove_leftovers(tmp_path) == [".deleting-step_000000000", ".saving-000000002-77", ".saving-latest"]
    assert remove_leftovers(tmp_path) == [] and remove_leftovers(tmp_path / "nowhere") == []
    assert same(load(path).parts, some_parts())


def test_locate(tmp_path: Path) -> None:
    root = tmp_path / "run" / "checkpoints"
    path = save(root, 1, some_parts(), MANIFEST)
    for given in (tmp_path / "run", root, path):
        assert locate(given) == path
    assert checkpoint.run_directory(path) == (tmp_path / "run").resolve()
    with pytest.raises(UserError, match=r"policy\.pt is a file; expected a run directory"):
        locate(path / "policy.pt")


# ------------------------------------------------------------------ damage
def test_a_damaged_checkpoint_names_the_newest_good_one(tmp_path: Path) -> None:
    """Guard: seen failing with the sha256 comparison removed: the flipped weight loads silently."""
    good = save(tmp_path, 1, some_parts(1), MANIFEST, keep=3)
    bad = save(tmp_path, 2, some_parts(2), MANIFEST, keep=3)
    worse = save(tmp_path, 3, some_parts(3), MANIFEST, keep=3)
    for path in (bad, worse):
        content = bytearray((path / "policy.pt").read_bytes())
        content[content.index(b"data/0") + 70] ^= 1
        (path / "policy.pt").write_bytes(content)
    with pytest.raises(Damaged) as caught:
        load(worse)
    text = str(caught.value)
    assert f"checkpoint {worse} is damaged: policy.pt does not match its sha256" in text
    assert f"The newest good one is {good}: python run.py --resume {good}" in text
    (good / "policy.pt").unlink()
    with pytest.raises(Damaged, match="There is no other good one"):
        load(worse)


def test_a_changed_manifest_is_damage(tmp_path: Path) -> None:
    """Guard: seen failing with the manifest's own checksum not compared: another seed would resume silently."""
    path = save(tmp_path, 1, some_parts(), MANIFEST)
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 3'))
    with pytest.raises(Damaged, match=r"manifest\.json does not match its checksum"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("policy.pt", b"", "policy.pt has 0 bytes, not"),
        ("policy.pt", b"hello", "policy.pt has 5 bytes, not"),
        ("policy.pt", None, "policy.pt is missing"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b"", "manifest.json is not JSON"),
        ("manifest.json", b"\xff\xfe", "manifest.json is not JSON"),
        ("manifest.json", b"[" * 100_000, "manifest.json is not JSON"),
        ("manifest.json", b"[]", "manifest.json does not match its checksum"),
        ("manifest.json", b'{"format": 1}', "manifest.json does not match its checksum"),
    ],
)
def test_kinds_of_damage(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    path = save(tmp_path, 1, some_parts(), MANIFEST)
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    with pytest.raises(Damaged) as caught:
        load(path)
    assert words in str(caught.value) and "is damaged" in str(caught.value)


def rewrite_manifest(path: Path, **changes: object) -> None:
    """A manifest that agrees with itself, as anyone can write one."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    manifest["checksum"] = checkpoint._checksum(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, 1, some_parts(), MANIFEST)
    rewrite_manifest(path, format=checkpoint.FORMAT + 2)
    with pytest.raises(UserError, match=f"format {checkpoint.FORMAT + 2}, this build reads up to {checkpoint.FORMAT}:"):
        load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../../elsewhere": {"sha256": "0", "bytes": 1}}},
        {"files": ["policy"]},
        {"files": {"policy": 3}},
        {"step": "1"},
        {"format": True},
        {"format": 0},
        {"versions": None},
    ],
)
def test_a_manifest_that_agrees_with_itself_is_still_checked(tmp_path: Path, changes: dict) -> None:
    path = save(tmp_path, 1, some_parts(), MANIFEST)
    rewrite_manifest(path, **changes)
    with pytest.raises(Damaged):
        load(path)


def test_a_tensor_of_a_gpu_loads_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: seen failing with `map_location` left out (torch refuses to deserialise on a CUDA device)."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = save(tmp_path, 1, some_parts(), MANIFEST)
    monkeypatch.undo()
    assert b"cuda:0" in (path / "policy.pt").read_bytes()
    assert same(load(path).parts, some_parts())


def test_pickle_of_another_kind_is_refused(tmp_path: Path) -> None:
    import hashlib

    path = save(tmp_path, 1, some_parts(), MANIFEST)
    content = pickle.dumps(Path("x"))
    (path / "policy.pt").write_bytes(content)
    files = json.loads((path / "manifest.json").read_text())["files"]
    files["policy"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite_manifest(path, files=files)
    with pytest.raises(UserError, match="checksum is right, but it holds something other than") as caught:
        load(path)
    assert "weights_only" not in str(caught.value)


def test_the_last_of_several_saves_at_one_step(tmp_path: Path) -> None:
    root = tmp_path / checkpoint.DIRECTORY
    for name in ("step_000000020", "step_000000020_2", "step_000000020_10", "step_000000200"):
        (root / name).mkdir(parents=True)
        (root / name / checkpoint.MANIFEST).write_text("{}")
    (root / "step_000000020_11").mkdir()  # incomplete: no manifest
    assert checkpoint.of_step(tmp_path, 20).name == "step_000000020_10"
    with pytest.raises(UserError, match=r"no checkpoint of step 2; it holds \['step_000000020', "):
        checkpoint.of_step(tmp_path, 2)
