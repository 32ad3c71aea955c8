"""ONNX models of whole networks with weights of one value, which take as long as exported networks do."""

from __future__ import annotations

from onnx import TensorProto, helper

from apq_tune.deploy.op_models import FUNCTION_NODES, SCALE, ModelGraph
from apq_tune.deploy.profile_ops import FULL_BITS, PlacedLayer, ProfileOp
from apq_tune.network.layer import IMAGE, Layer, Tensor

LOGITS = "logits"


def network_model(layers: tuple[Layer, ...], image: Tensor, precision: str) -> bytes:
    """ONNX file of a network.

    Args:
        layers: Layers with integer numbers, in the order of the forward pass.
        image: Input tensor.
        precision: ``"int8"``, quantized as exported networks are, or ``"fp32"``.
    """
    graph = ModelGraph()
    tensors = {IMAGE: image} | {layer.name: layer.output for layer in layers}
    for number, layer in enumerate(layers):
        placed = PlacedLayer(layer, tensors[layer.inputs[0]], image.size, fixed=False)
        if precision == "int8":
            _integer_layer(graph, placed, number, last=layer is layers[-1])
        else:
            _float_layer(graph, placed, number)
    if precision == "fp32":
        graph.node("Identity", [layers[-1].name], LOGITS)
    shape = [1, int(image.channels), image.size, image.size]
    given = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [1, int(layers[-1].output.channels)])
    return graph.model([given], [made])


def _integer_layer(graph: ModelGraph, placed: PlacedLayer, number: int, *, last: bool) -> None:
    """Append a layer between uint8 tensors, each of which has the name of its layer."""
    layer, name = placed.layer, placed.layer.name
    before, own = placed.ops if len(placed.ops) == 2 else (None, placed.ops[0])
    source, scale = layer.inputs[0], SCALE
    if before is not None and before.kind == "image":
        source = graph.quantize(source, f"{name}.input")
    elif before is not None and before.kind == "requantize":
        scale = 2 * SCALE
        stored = graph.dequantize(source, f"{name}.stored")
        source = _stored(graph, stored, f"{name}.input", 0 if layer.op is None else int(layer.op.a_bits), scale)
    if own.kind == "linear":
        source = graph.node("Flatten", [source], f"{name}.flat")
    read = graph.dequantize(source, f"{name}.read", scale)
    other = graph.dequantize(layer.inputs[1], f"{name}.other") if len(layer.inputs) > 1 else ""
    made = _result(graph, own, read, other, f"{name}.sum", number, scale)
    if last:
        graph.node("Identity", [made], LOGITS)
    else:
        _stored(graph, made, name, int(layer.output.bits), SCALE)


def _stored(graph: ModelGraph, source: str, output: str, bits: int, scale: float) -> str:
    """Quantize a float tensor to some bits; the runtime fuses the step to 8 bits with what made the tensor."""
    if bits == FULL_BITS:
        return graph.quantize(source, output, scale)
    return graph.clip(graph.quantize(source, f"{output}.levels", scale), output, bits)


def _float_layer(graph: ModelGraph, placed: PlacedLayer, number: int) -> None:
    """Append a layer between float tensors, each of which has the name of its layer."""
    layer, own, name = placed.layer, placed.ops[-1], placed.layer.name
    other = layer.inputs[1] if len(layer.inputs) > 1 else ""
    source = layer.inputs[0]
    source = graph.node("Flatten", [source], f"{name}.flat") if own.kind == "linear" else source
    made = _result(graph, own, source, other, f"{name}.result", number, None)
    activated = layer.activation in ("relu", "relu6")
    graph.node("Relu" if activated else "Identity", [made], name)


def _result(
    graph: ModelGraph, own: ProfileOp, source: str, other: str, name: str, number: int, scale: float | None
) -> str:
    """Float result of a layer on float tensors."""
    if own.has_weights:
        made = graph.weighted(own, source, name, number, scale)
    elif own.kind == "pool":
        made = graph.node("GlobalAveragePool", [source], name)
    else:
        made = graph.node("Add" if own.kind == "add" else "Mul", [source, other], name)
    if own.function:
        made = graph.node(FUNCTION_NODES[own.function], [made], f"{name}.{own.function}")
    if own.function == "h_sigmoid":  # a factor for each channel
        made = graph.node("Unsqueeze", [made, graph.value("pixels", [2, 3])], f"{name}.factor")
    return made
