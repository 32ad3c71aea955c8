"""Cycles on NE16, the accelerator of GAP9: 3x3, 1x1 and depthwise 3x3 convolutions with weights of 2 to 8 bits.

NE16 computes tiles of 3x3 output pixels and 32 output channels (16 where depthwise), 16 input channels at a time.
Weights enter bit by bit in 3x3 convolutions, whose time grows with their bits; a 1x1 convolution reads all bits at once
and takes the same time at any width. Cycles of the phases of a tile (load, weight offset, product, normalization,
stream out) are those of the performance model of the hardware's authors, as in ``plinio.cost.ne16_latency``
(github.com/eml-eda/plinio, Apache-2.0); the hardware is that of github.com/pulp-platform/ne16. A linear layer is a 1x1
convolution of one pixel.

Counted is the accelerator alone with its data in L1, without transfers. Strides are as in the source, where pixels of
the output count; at stride 2 the hardware also computes pixels that it drops. Additions and pooling run on the cores
beside it and are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from apq_tune.cost.op_model import OpModel, is_depthwise, kernel_of, output_of
from apq_tune.network.layer import Op

SIDE, OUTPUTS, INPUTS = 3, 32, 16
"""Side of a tile of output pixels, its output channels, and the input channels that are read together."""

FIFO = 6
UPDATE = 2
LOAD_3X3 = FIFO + (SIDE + 2) ** 2
LOAD_1X1 = 10 + SIDE**2
STREAM_OUT = 3 + SIDE**2 + 1
SCALE = 9
"""Cycles of the phases; scaling takes another one for each output channel."""

W_BITS = (2, 8)


def op_cycles(op: Op) -> Any:
    """Cycles of one operation; NaN where NE16 has no mode for it."""
    height, width = kernel_of(op)
    kernel, depthwise = np.asarray(height), is_depthwise(op)
    pointwise = kernel == 1
    n_in = -(-np.asarray(op.in_channels) // INPUTS)

    def dense(k: Any) -> Any:
        product = np.where(pointwise, k, k * op.w_bits)
        one = np.where(pointwise, LOAD_1X1, LOAD_3X3) + FIFO + FIFO + product + UPDATE
        return n_in * one + SCALE + k + STREAM_OUT

    def separate(k: Any) -> Any:
        return LOAD_3X3 + FIFO + k + FIFO + k * op.w_bits + UPDATE + SCALE + k + STREAM_OUT

    rows, columns = output_of(op)
    tiles = -(-rows // SIDE) * -(-columns // SIDE)
    cycles = np.where(depthwise, _whole(op, INPUTS, separate), _whole(op, OUTPUTS, dense)) * tiles
    shape = (kernel == np.asarray(width)) & ((kernel == SIDE) | (pointwise & ~depthwise))
    groups = (np.asarray(op.groups) == 1) | depthwise
    w_bits = np.asarray(op.w_bits)
    known = shape & groups & (np.asarray(op.a_bits) == 8) & (w_bits >= W_BITS[0]) & (w_bits <= W_BITS[1])
    return np.where(known & (op.dilation == 1) & (op.stride <= 2), cycles, np.nan)


def _whole(op: Op, together: int, tile: Callable[[Any], Any]) -> Any:
    """Cycles of all output channels, ``together`` of them at a time and the rest in the end."""
    n, rest = np.divmod(np.asarray(op.out_channels), together)
    return n * tile(together) + np.where(rest > 0, tile(rest), 0)


NE16 = OpModel(
    "ne16_cycles",
    "cycles",
    op_cycles,
    "convolutions of kernels 1 and 3, depthwise ones of kernel 3, and linear layers, all at strides 1 and 2, weights "
    "of 2 to 8 bits and inputs of 8",
)
