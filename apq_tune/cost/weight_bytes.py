"""Flash: size of the packed parameters of the integer network in bytes."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.cost.sums import sum_over_ops
from apq_tune.network.layer import Op

BYTES_PER_CHANNEL = 8  # an int32 bias and a 32-bit rescaling factor for each output channel (Jacob 2018)


def op_weight_bytes(op: Op) -> Any:
    """Size of the packed weights and the per-channel constants of one convolution in bytes."""
    return op.n_weights * op.w_bits / 8 + op.out_channels * BYTES_PER_CHANNEL


def weight_bytes(encoding: Any) -> CostModel:
    """Size of all parameters in bytes, with folded batch norm."""
    return sum_over_ops("weight_bytes", "bytes", encoding, op_weight_bytes, monotone=True)
