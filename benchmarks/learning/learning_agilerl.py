"""How soon AgileRL's MADDPG learns simple_speaker_listener, beside `benchmarks.learning`; needs a Python that has it.

    pip install agilerl peft transformers mpe2      (in a virtual environment of its own)
    VENV/bin/python benchmarks/learning/learning_agilerl.py --seconds 300 --seeds 0 1 2

The settings are those of its speaker-listener tutorial, without the population: 8 environments in processes of their
own, batch 128, a learning step every 100 environment steps, step sizes 1e-4 and 1e-3, Ornstein-Uhlenbeck noise. Its
own training function runs in slices; between two, with the clock stopped, its policy plays 200 episodes of `mpe2` in
evaluation mode. The threshold is that of `benchmarks.learning`: gain = (return + 15.37) / (15.37 - 7.46).

Written: benchmarks/results/learning/agilerl/seed<K>.json with return per agent, steps and seconds of every evaluation.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

RESULTS = Path(__file__).resolve().parents[1] / "results" / "learning" / "agilerl"
SETTINGS = {
    "batch_size": 128,
    "O_U_noise": True,
    "expl_noise": 0.1,
    "mean_noise": 0.0,
    "theta": 0.15,
    "dt": 0.01,
    "lr_actor": 1e-4,
    "lr_critic": 1e-3,
    "gamma": 0.95,
    "learn_step": 100,
    "tau": 0.01,
}
NETWORK = {"latent_dim": 64, "encoder_config": {"hidden_size": [64]}, "head_config": {"hidden_size": [64]}}
NUM_ENVS, MEMORY, SLICE = 8, 100_000, 10_000
EPISODES, EVALUATION_SEED = 200, 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, per seed (default 300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        record = learn(seed, options.seconds)
        (RESULTS / f"seed{seed}.json").write_text(json.dumps(record) + "\n")


def learn(seed: int, seconds: float) -> dict[str, Any]:
    """Train one agent for `seconds`; what it reached on the way."""
    import numpy as np
    import torch
    from agilerl.algorithms import MADDPG
    from agilerl.components.replay_buffer import ReplayBuffer
    from agilerl.training.train_multi_agent_off_policy import train_multi_agent_off_policy
    from agilerl.vector.pz_async_vec_env import AsyncPettingZooVecEnv
    from mpe2 import simple_speaker_listener_v4

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what its noise draws from

    def make() -> Any:
        return simple_speaker_listener_v4.parallel_env(continuous_actions=False)

    single = make()
    names = single.possible_agents
    agent = MADDPG(
        [single.observation_space(name) for name in names],
        [single.action_space(name) for name in names],
        agent_ids=list(names),
        vect_noise_dim=NUM_ENVS,
        net_config=NETWORK,
        **SETTINGS,
    )
    memory = ReplayBuffer(max_size=MEMORY)
    curve: dict[str, list[float]] = {"step": [], "seconds": [], "return": []}
    spent, steps = 0.0, 0
    while spent < seconds:
        env = AsyncPettingZooVecEnv([make for _ in range(NUM_ENVS)])  # the training function closes it
        env.reset(seed=seed + steps)
        steps += SLICE
        start = time.perf_counter()
        train_multi_agent_off_policy(
            env, "simple_speaker_listener_v4", "MADDPG", [agent], memory,
            max_steps=steps, evo_steps=SLICE, eval_steps=1, verbose=False,
        )  # fmt: skip
        spent += time.perf_counter() - start
        mean = evaluate(agent, single, names)
        for name, value in (("step", steps), ("seconds", round(spent, 1)), ("return", mean)):
            curve[name].append(value)
        print(f"seed {seed}: {steps} steps, {spent:.0f} s, return per agent {mean:.2f}", flush=True)
    return {"agilerl": version("agilerl"), "torch": torch.__version__, "machine": platform.processor(), **curve}


def evaluate(agent: Any, env: Any, names: Any) -> float:
    """Mean return per agent of the policy in evaluation mode."""
    agent.set_training_mode(False)
    total = 0.0
    for episode in range(EPISODES):
        observations, infos = env.reset(seed=EVALUATION_SEED + episode)
        while env.agents:
            actions, _ = agent.get_action(obs=observations, infos=infos)
            chosen = {name: int(actions[name].reshape(-1)[0]) for name in names}
            observations, rewards, _, _, infos = env.step(chosen)
            total += sum(rewards.values()) / len(names)
    agent.set_training_mode(True)
    return total / EPISODES


if __name__ == "__main__":
    main()
