"""Layers of networks: operation, inputs and output tensor.

Numbers may be broadcastable arrays, so that one layer describes all choices of a search space.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.network import sparse

Numbers = int | NDArray[Any]
Activation = Literal["relu6", "relu", "h_swish"]
Function = Activation | Literal["h_sigmoid", "silu", "sigmoid", "gelu", "tanh", "leaky_relu", "elu", "scale"]
LayerKind = Literal[
    "conv",
    "linear",
    "pool",
    "add",
    "multiply",
    "concat",
    "norm",
    "affine",
    "function",
    "slice",
    "select",
    "shuffle",
    "max_pool",
    "avg_pool",
    "flatten",
    "pad",
    "upsample",
    "permute",
    "layer_norm",
    "opaque",
]
"""Operations; those of ``apq_tune.network.graph``, with ``"pool"`` for its ``"mean"``."""

IMAGE = "image"
"""Name of the input tensor of a network."""


class Op(NamedTuple):
    """Convolution, or linear layer as a 1x1 convolution of one pixel.

    Attributes:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        kernel_size: Height of the kernel.
        groups: Number of groups.
        in_size: Height of the input in pixels.
        out_size: Height of the output in pixels.
        w_bits: Bits of the weights.
        a_bits: Bits of the input.
        stride: Stride, in both directions.
        kernel_width: Width of the kernel; ``None`` if it is square.
        in_width: Width of the input; ``None`` if it is square.
        out_width: Width of the output; ``None`` if it is square.
        padding: Rows and columns of zeros above, left, below and right; ``None`` for half the kernel on each side.
        dilation: Distance of the taps of the kernel in pixels.
        sparsity: Share of the weights that are zero, pruned by magnitude; 0 for dense weights.
        sparse_group: Number of consecutive input channels of which N:M sparsity keeps some; 1 for unstructured one.
    """

    in_channels: Numbers
    out_channels: Numbers
    kernel_size: Numbers
    groups: Numbers
    in_size: int
    out_size: int
    w_bits: Numbers
    a_bits: Numbers
    stride: int = 1
    kernel_width: int | None = None
    in_width: int | None = None
    out_width: int | None = None
    padding: tuple[int, int, int, int] | None = None
    dilation: int = 1
    sparsity: Any = 0
    sparse_group: int = 1

    @property
    def n_weights(self) -> Numbers:
        """Number of weights, without the bias, zeros included."""
        taps = self.kernel_size * (self.kernel_size if self.kernel_width is None else self.kernel_width)
        return taps * (self.in_channels // self.groups) * self.out_channels

    @property
    def is_sparse(self) -> bool:
        """Whether weights are pruned, at any of the choices."""
        return bool(np.any(self.sparsity))

    @property
    def n_kept(self) -> Numbers:
        """Number of weights that are not pruned."""
        if not self.is_sparse:
            return self.n_weights
        return sparse.n_kept(self.n_weights, self.in_channels // self.groups, self.sparsity, self.sparse_group)  # type: ignore[no-any-return]

    @property
    def weight_bits(self) -> Numbers:
        """Bits of all weights, without the bias; those of sparse ones as ``sparse.stored_bits`` says."""
        if not self.is_sparse:
            return self.n_weights * self.w_bits
        n_inputs = self.in_channels // self.groups
        return sparse.stored_bits(self.n_weights, n_inputs, self.w_bits, self.sparsity, self.sparse_group)  # type: ignore[no-any-return]

    @property
    def macs(self) -> Numbers:
        """Number of multiply-accumulates for one image, those by zero included, as dense kernels do them."""
        return self.n_weights * self.n_outputs

    @property
    def sparse_macs(self) -> Numbers:
        """Number of multiply-accumulates for one image by weights that are not pruned."""
        return self.n_kept * self.n_outputs

    @property
    def n_outputs(self) -> int:
        """Number of pixels of the output."""
        return self.out_size * (self.out_size if self.out_width is None else self.out_width)


class Tensor(NamedTuple):
    """Stored activation tensor of ``channels x size x width`` packed values of ``bits`` each.

    Attributes:
        channels: Number of channels.
        size: Height in pixels; 1 for a vector.
        bits: Bits of a value.
        width: Width in pixels; ``None`` if it is square.
    """

    channels: Numbers
    size: int
    bits: Numbers
    width: int | None = None

    @property
    def n_bits(self) -> Numbers:
        """Number of bits of the tensor for one image."""
        return self.channels * self.size * (self.size if self.width is None else self.width) * self.bits


class Layer(NamedTuple):
    """Layer of a network.

    Attributes:
        name: Unique name, such as ``"1.2.depthwise"`` or ``"stem"``.
        kind: Operation; ``"pool"`` is the mean over all pixels, ``"multiply"`` the product of a tensor and one factor
            per channel.
        inputs: Names of the layers whose outputs it reads; ``IMAGE`` for the input of the network.
        output: Output tensor as stored.
        op: Convolution or linear layer; ``None`` for layers without weights.
        activation: Activation function, applied before the output is stored.
        in_place: Whether the output is stored in the memory of the first input if no other layer reads that later.
        settings: Settings of operations that are no convolutions, as in ``apq_tune.network.graph``.
        float_parameters: Number of parameters that stay in floating point, such as those of a batch norm that cannot be
            folded.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...]
    output: Tensor
    op: Op | None = None
    activation: Function | None = None
    in_place: bool = False
    settings: Mapping[str, Any] = MappingProxyType({})
    float_parameters: Numbers = 0

    @property
    def role(self) -> str:
        """Name of the layer within its part of the network, the last component of ``name``."""
        return self.name.rpartition(".")[2]


def conv(name: str, source: str, op: Op, bits: Numbers, activation: Function | None = None) -> Layer:
    """Make a convolution.

    Args:
        name: Name of the layer.
        source: Name of the layer that it reads.
        op: Shape of the weights and bits of the multiplications.
        bits: Bits at which the output is stored.
        activation: Function that is applied to the output.
    """
    return Layer(name, "conv", (source,), Tensor(op.out_channels, op.out_size, bits), op, activation)


def linear(name: str, source: str, op: Op, bits: Numbers, activation: Function | None = None) -> Layer:
    """Make a linear layer; arguments are those of ``conv``."""
    return conv(name, source, op, bits, activation)._replace(kind="linear")


def add(name: str, onto: str, kept: str, output: Tensor) -> Layer:
    """Make a sum of two tensors of equal shape, stored in place of the first one."""
    return Layer(name, "add", (onto, kept), output, in_place=True)
