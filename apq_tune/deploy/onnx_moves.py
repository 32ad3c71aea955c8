"""ONNX nodes of steps that move or select values: on the integers, or on real values where those are not quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apq_tune.deploy.onnx_writer import GraphWriter
from apq_tune.deploy.program import FloatTensor, IntegerTensor, MoveStep


def write_move(writer: GraphWriter, step: MoveStep) -> None:
    """Append the nodes of a step."""
    real = isinstance(writer.tensors[step.output], FloatTensor)
    _MOVES[step.kind](writer, step, writer.real(step.inputs[0]) if real else step.inputs[0])


def write_upsample(writer: GraphWriter, x: str, output: str, settings: Mapping[str, Any]) -> str:
    """Append an enlargement of images by a whole factor.

    Args:
        writer: Graph so far.
        x: Name of the images.
        output: Name of the output.
        settings: ``factor`` and ``mode``.
    """
    factor, nearest = float(settings["factor"]), settings["mode"] == "nearest"
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    how = how if nearest else {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    scales = writer.constant(np.array([1, 1, factor, factor], np.float32))
    return writer.node("Resize", [x, "", scales], output, **how)


def write_reshape(writer: GraphWriter, x: str, output: str, shape: Sequence[int]) -> str:
    """Append a reshape; 0 keeps the length of an axis."""
    return writer.node("Reshape", [x, writer.constant(np.array(shape, np.int64))], output)


def _slice(writer: GraphWriter, step: MoveStep, x: str) -> None:
    ends = [np.array([step.settings[key]], np.int64) for key in ("start", "stop")]
    axis = writer.constant(np.array([1], np.int64), "channel_axis")
    writer.node("Slice", [x, *(writer.constant(end) for end in ends), axis], step.output, step.name)


def _select(writer: GraphWriter, step: MoveStep, x: str) -> None:
    indices = writer.constant(np.array(step.settings["indices"], np.int64))
    writer.node("Gather", [x, indices], step.output, step.name, axis=1)


def _shuffle(writer: GraphWriter, step: MoveStep, x: str) -> None:
    channels, *pixels = writer.tensors[step.output].shape
    groups = step.settings["groups"]
    parts = write_reshape(writer, x, writer.new(), [0, groups, channels // groups, *pixels])
    turned = writer.node("Transpose", [parts], writer.new(), perm=[0, 2, 1, *range(3, 3 + len(pixels))])
    write_reshape(writer, turned, step.output, [0, channels, *pixels])


def _max_pool(writer: GraphWriter, step: MoveStep, x: str) -> None:
    names = {"kernel": "kernel_shape", "stride": "strides", "padding": "pads", "dilation": "dilations"}
    attributes = {name: list(step.settings[key]) for key, name in names.items()}
    writer.node("MaxPool", [x], step.output, step.name, **attributes)


def _flatten(writer: GraphWriter, step: MoveStep, x: str) -> None:
    shape = writer.tensors[step.output].shape
    if len(shape) == 1:
        writer.node("Flatten", [x], step.output, step.name)
    else:
        write_reshape(writer, x, step.output, [0, *shape])


def _pad(writer: GraphWriter, step: MoveStep, x: str) -> None:
    tensor = writer.tensors[step.output]
    top, left, bottom, right = step.settings["padding"]
    before, after = step.settings.get("channels", (0, 0))
    pads = writer.constant(np.array([0, before, top, left, 0, after, bottom, right], np.int64))
    if isinstance(tensor, IntegerTensor):
        value = writer.constant(np.array(tensor.zero, np.uint8), f"u{tensor.zero}")
    else:
        value = writer.constant(np.array(step.settings.get("value", 0), np.float32))
    writer.node("Pad", [x, pads, value], step.output, step.name)


def _upsample(writer: GraphWriter, step: MoveStep, x: str) -> None:
    write_upsample(writer, x, step.output, step.settings)


def _permute(writer: GraphWriter, step: MoveStep, x: str) -> None:
    writer.node("Transpose", [x], step.output, step.name, perm=[0, *(axis + 1 for axis in step.settings["order"])])


_MOVES: Mapping[str, Callable[[GraphWriter, MoveStep, str], None]] = {
    "slice": _slice,
    "select": _select,
    "shuffle": _shuffle,
    "max_pool": _max_pool,
    "flatten": _flatten,
    "pad": _pad,
    "upsample": _upsample,
    "permute": _permute,
}
