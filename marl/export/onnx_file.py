"""An actor as an ONNX model, composed node by node: no tracing, and names that one can read.

Shape suffixes: those of marl/export/actors.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.spec import Head
from marl.export.actors import EPS, FORBIDDEN, Actor

OPSET = 17
IR = 10  # of the file; onnxruntime since 1.18 reads it


def model(actor: Actor) -> Any:
    """The `onnx.ModelProto` of an actor; inputs and outputs as `actor` names them."""
    graph = _Graph(actor)
    hidden = "observation"
    for k, (weight_IW, bias_W) in enumerate(actor.layers):
        last = k == len(actor.layers) - 1
        hidden = graph.add("MatMul", f"product_{k}", hidden, graph.constant(f"weight_{k}", weight_IW))
        hidden = graph.add("Add", "scores" if last else f"sum_{k}", hidden, graph.constant(f"bias_{k}", bias_W))
        if last:
            break
        if actor.layer_norm:
            square = graph.add("Mul", f"square_{k}", hidden, hidden)
            mean = graph.add("ReduceMean", f"mean_{k}", square, axes=[1], keepdims=1)
            shifted = graph.add("Add", f"variance_{k}", mean, graph.constant("epsilon", np.float32(EPS)))
            hidden = graph.add("Div", f"normal_{k}", hidden, graph.add("Sqrt", f"scale_{k}", shifted))
        hidden = graph.add("Relu", f"hidden_{k}", hidden)
    if actor.masked:
        forbidden = graph.constant("forbidden", np.float32(FORBIDDEN))
        graph.add("Where", "logits", "action_mask", hidden, forbidden)
    else:
        graph.add("Identity", "logits", hidden)
    chosen, own = [], []
    for h, (low, high) in enumerate(actor.bounds):
        kind = actor.agent.heads[h]
        ends = [graph.constant(f"{word}_{h}", np.array([at])) for word, at in (("from", low), ("to", high))]
        head = graph.add("Slice", f"logits_{h}", "logits", *ends, graph.constant("columns", np.array([1])))
        if kind.continuous:
            own.append(_numbers(graph, h, kind, head))
            first = [graph.constant(f"from_{h}", np.array([low])), graph.constant(f"next_{h}", np.array([low + 1]))]
            head = graph.add("Slice", f"first_{h}", "logits", *first, graph.constant("columns", np.array([1])))
        chosen.append(graph.add("ArgMax", f"choice_{h}", head, axis=1, keepdims=1))
        if actor.agent.box and not kind.continuous:
            symbols = graph.constant(f"symbols_{h}", np.arange(kind.size)[None])
            same = graph.add("Equal", f"same_{h}", chosen[-1], symbols)
            own.append(graph.add("Cast", f"onehot_{h}", same, to=1))  # to float
    graph.add("Concat", "choices", *chosen, axis=1)
    if actor.agent.box:
        graph.add("Concat", "action", *own, axis=1)
    elif actor.agent.multi_discrete:
        graph.add("Identity", "action", "choices")
    else:
        strides = graph.constant("strides", np.array(actor.strides))
        parts = graph.add("Mul", "parts", "choices", strides)
        total = graph.add("ReduceSum", "total", parts, graph.constant("columns", np.array([1])), keepdims=0)
        graph.add("Add", "action", total, graph.constant("start", np.array(actor.agent.start)))
    return graph.model()


def _numbers(graph: _Graph, h: int, head: Head, inputs: str) -> str:
    """tanh of a continuous head's outputs, between its bounds."""
    low, high = np.array(head.low, np.float32), np.array(head.high, np.float32)
    half, middle = graph.constant(f"half_{h}", (high - low) / 2), graph.constant(f"middle_{h}", (high + low) / 2)
    scaled = graph.add("Mul", f"scaled_{h}", graph.add("Tanh", f"tanh_{h}", inputs), half)
    shifted = graph.add("Add", f"shifted_{h}", scaled, middle)
    above = graph.add("Max", f"above_{h}", shifted, graph.constant(f"low_{h}", low))
    return graph.add("Min", f"numbers_{h}", above, graph.constant(f"high_{h}", high))


class _Graph:
    """Nodes and constants so far."""

    def __init__(self, actor: Actor) -> None:
        import onnx  # an extra

        self._onnx, self._actor = onnx, actor
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        """A constant by its name; the second of a name is the first."""
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def add(self, kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        """A node; the name of its output."""
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def model(self) -> Any:
        onnx = self._onnx
        kinds = {"float32": onnx.TensorProto.FLOAT, "bool": onnx.TensorProto.BOOL, "int64": onnx.TensorProto.INT64}

        def described(tensors: Any) -> list[Any]:
            return [onnx.helper.make_tensor_value_info(one.name, kinds[one.dtype], list(one.shape)) for one in tensors]

        graph = onnx.helper.make_graph(
            self._nodes,
            self._actor.agent.name,
            described(self._actor.inputs),
            described(self._actor.outputs),
            list(self._constants.values()),
        )
        made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(made)
        return made
