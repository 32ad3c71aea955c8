"""BitOps: multiply-accumulates weighted by the bits of weights and activations (Wang 2019, HAQ; Wang 2020, APQ)."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.cost.sparse import noted
from apq_tune.cost.sums import sum_over_ops
from apq_tune.network.layer import Op


def op_bit_ops(op: Op) -> Any:
    """``macs * w_bits * a_bits`` of one convolution."""
    return op.macs * op.w_bits * op.a_bits


def bit_ops(encoding: Any) -> CostModel:
    """BitOps of one image, the fixed 8-bit stem, head and classifier included."""
    return noted(sum_over_ops("bit_ops", "BitOps", encoding, op_bit_ops, monotone=True), encoding)
