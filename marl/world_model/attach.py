"""Joins a world model to a run, and finds the world model of a saved one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.resolve import from_dict
from marl.config.schema import Config
from marl.data.replay import Replay
from marl.errors import UserError
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import Actor
from marl.learner.pictures.networks import actor_of
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.learner.relaxation import PATHWISE
from marl.runs import checkpoint
from marl.world_model.dreamer import pictures
from marl.world_model.imagination.recall import Recall
from marl.world_model.imagination.source import ImaginationSource, make_model, suited
from marl.world_model.imagination.through import ThroughModel, critic_tail
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel

_STREAMS = ("model", "training", "imagination")
_THROUGH = set(PATHWISE) - {"rao_blackwell"}  # the others are no functions of one sample, or need noise of their own


def imagining(replay: Replay, learner: MADDPG, config: Config, model: WorldModel | None = None) -> ImaginationSource:
    """`replay` with a world model around it, and the learner's loss through the model where it is on.

    Args:
        replay: where real transitions go.
        learner: whose actors act in imagination.
        config: the run; `wm` holds the world model's settings.
        model: imagines; None: one of `config.wm.kind`.

    Recurrent networks learn from the loss through the model alone: their batches, windows behind a burn-in, stay real.

    Raises:
        UserError: the environment cannot be imagined, or not by actors with a memory.
    """
    if learner.spec.continuous:
        raise UserError(
            f"the world model predicts what choices lead to and {learner.spec.id} has continuous actions; train it "
            f"without --world-model."
        )
    wm = suited(config.wm, learner.spec)
    pictures.refuse(learner.spec, wm)
    recall = None
    if isinstance(learner, RecurrentMADDPG):
        _refuse_memory_of(learner.spec)
        wm = replace(wm, imagined_share=0.0, blend=False)
        recall = Recall(learner, Layout(learner.spec, learner.device))
    streams = {name: Stream(config.seed, f"world_model/{name}", learner.replicas, learner.device) for name in _STREAMS}
    source = ImaginationSource.of(replay, learner.actor, learner.spec, wm, config.num_envs, streams, model, recall)
    if wm.size("through_horizon"):
        spec = learner.spec
        alone = tuple((n,) for n in range(spec.num_agents))
        through = ThroughModel(
            source.rollouts,
            source.gate,
            learner.actor,
            critic_tail(learner.critic) if recall is None else learner.critic,
            spec.teams if config.maddpg.team_reward else alone,
            [name if name in _THROUGH else "straight_through" for name in learner.estimator_H],
        )
        learner.add_actor_loss(through)
    return source


def _refuse_memory_of(spec: EnvSpec) -> None:
    if spec.picture is None and spec.fixed_agents and not spec.has_masks:
        return
    leave, seen = "agents may leave", "observations are pictures"
    what = seen if spec.picture else leave if not spec.fixed_agents else "choices may be"
    raise UserError(
        f"{spec.id}: actors with a memory (maddpg.recurrent) are imagined where observations are vectors, all agents "
        f"stay and no choice is forbidden; here {what}. Train it without --world-model, or with --maddpg.recurrent "
        f"false."
    )


@dataclass
class SavedModel:
    """The world model of a checkpoint, for evaluation."""

    model: WorldModel
    layout: Layout
    actor: Actor  # all replicas' actors
    spec: EnvSpec
    config: Config
    step: int  # environment steps of a replica


def load(run: Path) -> SavedModel:
    """The world model and the actors of a run's newest checkpoint, on the CPU.

    Raises:
        UserError: no such run, a damaged checkpoint, or a run without a world model.
    """
    path = checkpoint.locate(run)
    manifest = checkpoint.read_manifest(path)
    config = from_dict(manifest["config"], str(path))
    if not config.world_model:
        raise UserError(f"{run} was trained without a world model; expected a run with --world-model.")
    saved = checkpoint.load(path, ["source", "policy"])
    spec = EnvSpec.from_dict(manifest["spec"])
    layout, rows = Layout(spec), range(config.num_replicas)
    config = replace(config, wm=suited(config.wm, spec))
    model = make_model(layout, config.wm, config.maddpg.gamma, Stream(config.seed, "shape", rows))
    model.load_state_dict(saved.parts["source"]["model"])
    learner = config.maddpg
    actor = actor_of(spec, learner, Stream(0, "shape", rows))
    actor.mlp.flat = torch.nn.Parameter(saved.parts["policy"]["actor"], requires_grad=False)
    return SavedModel(model, layout, actor, spec, config, saved.step)
