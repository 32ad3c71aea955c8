"""A plain residual block (He 2016): two k x k convolutions and a shortcut where the shape stays the same.

The width between the two is searched. As in MBConv nothing but the first convolution is followed by an activation.
"""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.network.layer import Layer, Numbers, Op, add, conv
from apq_tune.space.block_type import BlockField, BlockType, bits_of
from apq_tune.space.slot import Slot


class Residual(NamedTuple):
    """The choices of one residual block; bits are of the inputs (a) and weights (w) of its convolutions."""

    kernel_size: int
    channels: int  # between the two convolutions
    conv1_w_bits: int
    conv1_a_bits: int
    conv2_w_bits: int
    conv2_a_bits: int


def residual_layers(
    slot: Slot,
    fixed_bits: int,
    source: str,
    kernel_size: Numbers,
    channels: Numbers,
    conv1_w_bits: Numbers,
    conv1_a_bits: Numbers,
    conv2_w_bits: Numbers,
    conv2_a_bits: Numbers,
) -> tuple[Layer, ...]:
    """Describe a block at the given values of its choices.

    Args:
        slot: Place of the block.
        fixed_bits: Bits of the residual stream.
        source: Name of the part that the block reads.
        kernel_size: Kernel of both convolutions.
        channels: Channels between them.
        conv1_w_bits: Weight bits of the first convolution, which has the block's stride.
        conv1_a_bits: Bits of its input.
        conv2_w_bits: Weight bits of the second convolution.
        conv2_a_bits: Bits of its input.
    """
    before, after, first, second = slot.in_size, slot.out_size, f"{slot.name}.conv1", f"{slot.name}.conv2"
    one = Op(slot.in_channels, channels, kernel_size, 1, before, after, conv1_w_bits, conv1_a_bits, slot.stride)
    two = Op(channels, slot.out_channels, kernel_size, 1, after, after, conv2_w_bits, conv2_a_bits)
    layers = conv(first, source, one, conv2_a_bits, slot.activation), conv(second, first, two, fixed_bits)
    return (*layers, add(f"{slot.name}.add", second, source, layers[-1].output)) if slot.has_shortcut else layers


RESIDUAL = BlockType(
    "residual",
    Residual,
    (
        BlockField("kernel_size", "kernel"),
        BlockField("channels", "width"),
        *bits_of("conv1"),
        *bits_of("conv2"),
    ),
    residual_layers,
    (("conv1", ("conv1",)), ("conv2", ("conv2",))),
)
