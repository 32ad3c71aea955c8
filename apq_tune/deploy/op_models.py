"""ONNX models of single operations, whose latency is measured.

Integer models have the form that onnxruntime fuses, as exported networks have. The model of an operation holds several
instances of it, each with weights of its own, so that a run takes long enough for the clock. Weights are constants of
one value each, which keeps the files small; the time does not depend on them. Inputs and outputs of integer
convolutions are channels last, as no exported network transposes tensors between its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from apq_tune.deploy.profile_ops import FULL_BITS, ProfileOp

PRECISIONS = ("int8", "fp32")

OPSET, IR_VERSION = 21, 10

SCALE, WEIGHT_SCALE = 0.02, 0.01

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]

FUNCTION_NODES = {"h_swish": "HardSwish", "h_sigmoid": "HardSigmoid", "relu": "Relu", "relu6": "Relu"}


class ModelGraph:
    """Nodes and constants of an ONNX model so far.

    Attributes:
        nodes: Nodes.
        constants: Initializers.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node.

        Returns:
            Name of its output.
        """
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}:{kind}", **attributes))
        return output

    def value(self, name: str, value: Any) -> str:
        """Add an initializer once; equal names must mean equal values."""
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def filled(self, name: str, shape: Sequence[int], value: Any) -> str:
        """Tensor of one value, which the runtime makes when it loads the file."""
        lengths = self.value(f"{name}.shape", np.array(shape, np.int64))
        filling = numpy_helper.from_array(np.asarray(value).reshape(1))
        return self.node("ConstantOfShape", [lengths], name, value=filling)

    def quantize(self, source: str, output: str, scale: float = SCALE) -> str:
        """Quantize a float tensor to uint8."""
        at = self.value(f"scale {scale}", np.float32(scale))
        return self.node("QuantizeLinear", [source, at, self.value("zero", np.uint8(0))], output)

    def dequantize(self, source: str, output: str, scale: float = SCALE) -> str:
        """Dequantize a uint8 tensor."""
        at = self.value(f"scale {scale}", np.float32(scale))
        return self.node("DequantizeLinear", [source, at, self.value("zero", np.uint8(0))], output)

    def scaled(self, source: str, scales: str) -> str:
        """Integer tensor times scales, in floating point."""
        levels = self.node("Cast", [source], f"{source}.levels", to=TensorProto.FLOAT)
        return self.node("Mul", [levels, scales], f"{source}.float")

    def clip(self, source: str, output: str, bits: int) -> str:
        """Limit a uint8 tensor to the levels of fewer bits."""
        low, high = self.value("zero", np.uint8(0)), self.value(f"high {bits}", np.uint8(2**bits - 1))
        return self.node("Clip", [source, low, high], output)

    def weighted(self, op: ProfileOp, source: str, output: str, number: int, scale: float | None) -> str:
        """Convolution or linear layer on a float tensor.

        Args:
            op: The operation.
            source: Input tensor.
            output: Name of the output tensor.
            number: Number of the instance, which makes its weights differ from those of others.
            scale: Scale of the input, by which weights and bias are stored as integers; ``None`` to store floats.
        """
        shape = [op.out_channels, op.in_channels // op.groups]
        shape += [op.kernel_size] * 2 if op.kind == "conv" else []
        c, value = op.out_channels, weight_value(number)
        if scale is not None:
            weight = self.filled(f"{output}.weight", shape, np.int8(value))
            bias = self.filled(f"{output}.bias", (c,), np.int32(value))
            steps = np.full(c, WEIGHT_SCALE, np.float32)
            scales = self.value(f"weight scales {c}", steps)
            bias_scales = self.value(f"bias scales {c} {scale}", np.float32(scale) * steps)
            zeros = self.value(f"weight zeros {c}", np.zeros(c, np.int8))
            bias_zeros = self.value(f"bias zeros {c}", np.zeros(c, np.int32))
            if op.kind == "conv" and op.function:  # as ``onnx_graph`` writes convolutions in floating point
                weight = self.scaled(weight, self.value(f"weight scales {c} spread", steps.reshape(-1, 1, 1, 1)))
                bias = self.scaled(bias, bias_scales)
            else:
                weight = self.node("DequantizeLinear", [weight, scales, zeros], f"{weight}.float", axis=0)
                bias = self.node("DequantizeLinear", [bias, bias_scales, bias_zeros], f"{bias}.float", axis=0)
        else:
            weight = self.filled(f"{output}.weight", shape, np.float32(value * WEIGHT_SCALE))
            bias = self.filled(f"{output}.bias", (c,), np.float32(value * WEIGHT_SCALE))
        if op.kind == "linear":
            return self.node("Gemm", [source, weight, bias], output, transB=1)
        pads, strides = [op.kernel_size // 2] * 4, [op.stride] * 2
        kernel = [op.kernel_size] * 2
        return self.node(
            "Conv", [source, weight, bias], output, kernel_shape=kernel, pads=pads, strides=strides, group=op.groups
        )

    def max_pool(self, op: ProfileOp, source: str, output: str) -> str:
        """Maximum over padded windows."""
        lengths = {"kernel_shape": [op.kernel_size] * 2, "strides": [op.stride] * 2}
        before = op.kernel_size // 2
        after = max(0, (op.out_size - 1) * op.stride + op.kernel_size - op.in_size - before)
        return self.node("MaxPool", [source], output, pads=[before, before, after, after], **lengths)

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        """The model as a file."""
        graph = helper.make_graph(self.nodes, "measured", list(inputs), list(outputs), list(self.constants.values()))
        return model_bytes(graph, OPSET)


def model_bytes(graph: onnx.GraphProto, opset: int) -> bytes:
    """File of a graph."""
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    return bytes(made.SerializeToString(deterministic=True))


def weight_value(number: int) -> int:
    """Integer weight of a layer or instance; equal layers with equal weights could be merged."""
    return number % 100 + 1


def has_model(op: ProfileOp, precision: str) -> bool:
    """Whether networks of a precision have an operation."""
    return precision == "int8" or op.kind not in ("requantize", "clip", "image")


def op_model(op: ProfileOp, precision: str) -> bytes:
    """ONNX file of several instances of an operation.

    Args:
        op: The operation.
        precision: One of ``PRECISIONS``, whose networks have the operation.
    """
    assert has_model(op, precision)
    graph, inputs, outputs = ModelGraph(), [], []
    build = _integer_op if precision == "int8" else _float_op
    for number in range(op.n_instances):
        # Equal operations on one tensor would be merged; so would what goes before a convolution in floating point.
        own_input = not op.has_weights or number == 0 or (precision == "int8" and op.function != "")
        name = f"x{number}" if own_input else "x0"
        made, shape, kind = build(graph, op, name, number)
        if own_input:
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
        output_kind = kind if op.kind != "image" else TensorProto.UINT8
        outputs.append(helper.make_tensor_value_info(made, output_kind, [None] * _rank(op)))
    return graph.model(inputs, outputs)


def _rank(op: ProfileOp) -> int:
    return 2 if op.kind in ("linear", "run") else 4


def _integer_op(graph: ModelGraph, op: ProfileOp, source: str, number: int) -> tuple[str, list[int], int]:
    c, size, kind = op.in_channels, op.in_size, TensorProto.UINT8
    if op.kind == "image":
        return graph.quantize(source, f"y{number}"), [1, c, size, size], TensorProto.FLOAT
    if op.kind == "run":
        return graph.clip(source, f"y{number}", 4), [1, 1], kind
    if op.kind == "linear":
        read = graph.dequantize(source, f"read{number}")
        made = _after(graph, op, graph.weighted(op, read, f"sum{number}", number, SCALE))
        return graph.quantize(made, f"y{number}"), [1, c], kind
    if op.kind == "pool":  # a kernel that keeps channels first
        read = graph.dequantize(source, f"read{number}")
        made = graph.quantize(_float_result(graph, op, read, number, integer=True), f"y{number}")
        return made, [1, c, size, size], kind
    x = graph.node("Transpose", [source], f"first{number}", perm=TO_FIRST)
    if op.kind == "clip":
        made = graph.clip(x, f"clipped{number}", FULL_BITS // 2)
    elif op.kind == "requantize":
        read = graph.dequantize(x, f"read{number}")
        made = graph.clip(graph.quantize(read, f"narrow{number}", 2 * SCALE), f"clipped{number}", FULL_BITS // 2)
    elif op.kind == "max_pool":  # of integers
        made = graph.max_pool(op, x, f"largest{number}")
    else:
        read = graph.dequantize(x, f"read{number}")
        made = graph.quantize(_float_result(graph, op, read, number, integer=True), f"quantized{number}")
    return graph.node("Transpose", [made], f"y{number}", perm=TO_LAST), [1, size, size, _given(op)], kind


def _float_op(graph: ModelGraph, op: ProfileOp, source: str, number: int) -> tuple[str, list[int], int]:
    c, size, kind = op.in_channels, op.in_size, TensorProto.FLOAT
    if op.kind == "run":
        return graph.node("Neg", [source], f"y{number}"), [1, 1], kind
    if op.kind == "linear":
        made = graph.weighted(op, source, f"sum{number}", number, None)
        return graph.node("Relu", [_after(graph, op, made)], f"y{number}"), [1, c], kind
    made = _float_result(graph, op, source, number, integer=False)
    if op.kind == "conv":
        made = made if op.function else graph.node("Relu", [made], f"positive{number}")
        # One pixel of the result: the runtime would otherwise reorder all of it at the end of the model.
        made = graph.node("MaxPool", [made], f"pixel{number}", kernel_shape=[1, 1], strides=[op.out_size] * 2)
    return made, [1, _given(op), size, size], kind


def _given(op: ProfileOp) -> int:
    """Channels of the input of a model: of a concatenation the first half, the other one is constant."""
    return (op.in_channels + 1) // 2 if op.kind == "concat" else op.in_channels


def _float_result(graph: ModelGraph, op: ProfileOp, x: str, number: int, *, integer: bool) -> str:
    """Float result of an operation on a float tensor; in integer models the runtime fuses it with what is around."""
    if op.kind == "conv":
        return _after(graph, op, graph.weighted(op, x, f"sum{number}", number, SCALE if integer else None))
    if op.kind == "pool":
        return graph.node("GlobalAveragePool", [x], f"mean{number}")
    if op.kind == "max_pool":
        return graph.max_pool(op, x, f"largest{number}")
    shape = [1, op.in_channels, op.in_size, op.in_size]
    if op.kind == "multiply":
        shape[2:] = [1, 1]
    if op.kind == "concat":
        shape[1] -= _given(op)
    if integer:
        other = graph.dequantize(graph.filled(f"other{number}", shape, np.uint8(number + 1)), f"other{number}.read")
    else:
        other = graph.filled(f"other{number}", shape, np.float32(number + 1))
    if op.kind == "concat":
        return graph.node("Concat", [x, other], f"result{number}", axis=1)
    return graph.node("Add" if op.kind == "add" else "Mul", [x, other], f"result{number}")


def _after(graph: ModelGraph, op: ProfileOp, made: str) -> str:
    """Apply the activation function that stays in floating point, if there is one."""
    return graph.node(FUNCTION_NODES[op.function], [made], f"{made}.{op.function}") if op.function else made
