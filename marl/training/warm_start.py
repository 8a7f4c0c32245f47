"""A new run that starts from the weights of an old one (`--from RUN`).

Shape suffixes: S replicas, N agents, G groups of parameters, P parameters, A action.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.config.resolve import from_dict
from marl.config.schema import Config
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.parallel.division import Division
from marl.runs import checkpoint
from marl.runs.compatibility import check_networks
from marl.runs.durable import replace_text

RECORD = "started_from.json"
LOUD = 1e4  # times outputs of some 1 stand far above Gumbel noise, whose range in single precision is about 20


def start_from(config: Config, path: Path, learner: MADDPG, division: Division) -> str:
    """Put the weights of `config.from_run` in place of the drawn ones; all ranks together.

    Replica r starts from replica r, or every replica from the only one there is. With `from_parts` "actors" the actors
    and their targets start there, critics anew; with "all" critics and their targets too; with "frozen" only actors of
    agents that never learn, which play on as they did. With `from_greedy` too, their logits are multiplied by `LOUD`: a
    sample is then the argmax of the head, whatever draws it (but where two logits are within some 1e-3 of each other);
    continuous heads stay as they are. Optimisers, replay, random numbers and counters are those of a new run. The run
    directory gets a record of what it started from.

    Args:
        config: the run.
        path: its directory.
        learner: gets the weights.
        division: which replicas are trained here.

    Returns:
        A sentence on what was taken.

    Raises:
        UserError: no such run, a damaged checkpoint, networks of other sizes, as a table, or a run directory that
            cannot be written.
    """

    def taken() -> tuple[dict[str, Tensor], str]:
        assert config.from_run is not None
        part = PARTS[config.from_parts]
        saved = checkpoint.load(checkpoint.locate(Path(config.from_run)), [part])
        old = from_dict(saved.manifest["config"], f"checkpoint {saved.path}")
        check_networks(saved.manifest["spec"], old, learner.spec, config, saved.path)
        words = {
            "run": str(checkpoint.run_directory(saved.path)),
            "checkpoint": saved.path.name,
            "step": saved.step,
            "parts": config.from_parts,
            "sha256": saved.manifest["files"][part]["sha256"],
            "env": old.env,
        }
        try:
            replace_text(path / RECORD, json.dumps(words, indent=1) + "\n")
        except OSError as error:
            raise UserError(
                f"{path / RECORD} cannot be written: {error.strerror or error}. Nothing was trained; mend the disk of "
                f"the run directory, or choose another with --run-dir."
            ) from error
        networks = _networks(saved.parts, config.from_parts)
        one = old.num_replicas == 1
        chosen = torch.zeros(config.num_replicas, dtype=torch.int64) if one else torch.arange(config.num_replicas)
        told = _TOLD[config.from_parts].format(saved.path)
        return {name: x[chosen] for name, x in networks.items()}, told

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
            if config.from_parts != "frozen":
                parameters[name].copy_(flat_SGP)
                continue
            held_G = _held(learner)
            frozen_SGP = flat_SGP.to(learner.device)[:, held_G]
            if config.from_greedy:
                frozen_SGP = frozen_SGP.clone()
                learner.actor.mlp.last(frozen_SGP).mul_(_loudness(learner)[held_G, None])
            parameters[name][:, held_G] = frozen_SGP
    return "" if first is None else first[1]


PARTS = {"actors": "policy", "frozen": "policy", "all": "learner"}  # parts of a checkpoint, one file each
_TOLD = {
    "actors": "The actors of {} are the start.",
    "frozen": "Agents that never learn play as in {}.",
    "all": "The actors and critics of {} are the start.",
}


def _held(learner: MADDPG) -> Tensor:
    """Which actors take no steps, bool [G]."""
    assert learner.frozen_G1 is not None, "a rule of the configuration"
    return learner.frozen_G1[:, 0] == 1.0


def _loudness(learner: MADDPG) -> Tensor:
    """What multiplies every output [G, A] of greedy actors: choices grow, numbers stay."""
    spec, group_N = learner.spec, learner.actor.group_N
    choices_NA = spec.head_mask.flatten(1).to(learner.device)
    if group_N is not None:
        choices_NA = choices_NA[[group_N.tolist().index(g) for g in range(len(learner.actor.mlp.flat[0]))]]
    return torch.where(choices_NA, LOUD, 1.0)


def _networks(parts: dict[str, Any], wanted: str) -> dict[str, Tensor]:
    """{network: parameters [S, G, P]}."""
    if wanted != "all":
        actor_SGP = parts["policy"]["actor"]
        return {"actor": actor_SGP, "target_actor": actor_SGP}
    return {name: state["mlp.flat"] for name, state in parts["learner"]["networks"].items()}
