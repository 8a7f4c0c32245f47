"""What does DreamerV2's world model make of pictures? Frames of mpe2's own renderer, imagined against true.

    python -m benchmarks.world_model.pictures --env simple_speaker_listener [--episodes 40] [--updates 400] [--depth 16]

Random play is rendered to 64 x 64 pixels, most episodes train the model and the last few are held out. After `CONTEXT`
frames of a held-out episode the model goes on without pictures, with the actions that were taken. Beside its mean
squared error by steps ahead stands that of showing the last picture seen again, which any model must beat.

Written: benchmarks/results/world_model/pictures_ENV.json and .png (true above imagined, one episode a pair of rows).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from envs.pettingzoo.construct import parallel_env
from envs.pettingzoo.describe import describe_known
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.dreamer.image import image_model, picture, pixels
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.sequences import Sequences

RESULTS = Path(__file__).resolve().parents[1] / "results" / "world_model"
CONTEXT = 5  # frames that are seen before the model goes on alone
HELD_OUT, SHOWN = 4, 2  # episodes
SEQUENCES, WINDOW = 8, 12  # of an update, and frames of each


def rendered(env_id: str, episodes: int, steps: int, seed: int = 0) -> tuple[EnvSpec, Sequences]:
    """Random play as mpe2 draws it.

    Args:
        episodes, steps: how many, and of what length; all must last as long.
        seed: of the actions; episode i is reset with `seed + i`.

    Returns:
        What the environment is, and one replica's frames: `obs` [1, steps + 1, episodes, 3 * 64 * 64].
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env = parallel_env(env_id, render_mode="rgb_array")
    spec = describe_known(env_id, env)
    sizes = [head.size for agent in spec.agents for head in agent.heads]
    rng = np.random.default_rng(seed)
    obs = torch.zeros(1, steps + 1, episodes, 3 * 64 * 64)
    action = torch.zeros(1, steps + 1, episodes, sum(sizes))
    reward = torch.zeros(1, steps + 1, episodes, spec.num_agents)
    for e in range(episodes):
        env.reset(seed=seed + e)
        obs[0, 0, e] = pixels(env.render())
        for t in range(1, steps + 1):
            choices = [int(rng.integers(size)) for size in sizes]
            rewards = env.step(_actions(spec, choices))[1]
            obs[0, t, e] = pixels(env.render())
            action[0, t, e] = torch.cat([torch.eye(n)[c] for n, c in zip(sizes, choices, strict=True)])
            reward[0, t, e] = torch.tensor([rewards[name] for name in spec.agent_names])
    env.close()
    first = torch.zeros(1, steps + 1, episodes, dtype=torch.bool)
    first[:, 0] = True
    never = torch.zeros_like(first)
    return spec, Sequences(obs, action, reward, torch.ones_like(reward), first, never, ~never)


def _actions(spec: EnvSpec, choices: list[int]) -> dict[str, int]:
    """PettingZoo's ids of the choices of all heads, one agent after another: the first head counts fastest."""
    left, actions = list(choices), {}
    for agent in spec.agents:
        number, scale = 0, 1
        for head in agent.heads:
            number += scale * left.pop(0)
            scale *= head.size
        actions[agent.name] = number
    return actions


def part(seq: Sequences, episodes: slice | Tensor) -> Sequences:
    """Some of its episodes."""
    return Sequences(**{name: x[:, :, episodes] for name, x in vars(seq).items()})


def drawn(seq: Sequences, stream: Stream) -> Sequences:
    """Windows of `SEQUENCES` of its episodes, drawn with replacement, all of which begin at the same drawn frame."""
    frames, episodes = seq.first.shape[1:]
    chosen = (stream.uniform(SEQUENCES)[0] * episodes).long()
    start = int(stream.uniform(1)[0, 0] * (frames - WINDOW + 1))
    window = part(seq, chosen).select(slice(start, start + WINDOW))
    window.first[:, 0], window.action[:, 0] = True, 0.0
    return window


@torch.no_grad()
def imagined(model: DreamerModel, seq: Sequences, stream: Stream) -> Tensor:
    """Pictures [steps, episodes, J] that the model makes after the first `CONTEXT` frames, by the actions of `seq`."""
    state = model.observe(seq.select(slice(0, CONTEXT)), stream)
    frames, episodes = seq.first.shape[1:]
    rows = torch.arange((CONTEXT - 1) * episodes, CONTEXT * episodes)
    state = state.pick(rows[None])
    made = []
    for t in range(CONTEXT, frames):
        state, told = model.step(state, seq.action[:, t], stream.uniform(episodes, model.noise_size))
        made.append(told.obs[0])
    return torch.stack(made)


def measure(env_id: str, episodes: int, updates: int, depth: int, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """The record, and the picture of film strips, uint8 [height, width, 3]."""
    env = parallel_env(env_id)
    steps = int(env.unwrapped.max_cycles)
    spec, seq = rendered(env_id, episodes, steps, seed)
    train, held = part(seq, slice(0, episodes - HELD_OUT)), part(seq, slice(episodes - HELD_OUT, None))
    config = WorldModelConfig(kind="rssm", nx=1.0, nr=1.0, beta=0.1)
    model = image_model(spec, config, 0.95, Stream(seed, "pictures/init", [0]), depth)
    noise = Stream(seed, "pictures/noise", [0])
    began = time.perf_counter()
    for _ in range(updates):
        model.update(drawn(train, noise), noise)
    model.check()
    seconds = time.perf_counter() - began
    true = held.obs[0, CONTEXT:]
    made = imagined(model, held, noise)
    last = held.obs[0, CONTEXT - 1 : CONTEXT].expand_as(true)
    record = {
        "env": env_id,
        "episodes": episodes,
        "updates": updates,
        "depth": depth,
        "seed": seed,
        "seconds": round(seconds, 1),
        "error": (made - true).square().mean((1, 2)).tolist(),
        "error of the last picture": (last - true).square().mean((1, 2)).tolist(),
    }
    strips = []
    for e in range(min(SHOWN, HELD_OUT)):
        for rows in (true[:, e], made[:, e]):
            seen = [picture(x) for x in held.obs[0, :CONTEXT, e]]
            strips.append(np.concatenate([*seen, *(picture(x) for x in rows)][::2], 1))
    return record, np.concatenate(strips)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--depth", type=int, default=16, help="channels of the first convolution; the paper has 48")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.episodes < HELD_OUT + 1:
        raise SystemExit(
            f"--episodes {args.episodes}: expected at least {HELD_OUT + 1}, of which {HELD_OUT} are held out."
        )
    record, strips = measure(args.env, args.episodes, args.updates, args.depth, args.seed)
    from PIL import Image

    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strips).save(args.out / f"pictures_{args.env}.png")
    (args.out / f"pictures_{args.env}.json").write_text(json.dumps(record | {"machine": machine()}, indent=1) + "\n")
    for ahead in (1, 5, 10, 20):
        if ahead <= len(record["error"]):
            error, still = record["error"][ahead - 1], record["error of the last picture"][ahead - 1]
            print(f"{ahead:3d} steps ahead: squared error {error:.5f}; of the last picture {still:.5f}")


if __name__ == "__main__":
    main()
