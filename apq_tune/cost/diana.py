"""Cycles on DIANA, which has an analog array for ternary weights beside a digital one for 8 bits (Ueyoshi 2022).

Weights of 2 bits stand for the ternary ones of the analog array (1152 rows by 512 columns), which takes 70 ns for an
evaluation of up to 8 neighbouring pixels and loads its weights before; weights of 8 bits run on 16 by 16 digital
processing elements, depthwise convolutions only there. Cycles are at 260 MHz. The formulas are those of
``plinio.cost.diana_latency`` (github.com/eml-eda/plinio, Apache-2.0), the hardware is that of ISSCC 2022,
doi:10.1109/ISSCC42614.2022.9731716. Inputs count as 8 bits on both arrays, as in the source; the analog one has 7.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apq_tune.cost.op_model import OpModel, kernel_of, output_of
from apq_tune.network.layer import Op

HZ = 260e6
ROWS, COLUMNS = 1152, 512  # of the analog array
LEAST_INPUTS, INPUTS = 64, 128  # input channels of the analog array: at least, and in one evaluation
PIXELS = (2, 4, 8)  # that the analog array may compute together
EVALUATION = 70e-9 * HZ
LOAD = 4 * 2  # cycles for each row of weights
SIDE = 16  # of the digital array
PORT = 8  # values in and out of the digital array in a cycle


def op_cycles(op: Op) -> Any:
    """Cycles of one operation; NaN where neither array runs it."""
    w_bits, dense = np.asarray(op.w_bits), np.asarray(op.groups) == 1
    cycles = np.where(w_bits == 2, np.where(dense, _analog(op), np.nan), np.where(w_bits == 8, _digital(op), np.nan))
    return np.where((np.asarray(op.a_bits) == 8) & (op.dilation == 1), cycles, np.nan)


def _analog(op: Op) -> Any:
    height, width = kernel_of(op)
    rows, columns = output_of(op)
    inputs, outputs = np.asarray(op.in_channels), np.asarray(op.out_channels)
    together: Any = 1
    for n in PIXELS:
        fits = (n * outputs <= COLUMNS) & ((n + height - 1) * np.maximum(LEAST_INPUTS, inputs) * width <= ROWS)
        together = np.where(fits, n, together)
    evaluations = -(-outputs // COLUMNS) * -(-inputs // INPUTS) * rows * columns / together
    return LOAD * inputs * height * width + evaluations * EVALUATION


def _digital(op: Op) -> Any:
    height, width = kernel_of(op)
    rows, columns = output_of(op)
    in_group = np.asarray(op.out_channels) // op.groups
    products = -(-in_group // SIDE) * op.in_channels * -(-rows // SIDE) * columns * height * width
    return products + rows * columns * (op.out_channels + np.asarray(op.in_channels)) / PORT


DIANA = OpModel(
    "diana_cycles",
    "cycles",
    op_cycles,
    "weights of 8 bits, or of 2 bits in layers without groups, and inputs of 8 bits",
    monotone=False,
)
