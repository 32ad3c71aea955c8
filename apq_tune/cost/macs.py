"""Multiply-accumulates per image."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.cost.sums import sum_over_ops
from apq_tune.network.layer import Op


def op_macs(op: Op) -> Any:
    """Multiply-accumulates of one convolution."""
    return op.macs


def macs(encoding: Any) -> CostModel:
    """Number of multiply-accumulates in convolutions and classifier per image."""
    return sum_over_ops("macs", "MACs", encoding, op_macs, monotone=True)
