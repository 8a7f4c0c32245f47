"""What the page knows: the actors, real episodes to start from, the scores of others on them, and the dictionary.

The page steps the episodes itself (web/world.js); everything that it cannot know is written here, as plain data for
JSON. Positions are float64 as `mpe2` drew them, weights float32, so that the page plays the same episodes as `mpe2`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.conditions import Condition
from envs.mpe import catalogue
from marl.communication.measures.channels import channels_of, listen
from marl.config.schema import Config
from marl.errors import UserError
from marl.export.actors import EPS, Actor, actors
from marl.play.policy import Policy
from marl.play.rollout import play
from marl.scripted.by_name import scripted

DICTIONARY_EPISODES, DICTIONARY_SEED = 100, 1_000_000  # the same episodes as of the analysis
SCRIPTS = {"still": "noop", "silent": "silent", "oracle": "oracle"}
"""{name of a score on the page: the script that earns it}."""


@dataclass(frozen=True)
class Task:
    """What the page has to know of a task beyond its world."""

    sees: tuple[tuple[str, ...], ...]
    """Of every agent the pieces of its observation in order: "velocity", "landmarks" (relative), "colour" (of the
    landmark that it knows of), "heard"."""
    target: tuple[int | None, ...]
    """Of every agent who knows where it is to go; None: it goes nowhere."""
    power: int
    """A step costs the distance from the target to this power, in the mean over the agents."""


TASKS = {
    "simple_speaker_listener_v4": Task((("colour",), ("velocity", "landmarks", "heard")), (None, 0), 2),
    "simple_reference_v3": Task((("velocity", "landmarks", "colour", "heard"),) * 2, (1, 0), 1),
}


def plays(config: Config) -> bool:
    """Whether there is a page for the runs of a configuration: for their task with discrete moves, for actors that
    remember nothing, and for channels on which what is said arrives."""
    numbers = config.env_args.get("continuous_actions", False)
    arrives = Condition.of(config.channel, config.channel_noise) is None
    return catalogue.canonical_id(config.env) in TASKS and not _remembers(config) and not numbers and arrives


def _remembers(config: Config) -> bool:
    return config.maddpg.recurrent or config.maddpg.frames > 1


def content(policy: Policy, source: str, episodes: int, seed: int) -> dict[str, Any]:
    """Everything that the page is told.

    Args:
        policy: greedy, of one of `TASKS`, without memory.
        source: where it comes from, in words for the reader.
        episodes: how many, at least 1.
        seed: episode i is reset with `seed + i`.

    Returns:
        Plain data. Scores are returns per agent of every episode: {name: [...]}.

    Raises:
        UserError: another task, actors that remember, a channel on which something else arrives, or no episodes.
    """
    if policy.spec.id not in TASKS:
        raise UserError(
            f"there is no page for {policy.env_id}: a person can take part in simple_speaker_listener and "
            "simple_reference. Give a run of one of them."
        )
    if _remembers(policy.config):
        raise UserError(
            "the page plays actors that see one observation; these remember earlier ones. Give a run without "
            "--maddpg.recurrent and --maddpg.frames."
        )
    if policy.condition is not None:
        raise UserError(
            f"the page delivers what is said, and these agents were trained with --channel "
            f"{policy.config.channel_name}, under which something else arrives. Give a run without."
        )
    if policy.spec.continuous:
        raise UserError("the page steps discrete moves; these agents move by real numbers. Give a discrete run.")
    if episodes < 1 or seed < 0:
        raise UserError(f"--episodes must be at least 1 and --seed at least 0, got {episodes} and {seed}.")
    task = TASKS[policy.spec.id]
    players = {name: scripted(policy.env_id, script, spec=policy.spec) for name, script in SCRIPTS.items()}
    given: dict[str, Any] = {"env_args": policy.env_args, "spec": policy.spec}
    return {
        "task": policy.spec.id,
        "source": source,
        "steps": policy.spec.horizon,
        "power": task.power,
        "agents": [_agent(actor, task.sees[n]) for n, actor in enumerate(actors(policy))],
        "episodes": [_episode(policy, task, seed + i) for i in range(episodes)],
        "scores": {
            name: play(policy.env_id, player, episodes, seed, **given).returns.mean(1).tolist()
            for name, player in {**players, "agents": policy}.items()
        },
        "dictionary": _dictionary(policy),
    }


def _agent(actor: Actor, sees: tuple[str, ...]) -> dict[str, Any]:
    heads = {"message" if head.is_message else "move": head.size for head in actor.agent.heads}
    layers = [
        {"width": len(bias), "weight": _packed(weight), "bias": _packed(bias)} for weight, bias in actor.layers
    ]  # weight [inputs, width]
    return {
        "name": actor.agent.name,
        "heads": heads,
        "sees": list(sees),
        "actor": {"normalised": actor.layer_norm, "eps": EPS, "layers": layers},
    }


def _packed(values: np.ndarray) -> str:
    """Float32 numbers, the lowest byte first, in base64: a third of their size in digits, and exact."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _episode(policy: Policy, task: Task, seed: int) -> dict[str, Any]:
    """How the real environment starts the episode of a seed."""
    env = catalogue.parallel_env(policy.env_id, **policy.env_args)
    env.reset(seed=seed)
    world = env.unwrapped.world
    knows = [None if agent._goal_b is None else world.landmarks.index(agent.goal_b) for agent in world.agents]
    start = {
        "seed": seed,
        "agents": [agent.state.p_pos.tolist() for agent in world.agents],
        "landmarks": [landmark.state.p_pos.tolist() for landmark in world.landmarks],
        "colours": [landmark.color.tolist() for landmark in world.landmarks],
        "knows": knows,
        "target": [None if teller is None else knows[teller] for teller in task.target],
    }
    env.close()
    return start


def _dictionary(policy: Policy) -> dict[str, list[list[int]]]:
    """{speaker: [symbols][landmarks] how often a symbol was heard while there was that goal to tell}."""
    played = play(
        policy.env_id, policy, DICTIONARY_EPISODES, DICTIONARY_SEED,
        env_args=policy.env_args, spec=policy.spec, record=True,
    )  # fmt: skip
    tables = {}
    for channel in channels_of(policy.spec):
        heard = listen(policy.spec, channel, played)
        assert heard.meanings.values is not None, "both tasks declare what there is to tell"
        table = np.zeros((channel.symbols, len(heard.meanings.labels)), dtype=np.int64)
        np.add.at(table, (heard.sent[heard.valid], heard.meanings.values[heard.valid]), 1)
        tables[policy.spec.agent_names[channel.sender]] = table.tolist()
    return tables
