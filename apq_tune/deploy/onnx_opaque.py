"""ONNX nodes of operations of ATen that a traced model holds and the package has no kind of layer for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from apq_tune.deploy import onnx_aten as aten
from apq_tune.deploy.onnx_aten import Named, OpaqueCall
from apq_tune.deploy.onnx_writer import GraphWriter
from apq_tune.deploy.program import FloatStep
from apq_tune.errors import DeployError


def write_opaque(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:
    """Append the nodes of an operation of ATen.

    Raises:
        DeployError: If it has no form in ONNX here; the message names the layer and the operation.
    """
    target = step.settings["target"]
    write = _OPAQUE.get(target.split(".")[1])
    if write is None or step.settings.get("output", 0):
        raise DeployError(
            f"layer {step.name}: the operation {target} has no ONNX form here; export with --format torch, or "
            "write the model with another operation"
        )

    def value_of(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [value_of(own) for own in argument]
        if not isinstance(argument, Mapping):
            return argument
        if "input" in argument:
            return Named(inputs[argument["input"]])
        if "parameter" in argument:
            return Named(writer.constant(step.parameters[argument["parameter"]]))
        if "constant" in argument:
            return Named(writer.constant(np.array(argument["constant"], np.float32)))
        return float(argument["float"]) if "float" in argument else None  # sizes are known from the shape

    given, named = step.settings["arguments"], step.settings.get("keywords", {})
    write(OpaqueCall(writer, step, value_of(given), {name: value_of(own) for name, own in named.items()}))


_PLAIN = (
    *("sqrt", "exp", "log", "abs", "neg", "reciprocal", "erf", "sin", "cos", "floor", "ceil"),
    *("softplus", "selu", "sigmoid", "tanh", "relu", "sign"),
)
"""Operations that are one node of the same name."""

_COMPARISONS = {
    **{"gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal"},
    **{"logical_and": "And", "logical_or": "Or"},
}
"""Operations of truth values by name."""

_RESHAPES = ("reshape", "view", "_unsafe_view", "flatten", "squeeze", "unsqueeze")

_OPAQUE: Mapping[str, Callable[[OpaqueCall], None]] = {
    **{name: aten.softmax("Softmax") for name in ("softmax", "_softmax")},
    **{name: aten.softmax("LogSoftmax") for name in ("log_softmax", "_log_softmax")},
    **{name: aten.two_inputs("MatMul") for name in ("matmul", "bmm", "mm")},
    **{name: aten.two_inputs(kind) for name, kind in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"))},
    **{name: aten.two_inputs(kind) for name, kind in (("maximum", "Max"), ("minimum", "Min"))},
    **{name: aten.two_inputs(kind) for name, kind in _COMPARISONS.items()},
    "logical_not": aten.one_node("Not"),
    "where": aten.choice,
    "rsub": aten.subtraction_from,
    "pow": aten.power,
    **{name: aten.one_node(name.capitalize()) for name in _PLAIN},
    "mish": aten.mish,
    "gelu": aten.gelu,
    "prelu": aten.prelu,
    **dict.fromkeys(("clamp", "hardtanh", "clamp_min"), aten.clamping),
    "mean": aten.reduction("ReduceMean"),
    "sum": aten.reduction("ReduceSum"),
    **{name: aten.reduction("ReduceMax") for name in ("amax", "max")},
    **dict.fromkeys(_RESHAPES, aten.reshaping),
    "permute": aten.permutation,
    "transpose": aten.transposition,
    "select": aten.selection,
    "slice": aten.slice_of,
    "cat": aten.concatenation,
    "expand": aten.expansion,
    "adaptive_avg_pool2d": aten.adaptive_mean,
    "layer_norm": aten.layer_norm,
    "group_norm": aten.group_norm,
    "upsample_nearest2d": aten.resizing("nearest"),
    "upsample_bilinear2d": aten.resizing("linear"),
    "pad": aten.any_padding,
    "conv_transpose2d": aten.transposed_conv,
    "instance_norm": aten.instance_norm,
    "reflection_pad2d": aten.padding("reflect"),
    "replication_pad2d": aten.padding("edge"),
    "pixel_shuffle": aten.pixel_shuffle,
}
"""Operations of ATen by the name of their base, without the overload."""
