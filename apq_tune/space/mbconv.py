"""MBConv, the inverted bottleneck block (Sandler 2018): its choices, and its layers.

1x1 expand, depthwise, squeeze-excite where the stage has it, 1x1 project, a shortcut where the shape stays the same.
"""

from __future__ import annotations

from typing import NamedTuple

from apq_tune.network.layer import Layer, Numbers, Op, Tensor, add, conv, linear
from apq_tune.space.block_type import BlockField, BlockType, bits_of
from apq_tune.space.geometry import squeezed_channels
from apq_tune.space.slot import Slot


class Block(NamedTuple):
    """The choices of one inverted bottleneck; bits are of the inputs (a) and weights (w) of its convolutions."""

    kernel_size: int
    channels: int  # between the two pointwise convolutions
    pw_w_bits: int
    pw_a_bits: int
    dw_w_bits: int
    dw_a_bits: int


def mbconv_layers(
    slot: Slot,
    fixed_bits: int,
    source: str,
    kernel_size: Numbers,
    channels: Numbers,
    pw_w_bits: Numbers,
    pw_a_bits: Numbers,
    dw_w_bits: Numbers,
    dw_a_bits: Numbers,
) -> tuple[Layer, ...]:
    """Describe a block at the given values of its choices; squeeze-excite stays at ``fixed_bits``.

    Args:
        slot: Place of the block.
        fixed_bits: Bits of the residual stream.
        source: Name of the part that the block reads.
        kernel_size: Kernel of the depthwise convolution.
        channels: Channels between the two pointwise convolutions.
        pw_w_bits: Weight bits of both pointwise convolutions.
        pw_a_bits: Bits of their inputs.
        dw_w_bits: Weight bits of the depthwise convolution.
        dw_a_bits: Bits of its input.
    """
    name, act, c, before, after = slot.name, slot.activation, channels, slot.in_size, slot.out_size
    expand, depthwise, project = f"{name}.expand", f"{name}.depthwise", f"{name}.project"
    pointwise = Op(slot.in_channels, c, 1, 1, before, before, pw_w_bits, pw_a_bits)
    spatial = Op(c, c, kernel_size, c, before, after, dw_w_bits, dw_a_bits, slot.stride)
    layers = [
        conv(expand, source, pointwise, dw_a_bits, act),
        conv(depthwise, expand, spatial, pw_a_bits, act),
    ]
    if slot.squeeze_excite:
        layers += _gate(name, depthwise, Tensor(c, after, pw_a_bits), fixed_bits)
    op = Op(c, slot.out_channels, 1, 1, after, after, pw_w_bits, pw_a_bits)
    layers.append(conv(project, layers[-1].name, op, fixed_bits))
    if slot.has_shortcut:
        layers.append(add(f"{name}.add", project, source, layers[-1].output))
    return tuple(layers)


def _gate(name: str, source: str, tensor: Tensor, bits: int) -> list[Layer]:
    """Squeeze-excite: the mean of each channel through two linear layers, as a factor of the channel (Hu 2018)."""
    c, squeezed = tensor.channels, squeezed_channels(tensor.channels)
    pool, squeeze, excite = f"{name}.pool", f"{name}.squeeze", f"{name}.excite"
    return [
        Layer(pool, "pool", (source,), Tensor(c, 1, bits)),
        linear(squeeze, pool, Op(c, squeezed, 1, 1, 1, 1, bits, bits), bits, "relu"),
        linear(excite, squeeze, Op(squeezed, c, 1, 1, 1, 1, bits, bits), bits, "h_sigmoid"),
        Layer(f"{name}.gate", "multiply", (source, excite), tensor, in_place=True),
    ]


MBCONV = BlockType(
    "mbconv",
    Block,
    (
        BlockField("kernel_size", "kernel", "dw"),
        BlockField("channels", "width"),
        *bits_of("pw"),
        *bits_of("dw"),
    ),
    mbconv_layers,
    (("pw", ("expand", "project")), ("dw", ("depthwise",))),
    squeeze_excite=True,
)
