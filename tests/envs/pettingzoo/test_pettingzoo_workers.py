"""Worker processes: the same numbers as in one process, and no worker outlives a fault, an interrupt or close()."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from toy_envs import Toy, actions_of, same_step

from envs import EnvFailure, UserError
from envs.pettingzoo.env import PettingZooEnv


def pids(env: PettingZooEnv) -> list[int]:
    return [process.pid for process in env._copies._processes]


def gone(numbers: list[int]) -> bool:
    """Reaped: not even a zombie is left."""
    return not any(os.path.exists(f"/proc/{number}") for number in numbers)


def zeros(env: PettingZooEnv) -> torch.Tensor:
    return torch.zeros(env.spec.num_agents, env.num_envs, env.spec.num_heads, dtype=torch.int64)


def test_workers_give_the_same_numbers_and_states():
    options = {"num_envs": 5, "rows": [4, 0, 7, 2, 9], "ragged": True, "deaths": {"a_1": 4}}
    here = PettingZooEnv("toy_envs:Toy", **options)
    there = PettingZooEnv("toy_envs:Toy", workers=2, **options)
    try:
        assert here.spec == there.spec
        assert torch.equal(here.reset(3), there.reset(3))
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            actions = actions_of(here, generator)
            same_step(here.step(actions), there.step(actions))
        state = here.state_dict()
        there.reset(4)
        there.load_state_dict(state)
        for _ in range(20):
            actions = actions_of(here, generator)
            same_step(here.step(actions), there.step(actions))
        workers = pids(there)
        assert len(workers) == 2 and not gone(workers)
    finally:
        there.close()
    there.close()
    assert gone(workers)
    with pytest.raises(UserError, match="closed"):
        there.step(zeros(there))


def test_a_worker_that_dies_is_named_with_its_copy():
    env = PettingZooEnv("toy_envs:Dying", num_envs=3, workers=2)
    workers = pids(env)
    seed = next(seed for seed in range(99) if [_odd(seed, row) for row in range(3)] == [False, False, True])
    env.reset(seed)
    env.step(zeros(env))
    env.step(zeros(env) + 1)
    with pytest.raises(EnvFailure, match=r"its worker process \d+ died with exit code -9") as caught:
        env.step(zeros(env) + 2)
    assert (caught.value.env_id, caught.value.row, caught.value.step) == ("toy_envs:Dying", 2, 2)
    assert caught.value.actions == {"a_0": 2, "a_1": 2} and caught.value.seed % 2
    assert gone(workers)
    env.close()


def _odd(seed: int, row: int) -> bool:
    from envs.pettingzoo.copies import episode_seed

    return bool(episode_seed(seed, row, 0) % 2)


def test_a_worker_that_hangs_is_stopped():
    env = PettingZooEnv("toy_envs:Hanging", num_envs=2, workers=1, worker_timeout=0.5)
    workers = pids(env)
    env.reset(0)
    env.step(zeros(env))
    env.step(zeros(env))
    with pytest.raises(EnvFailure, match=r"did not answer within 0.5 s") as caught:
        env.step(zeros(env) + 3)
    assert caught.value.row == 0 and caught.value.step == 2 and caught.value.actions == {"a_0": 3, "a_1": 3}
    assert gone(workers)


def test_a_fault_inside_a_worker_arrives_whole():
    env = PettingZooEnv("toy_envs:Exploding", num_envs=2, workers=1)
    workers = pids(env)
    env.reset(0)
    env.step(zeros(env))
    env.step(zeros(env))
    with pytest.raises(EnvFailure, match="step raised ZeroDivisionError: the sky fell") as caught:
        env.step(zeros(env) + 1)
    assert caught.value.row == 0 and caught.value.actions == {"a_0": 1, "a_1": 1}
    assert "toy_envs.py" in caught.value.trace
    assert gone(workers)


def test_an_interrupt_leaves_no_worker_behind():
    env = PettingZooEnv("toy_envs:Hanging", num_envs=1, workers=1)
    workers = pids(env)
    env.reset(0)
    env.step(zeros(env))
    env.step(zeros(env))
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        env.step(zeros(env))
    timer.join()
    assert gone(workers)


def test_ctrl_c_does_not_reach_the_workers():
    env = PettingZooEnv("toy_envs:Toy", num_envs=1, workers=1)
    try:
        env.reset(0)
        os.kill(pids(env)[0], signal.SIGINT)
        time.sleep(0.1)
        env.step(zeros(env))
    finally:
        env.close()


def test_workers_need_a_function_that_can_be_found():
    with pytest.raises(UserError, match=r"cannot be sent to worker processes.*top level of a module"):
        PettingZooEnv(make=lambda: Toy(), workers=1)


@pytest.mark.fault
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys, time\n"
        "from envs.pettingzoo import PettingZooEnv\n"
        "if __name__ == '__main__':\n"
        "    env = PettingZooEnv('toy_envs:Toy', num_envs=2, workers=2)\n"
        "    env.reset(0)\n"
        "    print(*(process.pid for process in env._copies._processes), flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = tmp_path / "parent.py"
    path.write_text(script)
    root = Path(__file__).resolve().parents[3]
    places = os.pathsep.join(map(str, (root, root / "tests" / "helpers")))
    parent = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": places}
    )
    with parent:
        workers = [int(number) for number in parent.stdout.readline().split()]
        assert len(workers) == 2 and not gone(workers)
        parent.kill()
    deadline = time.monotonic() + 10
    while not gone(workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(workers)
