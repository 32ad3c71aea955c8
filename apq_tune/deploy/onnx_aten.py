"""ONNX nodes of single operations of ATen; ``apq_tune.deploy.onnx_opaque`` has their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.onnx_writer import GraphWriter
from apq_tune.deploy.program import FloatStep
from apq_tune.errors import DeployError

_NORM = ((1, "normalized_shape"), (2, "weight"), (3, "bias"), (4, "eps", 1e-5))

_TRANSPOSED = (
    (3, "stride", [1, 1]),
    (4, "padding", [0, 0]),
    (5, "output_padding", [0, 0]),
    (6, "groups", 1),
    (7, "dilation", [1, 1]),
)


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


def one_node(kind: str, **attributes: Any) -> Callable[[OpaqueCall], None]:
    """Operation of one tensor that is one node."""
    return lambda call: call.last(kind, [call.tensor(0)], **attributes)


def two_inputs(kind: str) -> Callable[[OpaqueCall], None]:
    """Operation of two tensors or numbers that is one node; the second one may have a factor."""

    def write(call: OpaqueCall) -> None:
        one, two = call.tensor(0), call.tensor(1)
        if (factor := call.argument(2, "alpha", 1)) != 1:
            two = call.first("Mul", [two, call.constant(np.array(factor, np.float32))])
        call.last(kind, [one, two])

    return write


def choice(call: OpaqueCall) -> None:
    """One of two tensors by truth values."""
    call.last("Where", [call.tensor(place) for place in range(3)])


def subtraction_from(call: OpaqueCall) -> None:
    """Second argument minus the first."""
    call.last("Sub", [call.tensor(1), call.tensor(0)])


def power(call: OpaqueCall) -> None:
    """Power."""
    call.last("Pow", [call.tensor(0), call.tensor(1)])


def softmax(kind: str) -> Callable[[OpaqueCall], None]:
    """Softmax or its logarithm along an axis."""
    return lambda call: call.last(kind, [call.tensor(0)], axis=int(call.argument(1, "dim")))


def reduction(kind: str) -> Callable[[OpaqueCall], None]:
    """Reduction along axes."""

    def write(call: OpaqueCall) -> None:
        call.writer.need("resize")  # axes are an input from there on
        axes = call.argument(1, "dim")
        axes = [axes] if isinstance(axes, int) else list(axes or range(1, 1 + len(call.shape)))
        keep = int(bool(call.argument(2, "keepdim", False)))
        call.last(kind, [call.tensor(0), call.whole(axes)], keepdims=keep)

    return write


def clamping(call: OpaqueCall) -> None:
    """Values between two limits, either of which may be missing."""
    ends = [call.argument(place, name) for place, name in ((1, "min"), (2, "max"))]
    names = ["" if end is None else call.constant(np.array(end, np.float32)) for end in ends]
    call.last("Clip", [call.tensor(0), *names])


def reshaping(call: OpaqueCall) -> None:
    """The same values in another shape."""
    call.last("Reshape", [call.tensor(0), call.whole([-1, *call.shape])])


def permutation(call: OpaqueCall) -> None:
    """Axes in another order."""
    axes = call.argument(1, "dims")
    call.last("Transpose", [call.tensor(0)], perm=[axis % len(axes) for axis in axes])


def transposition(call: OpaqueCall) -> None:
    """Two axes exchanged."""
    axes = list(range(1 + len(call.shape)))
    one, two = (int(call.arguments[place]) for place in (1, 2))
    axes[one], axes[two] = axes[two], axes[one]
    call.last("Transpose", [call.tensor(0)], perm=axes)


def selection(call: OpaqueCall) -> None:
    """One index along an axis."""
    axis, index = (int(call.arguments[place]) for place in (1, 2))
    call.last("Gather", [call.tensor(0), call.constant(np.array(index, np.int64))], axis=axis)


def slice_of(call: OpaqueCall) -> None:
    """A range along an axis."""
    axis, start, end, step = (call.argument(*own) for own in ((1, "dim", 0), (2, "start"), (3, "end"), (4, "step", 1)))
    ends = [0 if start is None else start, np.iinfo(np.int64).max if end is None else end]
    call.last("Slice", [call.tensor(0), *(call.whole([own]) for own in (*ends, axis, step))])


def concatenation(call: OpaqueCall) -> None:
    """Tensors one behind the other."""
    call.last("Concat", call.arguments[0], axis=int(call.argument(1, "dim", 0)))


def expansion(call: OpaqueCall) -> None:
    """A tensor repeated along axes of length 1."""
    call.last("Expand", [call.tensor(0), call.whole([1, *call.shape])])


def adaptive_mean(call: OpaqueCall) -> None:
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


def layer_norm(call: OpaqueCall) -> None:
    """Layer norm over the last axes."""
    call.writer.need("layer_norm")
    axes, weight, bias, eps = (call.argument(*own) for own in _NORM)
    weight = weight or call.constant(np.ones(axes, np.float32))
    call.last(
        "LayerNormalization", [call.tensor(0), weight, *([bias] if bias else [])], axis=-len(axes), epsilon=float(eps)
    )


def group_norm(call: OpaqueCall) -> None:
    """Group norm, as a layer norm of each group."""
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


def resizing(mode: str) -> Callable[[OpaqueCall], None]:
    """Enlargement to a size, by nearest pixels or linear interpolation."""

    def write(call: OpaqueCall) -> None:
        call.writer.need("resize")
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if mode == "linear":
            corners = bool(call.argument(2, "align_corners", False))
            how = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if corners else "half_pixel"}
        # Sizes of all axes, since onnxruntime (1.32) fails to move a transposition through a Resize of two of them.
        outer = call.first("Shape", [call.tensor(0)], start=0, end=2)
        sizes = call.first("Concat", [outer, call.whole(call.shape[-2:])], axis=0)
        call.last("Resize", [call.tensor(0), "", "", sizes], **how)

    return write


def padding(mode: str) -> Callable[[OpaqueCall], None]:
    """Padding of images by what they hold."""

    def write(call: OpaqueCall) -> None:
        left, right, top, bottom = call.arguments[1]
        call.last("Pad", [call.tensor(0), call.whole([0, 0, top, left, 0, 0, bottom, right])], mode=mode)

    return write


def any_padding(call: OpaqueCall) -> None:
    """Padding of the last axes, given from the last one backwards."""
    pairs = list(zip(call.arguments[1][::2], call.arguments[1][1::2], strict=True))[::-1]
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value")
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    call.writer.need("wrap" if mode == "circular" else "plain")
    rest = [0] * (1 + len(call.shape) - len(pairs))
    pads = call.whole([*rest, *(before for before, _ in pairs), *rest, *(after for _, after in pairs)])
    call.last("Pad", [call.tensor(0), pads, call.constant(np.array(value or 0, np.float32))], mode=names[mode])


def transposed_conv(call: OpaqueCall) -> None:
    """Transposed convolution in full precision.

    The bias is added by a node of its own: right before a quantization onnxruntime would quantize the weights, too.
    """
    stride, padding, more, groups, dilation = (call.argument(*own) for own in _TRANSPOSED)
    bias = call.argument(2, "bias") or call.constant(np.zeros(call.shape[0], np.float32))
    shaped = call.first("Reshape", [bias, call.whole([call.shape[0], 1, 1])])

    def both(values: Any) -> list[int]:
        return [int(value) for value in values] * (2 // len(values))

    total = call.first(
        "ConvTranspose",
        [call.tensor(0), call.tensor(1)],
        strides=both(stride),
        pads=both(padding) * 2,
        output_padding=both(more),
        group=int(groups),
        dilations=both(dilation),
    )
    call.last("Add", [total, shaped])


def instance_norm(call: OpaqueCall) -> None:
    """Instance norm with the statistics of each image."""
    channels, eps = call.shape[0], call.argument(7, "eps", 1e-5)
    if not call.argument(5, "use_input_stats", True):
        raise DeployError(
            f"layer {call.step.name}: an instance norm with stored statistics has no ONNX form here; use batch norm"
        )
    scale, bias = (
        call.tensor(place) if call.arguments[place] is not None else call.constant(np.full(channels, value, np.float32))
        for place, value in ((1, 1), (2, 0))
    )
    call.last("InstanceNormalization", [call.tensor(0), scale, bias], epsilon=float(eps))


def prelu(call: OpaqueCall) -> None:
    """Parametric ReLU with a slope for each channel."""
    pixels = len(call.shape) - 1
    slope = call.first("Reshape", [call.tensor(1), call.whole([-1, *[1] * pixels])])
    call.last("PRelu", [call.tensor(0), slope])


def gelu(call: OpaqueCall) -> None:
    """GELU in its exact or its tanh form."""
    call.writer.need("gelu")
    call.last("Gelu", [call.tensor(0)], approximate=call.keywords.get("approximate", "none"))


def mish(call: OpaqueCall) -> None:
    """Mish."""
    call.last("Mul", [call.tensor(0), call.first("Tanh", [call.first("Softplus", [call.tensor(0)])])])


def pixel_shuffle(call: OpaqueCall) -> None:
    """Channels as pixels."""
    call.last("DepthToSpace", [call.tensor(0)], blocksize=int(call.arguments[1]), mode="CRD")
