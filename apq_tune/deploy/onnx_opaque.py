"""ONNX nodes of operations of ATen that a traced model holds and the package has no kind of layer for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.onnx_writer import GraphWriter
from apq_tune.deploy.program import FloatStep
from apq_tune.errors import DeployError


class OpaqueCall(NamedTuple):
    """Call of an operation of ATen, whose tensors are names of the graph.

    Attributes:
        writer: Graph so far.
        step: Step of the program.
        arguments: Positional arguments: names of tensors as ``Named``, else plain values.
        keywords: Arguments by name, likewise.
    """

    writer: GraphWriter
    step: FloatStep
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output without the batch."""
        return self.writer.tensors[self.step.output].shape

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Argument by place or by name."""
        return self.arguments[place] if place < len(self.arguments) else self.keywords.get(name, default)

    def tensor(self, place: int) -> str:
        """Name of a tensor, or of a number as a constant."""
        value = self.arguments[place]
        return value if isinstance(value, Named) else self.constant(np.array(value, np.float32))

    def constant(self, values: NDArray[Any]) -> str:
        """Name of a constant."""
        return self.writer.constant(values)

    def whole(self, values: Sequence[int]) -> str:
        """Name of a constant vector of integers."""
        return self.constant(np.array(values, np.int64))

    def last(self, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Append the node that makes the output."""
        self.writer.node(kind, list(inputs), self.step.output, self.step.name, **attributes)

    def first(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node on the way to the output."""
        return self.writer.node(kind, list(inputs), self.writer.new(), **attributes)


class Named(str):
    """Name of a tensor."""

    __slots__ = ()


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


def _node(kind: str, **attributes: Any) -> Callable[[OpaqueCall], None]:
    """Operation of one tensor that is one node."""
    return lambda call: call.last(kind, [call.tensor(0)], **attributes)


def _both(kind: str) -> Callable[[OpaqueCall], None]:
    """Operation of two tensors or numbers that is one node; the second one may have a factor."""

    def write(call: OpaqueCall) -> None:
        one, two = call.tensor(0), call.tensor(1)
        if (factor := call.argument(2, "alpha", 1)) != 1:
            two = call.first("Mul", [two, call.constant(np.array(factor, np.float32))])
        call.last(kind, [one, two])

    return write


def _where(call: OpaqueCall) -> None:
    call.last("Where", [call.tensor(place) for place in range(3)])


def _subtract_from(call: OpaqueCall) -> None:
    call.last("Sub", [call.tensor(1), call.tensor(0)])


def _power(call: OpaqueCall) -> None:
    call.last("Pow", [call.tensor(0), call.tensor(1)])


def _softmax(kind: str) -> Callable[[OpaqueCall], None]:
    return lambda call: call.last(kind, [call.tensor(0)], axis=int(call.argument(1, "dim")))


def _reduce(kind: str) -> Callable[[OpaqueCall], None]:
    def write(call: OpaqueCall) -> None:
        call.writer.need("resize")  # axes are an input from there on
        axes = call.argument(1, "dim")
        axes = [axes] if isinstance(axes, int) else list(axes or range(1, 1 + len(call.shape)))
        keep = int(bool(call.argument(2, "keepdim", False)))
        call.last(kind, [call.tensor(0), call.whole(axes)], keepdims=keep)

    return write


def _clamp(call: OpaqueCall) -> None:
    ends = [call.argument(place, name) for place, name in ((1, "min"), (2, "max"))]
    names = ["" if end is None else call.constant(np.array(end, np.float32)) for end in ends]
    call.last("Clip", [call.tensor(0), *names])


def _reshape(call: OpaqueCall) -> None:
    call.last("Reshape", [call.tensor(0), call.whole([-1, *call.shape])])


def _permute(call: OpaqueCall) -> None:
    axes = call.argument(1, "dims")
    call.last("Transpose", [call.tensor(0)], perm=[axis % len(axes) for axis in axes])


def _transpose(call: OpaqueCall) -> None:
    axes = list(range(1 + len(call.shape)))
    one, two = (int(call.arguments[place]) for place in (1, 2))
    axes[one], axes[two] = axes[two], axes[one]
    call.last("Transpose", [call.tensor(0)], perm=axes)


def _select(call: OpaqueCall) -> None:
    axis, index = (int(call.arguments[place]) for place in (1, 2))
    call.last("Gather", [call.tensor(0), call.constant(np.array(index, np.int64))], axis=axis)


def _slice(call: OpaqueCall) -> None:
    axis, start, end, step = (call.argument(*own) for own in ((1, "dim", 0), (2, "start"), (3, "end"), (4, "step", 1)))
    ends = [0 if start is None else start, np.iinfo(np.int64).max if end is None else end]
    call.last("Slice", [call.tensor(0), *(call.whole([own]) for own in (*ends, axis, step))])


def _concat(call: OpaqueCall) -> None:
    call.last("Concat", call.arguments[0], axis=int(call.argument(1, "dim", 0)))


def _expand(call: OpaqueCall) -> None:
    call.last("Expand", [call.tensor(0), call.whole([1, *call.shape])])


def _adaptive(call: OpaqueCall) -> None:
    """Mean over windows of nearly equal size, as a product with a matrix along each side."""
    source = call.writer.tensors[call.step.inputs[0]].shape
    rows, columns = (_windows(*sizes) for sizes in zip(source[-2:], call.shape[-2:], strict=True))
    wide = call.first("MatMul", [call.tensor(0), call.constant(columns.T)])
    call.last("MatMul", [call.constant(rows), wide])


def _windows(before: int, after: int) -> NDArray[np.float32]:
    """Weights of the means, shape ``(after, before)``."""
    weights = np.zeros((after, before), np.float32)
    for i in range(after):
        start, stop = i * before // after, -(-(i + 1) * before // after)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


def _layer_norm(call: OpaqueCall) -> None:
    call.writer.need("layer_norm")
    axes, weight, bias, eps = (call.argument(*own) for own in _NORM)
    weight = weight or call.constant(np.ones(axes, np.float32))
    call.last(
        "LayerNormalization", [call.tensor(0), weight, *([bias] if bias else [])], axis=-len(axes), epsilon=float(eps)
    )


def _group_norm(call: OpaqueCall) -> None:
    call.writer.need("layer_norm")
    groups, weight, bias, eps = (call.argument(*own) for own in _NORM)
    channels, *pixels = call.shape
    length = channels // groups * int(np.prod(pixels))
    parts = call.first("Reshape", [call.tensor(0), call.whole([-1, groups, length])])
    ones = call.constant(np.ones(length, np.float32))
    scaled = call.first("LayerNormalization", [parts, ones], axis=-1, epsilon=float(eps))
    steps = [("Mul", weight)] * bool(weight) + [("Add", bias)] * bool(bias)
    x = scaled
    for kind, values in steps:
        shaped = call.first("Reshape", [values, call.whole([channels, *[1] * len(pixels)])])
        x = call.first("Reshape", [x, call.whole([-1, *call.shape])]) if x == scaled else x
        x = call.first(kind, [x, shaped])
    call.last("Reshape", [x, call.whole([-1, *call.shape])])


def _resize(mode: str) -> Callable[[OpaqueCall], None]:
    def write(call: OpaqueCall) -> None:
        call.writer.need("resize")
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if mode == "linear":
            corners = bool(call.argument(2, "align_corners", False))
            how = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if corners else "half_pixel"}
        sizes = call.whole(call.shape[-2:])
        call.last("Resize", [call.tensor(0), "", "", sizes], axes=[2, 3], **how)

    return write


def _pad(mode: str) -> Callable[[OpaqueCall], None]:
    def write(call: OpaqueCall) -> None:
        left, right, top, bottom = call.arguments[1]
        call.last("Pad", [call.tensor(0), call.whole([0, 0, top, left, 0, 0, bottom, right])], mode=mode)

    return write


def _prelu(call: OpaqueCall) -> None:
    pixels = len(call.shape) - 1
    slope = call.first("Reshape", [call.tensor(1), call.whole([-1, *[1] * pixels])])
    call.last("PRelu", [call.tensor(0), slope])


def _gelu(call: OpaqueCall) -> None:
    call.writer.need("gelu")
    call.last("Gelu", [call.tensor(0)], approximate=call.keywords.get("approximate", "none"))


def _mish(call: OpaqueCall) -> None:
    call.last("Mul", [call.tensor(0), call.first("Tanh", [call.first("Softplus", [call.tensor(0)])])])


def _pixel_shuffle(call: OpaqueCall) -> None:
    call.last("DepthToSpace", [call.tensor(0)], blocksize=int(call.arguments[1]), mode="CRD")


_NORM = ((1, "normalized_shape"), (2, "weight"), (3, "bias"), (4, "eps", 1e-5))

_PLAIN = (
    *("sqrt", "exp", "log", "abs", "neg", "reciprocal", "erf", "sin", "cos", "floor", "ceil"),
    *("softplus", "selu", "sigmoid", "tanh", "relu"),
)
"""Operations that are one node of the same name."""

_COMPARISONS = {
    **{"gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal"},
    **{"logical_and": "And", "logical_or": "Or"},
}
"""Operations of truth values by name."""

_RESHAPES = ("reshape", "view", "_unsafe_view", "flatten", "squeeze", "unsqueeze")

_OPAQUE: Mapping[str, Callable[[OpaqueCall], None]] = {
    **{name: _softmax("Softmax") for name in ("softmax", "_softmax")},
    **{name: _softmax("LogSoftmax") for name in ("log_softmax", "_log_softmax")},
    **{name: _both("MatMul") for name in ("matmul", "bmm", "mm")},
    **{name: _both(kind) for name, kind in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"))},
    **{name: _both(kind) for name, kind in (("maximum", "Max"), ("minimum", "Min"))},
    **{name: _both(kind) for name, kind in _COMPARISONS.items()},
    "logical_not": _node("Not"),
    "where": _where,
    "rsub": _subtract_from,
    "pow": _power,
    **{name: _node(name.capitalize()) for name in _PLAIN},
    "mish": _mish,
    "gelu": _gelu,
    "prelu": _prelu,
    **dict.fromkeys(("clamp", "hardtanh", "clamp_min"), _clamp),
    "mean": _reduce("ReduceMean"),
    "sum": _reduce("ReduceSum"),
    **{name: _reduce("ReduceMax") for name in ("amax", "max")},
    **dict.fromkeys(_RESHAPES, _reshape),
    "permute": _permute,
    "transpose": _transpose,
    "select": _select,
    "slice": _slice,
    "cat": _concat,
    "expand": _expand,
    "adaptive_avg_pool2d": _adaptive,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "upsample_nearest2d": _resize("nearest"),
    "upsample_bilinear2d": _resize("linear"),
    "reflection_pad2d": _pad("reflect"),
    "replication_pad2d": _pad("edge"),
    "pixel_shuffle": _pixel_shuffle,
}
"""Operations of ATen by the name of their base, without the overload."""
