"""ONNX models of whole networks, whose latency is measured.

Integer networks are written as exported ones are, with weights of one value each, which keeps the files small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from apq_tune.cost.rows import FREE
from apq_tune.deploy.forms import LayerForm, forms_of_layers
from apq_tune.deploy.lowering import build
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.op_models import FUNCTION_NODES, OPSET, ModelGraph, model_bytes, weight_value
from apq_tune.deploy.profile_ops import PlacedLayer
from apq_tune.deploy.program import LOGITS
from apq_tune.network.layer import IMAGE, Layer, Tensor
from apq_tune.supernet.frozen import FrozenQuantizer, FrozenWeights

CLIP = 6.0
"""Largest value of quantized activations."""

FEWEST_FOLDED = 64
"""Smallest number of elements of a constant that is stored as a shape and one value."""


class ConstantParameters:
    """Parameters of a network whose layers have weights of one value each; bits are those of the layers."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._numbers = {layer.name: number for number, layer in enumerate(layers)}

    def stored(self, name: str) -> FrozenQuantizer:
        """Quantizer of the output of a layer."""
        return self._quantizer(name, int(self._layers[name].output.bits))

    def read(self, name: str) -> FrozenQuantizer:
        """Quantizer of the input of a layer with weights."""
        op = self._layers[name].op
        assert op is not None
        return self._quantizer(self._layers[name].inputs[0], int(op.a_bits))

    def weights(self, name: str, input_scale: np.float32) -> FrozenWeights:  # noqa: ARG002
        """Weights and bias of a layer."""
        op, value = self._layers[name].op, weight_value(self._numbers[name])
        assert op is not None
        n_out, n_in, k = int(op.out_channels), int(op.in_channels) // int(op.groups), int(op.kernel_size)
        linear = self._layers[name].kind == "linear"
        values = np.full((n_out, n_in) if linear else (n_out, n_in, k, k), value, np.int8)
        return FrozenWeights(values, np.full(n_out, 0.01, np.float32), np.full(n_out, value, np.int32), int(op.w_bits))

    def constants(self, name: str) -> dict[str, NDArray[np.float32]]:  # noqa: ARG002
        """No layer that is measured has other parameters."""
        return {}

    def _quantizer(self, source: str, bits: int) -> FrozenQuantizer:
        return FrozenQuantizer(np.float32(CLIP / 2**bits), bits, not self._is_positive(source))

    def _is_positive(self, name: str) -> bool:
        """Whether the output of a layer is not negative."""
        if name == IMAGE:
            return False
        layer = self._layers[name]
        if layer.kind in ("pool", "max_pool", "multiply", *FREE):
            return self._is_positive(layer.inputs[0])
        if layer.kind == "concat":
            return all(self._is_positive(source) for source in layer.inputs)
        return layer.activation in ("relu", "relu6", "h_sigmoid")


def network_model(
    layers: tuple[Layer, ...], image: Tensor, precision: str, forms: Mapping[str, LayerForm] | None = None
) -> bytes:
    """ONNX file of a network.

    Args:
        layers: Layers with integer numbers, in the order of the forward pass.
        image: Input tensor.
        precision: ``"int8"``, quantized as exported networks are, or ``"fp32"``.
        forms: Forms of the layers of a traced model; by default those of a network of blocks.
    """
    if precision == "fp32":
        return _float_network(layers, image)
    program = build(layers, ConstantParameters(layers), forms or forms_of_layers(layers, int(image.channels)))
    graph, opset = graph_of(program, pack_weights=False)
    fold_constants(graph)
    return model_bytes(graph, max(opset, OPSET))


def fold_constants(graph: onnx.GraphProto) -> None:
    """Replace large initializers of one value by nodes that make them when a runtime loads the file."""
    kept, nodes = [], []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.size < FEWEST_FOLDED or np.ptp(values) != 0:
            kept.append(constant)
            continue
        shape = f"{constant.name}.shape"
        kept.append(numpy_helper.from_array(np.array(values.shape, np.int64), shape))
        filling = numpy_helper.from_array(values.reshape(-1)[:1])
        nodes.append(helper.make_node("ConstantOfShape", [shape], [constant.name], value=filling))
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _float_network(layers: tuple[Layer, ...], image: Tensor) -> bytes:
    graph = ModelGraph()
    tensors = {IMAGE: image} | {layer.name: layer.output for layer in layers}
    for number, layer in enumerate(layers):
        placed = PlacedLayer(layer, tensors[layer.inputs[0]], image.size, fixed=False)
        _float_layer(graph, placed, number)
    graph.node("Identity", [layers[-1].name], LOGITS)
    shape = [1, int(image.channels), image.size, image.size]
    given = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [1, int(layers[-1].output.channels)])
    return graph.model([given], [made])


def _float_layer(graph: ModelGraph, placed: PlacedLayer, number: int) -> None:
    """Append a layer between float tensors, each of which has the name of its layer."""
    layer, name = placed.layer, placed.layer.name
    source, *others = layer.inputs
    if layer.kind in FREE:  # a linear layer flattens its input itself
        graph.node("Identity", [source], name)
        return
    own = placed.ops[-1]
    if own.kind == "linear":
        source = graph.node("Flatten", [source], f"{name}.flat")
    if own.has_weights:
        made = graph.weighted(own, source, f"{name}.sum", number, None)
    elif own.kind == "pool":
        made = graph.node("GlobalAveragePool", [source], f"{name}.mean")
    elif own.kind == "max_pool":
        made = graph.max_pool(own, source, f"{name}.largest")
    elif own.kind == "concat":
        made = graph.node("Concat", layer.inputs, f"{name}.both", axis=1)
    else:
        made = graph.node("Add" if own.kind == "add" else "Mul", [source, *others], f"{name}.both")
    if own.function:
        made = graph.node(FUNCTION_NODES[own.function], [made], f"{name}.{own.function}")
    if own.function == "h_sigmoid":  # a factor for each channel
        made = graph.node("Unsqueeze", [made, graph.value("pixels", [2, 3])], f"{name}.factor")
    graph.node("Relu" if layer.activation in ("relu", "relu6") else "Identity", [made], name)
