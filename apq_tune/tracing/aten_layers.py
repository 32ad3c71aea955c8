"""Operations of ATen that compute: layers with parameters, activation functions, sums and products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from apq_tune.tracing.calls import Call, Draft, Output, Result, Rule, Stored


def pair(value: Any, default: Any = None) -> list[int]:
    """Two numbers, for height and width, of a setting that may have one or none."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        return list(default)
    return [int(item) for item in (values * 2 if len(values) == 1 else values)]


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding of ``padding="same"``, above, left, below and right."""
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]


def _conv(call: Call) -> Result:
    x, weight, bias = call.x, call["weight"], call["bias"]
    transposed = bool(call["transposed"])
    if len(x.shape) != 3 or not isinstance(weight, Stored) or not isinstance(bias, Stored | None) or transposed:
        return None
    dilation = pair(call["dilation"])
    match call["padding"]:
        case "valid":
            padding = [0, 0, 0, 0]
        case "same":
            padding = same_padding(weight.shape[2:], dilation)
        case sizes:
            padding = pair(sizes) * 2
    settings = {"stride": pair(call["stride"]), "padding": padding, "dilation": dilation, "groups": call["groups"]}
    return Draft("conv", [x], settings, {"weight": weight, "bias": bias})


def _linear(call: Call) -> Result:
    if not isinstance(call["weight"], Stored) or not isinstance(call["bias"], Stored | None):
        return None
    return Draft("linear", [call.x], {}, {"weight": call["weight"], "bias": call["bias"]})


def _norm(call: Call) -> Result:
    parameters = {
        "mean": call["running_mean"],
        "variance": call["running_var"],
        "weight": call["weight"],
        "bias": call["bias"],
    }
    if not all(isinstance(value, Stored | None) for value in parameters.values()):
        return None
    return Draft("norm", [call.x], {"eps": call["eps"]}, parameters)


def _layer_norm(call: Call) -> Result:
    parameters = {"weight": call["weight"], "bias": call["bias"]}
    if len(call["normalized_shape"]) != 1 or not all(isinstance(value, Stored | None) for value in parameters.values()):
        return None
    return Draft("layer_norm", [call.x], {"eps": call["eps"]}, parameters)


def _function(name: str) -> Rule:
    """Rule of an activation function that has no settings."""
    return lambda call: Draft("function", [call.x], {"name": name})


def _clamp(call: Call) -> Result:
    bounds = [call["min_val"] if call.name == "hardtanh" else call["min"]]
    bounds.append(call["max_val"] if call.name == "hardtanh" else call["max"])
    match bounds:
        case [0, 6]:
            return Draft("function", [call.x], {"name": "relu6"})
        case [0, None | math.inf]:
            return Draft("function", [call.x], {"name": "relu"})
    return None


def _gelu(call: Call) -> Result:
    return Draft("function", [call.x], {"name": "gelu"}) if call["approximate"] == "none" else None


def _leaky_relu(call: Call) -> Result:
    return Draft("function", [call.x], {"name": "leaky_relu", "slope": float(call["negative_slope"])})


def _elu(call: Call) -> Result:
    plain = call["alpha"] == call["scale"] == call["input_scale"] == 1
    return Draft("function", [call.x], {"name": "elu"}) if plain else None


def _scale(x: Output, factor: float, offset: float) -> Draft | Output:
    if (factor, offset) == (1, 0):
        return x
    return Draft("function", [x], {"name": "scale", "factor": float(factor), "offset": float(offset)})


def _channel_axis(x: Output, parameter: Stored) -> int | None:
    """Axis along which a parameter has one value for each entry of a tensor, without the batch, and no other."""
    shape = (1,) * (len(x.shape) + 1 - len(parameter.shape)) + parameter.shape
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    if len(shape) != len(x.shape) + 1 or axes != [axis for axis in axes if axis > 0] or len(axes) > 1:
        return None
    if not axes:  # one value: of a tensor with one channel
        axes = [axis for axis, size in enumerate(x.shape, 1) if size == 1][:1]
    return axes[0] - 1 if axes and x.shape[axes[0] - 1] == shape[axes[0]] else None


def _affine(x: Output, parameter: Stored, role: str) -> Result:
    if (axis := _channel_axis(x, parameter)) is None:
        return None
    return Draft("affine", [x], {"axis": axis}, {role: parameter})


def _add(call: Call) -> Result:
    x, other, alpha = call.x, call["other"], call["alpha"]
    if isinstance(other, (int, float)):
        return _scale(x, 1, other * alpha)
    if alpha != 1:
        return None
    if isinstance(other, Stored):
        return _affine(x, other, "bias")
    return Draft("add", [x, other]) if isinstance(other, Output) and x.shape == other.shape else None


def _add_swapped(call: Call) -> Result:
    """Sum; a parameter may be the first of its arguments."""
    if isinstance(call.x, Stored) and isinstance(call["other"], Output) and call["alpha"] == 1:
        return _affine(call["other"], call.x, "bias")
    return _add(call) if isinstance(call.x, Output) else None


def _subtract(call: Call) -> Result:
    other = call["other"]
    return _scale(call.x, 1, -other * call["alpha"]) if isinstance(other, (int, float)) else None


def _subtract_from(call: Call) -> Result:
    other = call["other"]
    return _scale(call.x, -1, other) if isinstance(other, (int, float)) and call["alpha"] == 1 else None


def _multiply(call: Call) -> Result:
    x, other = call.x, call["other"]
    if isinstance(other, (int, float)):
        return _scale(x, other, 0)
    if isinstance(other, Stored):
        return _affine(x, other, "weight")
    if isinstance(x, Stored):
        return _affine(other, x, "weight") if isinstance(other, Output) else None
    if not isinstance(other, Output):
        return None
    if x.shape == other.shape:
        return Draft("multiply", [x, other])
    for one, factor in ((x, other), (other, x)):
        if len(one.shape) == 3 and factor.shape == (one.shape[0], 1, 1):
            return Draft("multiply", [one, factor])
    return None


def _divide(call: Call) -> Result:
    other = call["other"]
    plain = isinstance(other, (int, float)) and other and call["rounding_mode"] is None
    return _scale(call.x, 1 / other, 0) if plain else None


LAYERS: Mapping[str, Rule] = {
    **dict.fromkeys(("conv2d", "convolution"), _conv),
    "linear": _linear,
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _norm),
    "layer_norm": _layer_norm,
    "relu": _function("relu"),
    "relu6": _function("relu6"),
    "silu": _function("silu"),
    "sigmoid": _function("sigmoid"),
    "tanh": _function("tanh"),
    "hardswish": _function("h_swish"),
    "hardsigmoid": _function("h_sigmoid"),
    **dict.fromkeys(("hardtanh", "clamp", "clip", "clamp_min"), _clamp),
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "sub": _subtract,
    "rsub": _subtract_from,
    "div": _divide,
}
"""Rules of operations whose first argument is a tensor, by name."""

EITHER: Mapping[str, Rule] = {"add": _add_swapped, "mul": _multiply}
"""Rules of operations either argument of which may be a parameter."""
