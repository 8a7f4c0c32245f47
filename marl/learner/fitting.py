"""Settings that an environment leaves without effect: refused, or told."""

from __future__ import annotations

from envs.ids import names_function
from envs.spec import EnvSpec
from marl.config.schema import Config, MADDPGConfig
from marl.errors import UserError
from marl.learner.messages import LEARNERS
from marl.learner.spec_tensors import message_positions


def refuse_estimator(spec: EnvSpec, config: Config) -> None:
    """Refuse an estimator of messages where messages are heard, but no head position is one of messages alone.

    An estimator is chosen for all agents' heads at a position. Channels that learn messages otherwise have a use for
    the setting of their own, or a warning.

    Raises:
        UserError: names an agent that speaks and one that does something else with its head there.
    """
    wanted = config.maddpg.message_estimator
    if wanted is None or config.channel in LEARNERS or not spec.routes or any(message_positions(spec)):
        return
    route = spec.routes[0]
    other = next(
        agent for agent in spec.agents if len(agent.heads) > route.head and not agent.heads[route.head].is_message
    )
    raise UserError(
        f"maddpg.message_estimator {wanted} applies to no head of {spec.id}: head {route.head} is a message of "
        f"{spec.agents[route.sender].name} and {other.heads[route.head].name!r} of {other.name}, and one estimator "
        f"serves all heads at a position; expected maddpg.estimator, which then serves both."
    )


def idle_settings(config: Config, spec: EnvSpec) -> list[str]:
    """Warnings of settings for continuous heads, for messages or for agents that share where there are none, and of a
    curriculum that stays where it begins."""
    now, default = config.maddpg, MADDPGConfig()

    def changed(*names: str) -> str:
        return ", ".join(f"maddpg.{name}" for name in names if getattr(now, name) != getattr(default, name))

    numbers = changed("continuous", "exploration", "exploration_final", "smoothing")
    messages = changed("message_estimator", "signalling_bonus", "listening_bonus")
    warned = []
    if numbers and not spec.continuous:
        warned.append(f"warning: {numbers} has no effect: no action of {spec.id} is continuous.")
    if messages and not spec.routes:
        warned.append(f"warning: {messages} teaches nobody to speak: no agent of {spec.id} hears another.")
    if config.env_args.get("curriculum") and not names_function(config.env):
        warned.append(f"warning: curriculum of {spec.id} stays at its first stage: no training raises it.")
    if now.share_actors and len(set(spec.kinds)) == spec.num_agents > 1:
        agents = ", ".join(map(repr, spec.agent_names))
        warned.append(
            f"warning: maddpg.share_actors has no effect: no two of {agents} have the same team, sizes and name prefix."
        )
    return warned
