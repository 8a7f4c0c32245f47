"""What recurrent networks remember where imagined rollouts begin.

The states are read anew, by the present parameters, from the stored frames before a start. Where a window of frames
begins within an episode, which is longer than the window, it begins with an empty memory.

Shape suffixes: S replicas, N agents, T frames, B windows, X frames of all windows, T * B, R rollouts, W width of a
state, F joint observation, U joint action.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.learner.networks.actor_critic import joint_rows
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.learner.recurrent.networks import Prepared, actor_input, rows
from marl.world_model.layout import Layout
from marl.world_model.sequences import Sequences


class Recall:
    """The states of all actors and first critics of a learner.

    Args:
        learner: whose parameters are read at every call.
        layout: of the joint observation.
    """

    def __init__(self, learner: RecurrentMADDPG, layout: Layout) -> None:
        self._learner, self._layout = learner, layout

    @torch.no_grad()
    def __call__(self, seq: Sequences, index_SR: Tensor) -> Tensor:
        """The states [S, 2 * N, R, W] before frames `index_SR` of X, of the actors and then of the critics."""
        learner, layout = self._learner, self._layout
        obs_SNXO = layout.split(seq.obs.flatten(1, 2))
        # what was done at a frame is stored with the next one; what is done at the last one is not asked for
        done_STBU = torch.cat([seq.action[:, 1:], torch.zeros_like(seq.action[:, :1])], dim=1)
        joint_SXD = joint_rows(obs_SNXO, layout.split_action(done_STBU.flatten(1, 2)))
        at_S1R1 = index_SR[:, None, :, None]

        def before(parameters: Prepared, inputs: Tensor) -> Tensor:
            agents, width = learner.spec.num_agents, learner.actor.mlp.width
            keep_X1TB = (~seq.first).to(seq.obs.dtype).repeat_interleave(agents, 0)[:, None]
            state_XWB = seq.obs.new_zeros(len(keep_X1TB), width, seq.first.shape[2])
            state_XWR, _ = parameters.unroll(parameters.enter(inputs), state_XWB, keep_X1TB)
            state_SNXW = rows(state_XWR, (len(index_SR), agents))
            return state_SNXW.gather(2, at_S1R1.expand(-1, agents, -1, width))

        actors = before(learner.actor.prepared(), actor_input(obs_SNXO))
        return torch.cat([actors, before(learner.critic.first(), joint_SXD.transpose(1, 2))], dim=1)
