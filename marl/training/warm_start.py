"""A new run that starts from the weights of an old one (`--from RUN`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.config.resolve import from_dict
from marl.config.schema import Config
from marl.learner.maddpg import MADDPG
from marl.parallel.division import Division
from marl.runs import checkpoint
from marl.runs.compatibility import check_networks
from marl.runs.durable import replace_text

RECORD = "started_from.json"


def start_from(config: Config, path: Path, learner: MADDPG, division: Division) -> str:
    """Put the weights of `config.from_run` in place of the drawn ones; all ranks together.

    Replica r starts from replica r, or every replica from the only one there is. With `from_parts` "actors" the actors
    and their targets start there, critics anew; with "all" critics and their targets too. Optimisers, replay, random
    numbers and counters are those of a new run. The run directory gets a record of what it started from.

    Args:
        config: the run.
        path: its directory.
        learner: gets the weights.
        division: which replicas are trained here.

    Returns:
        A sentence on what was taken.

    Raises:
        UserError: no such run, a damaged checkpoint, or networks of other sizes, as a table.
    """

    def taken() -> tuple[dict[str, Tensor], str]:
        assert config.from_run is not None
        saved = checkpoint.load(checkpoint.locate(Path(config.from_run)), [_PARTS[config.from_parts]])
        old = from_dict(saved.manifest["config"], f"checkpoint {saved.path}")
        check_networks(saved.manifest["spec"], old, learner.spec, config, saved.path)
        words = {
            "run": str(checkpoint.run_directory(saved.path)),
            "checkpoint": saved.path.name,
            "step": saved.step,
            "parts": config.from_parts,
            "env": old.env,
        }
        replace_text(path / RECORD, json.dumps(words, indent=1) + "\n")
        networks = _networks(saved.parts, config.from_parts)
        one = old.num_replicas == 1
        chosen = torch.zeros(config.num_replicas, dtype=torch.int64) if one else torch.arange(config.num_replicas)
        told = "actors" if config.from_parts == "actors" else "actors and critics"
        return {name: x[chosen] for name, x in networks.items()}, f"The {told} of {saved.path} are the start."

    first = division.ranks.first_only(taken)
    networks = division.cut(None if first is None else first[0])
    parameters = {
        "actor": learner.actor.mlp.flat,
        "critic": learner.critic.mlp.flat,
        "target_actor": learner.target_actor.mlp.flat,
        "target_critic": learner.target_critic.mlp.flat,
    }
    with torch.no_grad():
        for name, flat_SGP in networks.items():
            parameters[name].copy_(flat_SGP)
    return "" if first is None else first[1]


_PARTS = {"actors": "policy", "all": "learner"}  # parts of a checkpoint, one file each


def _networks(parts: dict[str, Any], wanted: str) -> dict[str, Tensor]:
    """{network: parameters [S, G, P]}."""
    if wanted == "actors":
        actor_SGP = parts["policy"]["actor"]
        return {"actor": actor_SGP, "target_actor": actor_SGP}
    return {name: state["mlp.flat"] for name, state in parts["learner"]["networks"].items()}
