"""A run of simple_crypto whose Alice and Bob speak a code that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from envs.mpe import catalogue
from envs.streams import Stream
from marl import train
from marl.config.schema import Config, MADDPGConfig
from marl.learner.networks.actor_critic import Actor
from marl.runs import checkpoint

Code = tuple[list[list[int]], list[list[int]]]  # say[secret][key] and read[key][symbol]
XOR: Code = ([[0, 1], [1, 0]], [[0, 1, 0, 0], [1, 0, 0, 0]])
PLAIN: Code = ([[2, 2], [3, 3]], [[0, 0, 0, 1]] * 2)
LEARNER = MADDPGConfig(
    hidden=(16,), batch_size=64, warmup_steps=100, actor_lr=1e-2, critic_lr=1e-2, gamma=0.5, updates_per_step=0.25,
    actor_lr_shares={"alice_0": 0.1}, estimator="exact", logit_penalty=0.03,
)  # fmt: skip


def cipher_run(path: Path, codes: list[Code], steps: int = 2400) -> Path:
    """A run with one replica for each code; Eve always says 0, and so does Bob before he has heard anything.

    Nobody trained for the `steps` that its configuration names: its actors were taught the codes.
    """
    config = Config(env="simple_crypto", total_steps=16, num_envs=16, num_replicas=len(codes), maddpg=LEARNER)
    config = replace(
        config,
        device="cpu",
        run_dir=str(path),
        evaluation=replace(config.evaluation, every=0, final_episodes=1),
        logging=replace(config.logging, progress=False, tensorboard=False, report=False),
    )
    train(config)
    saved = checkpoint.load(checkpoint.locate(path))
    parts = {**saved.parts, "policy": {"actor": _fitted(codes)}}
    manifest = {name: saved.manifest[name] for name in ("spec", "config", "reader") if name in saved.manifest}
    manifest["config"]["total_steps"] = steps
    checkpoint.save(path / checkpoint.DIRECTORY, steps, parts, manifest)
    return path


def _fitted(codes: list[Code]) -> torch.Tensor:
    """Parameters [S, G, P] of actors that were taught the codes, all of their rows."""
    spec = catalogue.describe("simple_crypto", catalogue.parallel_env("simple_crypto"))
    actor = Actor(spec, LEARNER.hidden, LEARNER.layer_norm, Stream(1, "taught", range(len(codes))))
    eve, bob, alice = (spec.agent_names.index(name) for name in ("eve_0", "bob_0", "alice_0"))
    shown = torch.eye(4)
    silent = torch.zeros(4)
    obs = torch.zeros(len(codes), 3, 10, 8)
    wanted = torch.zeros(len(codes), 3, 10, dtype=torch.int64)
    for s, (say, read) in enumerate(codes):
        for row in range(10):
            key, symbol = row % 2, row // 2  # symbol 4: nothing yet
            heard = silent if symbol == 4 else shown[symbol]
            obs[s, eve, row, :4] = heard
            obs[s, bob, row] = torch.cat([shown[key], heard])
            wanted[s, bob, row] = 0 if symbol == 4 else read[key][symbol]
            obs[s, alice, row] = torch.cat([shown[symbol % 2], shown[key]])
            wanted[s, alice, row] = say[symbol % 2][key]
    optimiser = torch.optim.Adam(actor.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        cross_entropy(actor(obs)[..., 0, :].flatten(0, 2), wanted.flatten()).backward()
        optimiser.step()
    assert torch.equal(actor(obs)[..., 0, :].argmax(-1), wanted)
    return actor.mlp.flat.detach()
