"""MBConv, the inverted bottleneck block (Sandler 2018): its choices."""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.space.block_type import BlockField, BlockType


class Block(NamedTuple):
    """The choices of one inverted bottleneck; bits are of the inputs (a) and weights (w) of its convolutions."""

    kernel_size: int
    channels: int  # between the two pointwise convolutions
    pw_w_bits: int
    pw_a_bits: int
    dw_w_bits: int
    dw_a_bits: int


MBCONV = BlockType(
    "mbconv",
    Block,
    (
        BlockField("kernel_size", "kernel", "dw"),
        BlockField("channels", "width"),
        BlockField("pw_w_bits", "w_bits", "pw"),
        BlockField("pw_a_bits", "a_bits", "pw"),
        BlockField("dw_w_bits", "w_bits", "dw"),
        BlockField("dw_a_bits", "a_bits", "dw"),
    ),
)
