"""RAM: the most activation bytes that are alive at once, images processed one at a time.

Buffer model: a convolution has its whole input and its whole output in memory, and inside a residual block the block's
input stays until it is added, in place, to the block's output. The residual stream is stored at ``fixed_bits``, the
tensors between a block's convolutions at the bits at which the next convolution reads them, packed. Requantising the
stream for a block's first convolution happens on the fly and takes no buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apq_tune.cost.model import CostModel
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.ops import BlockOps, Op, fixed_ops
from apq_tune.space.skeleton import Slot


def peak_activation_bytes(encoding: NetworkEncoding) -> CostModel:
    """Largest working set of any convolution, in bytes."""
    space = encoding.space
    fixed = space.fixed_bits

    def block_peak(ops: BlockOps, slot: Slot) -> Any:
        stream_in = _bits(ops.expand.in_channels, ops.expand.in_size, fixed)
        expanded = _bits(ops.depthwise.in_channels, ops.depthwise.in_size, ops.depthwise.a_bits)
        filtered = _bits(ops.project.in_channels, ops.project.in_size, ops.project.a_bits)
        stream_out = _bits(ops.project.out_channels, ops.project.out_size, fixed)
        kept = stream_in if slot.has_shortcut else 0
        working = (stream_in + expanded, kept + expanded + filtered, kept + filtered + stream_out)
        return np.maximum.reduce(np.broadcast_arrays(*working)) / 8

    def op_bits(op: Op) -> Any:
        return _bits(op.in_channels, op.in_size, fixed) + _bits(op.out_channels, op.out_size, fixed)

    def fixed_peak(resolution: int) -> float:
        ops = fixed_ops(space, resolution)
        working = [op_bits(op) for op in ops.all]
        if ops.first and ops.stem.out_channels == ops.first[-1].out_channels:  # its shortcut keeps the stem's output
            depthwise, pointwise = ops.first
            kept = _bits(depthwise.in_channels, depthwise.in_size, fixed)
            working += [kept + op_bits(depthwise), kept + op_bits(pointwise)]
        return float(max(working)) / 8

    return CostModel("peak_activation_bytes", "bytes", encoding, block_peak, fixed_peak, "max")


def _bits(channels: Any, size: int, bits: Any) -> Any:
    return channels * size**2 * bits
