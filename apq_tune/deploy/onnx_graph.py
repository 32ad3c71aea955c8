"""Programs as ONNX graphs of quantize and dequantize nodes, which runtimes fuse to integer kernels.

Every stored tensor is ``QuantizeLinear -> [Clip] -> DequantizeLinear`` in uint8: unsigned tensors with zero point 0,
signed ones with zero point 128. Below 8 bits the integers are clipped after quantization, because a clip before it
would keep onnxruntime from fusing. Weights are packed, 2 bits as INT2, 3 and 4 bits as INT4, 5 and 6 bits as INT4 and
UINT2, 7 and 8 bits as INT8, and cast to int8 where they are read: onnxruntime folds that when it loads the file, and
runs the kernels that it has for 8 bits.

| step | nodes between dequantization and quantization |
|---|---|
| ``ConvStep`` | ``Conv`` |
| ``LinearStep`` | ``Gemm`` of vectors; else ``Transpose`` of integers, ``Conv`` of 1x1, ``Transpose`` back |
| ``AddStep``, ``MultiplyStep``, ``ConcatStep`` | ``Add``, ``Mul``, ``Concat`` |
| ``MeanStep``, ``AveragePoolStep`` | ``GlobalAveragePool``, ``AveragePool`` |
| ``RequantizeStep`` | none; from 8 to 8 bits ``LeakyRelu`` with slope 1 |
| ``MoveStep`` | none: it moves the integers; ``apq_tune.deploy.onnx_moves`` |
| ``FunctionStep``, ``FloatStep`` | in floating point; ``apq_tune.deploy.onnx_floats`` |

Two quantizations to 8 bits with nothing between them would be merged by onnxruntime to one of another scale and zero
point, which rounds differently; ``LeakyRelu`` prevents that, and becomes a table of 256 integers.

On x86 processors without VNNI (``avx512_vnni`` or ``avx_vnni`` in /proc/cpuinfo) onnxruntime adds products of uint8 and
int8 in pairs in 16 bits, which can saturate. There a session needs the option ``session.x64quantprecision = "1"``;
``apq_tune.deploy.onnx_session`` finds out and sets it. On others the option only costs time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper

from apq_tune.deploy.onnx_floats import write_float, write_function
from apq_tune.deploy.onnx_moves import write_move
from apq_tune.deploy.onnx_writer import Attributes, GraphWriter
from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    AveragePoolStep,
    ConcatStep,
    ConvStep,
    FloatStep,
    FloatTensor,
    FunctionStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    MoveStep,
    MultiplyStep,
    Program,
    ProgramTensor,
    QuantizeStep,
    RequantizeStep,
    Step,
    WeightedStep,
)
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE

BATCH = "n"
"""Name of the batch dimension."""

FULL_BITS = 8
"""Bits of a uint8 tensor without a clip."""


def graph_of(program: Program, *, pack_weights: bool = True) -> tuple[onnx.GraphProto, int]:
    """ONNX graph of a program, and the version of the operator set that it needs.

    Args:
        program: Program to write.
        pack_weights: Whether weights below 7 bits are packed, which needs a recent runtime (INT2: operator set 25);
            otherwise all weights are INT8.

    Raises:
        DeployError: If an operation has no form in ONNX; the message names its layer.
    """
    writer = GraphWriter(program, pack_weights=pack_weights)
    for step in program.steps:
        if type(step) not in _WRITERS:
            raise DeployError(f"step {step.name}: a {type(step).__name__} has no ONNX form yet")
        _WRITERS[type(step)](writer, step)
    ends = [_value(program.tensors[name]) for name in (IMAGE, LOGITS)]
    graph = helper.make_graph(writer.nodes, "network", ends[:1], ends[1:], list(writer.constants.values()))
    return graph, writer.opset


def _value(tensor: ProgramTensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [BATCH, *tensor.shape])


def _quantize(writer: GraphWriter, step: QuantizeStep) -> None:
    writer.quantize(writer.real(step.inputs[0]), step.output)


def _requantize(writer: GraphWriter, step: RequantizeStep) -> None:
    ends = [writer.tensors[name] for name in (step.inputs[0], step.output)]
    value = writer.real(step.inputs[0])
    if all(isinstance(end, IntegerTensor) and end.bits == FULL_BITS for end in ends):
        value = writer.node("LeakyRelu", [value], writer.new(), step.name, alpha=1.0)
    writer.quantize(value, step.output)


def _conv(writer: GraphWriter, step: ConvStep) -> None:
    attributes: dict[str, Any] = {}
    given = (("strides", step.stride, 1), ("pads", step.padding, 0), ("dilations", step.dilation, 1))
    for name, values, usual in given:
        attributes |= {name: list(values)} if any(value != usual for value in values) else {}
    attributes |= {"group": step.groups} if step.groups > 1 else {}
    _weighted("Conv", writer, step, attributes)


def _linear(writer: GraphWriter, step: LinearStep) -> None:
    source = writer.tensors[step.inputs[0]]
    last = len(source.shape)
    if last == 1:
        _weighted("Gemm", writer, step, {"transB": 1})
        return
    first = writer.node("Transpose", [source.name], writer.new(), perm=[0, last, *range(1, last)])
    back: Attributes = "Transpose", {"perm": [0, *range(2, last + 1), 1]}
    _weighted("Conv", writer, step, {}, moved=first, then=back)


def _weighted(
    kind: str,
    writer: GraphWriter,
    step: WeightedStep,
    attributes: Mapping[str, Any],
    *,
    moved: str | None = None,
    then: Attributes | None = None,
) -> None:
    """Append an operation with weights.

    Args:
        kind: ``"Conv"`` or ``"Gemm"``.
        writer: Graph so far.
        step: Step.
        attributes: Attributes of the node.
        moved: Integers of the input with channels first, if they are not.
        then: Operator that is applied to the integers of the output.
    """
    source, weights = writer.tensors[step.inputs[0]], step.weights
    assert isinstance(source, IntegerTensor)
    values = weights.values
    if kind == "Conv":  # of 1x1 where it stands for a linear layer
        values = values.reshape(*values.shape[:2], *values.shape[2:] or [1] * (len(source.shape) - 1))
    if kind == "Conv" and isinstance(writer.tensors[step.output], FloatTensor):
        _float_conv(writer, step, moved, values, attributes, then)
        return
    quantized = [writer.packed(values, weights.bits), writer.constant(weights.scales)]
    # Not shared by layers, as onnxruntime then fails with session.x64quantprecision.
    quantized.append(writer.constant(np.zeros(len(weights.scales), np.int8)))
    weight = writer.node("DequantizeLinear", quantized, writer.new(), axis=0)
    units = [writer.constant(weights.bias), writer.constant(source.scale * weights.scales)]
    bias = writer.node("DequantizeLinear", units, writer.new(), axis=0)
    writer.into(kind, [writer.real(source.name, moved), weight, bias], step, attributes, then)


def _float_conv(
    writer: GraphWriter,
    step: WeightedStep,
    moved: str | None,
    values: Any,
    attributes: Mapping[str, Any],
    then: Attributes | None,
) -> None:
    """Append a convolution that runs in floating point, before an activation function that does.

    Its weights are Cast and Mul instead of DequantizeLinear: onnxruntime folds these when it loads the file, while
    it would dequantize the weights in every run, and has its fastest kernels for constant weights only.
    """
    weights, source = step.weights, writer.tensors[step.inputs[0]]
    assert isinstance(source, IntegerTensor)
    spread = weights.scales.reshape(-1, *[1] * (values.ndim - 1))
    factors = (
        (writer.packed(values, weights.bits), spread),
        (writer.constant(weights.bias), source.scale * weights.scales),
    )
    parts = []
    for levels, own in factors:
        cast_levels = writer.node("Cast", [levels], writer.new(), to=TensorProto.FLOAT)
        parts.append(writer.node("Mul", [cast_levels, writer.constant(own)], writer.new()))
    writer.into("Conv", [writer.real(source.name, moved), *parts], step, attributes, then)


def _add(writer: GraphWriter, step: AddStep) -> None:
    writer.into("Add", [writer.real(name) for name in step.inputs], step)


def _multiply(writer: GraphWriter, step: MultiplyStep) -> None:
    writer.into("Mul", [writer.real(name) for name in step.inputs], step)


def _concat(writer: GraphWriter, step: ConcatStep) -> None:
    writer.into("Concat", [writer.real(name) for name in step.inputs], step, {"axis": 1})


def _mean(writer: GraphWriter, step: MeanStep) -> None:
    flat: Attributes | None = ("Flatten", {}) if len(writer.tensors[step.output].shape) == 1 else None
    pooled = writer.node("GlobalAveragePool", [writer.real(step.inputs[0])], writer.new(), step.name)
    writer.quantize(pooled, step.output, then=flat)


def _average(writer: GraphWriter, step: AveragePoolStep) -> None:
    attributes = {"kernel_shape": list(step.kernel), "strides": list(step.stride), "pads": list(step.padding)}
    writer.into(
        "AveragePool",
        [writer.real(step.inputs[0])],
        step,
        {**attributes, "count_include_pad": int(step.count_padding)},
    )


_WRITERS = cast(
    "Mapping[type[Step], Callable[[GraphWriter, Step], None]]",
    {
        QuantizeStep: _quantize,
        RequantizeStep: _requantize,
        ConvStep: _conv,
        LinearStep: _linear,
        AddStep: _add,
        MultiplyStep: _multiply,
        ConcatStep: _concat,
        MeanStep: _mean,
        AveragePoolStep: _average,
        MoveStep: write_move,
        FunctionStep: write_function,
        FloatStep: write_float,
    },
)
