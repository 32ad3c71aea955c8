"""Scratch buffers of CMSIS-NN kernels in bytes: im2col of convolutions, sums of pooling and linear layers.

The sizes are those of CMSIS-NN's ``arm_*_get_buffer_size`` functions (github.com/ARM-software/CMSIS-NN, commit
99f736a, Apache-2.0) as compiled by GCC: ``DSP`` for Cortex-M4, M7 and M33, ``MVE`` for Cortex-M55 and M85 (Helium).
Inputs are int8. Weights of up to 4 bits run in the int4 kernels, those of more in the int8 kernels.
``tests/cost/test_device_ram.py`` compares with CMSIS-NN's own Python module where that is installed.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from apq_tune.cost.op_model import is_depthwise, kernel_of
from apq_tune.network.layer import Layer, Op

Extension = Literal["DSP", "MVE"]

INT4 = 4
"""Most bits of weights that run in the int4 kernels."""

CHANNELS = 124
"""Channels that a depthwise convolution handles together with MVE."""


def scratch_bytes(layer: Layer, extension: Extension) -> Any:
    """Scratch of one layer in bytes, number or array; 0 for layers that need none.

    Args:
        layer: Layer of a network.
        extension: Instruction set of the core.
    """
    if layer.kind in ("pool", "avg_pool"):
        return 4 * np.asarray(layer.output.channels) if extension == "DSP" else 0
    op = layer.op
    if op is None:
        return 0
    if layer.kind == "linear":
        return 4 * np.asarray(op.out_channels) * (np.asarray(op.w_bits) > INT4) if extension == "MVE" else 0
    return np.where(is_depthwise(op), _depthwise(op, extension), _convolution(op, extension))


def _convolution(op: Op, extension: Extension) -> Any:
    height, width = (np.asarray(length) for length in kernel_of(op))
    channels, groups = np.asarray(op.in_channels), np.asarray(op.groups)
    taps = height * width * channels
    int4 = np.asarray(op.w_bits) <= INT4
    above, left = _padding(op)
    pointwise = (height * width == 1) & (groups == 1) & (above == 0) & (left == 0) & (op.dilation == 1)
    if extension == "DSP":
        return np.where(pointwise, 0, 4 * np.where(int4, taps, -(-taps // 4) * 4))
    whole = 64 * -(-taps // 16)
    in_a_row = (op.in_size == 1) & (height == 1) & (groups == 1) & (op.dilation == 1) & (op.stride * channels % 4 == 0)
    return np.where(pointwise, 0, np.where(in_a_row, np.where(_fits(op), _row(op) * ~int4, whole), whole))


def _padding(op: Op) -> tuple[Any, Any]:
    """Padding above and at the left, which is what CMSIS-NN is told."""
    if op.padding is not None:
        return op.padding[:2]
    height, width = kernel_of(op)
    return np.asarray(height) // 2, np.asarray(width) // 2


def _sides(op: Op) -> tuple[Any, Any, Any]:
    """Columns of the output at the left and right that read padding, as CMSIS-NN counts them, and if these differ."""
    _, width = kernel_of(op)
    _, left = _padding(op)
    outputs = op.out_size if op.out_width is None else op.out_width
    inputs = op.in_size if op.in_width is None else op.in_width
    odd = np.fmod((outputs - 1) * op.stride + np.asarray(width) - inputs, 2)

    def columns(padding: Any) -> Any:
        return np.where(padding != 0, np.maximum(1, -(-padding // op.stride)), 0)

    return columns(np.asarray(left)), columns(left + odd), odd != 0


def _fits(op: Op) -> Any:
    """Whether the kernel for images of one row is used."""
    before, after, _ = _sides(op)
    return before + after <= (op.out_size if op.out_width is None else op.out_width)


def _row(op: Op) -> Any:
    """Scratch of the kernel for images of one row, with int8 weights and MVE."""
    _, width = kernel_of(op)
    _, left = _padding(op)
    channels, (_, after, odd) = np.asarray(op.in_channels), _sides(op)
    at_right = np.where(odd, after * channels, left * channels)
    return np.maximum(width * channels + left * channels, (np.asarray(width) - 1) * channels + at_right)


def _depthwise(op: Op, extension: Extension) -> Any:
    height, width = (np.asarray(length) for length in kernel_of(op))
    if op.dilation > 1:
        return 0
    if extension == "MVE":
        return 4 * CHANNELS * height * width
    above, left = _padding(op)
    direct = (height == 3) & (width == 3) & (above <= 1) & (left <= 1) & (np.asarray(op.w_bits) > INT4)
    return np.where(direct, 0, 2 * np.asarray(op.in_channels) * height * width)
