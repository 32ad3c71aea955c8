"""Operators of TensorFlow Lite of steps that move or select values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from apq_tune.deploy.moves import moved
from apq_tune.deploy.program import IntegerTensor, LinearStep, MoveStep
from apq_tune.deploy.tflite_builder import BOTTOM, GraphBuilder, pads_as_same
from apq_tune.deploy.tflite_writer import Value

AXES = (1, 2, 0)
"""Axes of an image, channels first, in the order of the file: height, width, channels."""

WHOLE = 0b0111
"""All axes but that of the channels, as bits."""


def write_move(builder: GraphBuilder, step: MoveStep) -> None:
    """Append the operators of a step.

    Raises:
        DeployError: If it has none; the message names its layer.
    """
    x = builder.values[step.inputs[0]]
    builder.values[step.output] = _MOVES[step.kind](builder, step, x)


def _operator(
    builder: GraphBuilder, step: MoveStep, x: Value, kind: str, constants: list[Any], options: Any, shape: Any = None
) -> Value:
    """Append the operator that makes the output of a step of a tensor and constants."""
    out = builder.writer.value(step.output, shape or builder.shape(step.output), x.scaling)
    own = [builder.writer.constant("numbers", np.array(values, np.int32)) for values in constants]
    builder.writer.operator(kind, [x.number, *own], out.number, 1 if x.scaling is None else 2, options)
    return out


def _slice(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    start, stop = step.settings["start"], step.settings["stop"]
    ends = [[0, 0, 0, start], [0, 0, 0, stop], [1, 1, 1, 1]]
    options = builder.writer.schema.StridedSliceOptionsT(beginMask=WHOLE, endMask=WHOLE)
    return _operator(builder, step, x, "STRIDED_SLICE", ends, options)


def _select(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    """Channels in another order, of shuffles, too."""
    channels = moved(step, np.arange(x.shape[2]).reshape(1, -1, 1, 1), (x.shape[2], 1, 1)).reshape(-1)
    return _operator(builder, step, x, "GATHER", [channels], builder.writer.schema.GatherOptionsT(axis=3))


def _max_pool(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    own, given = builder.writer.schema, step.settings
    kernel, stride, padding = (tuple(given[key]) for key in ("kernel", "stride", "padding"))
    if tuple(given["dilation"]) != (1, 1):
        builder.refuse(step, "is a max pool with dilation")
    same = any(padding) and pads_as_same(x.shape[:2], kernel, stride, (1, 1), padding)
    if any(padding) and not same:
        tensor = builder.program.tensors[step.inputs[0]]
        lowest = BOTTOM if x.scaling is not None else float(np.finfo(np.float32).min)
        least = None if isinstance(tensor, IntegerTensor) and not tensor.signed else lowest
        x = builder.padded(x, padding, f"{step.name}/padded", least)
    options = own.Pool2DOptionsT(own.Padding.SAME if same else own.Padding.VALID)
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = stride
    return _operator(builder, step, x, "MAX_POOL_2D", [], options)


def _flatten(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    """Pixels as channels; linear layers read them in the order of the file, others in that of the program."""
    height, width, channels = x.shape
    if (height, width) == (1, 1):
        return x
    n, readers = height * width * channels, [own for own in builder.program.steps if step.output in own.inputs]
    if all(isinstance(own, LinearStep) for own in readers):
        order = np.arange(n).reshape(channels, height, width).transpose(AXES).reshape(-1)
    else:
        turned = builder.writer.value(f"{step.name}/turned", (channels, height, width), x.scaling)
        axes = builder.writer.constant("numbers", np.array([0, 3, 1, 2], np.int32))
        version = 1 if x.scaling is None else 2
        builder.writer.operator(
            "TRANSPOSE", [x.number, axes], turned.number, version, builder.writer.schema.TransposeOptionsT()
        )
        x, order = turned, None
    out = builder.writer.value(step.output, (1, 1, n), x.scaling)
    shape = builder.writer.constant("numbers", np.array([-1, 1, 1, n], np.int32))
    builder.writer.operator("RESHAPE", [x.number, shape], out.number, 1, builder.writer.schema.ReshapeOptionsT())
    return out if order is None else out._replace(order=tuple(map(int, order)))


def _pad(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    value = step.settings.get("value", 0)
    if value and x.scaling is not None:
        builder.refuse(step, f"pads with {value}")
    top, left, bottom, right = step.settings["padding"]
    sides = (top, left, bottom, right)
    channels = tuple(step.settings.get("channels", (0, 0)))
    return builder.padded(x, sides, step.output, value or None, channels)


def _upsample(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    height, width, _ = builder.shape(step.output)
    options = builder.writer.schema.ResizeNearestNeighborOptionsT()
    return _operator(builder, step, x, "RESIZE_NEAREST_NEIGHBOR", [[height, width]], options)


def _permute(builder: GraphBuilder, step: MoveStep, x: Value) -> Value:
    order = step.settings["order"]
    if len(order) != len(AXES):
        builder.refuse(step, "permutes the axes of a tensor that is no image")
    axes = [0, *(1 + AXES.index(order[axis]) for axis in AXES)]
    return _operator(builder, step, x, "TRANSPOSE", [axes], builder.writer.schema.TransposeOptionsT())


_MOVES: Mapping[str, Callable[[GraphBuilder, MoveStep, Value], Value]] = {
    "slice": _slice,
    "select": _select,
    "shuffle": _select,
    "max_pool": _max_pool,
    "flatten": _flatten,
    "pad": _pad,
    "upsample": _upsample,
    "permute": _permute,
}
