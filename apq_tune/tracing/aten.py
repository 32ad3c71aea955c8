"""Operations of ATen as nodes of few kinds: one function for each name, functional and in-place forms alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from apq_tune.network.graph import NodeKind
from apq_tune.tracing.simplify import reshape


class Output(NamedTuple):
    """Output of a node, or the image, as an argument of a call.

    Attributes:
        name: Name of the node.
        shape: Shape without the batch; the whole shape if there is no batch.
        batch: Size of the first axis in units of the batch; 0 if it is no batch.
    """

    name: str
    shape: tuple[int, ...]
    batch: int = 1


class Stored(NamedTuple):
    """Parameter or buffer as an argument of a call: its name in the state dict and its shape."""

    name: str
    shape: tuple[int, ...]


class Draft(NamedTuple):
    """Node before it has a name.

    Attributes:
        kind: Kind of node.
        inputs: Outputs that it reads.
        settings: Settings by name.
        parameters: Parameters and buffers by role.
    """

    kind: NodeKind
    inputs: Sequence[Output]
    settings: Mapping[str, Any] = {}
    parameters: Mapping[str, Stored | None] = {}


@dataclass(frozen=True)
class Call:
    """Call of an operation of ATen on tensors with a batch.

    Attributes:
        name: Name of the operation without namespace, overload and the underscore of in-place forms.
        arguments: Arguments by the names in the operation's schema; tensors are ``Output`` or ``Stored``.
        shape: Shape of the output without the batch; of the first one, if there are several.
    """

    name: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]

    def __getitem__(self, name: Any) -> Any:
        """Argument by name; ``None`` if the operation has no such argument."""
        return self.arguments.get(name)

    @property
    def x(self) -> Any:
        """First argument; rules of ``RULES`` are called for an ``Output`` only."""
        return next(iter(self.arguments.values()))


Result = Draft | Output | list[Draft | Output] | None
"""A node, an argument that is the output itself, several outputs, or ``None``: the operation is opaque."""


def recognise(call: Call) -> Result:
    """Node of a known kind that does what a call does.

    Args:
        call: Call whose tensors are ``Output`` with a batch of its own, or ``Stored``.

    Returns:
        The node; for operations that change nothing the argument; ``None`` if no kind of node does that.
    """
    if call.name in MIXED:
        return MIXED[call.name](call)
    rule = RULES.get(call.name)
    return None if rule is None or not isinstance(call.x, Output) else rule(call)


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


def _function(name: str) -> Callable[[Call], Result]:
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


def _concat(call: Call) -> Result:
    parts = call.x
    if len(parts) == 1:
        return parts[0] if isinstance(parts[0], Output) else None
    if not all(isinstance(part, Output) for part in parts):
        return None
    return Draft("concat", parts) if call["dim"] in (1, -len(call.shape)) else None


def _axis(call: Call, dim: int) -> int:
    """Axis without the batch (-1: the batch) of a dimension that may be negative."""
    n_axes = len(call.x.shape) + 1
    return (dim + n_axes) % n_axes - 1


def _part(x: Output, start: int, stop: int) -> Draft | Output:
    """Slice of the first axis."""
    return x if (start, stop) == (0, x.shape[0]) else Draft("slice", [x], {"start": start, "stop": stop})


def _slice(call: Call) -> Result:
    x: Output = call.x
    axis = _axis(call, call["dim"])
    size = x.shape[axis] if axis >= 0 else 0
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    if axis < 0:
        whole = call["start"] in (None, 0) and call["end"] in (None, 2**63 - 1) and call["step"] == 1
        return x if whole else None
    if (start, stop, step) == (0, size, 1):
        return x
    if axis == 0:
        if step == 1:
            return _part(x, start, stop)
        return Draft("select", [x], {"indices": list(range(start, stop, step))})
    if len(x.shape) == 3 and start == 0 and stop == size:  # every step-th row or column
        stride = [step, 1] if axis == 1 else [1, step]
        own = {"kernel": [1, 1], "stride": stride, "padding": [0, 0, 0, 0], "dilation": [1, 1]}
        return Draft("max_pool", [x], own)
    return None


def _split(call: Call) -> Result:
    x = call.x
    if _axis(call, call["dim"]) != 0:
        return None
    size = x.shape[0]
    if call.name == "chunk":
        step = math.ceil(size / call["chunks"])
        sizes = [step] * (size // step) + ([size % step] if size % step else [])
    elif isinstance(call["split_size"], int):
        step = call["split_size"]
        sizes = [step] * (size // step) + ([size % step] if size % step else [])
    else:
        sizes = list(call["split_sizes"] or call["split_size"])
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [_part(x, end - own, end) for end, own in zip(ends, sizes, strict=True)]


def _narrow(call: Call) -> Result:
    if _axis(call, call["dim"]) != 0 or not isinstance(call["start"], int) or call["start"] < 0:
        return None
    return _part(call.x, call["start"], call["start"] + call["length"])


def _mean(call: Call) -> Result:
    x, dims = call.x, call["dim"]
    if len(x.shape) != 3 or not dims or call["dtype"] is not None:
        return None
    if sorted(_axis(call, dim) for dim in dims) != [1, 2]:
        return None
    return Draft("mean", [x], {"keep": bool(call["keepdim"])})


def _largest(call: Call) -> Result:
    x, dims = call.x, call["dim"]
    if len(x.shape) != 3 or sorted(_axis(call, dim) for dim in dims) != [1, 2] or not call["keepdim"]:
        return None
    return _whole_max(x)


def _whole_max(x: Output) -> Draft:
    """Largest value of all pixels."""
    own: dict[str, Any] = {"kernel": list(x.shape[1:]), "stride": list(x.shape[1:]), "padding": [0, 0, 0, 0]}
    return Draft("max_pool", [x], {**own, "dilation": [1, 1], "adaptive": True})


def _adaptive_pool(call: Call) -> Result:
    x: Output = call.x
    if len(x.shape) != 3:
        return None
    inner, outer = x.shape[1:], call.shape[1:]
    is_mean = "avg" in call.name
    if outer == (1, 1):
        return Draft("mean", [x], {"keep": True}) if is_mean else _whole_max(x)
    if inner == outer:
        return x
    if any(size % out for size, out in zip(inner, outer, strict=True)):
        return None
    kernel = [size // out for size, out in zip(inner, outer, strict=True)]
    own: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": [0, 0, 0, 0], "adaptive": True}
    own |= {"count_padding": True} if is_mean else {"dilation": [1, 1]}
    return Draft("avg_pool" if is_mean else "max_pool", [x], own)


def _pool(call: Call) -> Result:
    x = call.x
    if len(x.shape) != 3:
        return None
    kernel = pair(call["kernel_size"])
    stride, padding = pair(call["stride"] or [], kernel), pair(call["padding"])
    is_max = "max" in call.name
    dilation = pair(call["dilation"]) if is_max else [1, 1]
    extra = [  # rows and columns that ceil_mode adds
        max((out - 1) * step + away * (size - 1) + 1 - (inner + 2 * pad), 0)
        for inner, out, size, step, pad, away in zip(
            x.shape[1:], call.shape[1:], kernel, stride, padding, dilation, strict=True
        )
    ]
    around = [*padding, padding[0] + extra[0], padding[1] + extra[1]]
    own: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": around}
    own |= {"ceil": True} if call["ceil_mode"] else {}
    if is_max:
        return Draft("max_pool", [x], {**own, "dilation": dilation})
    counted = bool(call["count_include_pad"])
    if call["divisor_override"] is not None or (counted and any(padding) and any(extra)):
        return None
    if tuple(kernel) == x.shape[1:] and not any(around):
        return Draft("mean", [x], {"keep": True})
    counted = counted and not any(extra)  # what ceil_mode adds is never counted
    return Draft("avg_pool", [x], {**own, "count_padding": counted})


def _reshape(call: Call) -> Result:
    """Views that keep the order of all values."""
    x: Output = call.x
    if x.shape == call.shape:
        return x
    flat = (math.prod(x.shape),)
    if call.shape == flat or (x.shape == flat and call.shape == (*flat, 1, 1)):
        return Draft("flatten", [x])
    return Draft("opaque", [x], reshape(call.shape))


def _permute(call: Call) -> Result:
    x: Output = call.x
    order = list(range(len(x.shape) + 1))
    if call.name in ("permute", "movedim") and call["dims"] is not None:
        order = [dim % len(order) for dim in call["dims"]]
    elif call.name == "transpose":
        one, other = call["dim0"] % len(order), call["dim1"] % len(order)
        order[one], order[other] = order[other], order[one]
    else:
        return None
    if order[0] != 0:
        return None
    own = [axis - 1 for axis in order[1:]]
    return x if own == sorted(own) else Draft("permute", [x], {"order": own})


def _pad(call: Call) -> Result:
    x: Output = call.x
    sizes, value = list(call["pad"]), call["value"] or 0
    if not any(sizes):
        return x
    plain = call.name == "constant_pad_nd" or call["mode"] == "constant"
    if len(x.shape) != 3 or not plain or len(sizes) not in (2, 4, 6) or min(sizes) < 0:
        return None
    left, right, top, bottom, *channels = (*sizes, 0, 0)[: max(len(sizes), 4)]
    settings: dict[str, Any] = {"padding": [top, left, bottom, right], "value": float(value)}
    return Draft("pad", [x], settings | ({"channels": channels} if any(channels) else {}))


def _upsample(call: Call) -> Result:
    x: Output = call.x
    if len(x.shape) != 3 or call["align_corners"]:
        return None
    factors = {out / size for out, size in zip(call.shape[1:], x.shape[1:], strict=True)}
    factor = next(iter(factors))
    if len(factors) > 1 or not factor.is_integer():
        return None
    if factor == 1:
        return x
    mode = "nearest" if "nearest" in call.name else "bilinear"
    return Draft("upsample", [x], {"factor": int(factor), "mode": mode})


def _same(call: Call) -> Result:
    x: Output = call.x
    return x


def _dropout(call: Call) -> Result:
    return None if call["train"] else _same(call)


def _cast(call: Call) -> Result:
    return _same(call) if call["dtype"] in (None, "float32") else None


SAME: Mapping[str, Callable[[Call], Result]] = {
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "identity"), _same),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
}
"""Rules of operations that change no value, whatever the shape of their argument."""

RULES: Mapping[str, Callable[[Call], Result]] = {
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
    "slice": _slice,
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _split),
    "narrow": _narrow,
    "mean": _mean,
    "amax": _largest,
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"),
        _reshape,
    ),
    **dict.fromkeys(("permute", "transpose", "movedim"), _permute),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d"), _upsample),
    **SAME,
}
"""Rule for each name of an operation whose first argument is a tensor; sums, products and ``cat`` are apart."""

MIXED: Mapping[str, Callable[[Call], Result]] = {"add": _add_swapped, "mul": _multiply, "cat": _concat}
"""Rules of operations whose first argument may be a parameter or a list."""
