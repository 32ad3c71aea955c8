"""Multiply-accumulates of one image."""

from __future__ import annotations

from apq_tune.cost.model import CostModel
from apq_tune.encoding import Encoding
from apq_tune.ops import fixed_ops


def macs(encoding: Encoding) -> CostModel:
    """Count of multiply-accumulates in convolutions and classifier."""
    return CostModel(
        "macs",
        "MACs",
        encoding,
        lambda ops, _: sum(op.macs for op in ops),
        sum(op.macs for op in fixed_ops(encoding.space)),
    )
