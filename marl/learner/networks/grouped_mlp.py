"""Many multilayer perceptrons of one shape as a few batched matrix products, with a backward pass derived by hand.

Autograd's graph of such a network spends most of its time outside the products: torch's layer normalisation alone takes
as long as a 64 x 64 layer on a CPU, and every transposed batch is a copy. Here

- features come before rows, [X, W, B]: sums over features, products with few outputs and everything behind them run
  along B, and nothing of that size is ever transposed;
- the mean that layer normalisation removes is removed from the weights instead (W - its mean over outputs, the same
  for the bias), which costs nothing per row. What is left of it is one scale a row:

      h = W x + b,   s = (mean(h^2) + eps)^(-1/2),   n = s h,   y = max(n, 0)
      dL/dh = s (dL/dy [n > 0] - n mean(y dL/dy))

- the gradient of all parameters is written once, into one flat tensor.

Shape suffixes: S replicas, G groups, X = S * G, Y = X, or S where all groups of a replica share their input,
B rows, I inputs and O outputs of a layer, W width, P parameters of one perceptron.

Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450), equation 4, without gain and bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-5  # torch's default of layer normalisation


def blocks(flat_SGP: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Every layer's parameters [S, G, I + 1, O] as views of `flat_SGP`: the weight's rows, then the bias."""
    shapes = [(i + 1, o) for i, o in pairwise(sizes)]
    parts = flat_SGP.split([i * o for i, o in shapes], dim=2)
    return [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]


def prepare(flat_SGP: Tensor, sizes: Sequence[int], layer_norm: bool, shared_input: bool = False) -> tuple[Tensor, ...]:
    """Parameters in the form that `run` takes: weight [Y, O, I] and bias [Y, O, 1] of every layer in turn.

    Args:
        flat_SGP: of every layer the weight [I, O], then the bias [O].
        sizes: widths from input to output.
        layer_norm: hidden layers are normalised: their outputs are centred here.
        shared_input: all groups of a replica see one input. Their first layers then lie below each other: Y = S and
            G * O outputs; everywhere else Y = S * G.
    """
    parameters: tuple[Tensor, ...] = _Prepare.apply(flat_SGP, tuple(sizes), layer_norm, shared_input)  # type: ignore[no-untyped-call]
    return parameters


def run(x_YIB: Tensor, parameters: Sequence[Tensor], layer_norm: bool) -> Tensor:
    """The perceptrons' outputs [X, O, B], differentiable once in inputs and parameters.

    Args:
        x_YIB: inputs, any floating type.
        parameters: of `prepare`. A first bias [Y, O, B] is a constant of every row.
        layer_norm: normalise every hidden layer before its ReLU.
    """
    output: Tensor = _Run.apply(x_YIB, layer_norm, *parameters)  # type: ignore[no-untyped-call]
    return output


def hidden(pre_XWB: Tensor, layer_norm: bool) -> Tensor:
    """What a hidden layer passes on [X, W, B] from its centred pre-activations: normalised, then ReLU; as in `run`."""
    if not layer_norm:
        return pre_XWB.relu()
    output: Tensor = _Hidden.apply(pre_XWB)  # type: ignore[no-untyped-call]
    return output


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_XWB: Tensor) -> Tensor:
        x_XWB = pre_XWB * pre_XWB
        scale_X1B = x_XWB.sum(1, keepdim=True).mul_(1.0 / pre_XWB.shape[1]).add_(EPS).rsqrt_()
        normalised_XWB = torch.mul(pre_XWB, scale_X1B, out=x_XWB)
        output_XWB = normalised_XWB.clamp(min=0.0)
        ctx.save_for_backward(normalised_XWB, output_XWB, scale_X1B)
        return output_XWB

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        normalised_XWB, output_XWB, scale_X1B = ctx.saved_tensors
        along_X1B = (gradient * output_XWB).sum(1, keepdim=True)
        gradient = torch.ops.aten.threshold_backward(gradient, output_XWB, 0.0)
        gradient.addcmul_(normalised_XWB, along_X1B, value=-1.0 / output_XWB.shape[1])
        return gradient.mul_(scale_X1B)


