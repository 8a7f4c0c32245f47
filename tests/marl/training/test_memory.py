"""Pictures that are too large to be flattened are refused with the call that shrinks them; memory is named by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strange_envs
import torch
from gymnasium import spaces
from whole_runs import config

import envs
from envs.commands import explain
from envs.pettingzoo.env import PettingZooEnv
from marl import train
from marl.data.replay import Replay
from marl.data.windows import WindowReplay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.training.memory import named, parts, refuse_pictures


class Camera(strange_envs.Strange):
    """A picture beside a number."""

    shape = (200, 120, 3)

    def see_space(self, name: str) -> spaces.Space:
        picture = spaces.Box(0, 255, self.shape, np.uint8)
        return spaces.Dict({"camera": spaces.Tuple((picture, spaces.Discrete(2))), "door": spaces.Discrete(3)})

    def see(self, name: str) -> Any:
        return {"camera": (np.zeros(self.shape, np.uint8), 1), "door": self.door}


class Vector(Camera):
    """As many numbers, but no picture."""

    shape = (72_000,)  # type: ignore[assignment]


def test_a_large_picture_is_refused_with_the_call_that_shrinks_it() -> None:
    env = PettingZooEnv(make=Camera)
    assert env.reader.pictures() == {"left": (200, 120, 3), "right": (200, 120, 3)}
    with pytest.raises(UserError, match=r"'left' observes an image of 200 x 120 x 3 .* 72,000 numbers") as refused:
        refuse_pictures(env, config(Path("none")))
    text = str(refused.value)
    assert "supersuit.resize_v1(supersuit.color_reduction_v0(env" in text and "--flatten-pictures" in text
    refuse_pictures(env, config(Path("none"), {"flatten_pictures": True}))
    for fine in (Vector, strange_envs.Images):
        refuse_pictures(PettingZooEnv(make=fine), config(Path("none")))
    refuse_pictures(envs.make("simple_spread"), config(Path("none")))


def test_a_run_refuses_it_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    seen = {"env": "test_memory:Camera", "backend": "pettingzoo", "total_steps": 40, "num_envs": 2}
    with pytest.raises(UserError, match="image of 200 x 120 x 3"):
        train(config(tmp_path / "run", seen))
    assert train(config(tmp_path / "on", {**seen, "flatten_pictures": True})).step == 40


def test_parts_are_those_that_are_allocated() -> None:
    """The replay to the byte; networks with their targets, gradients and both moments."""
    chosen = config(Path("none"), {"env": "simple_speaker_listener", "maddpg.twin_critics": True})
    spec = envs.make("simple_speaker_listener").spec
    sizes = parts(chosen, spec, 3)
    learner = MADDPG(spec, chosen.maddpg, 0, range(3), "cpu")
    kept = chosen.total_steps + chosen.num_envs
    replay = Replay(spec, kept, chosen.num_envs, envs.streams.Stream(0, "replay", range(3)), 0.95)
    byte = {name.split(" (")[0]: size for name, size in sizes.items()}
    assert byte["replay"] == replay.data_SCD.nbytes
    assert byte["networks"] == 5 * (learner.actor.mlp.flat.nbytes + learner.critic.mlp.flat.nbytes)
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)


def test_parts_of_recurrent_networks_are_those_that_are_allocated() -> None:
    settings = {"env": "simple_spread", "maddpg.twin_critics": True, "maddpg.recurrent": True, "maddpg.hidden": (7, 5)}
    chosen = config(Path("none"), settings)
    spec = envs.make("simple_spread").spec.stacked(1, own_action=True)
    sizes = {name.split(" (")[0]: size for name, size in parts(chosen, spec, 3).items()}
    learner = RecurrentMADDPG(spec, chosen.maddpg, 0, range(3), "cpu")
    kept, stream = chosen.total_steps + chosen.num_envs, envs.streams.Stream(0, "replay", range(3))
    replay = WindowReplay(spec, kept, chosen.num_envs, stream, 0.95, 16, 8, learner.memory_shape)
    assert sizes["replay"] == replay.data_SCD.nbytes
    assert sizes["networks"] == 5 * (learner.actor.mlp.flat.nbytes + learner.critic.mlp.flat.nbytes)


@pytest.mark.parametrize("shared", [True, False])
def test_parts_of_factored_critics_are_those_that_are_allocated(shared: bool) -> None:
    settings = {
        "env": "simple_world_comm",
        "maddpg.twin_critics": True,
        "maddpg.critic": "factored",
        "maddpg.team_reward": True,
        "maddpg.share_actors": shared,
        "maddpg.hidden": (7, 5),
    }
    chosen, spec = config(Path("none"), settings), envs.make("simple_world_comm").spec
    sizes = {name.split(" (")[0]: size for name, size in parts(chosen, spec, 3).items()}
    learner = MADDPG(spec, chosen.maddpg, 0, range(3), "cpu")
    assert sizes["networks"] == 5 * (learner.actor.mlp.flat.nbytes + learner.critic.mlp.flat.nbytes)


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory.")])
def test_an_error_of_memory_names_the_largest_part_first(error: BaseException, capsys: Any) -> None:
    chosen = config(Path("none"), {"total_steps": 10**7, "replay.capacity": 10**7})
    spec = envs.make("simple_spread").spec
    with pytest.raises(type(error)) as raised, named(chosen, spec, 1, on_cpu=False):
        raise error
    assert explain(raised.value, smaller="Smaller.") == 2
    text = capsys.readouterr().err
    assert "The run needs about " in text and text.index("GB replay (10,000,000 transitions") < text.index("Smaller.")


def test_what_no_memory_holds_is_refused_before(capsys: Any) -> None:
    chosen = config(Path("none"), {"total_steps": 10**9, "replay.capacity": 10**9})
    with pytest.raises(MemoryError) as raised, named(chosen, envs.make("simple_spread").spec, 1, on_cpu=True):
        pytest.fail("went on")
    assert explain(raised.value) == 2
    text = capsys.readouterr().err
    assert "out of memory (tried to allocate" in text and "GB exist)" in text and "GB replay" in text
