"""BitOps: multiply-accumulates weighted by the bits of both factors (Wang 2019, HAQ; Wang 2020, APQ)."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.encoding import Encoding
from apq_tune.ops import Op, fixed_ops


def op_bit_ops(op: Op) -> Any:
    """``macs * w_bits * a_bits`` of one convolution."""
    return op.macs * op.w_bits * op.a_bits


def bit_ops(encoding: Encoding) -> CostModel:
    """BitOps of one image, the fixed 8-bit stem, head and classifier included."""
    return CostModel(
        "bit_ops",
        "BitOps",
        encoding,
        lambda ops, _: sum(op_bit_ops(op) for op in ops),
        sum(op_bit_ops(op) for op in fixed_ops(encoding.space)),
    )
