"""What `third_party.py` does in the environments' own Python: plays a policy by hand, and steps an environment alone.

    python -m benchmarks.reliability.third_party_play run FLAG ...      run.py, its rates per second of the processor
    python -m benchmarks.reliability.third_party_play policy RUN ENV    the loop of the README, on seeds 0 and 1
    python -m benchmarks.reliability.third_party_play alone ENV         random allowed actions: steps a second
    python -m benchmarks.reliability.third_party_play versions NAME ...

All but the first print one JSON object as their last line. Seconds are the processor's, of one thread: what else a
machine does makes no difference.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import numpy as np

SEEDS = (0, 1)
_SECONDS = 1.5


def trained(*flags: str) -> int:
    """What run.py does; `time/steps_per_second` of its records is per second of the processor."""
    from marl.cli.launch import main
    from marl.training import journal

    journal.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    return main(flags)


def policy(run: str, env_id: str) -> dict[str, Any]:
    """Mean return of every agent under the greedy policy, with the environment's own dictionaries, and what
    `marl.evaluate` plays on the same seeds."""
    from envs.pettingzoo.construct import parallel_env
    from marl import Policy
    from marl.evaluate.returns import evaluate

    player = Policy.load(run)
    env = parallel_env(env_id)
    returns = dict.fromkeys(env.possible_agents, 0.0)
    for seed in SEEDS:
        if player.spec.rebuild:
            env = parallel_env(env_id)
        observations, infos = env.reset(seed=seed)
        player.reset(1)
        while env.agents:
            observations, rewards, _, _, infos = env.step(player(observations, infos))
            for name, reward in rewards.items():
                returns[name] += float(reward) / len(SEEDS)
    evaluated = evaluate(player, env_id, episodes=len(SEEDS), seed=SEEDS[0], spec=player.spec).returns
    return {"returns": returns, "evaluated": {name: one.mean for name, one in evaluated.items()}}


def alone(env_id: str) -> dict[str, Any]:
    """Joint steps a second with random allowed actions and nothing else, resets not counted."""
    from envs.pettingzoo.construct import parallel_env
    from envs.pettingzoo.trials.routes import random_action

    env, rng = parallel_env(env_id), np.random.default_rng(0)
    steps, seed, spent = 0, 0, 0.0
    until = time.process_time() + 10 * _SECONDS  # where resets take longer than steps
    while spent < _SECONDS and (not steps or time.process_time() < until):
        observations, infos = env.reset(seed=seed)
        while env.agents and spent < _SECONDS:
            actions = {
                name: random_action(env.action_space(name), _mask(observations[name], infos.get(name)), rng)
                for name in env.agents
            }
            began = time.process_time()
            observations, _, _, _, infos = env.step(actions)
            spent += time.process_time() - began
            steps += 1
        seed += 1
    return {"steps_per_second": steps / spent, "agents": len(env.possible_agents)}


def _mask(observation: Any, info: Any) -> Any:
    """Of the observation or the info; None where there is none, or where the agent waits for its turn."""
    given = observation if isinstance(observation, dict) and "action_mask" in observation else info or {}
    mask = given.get("action_mask")
    return mask if mask is not None and np.any(mask) else None


def versions(*names: str) -> dict[str, Any]:
    """{package: version}, None where it is not installed."""

    def one(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: one(name) for name in names}


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(trained(*sys.argv[2:]))
    print(json.dumps({"policy": policy, "alone": alone, "versions": versions}[sys.argv[1]](*sys.argv[2:])))
