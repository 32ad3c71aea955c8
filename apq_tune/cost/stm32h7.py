"""Latency on an STM32H7 (Cortex-M7 at 400 MHz) with ST's runtime, linear in multiply-accumulates by kind of operation.

The four rates are fitted by ``benchmarks/device_costs.py`` to the 19 int8 networks that ST's model zoo measured on the
STM32H747I-DISCO with STM32Cube.AI 10.0.0 (MobileNetV1 and V2, FD-MobileNet, ResNet v1, SqueezeNet; the numbers are in
the benchmark, with their source). The mean error on them is 4%, the largest 11%; on a family that is left out of the
fit the largest is 19% (FD-MobileNet). The networks of MLPerf Tiny on an STM32H7A3 with Cube.AI 7.3, scaled by the
clock, come out 1 to 22% too low; that of linear layers alone comes out 4 times too high, since the fit has large
classifiers only, whose weights come from slow memory.

Depthwise convolutions were measured with kernel 3, inputs at 8 bits. Weights of fewer bits count as 8 bits, as nobody
has published their times; on this core they save bytes rather than time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apq_tune.cost.op_model import OpModel, is_depthwise, kernel_of, output_of
from apq_tune.network.layer import Op

DENSE, FEW_INPUTS, DEPTHWISE, LINEAR = 2.26, 5.24, 18.27, 18.92
"""Milliseconds for a million multiply-accumulates: benchmarks/device_costs.py."""

FEW = 3
"""Most input channels of a convolution that counts as one of few: those of an image."""


def kinds_of(op: Op) -> dict[str, Any]:
    """Multiply-accumulates of one operation by the name of the rate at which it runs; only one of them is not zero."""
    height, width = kernel_of(op)
    rows, columns = output_of(op)
    depthwise = is_depthwise(op)
    linear = (np.asarray(height) * width == 1) & (rows * columns == 1)
    few = (np.asarray(op.in_channels) <= FEW) & ~depthwise & ~linear
    return {
        "dense": op.macs * (~depthwise & ~linear & ~few),
        "few_inputs": op.macs * few,
        "depthwise": op.macs * depthwise,
        "linear": op.macs * (linear & ~depthwise),
    }


def op_ms(op: Op) -> Any:
    """Milliseconds of one operation; NaN of groups of channels and of inputs of other bits.

    A convolution of more input channels takes at least as long as one of ``FEW``, so that the cost never falls.
    """
    macs = kinds_of(op)
    least = FEW_INPUTS * FEW / np.asarray(op.in_channels)
    ms = np.maximum(DENSE, least) * macs["dense"] + FEW_INPUTS * macs["few_inputs"]
    ms = (ms + DEPTHWISE * macs["depthwise"] + LINEAR * macs["linear"]) / 1e6
    known = ((np.asarray(op.groups) == 1) | is_depthwise(op)) & (np.asarray(op.a_bits) == 8)
    return np.where(known & (np.asarray(op.w_bits) <= 8), ms, np.nan)


STM32H7 = OpModel(
    "stm32h7_ms",
    "ms",
    op_ms,
    "convolutions without groups, depthwise ones and linear layers, inputs of 8 bits",
    note="stm32h7_ms: weights of fewer than 8 bits count as 8: on this core they save bytes, not time",
)
