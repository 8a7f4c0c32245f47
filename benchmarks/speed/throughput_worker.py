"""One contender of `benchmarks/speed/throughput.py`, in a process and, where need be, a virtual environment of its own.

    PYTHON benchmarks/speed/throughput_worker.py CONTENDER [CORE]

Reads requests from stdin, one JSON object a line: {"task": ..., "envs": E, "seconds": time to fill}; answers each with
{"steps": environment steps played, "cpu": processor time of all threads, "wall": time that passed} or {"error": ...}.
What a request needs first (construction, compilation, a warm-up of two rounds) is done once and not timed. A round
plays whole episodes of 25 steps with uniformly random actions that were drawn beforehand; every step computes all
observations and rewards, and resets are part of it. Only the contender's own packages are imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

HORIZON = 25
Round = Callable[[], int]  # plays a round and returns its environment steps


def project(task: str, count: int, compiled: bool = False) -> Round:
    """Our port, eager or through torch.compile."""
    import torch

    import envs

    torch.set_num_threads(1)
    env = envs.make(task, num_envs=count)
    if compiled:
        torch._dynamo.config.cache_size_limit = 64
        env.compile()
    generator = torch.Generator().manual_seed(0)
    sizes = env.spec.head_mask.sum(2).clamp(min=1)[:, None]
    shape = (HORIZON, env.spec.num_agents, count, env.spec.num_heads)
    ring = list((torch.rand(shape, generator=generator) * sizes).long())

    def play() -> int:
        for actions in ring:
            env.step(actions)
        return HORIZON * count

    return play


def project_compiled(task: str, count: int) -> Round:
    return project(task, count, compiled=True)


def mpe2(task: str, count: int) -> Round:
    """The original, one environment after another."""
    import importlib

    import numpy as np

    versions = {"simple_speaker_listener": "v4"}
    module = importlib.import_module(f"mpe2.{task}_{versions.get(task, 'v3')}")
    members = [module.parallel_env() for _ in range(count)]
    rng = np.random.default_rng(0)
    names = members[0].possible_agents
    sizes = [int(members[0].action_space(name).n) for name in names]
    ring = [dict(zip(names, map(int, rng.integers(sizes)), strict=True)) for _ in range(HORIZON * count)]

    def play() -> int:
        for index, member in enumerate(members):
            member.reset()
            for actions in ring[HORIZON * index : HORIZON * (index + 1)]:
                member.step(actions)
        return HORIZON * count

    return play


def jaxmarl(task: str, count: int) -> Round:
    """JaxMARL's environments under vmap and scan, as its own training scripts run them; resets are automatic. The
    observations stand in the carry of the scan, so that they are computed in full."""
    import jax
    import jax.numpy as jnp
    import jaxmarl as library

    env = library.make(f"MPE_{task}_{'v4' if 'listener' in task else 'v3'}", action_type="Discrete")
    length = HORIZON * max(1, min(40, 4000 // count))  # few environments: more steps a call, so that calls cost little
    key = jax.random.PRNGKey(0)
    ring = {
        name: jax.random.randint(jax.random.fold_in(key, n), (length, count), 0, env.action_space(name).n)
        for n, name in enumerate(env.agents)
    }

    def step(carry: Any, actions: Any) -> Any:
        key, state, _, total = carry
        key, key_step = jax.random.split(key)
        obs, state, reward, _, _ = jax.vmap(env.step)(jax.random.split(key_step, count), state, actions)
        return (key, state, obs, total + jnp.stack(list(reward.values())).sum()), None

    @jax.jit
    def roll(carry: Any) -> Any:
        return jax.lax.scan(step, carry, ring)[0]

    obs, state = jax.vmap(env.reset)(jax.random.split(key, count))
    carry = (key, state, obs, jnp.zeros(()))

    def play() -> int:
        nonlocal carry
        carry = jax.block_until_ready(roll(carry))
        return length * count

    return play


def vmas(task: str, count: int, continuous: bool = False) -> Round:
    """VMAS's environments of the same names, other dynamics; all reset together after 25 steps."""
    import torch
    from vmas import make_env

    torch.set_num_threads(1)
    env = make_env(task, num_envs=count, device="cpu", continuous_actions=continuous, max_steps=HORIZON, seed=0)
    ring = [env.get_random_actions() for _ in range(HORIZON)]

    def play() -> int:
        for actions in ring:
            env.step(actions)
        env.reset()
        return HORIZON * count

    return play


def vmas_continuous(task: str, count: int) -> Round:
    """With VMAS's default actions, which are no discrete choices and cost it less to decode."""
    return vmas(task, count, continuous=True)


CONTENDERS = {
    "project": project,
    "project_compiled": project_compiled,
    "mpe2": mpe2,
    "jaxmarl": jaxmarl,
    "vmas": vmas,
    "vmas_continuous": vmas_continuous,
}


def measure(play: Round, seconds: float) -> dict[str, float]:
    """Rounds until `seconds` are filled, at least one."""
    steps, start, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        steps += play()
        wall = time.perf_counter() - start
        if wall >= seconds:
            return {"steps": steps, "cpu": time.process_time() - cpu, "wall": wall}


def main() -> None:
    """Serve requests until stdin ends."""
    name = sys.argv[1]
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {int(sys.argv[2])})  # before any library makes threads
    answers = os.fdopen(os.dup(1), "w")  # libraries may greet on stdout
    os.dup2(2, 1)
    rounds: dict[tuple[str, int], Round] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = (request["task"], request["envs"])
        try:
            if key not in rounds:
                rounds.clear()  # one at a time: memory
                rounds[key] = CONTENDERS[name](*key)
                rounds[key]()
                rounds[key]()
            answer: dict[str, Any] = measure(rounds[key], request["seconds"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
