"""What recurrent networks learn beside values: to tell from their state how their agent's observation changes next.

A value says little about what should be remembered. The state after a step therefore also predicts, by one linear
layer, the change of the own agent's observation: a critic's, which holds everybody's actions, from itself, and an
actor's beside the action that was executed. Every entry counts in units of the root mean square of its changes in the
batch, and those that do not change not at all, so that 1 is what predicting no change costs and 0 what a known
environment of which everything is remembered costs. Rows of agents that are not there count nowhere.

Shape suffixes: S replicas, C networks of an agent (critics; one actor), N agents, X = S * C * N, W width of what the
prediction reads, R rows of all steps, O observation.

Source: prediction of the next observation as an auxiliary loss of a recurrent network's state: Ni et al. 2024
(arXiv 2401.08898), there called observation prediction. Differs from source: changes rather than observations, scaled
by their root mean square; a central critic's state predicts too.
"""

from __future__ import annotations

from torch import Tensor

from marl.data.batch import Batch
from marl.learner import losses
from marl.learner.recurrent.networks import Prepared

SMALLEST = 1e-6  # root mean square of changes


def unexplained(parameters: Prepared, state_XWR: Tensor, batch: Batch) -> Tensor:
    """The mean squared error of the predictions, [S, C, N], in units of the changes' mean square.

    Args:
        parameters: of the networks.
        state_XWR: their states after the rows of the batch; of actors with the executed actions below them.
        batch: R rows.
    """
    agents = batch.next_obs.shape[:2]
    predicted_SCNRO = parameters.predicted(state_XWR).unflatten(0, (agents[0], -1, agents[1])).transpose(3, 4)
    change_SNRO = batch.next_obs - batch.obs
    weight_SN1R = None if batch.weight is None else batch.weight[:, :, None]
    square_SNO = losses.weighted_mean(change_SNRO.square().transpose(2, 3), weight_SN1R)
    scale_SN1O = square_SNO.sqrt()[:, :, None]
    varies_SN1O = scale_SN1O > SMALLEST
    error_SCNRO = predicted_SCNRO - (change_SNRO / scale_SN1O.clamp(min=SMALLEST))[:, None]
    error_SCNR = (error_SCNRO.square() * varies_SN1O[:, None]).sum(-1) / varies_SN1O.sum(-1).clamp(min=1)[:, None]
    return losses.weighted_mean(error_SCNR, None if batch.weight is None else batch.weight[:, None])
