"""Arithmetic of channels and feature map sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MAX_WIDTHS = 4096
"""Maximum number of widths of a block."""


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never below 90% of the input (Sandler 2018, MobileNetV2's rounding)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def ratio_channels(in_channels: int, ratios: tuple[float, ...], divisor: int) -> tuple[int, ...]:
    """Middle channels of an inverted bottleneck, one for each expansion ratio, duplicates dropped, ascending."""
    return tuple(sorted({make_divisible(in_channels * ratio, divisor) for ratio in ratios}))


def stepped_channels(in_channels: int, low: float, high: float, step: int) -> tuple[int, ...]:
    """Middle channels from ``low`` to ``high`` times the input channels, both ends rounded, ``step`` apart (APQ)."""
    first, last = make_divisible(in_channels * low, step), make_divisible(in_channels * high, step)
    if (last - first) // step >= MAX_WIDTHS:
        raise ValueError(f"from {first} to {last} channels in steps of {step} are more than {MAX_WIDTHS} widths")
    return tuple(range(first, last + 1, step))


def squeezed_channels(channels: Any) -> Any:
    """Channels between the two convolutions of squeeze-excite: a quarter, rounded as above (Howard 2019).

    Args:
        channels: Middle channels of the block, a number or an array.
    """
    return np.vectorize(make_divisible, otypes=[np.int64])(np.asarray(channels) // 4)[()]


def out_size(in_size: int, stride: int) -> int:
    """Side of the feature map after a convolution with odd kernel and padding ``kernel_size // 2``."""
    return math.ceil(in_size / stride)
