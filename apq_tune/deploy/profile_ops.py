"""Operations of the networks of a search space, as a runtime with 8-bit integer kernels executes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.rows import FREE, PLAIN, check_plain
from apq_tune.errors import TableError
from apq_tune.network.layer import IMAGE, Layer, Op, Tensor
from apq_tune.network.network import Network, Part

Kind = Literal["conv", "linear", "pool", "max_pool", "add", "multiply", "concat", "requantize", "clip", "image", "run"]

FULL_BITS = 8
"""Bits of integer kernels. Weights of fewer bits are unpacked when a file is loaded and cost the same time."""

FLOAT_FUNCTIONS = ("h_swish", "h_sigmoid")
"""Activation functions that stay in floating point; the others are part of the quantization."""

WORK, MOST_INSTANCES = 2_000_000, 16
"""Multiply-accumulates and touched values of all instances in a model together, and their largest number."""


class ProfileOp(NamedTuple):
    """Operation whose latency is measured.

    Attributes:
        kind: ``"pool"`` is the mean over all pixels, ``"concat"`` of two parts, ``"requantize"`` changes the scale of
            a tensor, ``"clip"`` limits one to fewer levels, ``"image"`` quantizes the image, and ``"run"`` is the
            overhead of running any network.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        in_size: Side length of the input.
        kernel_size: Side length of the kernel; 1 for operations without one.
        stride: Stride.
        groups: Number of groups.
        function: Activation function that stays in floating point, or empty.
    """

    kind: Kind
    in_channels: int = 1
    out_channels: int = 1
    in_size: int = 1
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    function: str = ""

    @property
    def out_size(self) -> int:
        """Side length of the output."""
        return 1 if self.kind == "pool" else math.ceil(self.in_size / self.stride)

    @property
    def has_weights(self) -> bool:
        """Whether the operation is a convolution or a linear layer."""
        return self.kind in ("conv", "linear")

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        own = self.kernel_size**2 * (self.in_channels // self.groups) * self.out_channels
        return own if self.has_weights else 0

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates."""
        return self.n_weights * self.out_size**2

    @property
    def n_values(self) -> int:
        """Number of values that are read and written."""
        return self.in_channels * self.in_size**2 + self.out_channels * self.out_size**2

    @property
    def family(self) -> str:
        """Kind of operation, with convolutions by their form; a family shares one correction."""
        if self.kind != "conv":
            return self.kind
        if self.function:
            return "float conv"
        return "depthwise" if self.groups > 1 else "pointwise" if self.kernel_size == 1 else "dense"

    @property
    def n_instances(self) -> int:
        """Number of instances in the model that is measured."""
        work = self.macs + 4 * self.n_values
        return 1 if self.kind == "run" else min(MOST_INSTANCES, max(1, math.ceil(WORK / work)))

    @property
    def key(self) -> str:
        """Unique name, which is also good as the name of a file."""
        parts = [self.kind, f"{self.in_channels}x{self.out_channels}", f"size{self.in_size}"]
        if self.kind in ("conv", "max_pool"):
            parts += [f"kernel{self.kernel_size}", f"stride{self.stride}"]
        if self.kind == "conv":
            parts.append(f"groups{self.groups}")
        return "-".join([*parts, *([self.function] if self.function else [])])


RUN = ProfileOp("run")


class PlacedLayer(NamedTuple):
    """Layer at given values of its choices.

    Attributes:
        layer: Layer with integer numbers.
        source: Tensor that it reads first.
        resolution: Image size of the network.
        fixed: Whether all networks of the space have the layer.
    """

    layer: Layer
    source: Tensor
    resolution: int
    fixed: bool

    @property
    def ops(self) -> tuple[ProfileOp, ...]:
        """Operations of the layer: what its input needs first, then its own."""
        layer, source = self.layer, self.source
        _check_layer(layer, source)
        channels, size = int(layer.output.channels), layer.output.size
        if layer.op is None:
            if layer.kind in FREE:
                return ()
            if layer.kind == "pool":
                return (ProfileOp("pool", channels, channels, source.size),)
            if layer.kind == "max_pool":
                window = layer.settings["kernel"][0], layer.settings["stride"][0]
                return (ProfileOp("max_pool", channels, channels, source.size, *window),)
            assert layer.kind in ("add", "multiply", "concat")
            return (ProfileOp(layer.kind, channels, channels, size),)
        check_plain(layer)
        op, function = layer.op, layer.activation if layer.activation in FLOAT_FUNCTIONS else ""
        shape = int(op.in_channels), int(op.out_channels), op.in_size, int(op.kernel_size), op.stride, int(op.groups)
        own = ProfileOp("linear" if layer.kind == "linear" else "conv", *shape, function or "")
        before = _before(int(op.a_bits), int(source.bits), image=IMAGE in layer.inputs)
        if before is None:
            return (own,)
        return ProfileOp(before, own.in_channels, own.in_channels, own.in_size), own


def _check_layers(network: Network) -> None:
    size = network.sizes[-1]
    outputs = {IMAGE: network.image(size)}
    for part in network.parts:
        for layer in network.layers(part, size):
            outputs[layer.name] = layer.output
            _check_layer(layer, outputs.get(layer.inputs[0], layer.output))
        outputs[part.name] = outputs[layer.name]


