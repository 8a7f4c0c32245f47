"""Times updates of AgileRL's MADDPG on request; `benchmarks.speed.training` starts this under a Python that has it.

    pip install agilerl peft transformers      (in a virtual environment of its own)

Reads a number of updates from a line, writes the seconds of each as JSON. Networks: encoder and head with one hidden
layer of 64 and a latent of 64, the closest that AgileRL's networks come to 2 x 64. Sampling is not timed.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")


def main(batch: int) -> None:
    import numpy as np
    import torch
    from agilerl.algorithms.maddpg import MADDPG
    from gymnasium.spaces import Box, Discrete
    from tensordict import TensorDict

    torch.set_num_threads(1)
    names, widths, actions = ["speaker_0", "listener_0"], [3, 11], [3, 5]
    agent = MADDPG(
        [Box(-np.inf, np.inf, (width,), np.float32) for width in widths],
        [Discrete(n) for n in actions],
        agent_ids=names,
        batch_size=batch,
        net_config={
            "latent_dim": 64,
            "encoder_config": {"hidden_size": [64]},
            "head_config": {"hidden_size": [64]},
        },
    )

    def per_agent(make: object) -> TensorDict:
        return TensorDict({name: make(n) for n, name in enumerate(names)}, batch_size=[batch])  # type: ignore[operator]

    chosen = [torch.nn.functional.one_hot(torch.randint(k, (batch,)), k).float() for k in actions]
    experience = TensorDict(
        {
            "obs": per_agent(lambda n: torch.randn(batch, widths[n])),
            "action": per_agent(lambda n: chosen[n]),
            "reward": per_agent(lambda n: torch.randn(batch, 1)),
            "next_obs": per_agent(lambda n: torch.randn(batch, widths[n])),
            "done": per_agent(lambda n: torch.zeros(batch, 1)),
        },
        batch_size=[batch],
    )
    agent.learn(experience)
    sizes = {"actor": agent.actors[names[1]], "critic": agent.critics[names[1]]}
    ready = {name: sum(p.numel() for p in network.parameters()) for name, network in sizes.items()}
    print(json.dumps({"parameters": ready}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            agent.learn(experience)
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
