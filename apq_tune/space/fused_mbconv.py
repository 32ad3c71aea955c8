"""The fused inverted bottleneck (Tan 2021, EfficientNetV2): one k x k convolution, then 1x1 project, and a shortcut."""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.network.layer import Layer, Numbers, Op, add, conv
from apq_tune.space.block_type import BlockField, BlockType, bits_of
from apq_tune.space.slot import Slot


class FusedMBConv(NamedTuple):
    """The choices of one fused block; bits are of the inputs (a) and weights (w) of its convolutions."""

    kernel_size: int
    channels: int  # between the two convolutions
    fused_w_bits: int
    fused_a_bits: int
    pw_w_bits: int
    pw_a_bits: int


def fused_layers(
    slot: Slot,
    fixed_bits: int,
    source: str,
    kernel_size: Numbers,
    channels: Numbers,
    fused_w_bits: Numbers,
    fused_a_bits: Numbers,
    pw_w_bits: Numbers,
    pw_a_bits: Numbers,
) -> tuple[Layer, ...]:
    """Describe a block at the given values of its choices.

    Args:
        slot: Place of the block.
        fixed_bits: Bits of the residual stream.
        source: Name of the part that the block reads.
        kernel_size: Kernel of the first convolution.
        channels: Channels between the two.
        fused_w_bits: Weight bits of the first convolution, which has the block's stride.
        fused_a_bits: Bits of its input.
        pw_w_bits: Weight bits of the pointwise convolution.
        pw_a_bits: Bits of its input.
    """
    before, after, fused, project = slot.in_size, slot.out_size, f"{slot.name}.fused", f"{slot.name}.project"
    wide = Op(slot.in_channels, channels, kernel_size, 1, before, after, fused_w_bits, fused_a_bits, slot.stride)
    narrow = Op(channels, slot.out_channels, 1, 1, after, after, pw_w_bits, pw_a_bits)
    layers = conv(fused, source, wide, pw_a_bits, slot.activation), conv(project, fused, narrow, fixed_bits)
    return (*layers, add(f"{slot.name}.add", project, source, layers[-1].output)) if slot.has_shortcut else layers


FUSED_MBCONV = BlockType(
    "fused_mbconv",
    FusedMBConv,
    (
        BlockField("kernel_size", "kernel", "fused"),
        BlockField("channels", "width"),
        *bits_of("fused"),
        *bits_of("pw"),
    ),
    fused_layers,
    (("fused", ("fused",)), ("pw", ("project",))),
)