def _check_layer(layer: Layer, source: Tensor) -> None:
    if reason := _refusal(layer, source):
        raise TableError(
            f"layer {layer.name}: {reason}, which profile does not measure; measure a table of your own for --table"
        )


def _refusal(layer: Layer, source: Tensor) -> str:
    """What has no operation of a profile in a layer; empty if all of it has."""
    op, function = layer.op, layer.activation
    if function not in (None, "relu", "relu6", *FLOAT_FUNCTIONS):
        return f"has the function {function}"
    if op is None:
        if layer.kind == "max_pool":
            kernel, stride = ({int(length) for length in layer.settings[name]} for name in ("kernel", "stride"))
            dilated = {int(length) for length in layer.settings["dilation"]} != {1}
            if len(kernel) > 1 or len(stride) > 1 or dilated or layer.output.size != -(-source.size // max(stride)):
                return "is a maximum of dilated or oblong windows, or not of padded ones"
        return "" if layer.kind in (*PLAIN, *FREE) else f"is a {layer.kind}"
    half = op.kernel_size // 2
    padding = (half,) * 4 if op.padding is None or layer.kind == "linear" else op.padding
    oblong = {op.kernel_width, op.in_width, op.out_width} != {None}
    if oblong or op.dilation != 1 or layer.settings or np.any(np.asarray(padding) != half):
        return "is a convolution with another padding than half its kernel, dilated, or not square"
    return ""


def _before(bits: int, stored: int, *, image: bool) -> Kind | None:
    """What the input of a multiplication at given bits needs first, if it is stored at others."""
    if image:
        return "image"
    if stored != bits:
        return "requantize"
    return "clip" if bits < FULL_BITS else None


def placed_layers(network: Network) -> Iterator[PlacedLayer]:
    """Distinct layers of all networks of a search space.

    Raises:
        TableError: If there is a layer that is not measured; it is named before any others are listed.
    """
    _check_layers(network)
    for size in network.sizes:
        outputs = {IMAGE: network.image(size)}
        for part in network.parts:
            yield from _of_part(network, part, size, outputs)


def _of_part(network: Network, part: Part, size: int, outputs: dict[str, Tensor]) -> Iterator[PlacedLayer]:
    layers = network.layers(part, size)
    allowed = network.allowed(part)
    inside = {layer.name: layer.output for layer in layers}
    for layer in layers:
        name = layer.inputs[0]
        source = inside[name] if name in inside else outputs[name]
        for bits in [source.bits] if name in inside else _stored(network, layer, source):
            numbers: list[Any] = [layer.output.channels, layer.output.bits, bits]
            if layer.op is not None:
                op = layer.op
                numbers += [op.in_channels, op.out_channels, op.kernel_size, op.groups, op.w_bits, op.a_bits]
            for row in _distinct(numbers, allowed):
                channels, own_bits, stored, *rest = row
                fixed = layer._replace(output=Tensor(channels, layer.output.size, own_bits))
                if layer.op is not None:
                    fixed = fixed._replace(op=_op_of(layer.op, rest))
                    if stored < int(rest[-1]):  # a tensor is stored at the most bits that its readers need
                        continue
                yield PlacedLayer(fixed, Tensor(source.channels, source.size, stored), size, not part.searched)
    outputs[part.name] = layers[-1].output


def _stored(network: Network, layer: Layer, source: Tensor) -> list[int]:
    """Bits at which a tensor of another part may be stored: in a traced model they depend on what else reads it."""
    if network.direct and layer.op is not None:
        return [int(bits) for bits in np.unique(source.bits)]
    return [int(np.max(source.bits))]


def _op_of(op: Op, row: list[int]) -> Op:
    in_channels, out_channels, kernel_size, groups, w_bits, a_bits = row
    op = op._replace(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, groups=groups)
    return op._replace(w_bits=w_bits, a_bits=a_bits)


def _distinct(numbers: list[Any], allowed: NDArray[np.bool_]) -> list[list[int]]:
    """Distinct combinations of numbers over the allowed choices of a part."""
    if not allowed.ndim:
        return [[int(number) for number in numbers]]
    # Axes along which nothing varies are dropped first: a part may have millions of choices.
    arrays = [np.asarray(number) for number in numbers]
    shapes = np.array([(1,) * (allowed.ndim - array.ndim) + array.shape for array in arrays])
    constant = tuple(int(axis) for axis in np.flatnonzero(shapes.max(axis=0) == 1))
    mask = allowed.any(axis=constant, keepdims=True)
    rows = np.stack([np.broadcast_to(array, mask.shape)[mask] for array in arrays], axis=1)
    return [[int(number) for number in row] for row in np.unique(rows, axis=0)]


def network_ops(layers: tuple[Layer, ...], image: Tensor) -> list[ProfileOp]:
    """Operations of one network, the overhead of a run first.

    Args:
        layers: Layers with integer numbers.
        image: Input tensor.
    """
    tensors: Mapping[str, Tensor] = {IMAGE: image} | {layer.name: layer.output for layer in layers}
    found = [RUN]
    for layer in layers:
        found += PlacedLayer(layer, tensors[layer.inputs[0]], image.size, fixed=False).ops
    return found
