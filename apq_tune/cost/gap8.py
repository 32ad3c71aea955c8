"""Cycles on the 8 cores of GAP8 with PULP-NN kernels, at 8 bits (Garofalo 2019, arXiv:1908.11263).

A convolution copies the inputs of two pixels on each of 8 cores to a buffer, then computes 4 output channels from 4
inputs at a time: two loads of activations, four of weights and eight products of 4 values. A depthwise convolution goes
4 channels at a time, a linear layer 2 inputs and 4 outputs. The constants are those of ``plinio.cost.gap8_latency``
(github.com/eml-eda/plinio, Apache-2.0). Counted are the kernels alone with their data in L1.

On the layer that the paper measures, 64 filters of 3x3x32 on 16x16 pixels, this gives 17.4 multiply-accumulates per
cycle where the paper has 15.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apq_tune.cost.op_model import OpModel, is_depthwise, kernel_of, output_of
from apq_tune.network.layer import Op

CORES = 8
PIXELS = 2  # of a core at a time
SIMD = 4  # values of 8 bits in a product; also output channels at a time
INNER = 6 + 8  # loads and products of 4 inputs, 4 output channels and 2 pixels
BEFORE, AFTER = 5, 10  # of a group of 4 output channels


def op_cycles(op: Op) -> Any:
    """Cycles of one operation; NaN where PULP-NN has no kernel for it."""
    height, width = kernel_of(op)
    rows, columns = output_of(op)
    taps = np.asarray(height) * width
    values = taps * op.in_channels
    groups_of_4 = -(-np.asarray(op.out_channels) // SIMD)
    iterations = -(-rows // PIXELS) * -(-columns // CORES)
    dense = iterations * (2 * values + groups_of_4 * (BEFORE + -(-values // SIMD) * INNER + AFTER))
    linear = -(-values // 2) * groups_of_4
    separate = 4 * groups_of_4 * rows * columns * taps
    one_pixel = (taps == 1) & (rows * columns == 1)
    depthwise = is_depthwise(op)
    cycles = np.where(depthwise, separate, np.where(one_pixel, linear, dense))
    groups = (np.asarray(op.groups) == 1) | depthwise
    known = groups & (np.asarray(op.w_bits) == 8) & (np.asarray(op.a_bits) == 8)
    return np.where(known & (op.dilation == 1), cycles, np.nan)


GAP8 = OpModel(
    "gap8_cycles",
    "cycles",
    op_cycles,
    "convolutions, depthwise convolutions and linear layers with weights and inputs of 8 bits",
)
