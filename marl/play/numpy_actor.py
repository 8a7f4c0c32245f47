"""The actors' forward pass in numpy, for one environment at a time.

For a single observation torch spends its time on calls, not on arithmetic: numpy's calls cost a tenth. The arithmetic
is that of marl/learner/grouped_mlp.py, whose prepared weights are taken as they are.

Shape suffixes: N agents, O padded observation width, H heads, K choices, I inputs and W outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.learner.grouped_mlp import EPS


class NumpyActor:
    """Every agent's logits from its own observation.

    Args:
        parameters: as `Actor.prepared` gives them for one replica: weight [N, W, I] and bias [N, W, 1] of every layer.
        layer_norm: hidden layers are normalised.
        heads: (H, K).
    """

    def __init__(self, parameters: Sequence[np.ndarray], layer_norm: bool, heads: tuple[int, int]) -> None:
        # with one column, products with the transposed weights, contiguous, take half the time
        self._weights_NIW = [np.ascontiguousarray(weight.swapaxes(1, 2)) for weight in parameters[::2]]
        self._biases_N1W = [np.ascontiguousarray(bias.swapaxes(1, 2)) for bias in parameters[1::2]]
        self._layer_norm, self._shape = layer_norm, (-1, *heads)

    def __call__(self, rows_NO: np.ndarray) -> np.ndarray:
        """Logits [N, H, K] of float32 rows [N, O]; entries of absent choices are meaningless."""
        x_N1I = rows_NO[:, None]
        last = len(self._weights_NIW) - 1
        for k, (weight_NIW, bias_N1W) in enumerate(zip(self._weights_NIW, self._biases_N1W, strict=True)):
            x_N1I = x_N1I @ weight_NIW
            x_N1I += bias_N1W
            if k == last:
                break
            if self._layer_norm:
                square_N11 = x_N1I @ x_N1I.swapaxes(1, 2)
                x_N1I /= np.sqrt(square_N11 / x_N1I.shape[2] + EPS, dtype=np.float32)
            np.maximum(x_N1I, 0.0, out=x_N1I)
        return x_N1I.reshape(self._shape)
