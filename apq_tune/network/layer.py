"""One layer of a network: what it computes, what it reads, and the tensor that it leaves.

Numbers may be arrays that broadcast against each other, so one layer describes all choices of a search space at once.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

Numbers = int | NDArray[Any]
Activation = Literal["relu6", "relu", "h_swish"]
Function = Activation | Literal["h_sigmoid"]
LayerKind = Literal["conv", "linear", "pool", "add", "multiply", "concat"]

IMAGE = "image"
"""Name of the tensor that a network reads."""


class Op(NamedTuple):
    """The multiplications of a layer: a convolution, or a linear layer as a 1x1 convolution on one pixel."""

    in_channels: Numbers
    out_channels: Numbers
    kernel_size: Numbers
    groups: Numbers
    in_size: int
    out_size: int
    w_bits: Numbers
    a_bits: Numbers  # of its input
    stride: int = 1

    @property
    def n_weights(self) -> Numbers:
        """Number of weights, without the bias."""
        return self.kernel_size**2 * (self.in_channels // self.groups) * self.out_channels

    @property
    def macs(self) -> Numbers:
        """Multiply-accumulates for one image."""
        return self.n_weights * self.out_size**2


class Tensor(NamedTuple):
    """An activation as it is stored: ``channels x size x size`` values of ``bits`` each, packed."""

    channels: Numbers
    size: int
    bits: Numbers

    @property
    def n_bits(self) -> Numbers:
        """Bits of the whole tensor for one image."""
        return self.channels * self.size**2 * self.bits


class Layer(NamedTuple):
    """One step of the forward pass.

    Attributes:
        name: Unique in the network, such as ``"1.2.depthwise"`` or ``"stem"``.
        kind: What it does; ``"pool"`` is the mean over all pixels, ``"multiply"`` the product of a tensor and one
            factor for each of its channels.
        inputs: Names of the layers whose outputs it reads, ``IMAGE`` for the network's input.
        output: The tensor that it stores, at the bits at which it is stored.
        op: Its multiplications; ``None`` for a layer without weights.
        activation: Applied to its output before that is stored.
        in_place: Whether its output takes the memory of its first input, where nothing reads that one later.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...]
    output: Tensor
    op: Op | None = None
    activation: Function | None = None
    in_place: bool = False

    @property
    def role(self) -> str:
        """The last word of its name: what it is called within its part of the network."""
        return self.name.rpartition(".")[2]


def conv(name: str, source: str, op: Op, bits: Numbers, activation: Function | None = None) -> Layer:
    """A convolution.

    Args:
        name: Name of the layer.
        source: Name of the layer that it reads.
        op: Shape of the weights and bits of the multiplications.
        bits: Bits at which the output is stored.
        activation: Function that is applied to the output.
    """
    return Layer(name, "conv", (source,), Tensor(op.out_channels, op.out_size, bits), op, activation)


def linear(name: str, source: str, op: Op, bits: Numbers, activation: Function | None = None) -> Layer:
    """A linear layer; arguments are those of ``conv``."""
    return conv(name, source, op, bits, activation)._replace(kind="linear")


def add(name: str, onto: str, kept: str, output: Tensor) -> Layer:
    """A sum of two tensors of equal shape, stored where the first one was."""
    return Layer(name, "add", (onto, kept), output, in_place=True)
