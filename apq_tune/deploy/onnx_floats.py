"""ONNX nodes of steps in floating point, between dequantization and quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from apq_tune.deploy.float_reference import along, norm_factors
from apq_tune.deploy.onnx_moves import write_upsample
from apq_tune.deploy.onnx_opaque import write_opaque
from apq_tune.deploy.onnx_writer import GraphWriter
from apq_tune.deploy.program import FloatStep, FunctionStep
from apq_tune.errors import DeployError

LAST = -1


def write_function(writer: GraphWriter, step: FunctionStep) -> None:
    """Append the nodes of an activation function."""
    x, given = writer.real(step.inputs[0]), step.settings
    if step.function in _FUNCTIONS:
        kind, attributes = _FUNCTIONS[step.function]
        writer.node(kind, [x], step.output, step.name, **attributes)
    elif step.function == "gelu":
        writer.need("gelu")
        writer.node("Gelu", [x], step.output, step.name)
    elif step.function == "leaky_relu":
        writer.node("LeakyRelu", [x], step.output, step.name, alpha=float(given["slope"]))
    elif step.function == "silu":
        gate = writer.node("Sigmoid", [x], writer.new())
        writer.node("Mul", [x, gate], step.output, step.name)
    elif step.function == "relu6":
        ends = [writer.constant(np.array(end, np.float32)) for end in (0, 6)]
        writer.node("Clip", [x, *ends], step.output, step.name)
    else:
        assert step.function == "scale"
        factor, offset = (np.array(given[key], np.float32) for key in ("factor", "offset"))
        _scaled(writer, x, factor, offset, step.output)


def write_float(writer: GraphWriter, step: FloatStep) -> None:
    """Append the nodes of an operation in floating point.

    Raises:
        DeployError: If it has no form in ONNX.
    """
    if step.kind not in _WRITERS:
        raise DeployError(f"layer {step.name}: a {step.kind} has no ONNX form yet; keep it out of the exported network")
    _WRITERS[step.kind](writer, step, [writer.real(name) for name in step.inputs])


def _scaled(writer: GraphWriter, x: str, factor: Any, offset: Any, output: str) -> None:
    """Append a product with one constant and the sum with another one, either of which may be missing."""
    if factor is not None:
        x = writer.node("Mul", [x, writer.constant(factor)], output if offset is None else writer.new())
    if offset is not None:
        writer.node("Add", [x, writer.constant(offset)], output)


def _add(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    writer.node("Add", inputs, step.output, step.name)


def _multiply(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    if len(writer.tensors[step.inputs[1]].shape) < len(writer.tensors[step.inputs[0]].shape):
        axes = writer.constant(np.array([2, 3], np.int64), "pixel_axes")
        inputs = [inputs[0], writer.node("Unsqueeze", [inputs[1], axes], writer.new())]
    writer.node("Mul", inputs, step.output, step.name)


def _concat(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    writer.node("Concat", inputs, step.output, step.name, axis=1)


def _mean(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    flat = len(writer.tensors[step.output].shape) == 1
    pooled = writer.node("GlobalAveragePool", inputs, writer.new() if flat else step.output, step.name)
    if flat:
        writer.node("Flatten", [pooled], step.output)


def _average(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    names = {"kernel": "kernel_shape", "stride": "strides", "padding": "pads"}
    attributes = {name: list(step.settings[key]) for key, name in names.items()}
    count = int(step.settings["count_padding"])
    writer.node("AveragePool", inputs, step.output, step.name, **attributes, count_include_pad=count)


def _upsample(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    write_upsample(writer, inputs[0], step.output, step.settings)


def _norm(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    dimensions = 1 + len(writer.tensors[step.output].shape)
    factor, offset = (along(own, 0, dimensions) for own in norm_factors(step))
    _scaled(writer, inputs[0], factor, offset, step.output)


def _affine(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    dimensions = 1 + len(writer.tensors[step.output].shape)
    own = {role: along(values, step.settings["axis"], dimensions) for role, values in step.parameters.items()}
    _scaled(writer, inputs[0], own.get("weight"), own.get("bias"), step.output)


def _layer_norm(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    writer.need("layer_norm")
    own, channels = step.parameters, writer.tensors[step.output].shape[LAST]
    weight = writer.constant(own.get("weight", np.ones(channels, np.float32)))
    bias = [writer.constant(own["bias"])] if "bias" in own else []
    eps = float(step.settings["eps"])
    writer.node("LayerNormalization", [inputs[0], weight, *bias], step.output, step.name, axis=LAST, epsilon=eps)


_FUNCTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("Relu", {}),
    "h_swish": ("HardSwish", {}),
    "h_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {}),
}
"""Functions that are one node."""

_WRITERS: Mapping[str, Callable[[GraphWriter, FloatStep, list[str]], None]] = {
    "add": _add,
    "multiply": _multiply,
    "concat": _concat,
    "pool": _mean,
    "avg_pool": _average,
    "upsample": _upsample,
    "norm": _norm,
    "affine": _affine,
    "layer_norm": _layer_norm,
    "opaque": write_opaque,
}
