"""Whether a checkpoint belongs to the environment at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.spec import EnvSpec
from marl.config.schema import Config
from marl.errors import UserError


def check_spec(saved: Any, spec: EnvSpec, path: Path) -> None:
    """Refuse a checkpoint of another environment, even one of the same shapes.

    Args:
        saved: the checkpoint's `manifest["spec"]`.
        spec: of the environment at hand.
        path: the checkpoint, for the message.

    Raises:
        UserError: a table of what the checkpoint and the environment have, a line a difference.
    """
    try:
        theirs, ours = EnvSpec.from_dict(saved), spec
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"checkpoint {path} holds no environment specification that this build can read.") from None
    if theirs.to_dict() == ours.to_dict():
        return
    rows = [("", "checkpoint", "environment")]
    if theirs.agent_names != ours.agent_names:
        rows.append(("agents, in order", ", ".join(theirs.agent_names), ", ".join(ours.agent_names)))
    named = {agent.name: agent for agent in theirs.agents}
    for now in ours.agents:
        was = named.get(now.name)
        if was is not None:
            rows += _differences(f"{now.name}: ", _agent_row(was), _agent_row(now))
    rows += _differences("", _env_row(theirs), _env_row(ours))
    raise UserError(
        f"checkpoint {path} belongs to another environment:\n{_table(rows)}\n"
        f"Use the environment that it was trained in, with the same arguments."
    )


def check_networks(saved: Any, was: Config, spec: EnvSpec, config: Config, path: Path) -> None:
    """Refuse weights that do not fit the networks of a new run; its environment may be another one.

    Args:
        saved: the checkpoint's `manifest["spec"]`.
        was: its configuration.
        spec: of the environment at hand.
        config: of the new run, whose `from_parts` says what is wanted.
        path: the checkpoint, for the message.

    Raises:
        UserError: a table of the sizes that differ.
    """
    theirs = EnvSpec.from_dict(saved)
    rows = [("", "checkpoint", "this run")]
    if theirs.agent_names != spec.agent_names:
        rows.append(("agents, in order", ", ".join(theirs.agent_names), ", ".join(spec.agent_names)))
    named = {agent.name: agent for agent in theirs.agents}
    sizes = ("observation size", "action heads")
    for now in spec.agents:
        if now.name in named:
            one, other = _agent_row(named[now.name]), _agent_row(now)
            rows += _differences(f"{now.name}: ", {n: one[n] for n in sizes}, {n: other[n] for n in sizes})
    rows += _differences("", *({_SEEN: _env_row(one)[_SEEN]} for one in (theirs, spec)))
    names = (*_ACTOR_SIZES, *_CRITIC_SIZES) if config.from_parts == "all" else _ACTOR_SIZES
    rows += _differences("maddpg.", *({name: str(getattr(c.maddpg, name)) for name in names} for c in (was, config)))
    if config.maddpg.share_actors and theirs.kinds != spec.kinds:
        rows.append(("agents that share an actor", str(theirs.kinds), str(spec.kinds)))
    if was.num_replicas != 1 and was.num_replicas < config.num_replicas:
        rows.append(("replicas", str(was.num_replicas), str(config.num_replicas)))
    if len(rows) > 1:
        raise UserError(
            f"--from: the networks of {path} have other sizes than those of this run:\n{_table(rows)}\n"
            f"Make them the same{_actors_alone(rows, config)}."
        )


_SEEN = "observations at a time"
_ACTOR_SIZES = ("hidden", "layer_norm", "share_actors", "recurrent")
_CRITIC_SIZES = ("critic", "twin_critics", "independent_critics")


def _actors_alone(rows: list[tuple[str, str, str]], config: Config) -> str:
    """A hint where only critics differ."""
    critics = all(row[0].removeprefix("maddpg.") in _CRITIC_SIZES for row in rows[1:])
    return ", or take the actors alone with --from-parts actors" if critics and config.from_parts == "all" else ""


def _table(rows: list[tuple[str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _differences(prefix: str, was: dict[str, str], now: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(prefix + name, was[name], now[name]) for name in now if was[name] != now[name]]


def _agent_row(agent: Any) -> dict[str, str]:
    heads = " x ".join(
        f"{head.name}({head.size}{f' numbers in {list(head.low)} to {list(head.high)}' if head.continuous else ''})"
        for head in agent.heads
    )
    return {
        "observation size": f"{agent.obs_size}{' as a picture' if agent.picture else ''}",
        "action heads": heads,
        "multi-discrete": str(agent.multi_discrete),
        "first action id": str(agent.start),
        "actions are arrays": str(agent.box),
    }


def _env_row(spec: EnvSpec) -> dict[str, str]:
    routes = "; ".join(
        f"{route.sender}->{route.receiver} head {route.head} at {route.start}+{route.size}"
        f"{'' if route.exact else ' noisy'}{'' if route.meaning is None else f' of {list(route.meaning)}'}"
        for route in spec.routes
    )
    return {
        "environment": spec.id,
        "horizon": str(spec.horizon),
        "channels": routes or "none",
        "teams": str([list(team) for team in spec.teams]),
        "action masks": str(spec.has_masks),
        "agents stay": str(spec.fixed_agents),
        "made anew for every episode": str(spec.rebuild),
        _SEEN: f"{spec.frames}{' and the last action' if spec.own_action else ''}",
    }
