"""Programs as graphs of TensorFlow Lite: int8 tensors of height, width and channels, one image at a time.

A tensor of any bits is int8: its largest level is 127, so that the end of int8 saturates as its largest level does, and
its zero point is 127 less that level. At 8 bits the lower end saturates alike. Below, unsigned tensors have a fused
ReLU, which ends at level 0, and others ``MAXIMUM`` with the smallest level. So all bits are exact, and 2 to 7 bits are
stored as bytes. Weights of 2 to 4 bits are int4 in convolutions without groups and in linear layers whose input has 8
bits, all others int8.

Kernels rescale in fixed point with two roundings (Jacob 2018), the first to whole units of a sum; XNNPACK does it in
floating point. So a level may be off by one where the exact value is near the edge of a level, the more often the
smaller the sums are. Hence weights in int8 are multiplied by the largest power of two that fits, and their scales
divided, which is the same function; and integers are rescaled by ``MUL`` with a constant rather than by ``QUANTIZE``,
whose products are smaller, and which XNNPACK computes with 8 bits of precision.

| step | operators |
|---|---|
| ``ConvStep`` | ``CONV_2D`` or ``DEPTHWISE_CONV_2D``, after ``PAD`` if neither ``SAME`` nor ``VALID`` pads alike |
| ``LinearStep`` | ``CONV_2D`` of 1x1, which has a scale for each output channel in all runtimes |
| ``AddStep``, ``MultiplyStep``, ``MeanStep`` | ``ADD``, ``MUL``, ``MEAN`` |
| ``AveragePoolStep`` | ``DEPTHWISE_CONV_2D`` with weights of 1, as ``AVERAGE_POOL_2D`` cannot change the scale |
| ``ConcatStep`` | ``MUL`` of each part if need be, ``CONCATENATION`` |
| ``RequantizeStep`` | ``MUL`` by 1 |
| ``QuantizeStep`` | ``QUANTIZE``; none for an image that is quantized once: the file reads int8 |
| ``MoveStep`` | ``apq_tune.deploy.tflite_moves`` |

Logits, which are float in a program, are int8 of a range that is measured on images (``logits_scaling``). Steps in
floating point are refused, as an operator in int8 has no output in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import numpy as np

from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    AveragePoolStep,
    ConcatStep,
    ConvStep,
    FloatStep,
    FunctionStep,
    IntegerTensor,
    LinearStep,
    MeanStep,
    MoveStep,
    MultiplyStep,
    Program,
    QuantizeStep,
    RequantizeStep,
    Step,
)
from apq_tune.deploy.tflite_builder import GraphBuilder
from apq_tune.deploy.tflite_moves import write_move
from apq_tune.deploy.tflite_writer import Scaling, TFLiteWriter, Value


class TFLiteGraph(NamedTuple):
    """Graph of a program.

    Attributes:
        writer: What is written.
        values: Tensors of the program in it, by name.
        logits: Number of the output, whose shape is ``(n, classes)``.
        narrow: Number of layers whose weights are int4, and of those with fewer than 8 bits that are int8.
    """

    writer: TFLiteWriter
    values: Mapping[str, Value]
    logits: int
    narrow: tuple[int, int]


def tflite_graph(program: Program, logits: Scaling, *, pack_weights: bool = True) -> TFLiteGraph:
    """Graph of a program.

    Args:
        program: Program.
        logits: Scaling of its logits.
        pack_weights: Whether weights of up to 4 bits are stored in 4, where there are kernels for them.

    Raises:
        DeployError: If an operation has no form in the format; the message names its layer.
    """
    builder = GraphBuilder(program, logits, pack_weights=pack_weights)
    builder.image()
    for step in program.steps:
        if isinstance(step, FunctionStep):
            builder.refuse(step, f"computes {step.function} in floating point")
        if isinstance(step, FloatStep) and not (step.output in builder.last and step.kind in _LAST):
            builder.refuse(step, f"computes {step.kind} in floating point")
    for step in program.steps:
        _WRITERS[type(step)](builder, step)
    final = builder.values[LOGITS]
    if final.shape[:2] != (1, 1) or final.scaling is None:
        builder.refuse(program.steps[-1], "gives no vector of logits in integers")
    output = builder.writer.reshaped(final, "logits", final.shape[2:])
    return TFLiteGraph(builder.writer, builder.values, output, (builder.n_int4, builder.n_int8))


def _quantize(builder: GraphBuilder, step: QuantizeStep) -> None:
    source = builder.values[step.inputs[0]]
    builder.values[step.output] = builder.requantized(source, step.output, step.output)


def _conv(builder: GraphBuilder, step: ConvStep) -> None:
    own = step.weights
    builder.convolution(
        step,
        builder.values[step.inputs[0]],
        own.values,
        own.scales,
        own.bias,
        groups=step.groups,
        bits=own.bits,
        stride=step.stride,
        padding=step.padding,
        dilation=step.dilation,
    )


def _linear(builder: GraphBuilder, step: LinearStep) -> None:
    own, x = step.weights, builder.values[step.inputs[0]]
    if len(builder.program.tensors[step.output].shape) > 1:
        builder.refuse(step, "is a linear layer on the last axis of an image")
    values = own.values if x.order is None else own.values[:, list(x.order)]
    builder.convolution(step, x, values[:, :, None, None], own.scales, own.bias, bits=own.bits)


def _add(builder: GraphBuilder, step: AddStep) -> None:
    inputs = [builder.values[name].number for name in step.inputs]
    builder.emit("ADD", inputs, step, 2, builder.writer.schema.AddOptionsT())


def _multiply(builder: GraphBuilder, step: MultiplyStep) -> None:
    inputs = [builder.values[name].number for name in step.inputs]
    builder.emit("MUL", inputs, step, 2 if step.ratio < 1 else 3, builder.writer.schema.MulOptionsT())


def _mean(builder: GraphBuilder, step: MeanStep | FloatStep) -> None:
    axes = builder.writer.constant("axes", np.array([1, 2], np.int32))
    options = builder.writer.schema.ReducerOptionsT(keepDims=True)
    builder.emit("MEAN", [builder.values[step.inputs[0]].number, axes], step, 2, options, fused=False)


def _average(builder: GraphBuilder, step: AveragePoolStep) -> None:
    x = builder.values[step.inputs[0]]
    channels, n = x.shape[2], step.kernel[0] * step.kernel[1]
    if any(step.padding) and not step.count_padding:
        builder.refuse(step, "is an average pool that pads and does not count its padding (count_include_pad=False)")
    ones, scales = np.ones((channels, 1, *step.kernel), np.int8), np.full(channels, 1 / n, np.float32)
    bias = np.zeros(channels, np.int32)
    builder.convolution(step, x, ones, scales, bias, groups=channels, stride=step.stride, padding=step.padding)


def _concat(builder: GraphBuilder, step: ConcatStep | FloatStep) -> None:
    parts = []
    for number, name in enumerate(step.inputs):
        value, wanted = builder.values[name], builder.program.tensors[step.output]
        if not isinstance(wanted, IntegerTensor) or wanted[2:] != builder.program.tensors[name][2:]:
            value = builder.requantized(value, step.output, f"{step.output}/input{number}")
        parts.append(value.number)
    value = builder.writer.value(step.output, builder.shape(step.output), builder.scaling(step.output))
    options = builder.writer.schema.ConcatenationOptionsT(axis=3)
    builder.writer.operator("CONCATENATION", parts, value.number, 2, options)
    builder.values[step.output] = value


def _float(builder: GraphBuilder, step: FloatStep) -> None:
    if any(builder.values[name].scaling is None for name in step.inputs):
        builder.refuse(step, f"computes {step.kind} of the image in floating point")
    _LAST[step.kind](builder, step)


_LAST: Mapping[str, Callable[[GraphBuilder, FloatStep], None]] = {"concat": _concat, "pool": _mean}
"""Operations that make logits of integers."""

_WRITERS = cast(
    "Mapping[type[Step], Callable[[GraphBuilder, Step], None]]",
    {
        QuantizeStep: _quantize,
        RequantizeStep: _quantize,
        ConvStep: _conv,
        LinearStep: _linear,
        AddStep: _add,
        MultiplyStep: _multiply,
        MeanStep: _mean,
        AveragePoolStep: _average,
        ConcatStep: _concat,
        MoveStep: write_move,
        FloatStep: _float,
    },
)
