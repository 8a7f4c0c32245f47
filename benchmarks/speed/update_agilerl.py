"""Times updates of AgileRL's MADDPG; `benchmarks.speed.update` starts this under a Python that has it.

    pip install agilerl peft transformers      (in a virtual environment of its own, torch of the same version)

Networks: encoder and head with one hidden layer of 64 and a latent of 64, the closest that AgileRL's come to 2 x 64.
Batches are drawn from its own replay buffer; eager, as it comes (its `torch_compiler` needs a C++ compiler).

Reads requests from stdin, one JSON object a line, and answers each with one:

    {"case": FILE}                        prepares (benchmarks/speed/update_cases.py); {"version", "parameters"}
    {"time": "AgileRL", "repeats": n}     {"seconds": [processor seconds of sixteen updates, ...]}
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

warnings.filterwarnings("ignore")

UPDATES = 16
STORED = 16384  # transitions; with fewer its buffer shuffles all of them for every batch


def made(case: dict[str, Any]) -> tuple[Callable[[], None], dict[str, int]]:
    """Sixteen updates as a function, and the parameters of the last agent's networks."""
    import numpy as np
    import torch
    from agilerl.algorithms.maddpg import MADDPG
    from agilerl.components.replay_buffer import ReplayBuffer
    from gymnasium.spaces import Box, Discrete
    from tensordict import TensorDict

    torch.set_num_threads(1)
    widths, actions, batch = case["observations"], case["actions"], case["rows"]
    names = [f"agent{n}_0" for n in range(len(widths))]  # names that differ before the last _: no shared networks
    agent = MADDPG(
        [Box(-np.inf, np.inf, (width,), np.float32) for width in widths],
        [Discrete(n) for n in actions],
        agent_ids=names,
        batch_size=batch,
        lr_actor=case["actor_lr"],
        lr_critic=case["critic_lr"],
        gamma=case["gamma"],
        tau=case["tau"],
        net_config={
            "latent_dim": 64,
            "encoder_config": {"hidden_size": [64]},
            "head_config": {"hidden_size": [64]},
        },
    )

    def per_agent(make: Callable[[int], Any]) -> Any:
        return TensorDict({name: make(n) for n, name in enumerate(names)}, batch_size=[STORED])

    chosen = [torch.nn.functional.one_hot(torch.randint(k, (STORED,)), k).float() for k in actions]
    buffer = ReplayBuffer(STORED)
    fields = {
        "obs": per_agent(lambda n: torch.randn(STORED, widths[n])),
        "action": per_agent(lambda n: chosen[n]),
        "reward": per_agent(lambda n: torch.randn(STORED, 1)),
        "next_obs": per_agent(lambda n: torch.randn(STORED, widths[n])),
        "done": per_agent(lambda n: torch.zeros(STORED, 1)),
    }
    buffer.add(TensorDict(fields, batch_size=[STORED]))

    def updates() -> None:
        for _ in range(UPDATES):
            agent.learn(buffer.sample(batch))

    sizes = {"actor": agent.actors[names[-1]], "critic": agent.critics[names[-1]]}
    return updates, {name: sum(p.numel() for p in network.parameters()) for name, network in sizes.items()}


def main() -> None:
    """Serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")  # libraries may greet on stdout
    os.dup2(2, 1)
    updates: Callable[[], None] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "case" in request:
                with open(request["case"]) as file:
                    updates, parameters = made(json.load(file))
                updates()
                answer: dict[str, Any] = {"version": f"agilerl {version('agilerl')}", "parameters": parameters}
            else:
                assert updates is not None, "a case must come first"
                seconds = []
                for _ in range(request["repeats"]):
                    start = time.process_time()
                    updates()
                    seconds.append(time.process_time() - start)
                answer = {"seconds": seconds}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
