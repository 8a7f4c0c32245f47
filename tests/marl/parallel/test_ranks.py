"""Several processes train what one trains: exchanges, both modes, checkpoints for any number of ranks, lost ranks.

Guard: seen failing with the rows of another rank's environments, with noise that is not cut, with gradients that are
summed, with a checkpoint of rank 0's replicas alone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks_child
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from whole_runs import StopAfter, config, differences, records, state

from envs.spec import AgentSpec, EnvSpec, Head, Route
from envs.streams import Stream
from marl import train
from marl.config.schema import Config, MADDPGConfig
from marl.data.batch import Transitions
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.parallel.data_mode import PartSource, PartStream, SplitUpdates
from marl.parallel.division import Division
from marl.parallel.ranks import Echo, Ranks, mapped, part_of
from marl.runs.checkpoint import DIRECTORY, load, newest

ROOT = Path(__file__).parents[3]
CHILD = ROOT / "tests" / "helpers" / "ranks_child.py"


# ------------------------------------------------------------------ launching
def start(task: str, out: Path, size: int = 2) -> list[subprocess.Popen[str]]:
    """The ranks of one of `ranks_child`'s tasks, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}
    return [
        subprocess.Popen(
            [sys.executable, str(CHILD), task, str(out)],
            env={**common, "RANK": str(rank)}, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(ranks: list[subprocess.Popen[str]], timeout: float = 120) -> list[tuple[int, str]]:
    """(exit code, standard error) of every rank."""
    try:
        return [(rank.wait(timeout), rank.communicate()[1]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def launch(task: str, out: Path, fails: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """What every rank found, and its standard error."""
    ended = finish(start(task, out))
    assert [code != 0 for code, _ in ended] == [fails, fails], ended
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(2)], [err for _, err in ended]


def close(one: Any, two: Any, tolerance: float = 2e-4) -> list[str]:
    """Places where two trees differ by more than rounding."""

    def rounded(tree: Any) -> Any:
        return mapped(tree, lambda x: torch.zeros(x.shape) if x.is_floating_point() else x)

    numbers: list[list[Tensor]] = [[], []]
    for tree, result in zip((one, two), numbers, strict=True):
        mapped(tree, result.append)
    far = [
        f"tensor {i}: {(a - b).abs().max().item():.2g} of {list(a.shape)}"
        for i, (a, b) in enumerate(zip(*numbers, strict=True))
        if a.is_floating_point() and not torch.allclose(a, b, atol=tolerance, rtol=tolerance, equal_nan=True)
    ]
    return far + differences(rounded(one), rounded(two))


def assert_close(one: Path, two: Path) -> None:
    """Every part of the checkpoint, every record and the final table agree up to rounding.

    Not to the last bit: of a tensor of another size torch computes other entries outside of its vector registers.
    """
    assert close(state(one), state(two)) == []
    results = [[*records(run), json.loads((run / "evaluation.json").read_text())] for run in (one, two)]
    numbers = [tree_leaves(result) for result in results]
    for a, b in zip(*numbers, strict=True):
        assert a == (b if not isinstance(b, float) else pytest.approx(b, rel=1e-3, abs=1e-3, nan_ok=True))


Done = tuple[Path, list[dict[str, Any]], list[str]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The runs of two ranks, the last of which fails, beside those of one process."""
    out = tmp_path_factory.mktemp("ranks")
    for name, settings, half in (("one", ranks_child.REPLICAS, "one"), ("data_one", ranks_child.DATA, "data_one")):
        train(config(out / f"{name}_whole", settings))
        train(config(out / half, settings), stop=StopAfter(23))
    return out, *launch("exchanges+refused+runs+fails", out, fails=True)


# ------------------------------------------------------------------ parts, in one process
@pytest.mark.parametrize(("count", "size"), [(4, 2), (5, 2), (3, 4), (32, 7)])
def test_shares_cover_everything_once(count: int, size: int) -> None:
    shares = Ranks(size=size).shares(count)
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_are_those_of_the_trained_replicas_or_an_equal_part_of_all() -> None:
    ranks = Ranks(rank=1, size=2)
    assert list(Division(ranks, 3).rows(4)) == list(range(4, 12))
    assert list(Division(ranks, 3, shared=True).rows(4)) == list(range(6, 12))
    assert list(Division(ranks, 3, shared=True).trained) == [0, 1, 2]


def test_a_state_is_cut_into_equal_parts_of_rows() -> None:
    state = {"x": torch.arange(12).view(6, 2), "scalar": torch.tensor(5), "rest": [1, "text", None, (2.0,)]}
    cut = part_of(state, range(1, 3), 3)
    assert torch.equal(cut["x"], state["x"][2:6]) and cut["rest"] == state["rest"] and int(cut["scalar"]) == 5
    with pytest.raises(AssertionError, match="6 rows, which are not 4 equal parts"):
        part_of(state, range(1), 4)


def test_alone_nothing_is_exchanged() -> None:
    ranks, state = Ranks(), {"x": torch.ones(3)}
    assert ranks.joined(state) is state and ranks.broadcast(lambda: 3) == 3 and ranks.poll_stop(True)
    assert ranks.mean(state["x"]) is state["x"] and ranks.collected([1]) == [1] and ranks.device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("error", "code"),
    [(SystemExit(), 0), (SystemExit(3), 3), (SystemExit("words"), 1), (UserError("no"), 2), (OSError(), 1)],
)
def test_every_end_of_rank_0_ends_the_others(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: seen failing with SystemExit(None) taken for a result, with its words for a number."""

    def work() -> None:
        raise error

    sent: list[Any] = []
    monkeypatch.setattr("marl.parallel.ranks.dist.broadcast_object_list", sent.append)
    with pytest.raises(type(error)):
        Ranks(size=2).broadcast(work)
    monkeypatch.setattr("marl.parallel.ranks.dist.broadcast_object_list", lambda box: box.__setitem__(1, sent[0][1]))
    with pytest.raises(Echo) as caught:
        Ranks(rank=1, size=2).broadcast(work)
    assert caught.value.exit_code == code


def test_gpus_are_those_of_the_local_rank() -> None:
    ranks = Ranks(rank=5, size=8, local_rank=1, local_size=4)
    assert ranks.device("cuda") == ranks.device("cuda:0") == "cuda:1" and ranks.device("cpu") == "cpu"


def test_part_streams_draw_the_whole_numbers_together() -> None:
    whole = Stream(3, "noise", range(2))
    parts = [PartStream(Stream(3, "noise", range(2)), Ranks(rank=r, size=3)) for r in range(3)]
    for shape in ((2, 6, 4, 5), (3, 2, 6, 4, 5), (2, 6, 4, 5)):
        own = (*shape[:-3], 2, *shape[-2:])
        assert torch.equal(torch.cat([part.gumbel(*own) for part in parts], -3), whole.gumbel(*shape))


# ------------------------------------------------------------------ data mode: the update
SPEC = EnvSpec(
    id="toy",
    agents=(
        AgentSpec("speaker_0", 2, (Head("message", 3),)),
        AgentSpec("listener_0", 5, (Head("move", 4), Head("message", 2))),
        AgentSpec("listener_1", 5, (Head("move", 4), Head("message", 2))),
    ),
    routes=(Route(sender=0, head=0, receiver=1, start=2, size=3),),
    teams=((0, 1), (2,)),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "matd3": {"twin_critics": True, "actor_delay": 2},
    "rao_blackwell": {"estimator": "rao_blackwell"},
    "exact": {"estimator": "exact"},
    "shared": {"share_actors": True, "team_reward": True},
    "current": {"other_actions": "current", "listening_bonus": 0.3},
    "argmax": {"target_action": "argmax", "independent_critics": True},
}


def filled(replicas: int = 2) -> Replay:
    replay, g = Replay(SPEC, 64, 16, Stream(0, "replay", range(replicas)), 0.9), torch.Generator().manual_seed(0)
    for _ in range(4):
        obs = torch.rand(4, replicas, 3, 16, 5, generator=g)
        choice = torch.zeros(replicas, 3, 16, 2, 4)
        choice[..., 0, 1] = 1
        none = torch.zeros(replicas, 3, 16, dtype=torch.bool)
        replay.add(Transitions(obs[0], obs[1], none[:, 0], choice.flatten(-2), obs[2, ..., 0], none, none, obs[3]))
    return replay


class Threads(Ranks):
    """Two ranks as two threads of this process."""

    def __init__(self, rank: int, meeting: threading.Barrier, desk: list[Any]) -> None:
        super().__init__(rank=rank, size=2)
        self._meeting, self._desk = meeting, desk

    def mean(self, x: Tensor) -> Tensor:
        self._desk[self.rank] = x
        self._meeting.wait(10)
        result = (self._desk[0] + self._desk[1]) / 2
        self._meeting.wait(10)
        return result


@pytest.mark.parametrize("name", OPTIONS)
def test_two_parts_of_a_batch_make_the_update_of_the_whole(name: str) -> None:
    settings = replace(MADDPGConfig(hidden=(16, 16), batch_size=32, actor_lr=0.01), **OPTIONS[name])
    meeting, desk = threading.Barrier(2), [None, None]

    def learner(ranks: Ranks | None = None) -> MADDPG:
        return MADDPG(SPEC, settings, 0, range(2), share=None if ranks is None else SplitUpdates(ranks))

    def updated(learner: MADDPG, source: Replay | PartSource) -> None:
        for k in range(20):
            learner.update(source.sample(32), k / 20)

    both = [Threads(rank, meeting, desk) for rank in range(2)]
    whole, parts = learner(), [learner(ranks) for ranks in both]
    whole.use("autograd", "so do those whose gradients are averaged")
    updated(whole, filled())
    threads = []
    for part, ranks in zip(parts, both, strict=True):
        threads.append(threading.Thread(target=updated, args=(part, PartSource(filled(), ranks))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert differences(parts[0].state_dict(), parts[1].state_dict()) == []
    assert close(parts[0].state_dict(), whole.state_dict(), 1e-4) == []
    assert whole.updates == 20 and differences(whole.state_dict()["networks"], learner().state_dict()["networks"])


# ------------------------------------------------------------------ two processes
def test_exchanges(done: Done) -> None:
    zero, one = done[1]
    assert zero["first"] == one["first"] == {"from": 0} and (zero["only"], one["only"]) == ("kept", None)
    assert (zero["error"], one["error"]) == ("said on rank 0", 2)
    for result in (zero, one):
        assert result["any"] == [True, False] and result["agreed"] == [False, True]
        assert result["collected"] == ["0a", "1a", "1b"]
        assert result["mean"].tolist() == [2.0, 4.0]
        assert result["rows"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    joined = zero["joined"]
    assert joined["a"].tolist() == [[0, 0, 0]] * 2 + [[1, 1, 1]] * 4  # the narrower part is padded
    assert joined["list"][0].tolist() == [False, True, True] and joined["list"][1] == 7 and joined["n"] == 1.5
    assert zero["cut"]["x"].tolist() == [[0, 1], [2, 3]] and len(one["cut"]["x"]) == 4
    assert one["cut"]["x"].tolist() == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert int(one["cut"]["scalar"]) == 5 and one["cut"]["flag"] is True and one["cut"]["none"] is None
    assert (zero["trained"], one["trained"]) == ([0], [1, 2])


def test_refusals_name_the_numbers_on_rank_0(done: Done) -> None:
    zero, one = done[1]
    assert "2 processes cannot share num_replicas 1" in zero["few"] and "--distributed data" in zero["few"]
    assert "maddpg.batch_size is 15, which is not a multiple of the 2 processes" in zero["odd"]
    assert "is not empty" in zero["full"] and one["full"] == 2


def test_replicas_train_as_in_one_process(done: Done) -> None:
    out, (zero, one), _ = done
    assert_close(out / "one_whole", out / "replicas")
    assert len(records(out / "replicas")) > 10 and zero["whole"] == one["whole"]


def test_a_checkpoint_of_two_ranks_resumes_in_one(done: Done) -> None:
    out, (zero, _), _ = done
    step, evaluation = zero["stopped"]
    assert 36 <= step < 240 and evaluation is None  # rank 0 alone was asked to stop
    train(config(out / "stopped", ranks_child.REPLICAS), resume=newest(out / "stopped" / DIRECTORY))
    assert_close(out / "one_whole", out / "stopped")


def test_a_checkpoint_of_one_resumes_in_two_ranks(done: Done) -> None:
    assert_close(done[0] / "one_whole", done[0] / "one")


def test_data_mode_is_the_run_of_one_process(done: Done) -> None:
    assert_close(done[0] / "data_one_whole", done[0] / "data")


def test_data_mode_resumes_in_any_number_of_ranks(done: Done) -> None:
    out, (zero, _), _ = done
    assert zero["data_stopped"] < 240
    train(config(out / "data_stopped", ranks_child.DATA), resume=newest(out / "data_stopped" / DIRECTORY))
    for name in ("data_stopped", "data_one"):
        assert_close(out / "data_one_whole", out / name)


def test_division_refuses_in_python_too() -> None:
    with pytest.raises(UserError, match=r"num_replicas \* num_envs is 3, which is not a multiple of the 2"):
        Division.of(Config(num_envs=3, distributed="data"), Ranks(size=2))


# ------------------------------------------------------------------ lost ranks
def test_a_rank_that_fails_ends_all_with_its_words(done: Done) -> None:
    out, _, (output, own) = done
    assert "rank 1 failed: the gradient is not finite (this is rank 0)" in output
    assert "RunFailed: the gradient is not finite" in own
    good = newest(out / "fails" / DIRECTORY)
    assert good is not None and len(load(good).parts["policy"]["actor"]) == 3


@pytest.mark.fault
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_other(tmp_path: Path, victim: int) -> None:
    ranks = start("fails", tmp_path)
    other = ranks[1 - victim]
    while newest(tmp_path / "fails" / DIRECTORY) is None:
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.01)
    ranks[victim].kill()
    began = time.monotonic()
    assert other.wait(30) != 0 and time.monotonic() - began < 20
    assert "has lost another rank" in other.communicate()[1] or victim == 0
    ranks[victim].communicate()
    load(newest(tmp_path / "fails" / DIRECTORY) or tmp_path)


@pytest.mark.fault
def test_a_rank_that_hangs_counts_as_lost(tmp_path: Path) -> None:
    ranks = start("hangs", tmp_path)
    try:
        assert ranks[0].wait(60) != 0
        assert "hangs for more than 5 s" in ranks[0].communicate()[1]
    finally:
        ranks[1].kill()
        ranks[1].communicate()


@pytest.mark.fault
@pytest.mark.parametrize("name", ranks_child.MORE)
def test_more_runs_are_those_of_one_process(more: Path, tmp_path: Path, name: str) -> None:
    train(config(tmp_path / name, ranks_child.MORE[name]))
    assert_close(tmp_path / name, more / name)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("more")
    launch("more_runs", out)
    return out
