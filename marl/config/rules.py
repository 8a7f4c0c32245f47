"""Rules between settings, and what may change when a run is resumed: one list each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envs.ids import names_function
from marl.config.fields import flatten
from marl.config.schema import Config
from marl.config.world_model import FEW


@dataclass(frozen=True)
class Rule:
    """Something that must hold (or, for a warning, should hold) between settings."""

    names: tuple[str, ...]  # the settings concerned
    broken: Callable[[Config], bool]
    words: Callable[[Config], str]  # what is wrong and what was expected


_PERMUTED = ("gumbel", "rial", "noisy", "shuffled")  # channels of symbols that mean what agents make of them
_LEARNED = ("rial", "dial", "intent")  # channels that are ways to learn messages
_OF_MEMORY = ("maddpg.window", "maddpg.burn_in", "maddpg.prediction_loss")
_NOT_THROUGH = ("exact", "reinforce", "rao_blackwell")  # estimators that no gradient passes through to what was before


def _replaced(config: Config) -> dict[str, str]:
    """Settings of estimators that the loss through a world model cannot use."""
    named = {f"maddpg.{name}": getattr(config.maddpg, name) for name in ("estimator", "message_estimator")}
    return {name: value for name, value in named.items() if value in _NOT_THROUGH}


def _alone(config: Config) -> str | None:
    """What cannot be learned among partners of other replicas."""
    if config.maddpg.other_actions == "current":
        return "maddpg.other_actions current"
    if config.distributed == "data":
        return "distributed data"
    if config.channel in _LEARNED:
        return f"channel {config.channel}"
    return "maddpg.recurrent" if config.maddpg.recurrent else "world_model" if config.world_model else None


_DEVICE = re.compile(r"auto|cpu|cuda|cuda:\d{1,3}")

RULES: tuple[Rule, ...] = (
    Rule(
        ("maddpg.batch_size", "replay.capacity"),
        lambda c: c.maddpg.batch_size > c.replay.capacity,
        lambda c: (
            f"maddpg.batch_size {c.maddpg.batch_size} is more than replay.capacity {c.replay.capacity}; "
            f"expected a batch that fits into the replay"
        ),
    ),
    Rule(
        ("total_steps", "num_envs"),
        lambda c: c.total_steps < c.num_envs,
        lambda c: (
            f"total_steps {c.total_steps} is less than num_envs {c.num_envs}; "
            f"expected at least one step of every environment"
        ),
    ),
    Rule(
        ("replay.capacity", "num_envs"),
        lambda c: c.replay.capacity < c.num_envs,
        lambda c: (
            f"replay.capacity {c.replay.capacity} is less than num_envs {c.num_envs}; "
            f"expected room for one step of every environment"
        ),
    ),
    Rule(
        ("workers", "num_replicas", "num_envs"),
        lambda c: c.workers > c.num_replicas * c.num_envs,
        lambda c: f"workers {c.workers} is more than the {c.num_replicas * c.num_envs} environments of all replicas",
    ),
    Rule(
        ("workers", "backend"),
        lambda c: c.workers > 0 and c.backend == "torch",
        lambda c: f"workers {c.workers} needs backend pettingzoo; expected workers 0 with backend torch",
    ),
    Rule(
        ("rebuild", "env"),
        lambda c: c.rebuild and not names_function(c.env),
        lambda c: f"rebuild has no use for {c.env!r}, since MPE's tasks carry nothing over; expected rebuild false",
    ),
    Rule(
        ("env", "backend"),
        lambda c: names_function(c.env) and c.backend == "torch",
        lambda c: f"backend torch has MPE's tasks only; expected backend pettingzoo for {c.env!r}",
    ),
    Rule(
        ("maddpg.frames", "world_model"),
        lambda c: c.maddpg.frames > 1 and c.world_model,
        lambda c: (
            f"maddpg.frames {c.maddpg.frames} and world_model exclude each other; the model predicts one "
            f"observation, expected frames 1 with it"
        ),
    ),
    Rule(
        ("wm.observation", "wm.kind"),
        lambda c: c.wm.observation == "image" and c.wm.kind != "rssm",
        lambda c: f"wm.observation image needs wm.kind rssm, got {c.wm.kind}; the other models predict vectors",
    ),
    Rule(
        ("wm.through_horizon", "maddpg.recurrent"),
        lambda c: c.maddpg.recurrent and c.world_model and not c.wm.size("through_horizon"),
        lambda c: (
            "wm.through_horizon 0 leaves maddpg.recurrent nothing to learn from a world model, since its batches, "
            "windows of many steps, are not imagined; expected at least 1"
        ),
    ),
    Rule(
        ("maddpg.recurrent", "maddpg.hidden"),
        lambda c: c.maddpg.recurrent and not c.maddpg.hidden,
        lambda c: "maddpg.recurrent needs a hidden layer to read its GRU; expected at least one width in maddpg.hidden",
    ),
    Rule(
        ("maddpg.critic", "maddpg.independent_critics"),
        lambda c: c.maddpg.critic == "factored" and c.maddpg.independent_critics,
        lambda c: (
            "maddpg.critic factored adds up what all agents of a team see, of whom maddpg.independent_critics see one; "
            "expected one of the two"
        ),
    ),
    Rule(
        ("maddpg.critic", "maddpg.team_reward"),
        lambda c: c.maddpg.critic == "factored" and not c.maddpg.team_reward,
        lambda c: "maddpg.critic factored is the value of a team's reward; expected maddpg.team_reward true with it",
    ),
    Rule(
        ("maddpg.critic", "maddpg.recurrent"),
        lambda c: c.maddpg.critic == "factored" and c.maddpg.recurrent,
        lambda c: "maddpg.critic factored has no memory; expected maddpg.critic joint with maddpg.recurrent",
    ),
    Rule(
        ("maddpg.recurrent", "distributed"),
        lambda c: c.maddpg.recurrent and c.distributed == "data",
        lambda c: (
            "distributed data splits single transitions and cannot split the windows of maddpg.recurrent; expected "
            "distributed replicas"
        ),
    ),
    Rule(
        ("maddpg.recurrent", "maddpg.batch_size", "maddpg.window"),
        lambda c: c.maddpg.recurrent and c.maddpg.batch_size < c.maddpg.window,
        lambda c: (
            f"maddpg.batch_size {c.maddpg.batch_size} is less than maddpg.window {c.maddpg.window}; "
            f"expected room for at least one window"
        ),
    ),
    Rule(
        ("maddpg.recurrent", "maddpg.n_step", "maddpg.window"),
        lambda c: c.maddpg.recurrent and c.maddpg.n_step > c.maddpg.window,
        lambda c: (
            f"maddpg.n_step {c.maddpg.n_step} is more than maddpg.window {c.maddpg.window}, where its sums end; "
            f"expected at most the window"
        ),
    ),
    Rule(
        ("maddpg.recurrent", "replay.capacity", "num_envs", "maddpg.window", "maddpg.burn_in"),
        lambda c: c.maddpg.recurrent and c.replay.capacity < c.maddpg.lead * c.num_envs,
        lambda c: (
            f"replay.capacity {c.replay.capacity} holds no window of maddpg.burn_in {c.maddpg.burn_in} + maddpg.window "
            f"{c.maddpg.window} steps of num_envs {c.num_envs}; expected at least {c.maddpg.lead * c.num_envs}"
        ),
    ),
    Rule(
        ("channel", "num_envs"),
        lambda c: c.channel == "shuffled" and c.num_envs < 2,
        lambda c: (
            "channel shuffled lets a message arrive in another environment of the replica; expected num_envs of at "
            "least 2"
        ),
    ),
    Rule(
        ("channel", "distributed"),
        lambda c: c.channel == "shuffled" and c.distributed == "data",
        lambda c: (
            "distributed data splits the environments of a replica, among which channel shuffled shuffles; expected "
            "distributed replicas"
        ),
    ),
    Rule(
        ("channel", "maddpg.recurrent"),
        lambda c: c.channel in _LEARNED and c.maddpg.recurrent,
        lambda c: (
            f"channel {c.channel} learns from single transitions and not from the windows of maddpg.recurrent; "
            f"expected recurrent false with it"
        ),
    ),
    Rule(
        ("channel", "world_model"),
        lambda c: c.channel in _LEARNED and c.world_model,
        lambda c: (
            f"channel {c.channel} and world_model exclude each other; the loss through the model would teach messages "
            f"too, expected world_model false with it"
        ),
    ),
    Rule(
        ("channel", "maddpg.message_estimator", "maddpg.estimator"),
        lambda c: c.channel == "dial" and (c.maddpg.message_estimator or c.maddpg.estimator) in _NOT_THROUGH,
        lambda c: (
            f"channel dial needs an estimator that is a function of one sample, and "
            f"{c.maddpg.message_estimator or c.maddpg.estimator} is none; expected maddpg.message_estimator gumbel_st, "
            f"gumbel_soft or another"
        ),
    ),
    Rule(
        ("other_play", "channel"),
        lambda c: c.other_play and c.channel not in _PERMUTED,
        lambda c: (
            f"other_play and channel {c.channel} exclude each other; it permutes symbols that agents give a meaning, "
            f"and no gradient passes through, expected channel {', '.join(_PERMUTED[:-1])} or {_PERMUTED[-1]} with it"
        ),
    ),
    Rule(
        ("other_play", "world_model"),
        lambda c: c.other_play and c.world_model,
        lambda c: (
            "other_play and world_model exclude each other; imagined messages are those that were sent, expected "
            "other_play false with it"
        ),
    ),
    Rule(
        ("population", "num_replicas"),
        lambda c: c.num_replicas % c.population != 0,
        lambda c: (
            f"num_replicas {c.num_replicas} cannot be divided into populations of {c.population}; expected a multiple "
            f"of population"
        ),
    ),
    Rule(
        ("population", "world_model", "maddpg.recurrent", "maddpg.other_actions", "distributed", "channel"),
        lambda c: c.population > 1 and _alone(c) is not None,
        lambda c: (
            f"population {c.population} and {_alone(c)} exclude each other; partners of other replicas are known for "
            f"stored transitions of actors without memory only, expected population 1 with it"
        ),
    ),
    Rule(
        (
            "opponents.kind",
            "population",
            "world_model",
            "maddpg.recurrent",
            "maddpg.other_actions",
            "distributed",
            "channel",
        ),
        lambda c: c.opponents.kind == "pool" and (c.population > 1 or _alone(c) is not None),
        lambda c: (
            f"opponents pool and {_alone(c) or f'population {c.population}'} exclude each other; what a frozen team "
            f"does is known for stored transitions of one replica's actors without memory only, expected opponents "
            f"current with it"
        ),
    ),
    Rule(
        ("from_parts", "maddpg.actor_lr_shares"),
        lambda c: c.from_parts == "frozen" and 0.0 not in c.maddpg.actor_lr_shares.values(),
        lambda c: (
            "from_parts frozen takes the actors of agents that never learn, and every agent learns; expected "
            "maddpg.actor_lr_shares NAME=0 for at least one"
        ),
    ),
    Rule(
        ("device",),
        lambda c: _DEVICE.fullmatch(c.device) is None,
        lambda c: f"device: got {c.device[:60]!r}; expected auto, cpu, cuda or cuda:i",
    ),
)


def _trained(config: Config) -> int:
    """Steps that are really played: whole rounds of all environments."""
    return -(-config.total_steps // config.num_envs) * config.num_envs


def _lead(config: Config) -> str:
    lead = config.maddpg.lead * config.num_envs
    return f" and {lead} steps of the first window" if config.maddpg.recurrent else ""


WARNINGS: tuple[Rule, ...] = (
    Rule(
        ("maddpg.smoothing", "maddpg.continuous"),
        lambda c: c.maddpg.smoothing > 0 and c.maddpg.continuous == "gaussian",
        lambda c: f"maddpg.smoothing {c.maddpg.smoothing:g} has no effect with maddpg.continuous gaussian, which draws",
    ),
    Rule(
        ("from_run", "from_parts"),
        lambda c: c.from_run is None and c.from_parts != Config().from_parts,
        lambda c: f"from_parts {c.from_parts} has no effect without --from RUN",
    ),
    Rule(
        ("from_greedy", "from_parts"),
        lambda c: c.from_greedy and c.from_parts != "frozen",
        lambda c: "from_greedy has no effect without --from-parts frozen",
    ),
    Rule(
        ("channel", "channel_noise"),
        lambda c: c.channel != "noisy" and c.channel_noise != Config().channel_noise,
        lambda c: f"channel_noise {c.channel_noise:g} has no effect without --channel noisy",
    ),
    Rule(
        ("channel", "maddpg.message_estimator"),
        lambda c: c.channel in ("rial", "intent") and c.maddpg.message_estimator is not None,
        lambda c: f"maddpg.message_estimator has no effect on messages that are learned by channel {c.channel}",
    ),
    Rule(
        ("total_steps", "maddpg.warmup_steps"),
        lambda c: _trained(c) <= max(c.maddpg.warmup_steps, c.maddpg.lead * c.num_envs),
        lambda c: (
            f"total_steps {c.total_steps} ends before the first update at maddpg.warmup_steps "
            f"{c.maddpg.warmup_steps}{_lead(c)}: nothing will be learned"
        ),
    ),
    Rule(
        ("maddpg.estimator", "maddpg.message_estimator", "wm.through_horizon"),
        lambda c: c.world_model and c.wm.size("through_horizon") > 0 and bool(_replaced(c)),
        lambda c: (
            f"the loss through the world model uses the straight_through estimator in place of "
            f"{' and '.join(f'{name} {value}' for name, value in _replaced(c).items())}, which no gradient passes to "
            f"what was before: set another one, or wm.through_horizon to 0"
        ),
    ),
    Rule(
        ("wm.starts", "wm.blend"),
        lambda c: c.world_model and c.wm.blend and c.wm.size("starts") <= FEW and not c.maddpg.recurrent,
        lambda c: (
            f"wm.blend has no effect with wm.starts {c.wm.starts}, since two starts must agree in all entries of at "
            f"most {FEW} values, which are all entries of so few: set wm.starts to more, or --wm.no-blend"
        ),
    ),
)


def broken_rules(config: Config, faulty: set[str], given: dict[str, str]) -> list[str]:
    """A sentence for every rule that is broken; rules about a setting that is `faulty` by itself are left out."""
    return [
        f"{rule.words(config)}{_origins(rule, given)}."
        for rule in RULES
        if not faulty & set(rule.names) and rule.broken(config)
    ]


def warnings_of(config: Config, given: dict[str, str]) -> list[str]:
    """Sentences on settings that fit together but do not do what one may think."""
    warned = [rule.words(config) for rule in WARNINGS if rule.broken(config)]
    now, default = flatten(config), flatten(Config())
    idle = [name for name in given if name.startswith("wm.") and now[name] != default[name]]
    if idle and not config.world_model:
        warned.append(f"{', '.join(idle)} has no effect without --world-model")
    elif (
        config.world_model and config.maddpg.recurrent and config.wm.imagined_share > 0 and "wm.imagined_share" in given
    ):
        warned.append("wm.imagined_share has no effect with --maddpg.recurrent, whose batches are real")
    idle = [name for name in given if name.startswith("opponents.") and now[name] != default[name]]
    if idle and config.opponents.kind == "current":
        warned.append(f"{', '.join(idle)} has no effect without --opponents pool")
    idle = [name for name in _OF_MEMORY if name in given and now[name] != default[name]]
    if idle and not config.maddpg.recurrent:
        warned.append(f"{', '.join(idle)} has no effect without --maddpg.recurrent")
    return warned


def _origins(rule: Rule, given: dict[str, str]) -> str:
    results = [f"{name} from {given[name]}" for name in rule.names if name in given]
    return f" ({', '.join(results)})" if results else ""


# ------------------------------------------------------------------ resuming
FREE_ON_RESUME = ("run_dir", "evaluation.", "logging.", "checkpoint.", "workers")
"""Settings that no number of the training depends on: a resumed run stays equal to the uninterrupted one."""

WARNED_ON_RESUME = {
    "total_steps": "schedules that run from start to end (learning rates, temperature, bonuses) follow the new length",
    "distributed": "sums may be ordered differently, so the run may not go on bit for bit",
    "device": "the run goes on, but not bit for bit as it would have on the other device",
    "graphs": "sums may be ordered differently, so the run may not go on bit for bit",
    "threads": "sums may be ordered differently, so the run may not go on bit for bit",
}
"""Settings that may change with a warning."""


def changes_on_resume(saved: Config, wanted: Config) -> tuple[list[tuple[str, Any, Any]], list[str]]:
    """(changes that are refused as (setting, was, now), warnings on changes that are allowed)."""
    was, now = flatten(saved), flatten(wanted)
    refused, warned = [], []
    for name in now:
        if was[name] == now[name] or name.startswith(FREE_ON_RESUME):
            continue
        if name in WARNED_ON_RESUME:
            warned.append(f"{name} changes from {was[name]} to {now[name]}: {WARNED_ON_RESUME[name]}")
        else:
            refused.append((name, was[name], now[name]))
    return refused, warned
