"""The actors' forward pass in numpy, for one environment at a time.

For a single observation torch spends its time on calls, not on arithmetic: numpy's calls cost a tenth. The arithmetic
is that of marl/learner/networks/grouped_mlp.py and marl/learner/recurrent/grouped_gru.py, whose prepared weights are
taken as they are.

Shape suffixes: N agents, O padded observation width, H heads, K choices, I inputs and W outputs of a layer; of
recurrent actors W is the width of the state and of the first hidden layer, and Z = 3 * W gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.learner.networks.actor_critic import Actor
from marl.learner.networks.grouped_mlp import EPS
from marl.learner.recurrent.networks import Prepared


class NumpyActor:
    """Every agent's logits from its own observation.

    Args:
        parameters: as `Actor.prepared` gives them for one replica: weight [N, W, I] and bias [N, W, 1] of every layer.
        layer_norm: hidden layers are normalised.
        heads: (H, K).
    """

    def __init__(self, parameters: Sequence[Tensor], layer_norm: bool, heads: tuple[int, int]) -> None:
        self._layers = _Layers(parameters, layer_norm)
        self._shape = (-1, *heads)

    def __call__(self, rows_NO: np.ndarray, state_NW: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits [N, H, K] of float32 rows [N, O], and no state; entries of absent choices are meaningless."""
        return self._layers(rows_NO[:, None]).reshape(self._shape), None


class NumpyRecurrentActor:
    """Every agent's logits from its own observation and its state.

    Args:
        parameters: as `RecurrentActor.prepared` gives them for one replica.
        layer_norm: hidden layers are normalised.
        heads: (H, K).
    """

    def __init__(self, parameters: Prepared, layer_norm: bool, heads: tuple[int, int]) -> None:
        self._inputs = _Layers(parameters.inputs, False)
        self._inner = _Layers((parameters.weight_XZW, parameters.bias_XZ1), False)
        self._read = _Layers((parameters.read_XWW, parameters.read_bias_XW1), False)
        self._behind = _Layers(parameters.behind, layer_norm)
        self._width, self._shape = parameters.weight_XZW.shape[2], (-1, *heads)

    def __call__(self, rows_NO: np.ndarray, state_NW: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits [N, H, K] of float32 rows [N, O] and the states after them; `state_NW` None: episodes begin."""
        width = self._width
        if state_NW is None:
            state_NW = np.zeros((len(rows_NO), width), dtype=np.float32)
        entered_NI, inner_NZ = self._inputs(rows_NO[:, None])[:, 0], self._inner(state_NW[:, None])[:, 0]
        gates_NZ, first_N1W = entered_NI[:, : 3 * width], entered_NI[:, None, 3 * width :]
        both = np.float32(0.5) * (gates_NZ[:, : 2 * width] + inner_NZ[:, : 2 * width])
        both = np.float32(0.5) * np.tanh(both) + np.float32(0.5)  # the logistic function, without overflow
        reset_NW, update_NW = both[:, :width], both[:, width:]
        new_NW = np.tanh(gates_NZ[:, 2 * width :] + reset_NW * inner_NZ[:, 2 * width :])
        after_NW = new_NW + update_NW * (state_NW - new_NW)
        first_N1W = first_N1W + self._read(after_NW[:, None])
        if self._behind.layer_norm:
            first_N1W -= first_N1W.mean(2, keepdims=True)
        return self._behind(self._behind.hidden(first_N1W)).reshape(self._shape), after_NW


class TorchActor:
    """Actors whose forward pass stays torch's, called as those above.

    Args:
        actor: of one replica.
        parameters: as `Actor.prepared` gives them.
    """

    def __init__(self, actor: Actor, parameters: Any) -> None:
        self._actor, self._parameters = actor, parameters

    @torch.no_grad()
    def __call__(self, rows_NO: np.ndarray, state_NW: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits [N, H, K] of float32 rows [N, O], and no state; entries of absent choices are meaningless."""
        logits_1N1HK = self._actor.logits(torch.from_numpy(rows_NO)[None, :, None], self._parameters)
        return logits_1N1HK[0, :, 0].numpy(), None


class _Layers:
    """A perceptron of every agent on one row each."""

    def __init__(self, parameters: Sequence[Tensor], layer_norm: bool) -> None:
        # with one column, products with the transposed weights, contiguous, take half the time
        self._weights_NIW = [np.ascontiguousarray(x.numpy().swapaxes(1, 2)) for x in parameters[::2]]
        self._biases_N1W = [np.ascontiguousarray(x.numpy().swapaxes(1, 2)) for x in parameters[1::2]]
        self.layer_norm = layer_norm

    def __call__(self, x_N1I: np.ndarray) -> np.ndarray:
        """Outputs [N, 1, W]."""
        last = len(self._weights_NIW) - 1
        for k, (weight_NIW, bias_N1W) in enumerate(zip(self._weights_NIW, self._biases_N1W, strict=True)):
            x_N1I = x_N1I @ weight_NIW
            x_N1I += bias_N1W
            if k == last:
                break
            x_N1I = self.hidden(x_N1I)
        return x_N1I

    def hidden(self, x_N1W: np.ndarray) -> np.ndarray:
        """What a hidden layer passes on [N, 1, W] from its centred pre-activations, which are written over."""
        if self.layer_norm:
            square_N11 = x_N1W @ x_N1W.swapaxes(1, 2)
            x_N1W /= np.sqrt(square_N11 / x_N1W.shape[2] + EPS, dtype=np.float32)
        return np.maximum(x_N1W, 0.0, out=x_N1W)
