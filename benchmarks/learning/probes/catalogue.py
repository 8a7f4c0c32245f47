"""The probes: what each changes, who learns, and which agents are measured beside which scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.learning.probes.tasks import Change, Task


@dataclass(frozen=True)
class Group:
    """Agents whose return is measured, and the scripts that play all others meanwhile."""

    prefixes: tuple[str, ...]
    """The agents: those whose names begin so."""
    scripts: tuple[str, ...]
    """Which they are compared with: the best of them, under the same change, is a share of 1."""
    others: str = ""
    """Scripts of the other agents, as `marl.scripted` names them; empty where there are none."""

    def agents(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name.startswith(self.prefixes)]


TREASURE = ("nearest", "greedy", "best")
PREDATORS, PREY = ("leadadversary", "adversary"), ("agent",)
GROUPS: dict[str, dict[str, Group]] = {
    "collect_treasure": {
        "all": Group(("collector", "deposit"), TREASURE),
        "collectors": Group(("collector",), TREASURE, "best"),
        "deposits": Group(("deposit",), TREASURE, "best"),
        "one collector": Group(("collector_0",), TREASURE, "best"),
        "three collectors": Group(("collector_0", "collector_1", "collector_2"), TREASURE, "best"),
        "one deposit": Group(("deposit_0",), TREASURE, "best"),
    },
    "simple_world_comm": {
        "predators": Group(PREDATORS, ("chase", "surround"), "surround+flee"),
        "prey": Group(PREY, ("feed", "flee"), "chase+flee"),
        "one predator": Group(("adversary_0",), ("chase", "surround"), "surround+flee"),
        "one prey": Group(("agent_0",), ("feed", "flee"), "chase+flee"),
        "grazing prey": Group(PREY, ("feed", "flee"), "random"),
    },
}
STEPS = {"collect_treasure": 300_000, "simple_world_comm": 300_000}
"""Of each replica, where the flags do not say otherwise."""


@dataclass(frozen=True)
class Probe:
    """One change of the task, of who learns, or of a setting; all else is the shipped configuration."""

    asks: str
    """What it tells, in a sentence."""
    measured: tuple[str, ...]
    """Groups of the environment's `GROUPS`."""
    learners: str = ""
    """The group that learns, beside the scripts of its `others`; empty: everybody learns."""
    env_args: dict[str, Any] = field(default_factory=dict)
    change: Change = field(default_factory=Change)
    flags: tuple[str, ...] = ()
    """Of run.py."""

    def task(self, env: str) -> Task:
        return Task(env, self.env_args, self.change)


def alone(group: str, asks: str) -> Probe:
    """Only this group learns."""
    return Probe(asks, (group,), learners=group)


def _grazing(asks: str, weights: dict[str, float] | None = None, *flags: str) -> Probe:
    """Only prey learns, for its food alone."""
    change = Change({"own touches": 0.0, **(weights or {})})
    return Probe(asks, ("grazing prey",), learners="grazing prey", change=change, flags=flags)


LONG = ("--total-steps", "1000000", "--maddpg.updates-per-step", "0.02")
CALM = ("--maddpg.logit-penalty", "0.001")


def _common(measured: tuple[str, ...]) -> dict[str, Probe]:
    """Probes of credit that both tasks have."""
    return {
        "own pay": Probe(
            "Is credit the trouble? Nobody is paid for what others did.", measured, change=Change({OTHERS: 0.0})
        ),
        "no distance": Probe(
            "Does the shaping help? Distances cost nothing.", measured, change=Change({"distance": 0.0})
        ),
        "much distance": Probe(
            "Is the shaping too weak beside the noise of the rare pay? Distances cost ten times as much.",
            measured,
            change=Change({"distance": 10.0}),
        ),
        "gamma .7": Probe("Is the future noise? A discount of .7.", measured, flags=("--maddpg.gamma", "0.7")),
        "gamma .97": Probe("Is the pay too far off? A discount of .97.", measured, flags=("--maddpg.gamma", "0.97")),
        "12 steps": Probe("Episodes of half the length.", measured, env_args={"max_cycles": 12}),
        "50 steps": Probe("Episodes of twice the length.", measured, env_args={"max_cycles": 50}),
    }


OTHERS = "others' pay"  # a term of both tasks
PROBES: dict[str, dict[str, Probe]] = {
    "collect_treasure": {
        "plain": Probe("The task as it is.", ("all", "collectors", "deposits")),
        "two agents": Probe(
            "Is the errand itself learned, with nobody in the way? One collector, one deposit.",
            ("all",),
            env_args={"num_collectors": 1, "num_deposits": 1},
        ),
        "two collectors": Probe("Few agents, all types.", ("all",), env_args={"num_collectors": 2}),
        "no collisions": Probe(
            "Is fear of collisions what stops it? Overlaps cost nothing.", ("all",), change=Change({"collisions": 0.0})
        ),
        "one collector": alone("one collector", "Does a collector learn in good company?"),
        "three collectors": alone("three collectors", "How many may learn at a time? Three collectors."),
        "one deposit": alone("one deposit", "Does a deposit learn in good company?"),
        "collectors": alone("collectors", "Do collectors learn to divide the treasures, with good deposits?"),
        "deposits": alone("deposits", "Do deposits learn to meet good collectors?"),
        "divided": Probe(
            "Is it who goes where? As `much distance`, but free collectors head for treasures matched to them.",
            ("all",),
            change=Change({"distance": 10.0, "errands": 10.0}),
        ),
        **_common(("all",)),
    },
    "simple_world_comm": {
        "plain": Probe("The task as it is.", ("predators", "prey")),
        "two agents": Probe(
            "Is pursuit learned one against one? The leader and one prey.",
            ("predators", "prey"),
            env_args={"num_adversaries": 1, "num_good": 1},
        ),
        "single prey": Probe(
            "Does a second prey confuse? All predators, one prey.", ("predators", "prey"), env_args={"num_good": 1}
        ),
        "intangible": Probe(
            "Are bodies in the way? Agents pass through each other and through the obstacle.",
            ("predators", "prey"),
            change=Change(intangible=True),
        ),
        "all seen": Probe(
            "Is it what forests hide? They hide nobody.", ("predators", "prey"), change=Change(all_seen=True)
        ),
        "no walls": Probe(
            "Is it the walls that cost the prey? Outside the field it loses nothing.",
            ("predators", "prey"),
            change=Change({"walls": 0.0}),
        ),
        "predators": alone("predators", "Do predators learn from good prey, from the first step on?"),
        "prey": alone("prey", "Does prey learn from good predators?"),
        "one predator": alone("one predator", "Does a predator learn in good company?"),
        "one prey": alone("one prey", "Does a prey learn in good company?"),
        "grazing": _grazing(
            "Does prey learn to eat where nobody hunts? Predators walk at random, touches cost nothing."
        ),
        "grazing, no walls": _grazing("The same; leaving the field costs nothing either.", {"walls": 0.0}),
        "grazing, long": _grazing(
            "As `grazing`, with three times as many steps and six times as many updates.", {}, *LONG
        ),
        "grazing, calm": _grazing("As `grazing`; moves may become certain: a logit penalty of .001.", {}, *CALM),
        "grazing, long and calm": _grazing("Both, and a discount of .9.", {}, *LONG, *CALM, "--maddpg.gamma", "0.9"),
        **_common(("predators", "prey")),
    },
}
