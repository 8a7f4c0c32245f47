"""What recurrent learners learn, and that every option of the learner reaches them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_learner import OPTIONS

from envs import probes
from envs.history import History
from envs.streams import Stream
from marl.config.schema import Config, MADDPGConfig
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.data.windows import WindowReplay
from marl.learner.diagnostics.diagnose import diagnose
from marl.learner.maddpg import MADDPG
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.play.policy import Policy

QUICK = MADDPGConfig(
    hidden=(32,), actor_lr=1e-2, critic_lr=1e-2, tau=0.05, lr_final=1.0, gamma=0.9, recurrent=True, window=8, burn_in=4
)


def trained(name: str, config: MADDPGConfig, rounds: int, batch: int = 128, replicas: int = 1) -> MADDPG:
    """After so many joint steps of 16 environments per replica, with an update each."""
    env: Any = probes.make(name, num_envs=16 * replicas)
    stream = Stream(1, "replay", range(replicas))
    learner: MADDPG
    if config.recurrent:
        env = History(env, config.frames, own_action=True)
        learner = RecurrentMADDPG(env.spec, config, 1, range(replicas))
        replay: Replay = WindowReplay(
            env.spec, 4096, 16, stream, config.gamma, config.window, config.burn_in, learner.memory_shape
        )
    else:
        learner = MADDPG(env.spec, config, 1, range(replicas))
        replay = Replay(env.spec, 4096, 16, stream, config.gamma, config.n_step)
    env.reset(seed=1)
    memory = learner.memory(16)
    collector = Collector(env, learner.act if memory is None else memory.act, replicas, memory)
    for step in range(rounds):
        replay.add(collector.collect()[0])
        if step > 12:
            learner.update(replay.sample(batch))
    return learner


def returned(name: str, learner: MADDPG, replica: int = 0) -> tuple[float, torch.Tensor]:
    """Mean return of the greedy policy in 300 episodes, and what was drawn in them."""
    env = probes.make(name, num_envs=300)
    policy = Policy(learner.spec, Config(maddpg=learner.config), learner.actor.mlp.flat[replica])
    policy.reset(300)
    obs, total = env.reset(5), 0.0
    drawn = env._drawn[:, 0]
    for _ in range(env.rules.length):
        step = env.step(env.encode_actions(policy.act({n: x.numpy() for n, x in env.split_obs(obs).items()})))
        total, obs = total + float(step.reward.mean()), step.obs
    return total, drawn


def test_only_memory_solves_recall() -> None:
    """Without it the last step's choice is the same whatever the sign was; with it every sign is named."""
    total, drawn = returned("recall", trained("recall", replace(QUICK, recurrent=False), 300))
    shares = [float((drawn == sign).float().mean()) for sign in range(3)]
    assert min(abs(total - share) for share in shares) < 1e-6 and max(shares) < 0.4
    learner = trained("recall", QUICK, 300)
    assert returned("recall", learner)[0] == pytest.approx(1.0)


SMALL = replace(QUICK, hidden=(8, 6), window=4, burn_in=2, n_step=1)
NO_USE = {
    "communication_correction",
    "lr_final",
    "share_actors",
    "team_reward",
    "temperature_final",
    "message_estimator",
}
MORE = [
    {"n_step": 3}, {"share_actors": True}, {"frames": 2}, {"window": 2}, {"burn_in": 0}, {"batch_size": 64},
]  # fmt: skip


ALLOWED = [options for options in OPTIONS if "critic" not in options]  # factored ones have no memory


@pytest.mark.parametrize("options", [*ALLOWED, *MORE], ids=str)
def test_every_option_reaches_recurrent_networks(options: dict[str, Any]) -> None:
    """Parameters differ from those of the defaults, but where the game has no use for an option."""
    config = replace(SMALL, **options)
    plain, changed = (
        trained("matching_game", c, 20, c.batch_size if "batch_size" in options else 32) for c in (SMALL, config)
    )
    flat = changed.actor.mlp.flat.detach(), changed.critic.mlp.flat.detach()
    assert all(bool(x.isfinite().all()) for x in flat)
    assert changed.path == "autograd, since networks are recurrent"
    same = all(
        x.shape == y.shape and torch.equal(x, y.detach())
        for x, y in zip(flat, (plain.actor.mlp.flat, plain.critic.mlp.flat), strict=True)
    )
    assert same == (not options or options.keys() <= NO_USE)


def test_the_estimator_is_diagnosed_behind_the_memory() -> None:
    learner = trained("matching_game", SMALL, 20)
    env = History(probes.make("matching_game", 16), 1, own_action=True)
    env.reset(seed=2)
    memory = learner.memory(16)
    collector = Collector(env, memory.act, 1, memory)
    replay = WindowReplay(env.spec, 4096, 16, Stream(1, "r", [0]), 0.9, 4, 2, learner.memory_shape)
    for _ in range(12):
        replay.add(collector.collect()[0])
    batch = replay.sample(128)
    logits, value = learner.looked_at(batch, 64)
    torch.testing.assert_close(logits, learner._logits(batch)[:, :, :64])
    whole = learner._own_action(batch, batch.joint)(batch.action)
    torch.testing.assert_close(value(batch.action[:, :, :64]), whole[:, :, :64])
    torch.testing.assert_close(whole, learner._values(batch)[:, 0])
    metrics = diagnose(learner, batch, 0.0, Stream(0, "noise", [0]))
    assert metrics and all(bool(x.isfinite().all()) for x in metrics.values())