class _Prepare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flat_SGP: Tensor, sizes: tuple[int, ...], layer_norm: bool, shared_input: bool
    ) -> tuple[Tensor, ...]:
        ctx.settings, ctx.shape = (sizes, layer_norm, shared_input), flat_SGP.shape
        parameters = []
        for k, block in enumerate(blocks(flat_SGP, sizes)):
            if layer_norm and k < len(sizes) - 2:
                block = block - block.mean(3, keepdim=True)
            block = block.transpose(1, 2).flatten(2) if shared_input and k == 0 else block.flatten(0, 1)
            columns = block.transpose(1, 2)
            parameters += [columns[..., :-1], columns[..., -1:]]
        return tuple(parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sizes, layer_norm, shared_input = ctx.settings
        groups = ctx.shape[:2]
        gradient_SGP = gradients[0].new_empty(ctx.shape)
        for k, block in enumerate(blocks(gradient_SGP, sizes)):
            for rows, columns in zip((block[:, :, :-1], block[:, :, -1:]), gradients[2 * k : 2 * k + 2], strict=True):
                if shared_input and k == 0:
                    rows.copy_(columns.unflatten(1, (groups[1], -1)).transpose(2, 3))
                else:
                    rows.copy_(columns.transpose(1, 2).unflatten(0, groups))
            if layer_norm and k < len(sizes) - 2:  # the centring is its own transpose
                block -= block.mean(3, keepdim=True)
        return gradient_SGP, None, None, None


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_YIB: Tensor, layer_norm: bool, *parameters: Tensor) -> Tensor:
        output, inputs, hidden = forward(x_YIB, parameters, layer_norm)
        ctx.layer_norm, ctx.num_inputs, ctx.num_hidden = layer_norm, len(inputs), len(hidden)
        ctx.save_for_backward(*inputs, *hidden, *parameters[0::2])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, hidden = saved[: ctx.num_inputs], saved[ctx.num_inputs : ctx.num_inputs + ctx.num_hidden]
        weights = saved[ctx.num_inputs + ctx.num_hidden :]
        to_parameters: list[Tensor | None] = [None] * (2 * len(weights))

        def take(k: int, gradient: Tensor) -> None:
            if ctx.needs_input_grad[2 + 2 * k]:
                to_parameters[2 * k] = torch.bmm(inputs[k], gradient.transpose(1, 2)).transpose(1, 2)
                to_parameters[2 * k + 1] = gradient.sum(2, keepdim=True)

        to_input = backward(gradient, inputs, hidden, weights, ctx.layer_norm, ctx.needs_input_grad[0], take)
        return to_input, None, *to_parameters


def forward(x_YIB: Tensor, parameters: Sequence[Tensor], layer_norm: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The outputs [X, O, B] of `run`, every layer's input, and of every hidden layer what `backward` needs."""
    inputs, hidden = [x_YIB], []  # normalised pre-activation and scale of every hidden layer
    x = x_YIB
    for k in range(0, len(parameters), 2):
        weight, bias = parameters[k : k + 2]
        pre = torch.baddbmm(bias, weight, x)
        if k + 2 == len(parameters):
            break
        following = parameters[k + 2]  # groups that shared their input part ways behind the first layer
        pre = pre.view(following.shape[0], following.shape[2], -1)
        if layer_norm:
            x = pre * pre
            scale_X1B = x.sum(1, keepdim=True).mul_(1.0 / x.shape[1]).add_(EPS).rsqrt_()
            hidden += [pre.mul_(scale_X1B), scale_X1B]
            torch.clamp(pre, min=0.0, out=x)
        else:
            x = pre.clamp_(min=0.0)
        inputs.append(x)
    return pre, inputs, hidden


def backward(
    gradient: Tensor,
    inputs: Sequence[Tensor],
    hidden: Sequence[Tensor],
    weights: Sequence[Tensor],
    layer_norm: bool,
    to_input: bool,
    take: Callable[[int, Tensor], None],
) -> Tensor | None:
    """The gradient at the inputs of `forward` from that at its outputs; None if not `to_input`.

    Args:
        gradient: at the outputs, [X, O, B].
        inputs, hidden: of `forward`.
        weights: of every layer.
        layer_norm: as in `forward`.
        to_input: whether the gradient goes on to the inputs.
        take: is given every layer's number and the gradient at its pre-activation; it may keep it.
    """
    for k in reversed(range(len(weights))):
        weight, x = weights[k], inputs[k]
        take(k, gradient)
        if k == 0 and not to_input:
            return None
        # one output: a product of matrices would run ten times slower than this outer product
        across = weight.transpose(1, 2)
        gradient = across * gradient if weight.shape[1] == 1 else torch.bmm(across, gradient)
        if k == 0:
            break
        if layer_norm:
            normalised, scale_X1B = hidden[2 * k - 2 : 2 * k]
            along_X1B = (gradient * x).sum(1, keepdim=True)
            gradient = torch.ops.aten.threshold_backward(gradient, x, 0.0, grad_input=gradient)
            gradient.addcmul_(normalised, along_X1B, value=-1.0 / x.shape[1]).mul_(scale_X1B)
        else:
            gradient = torch.ops.aten.threshold_backward(gradient, x, 0.0, grad_input=gradient)
        gradient = gradient.view(weights[k - 1].shape[0], weights[k - 1].shape[1], -1)
    return gradient
