"""Multiply-accumulates of one image."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.encoding import Encoding
from apq_tune.ops import Op, fixed_ops


def op_macs(op: Op) -> Any:
    """Multiply-accumulates of one convolution."""
    return op.macs


def macs(encoding: Encoding) -> CostModel:
    """Count of multiply-accumulates in convolutions and classifier."""
    return CostModel(
        "macs",
        "MACs",
        encoding,
        lambda ops, _: sum(op_macs(op) for op in ops),
        sum(op_macs(op) for op in fixed_ops(encoding.space)),
    )
