"""Multiply-accumulates per image, of dense kernels and in theory."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.cost.sparse import noted
from apq_tune.cost.sums import sum_over_ops
from apq_tune.network.layer import Op


def op_macs(op: Op) -> Any:
    """Multiply-accumulates of one convolution."""
    return op.macs


def op_sparse_macs(op: Op) -> Any:
    """Multiply-accumulates of one convolution without those by pruned weights."""
    return op.sparse_macs


def macs(encoding: Any) -> CostModel:
    """Number of multiply-accumulates in convolutions and classifier per image, those by zero included."""
    model = sum_over_ops("macs", "MACs", encoding, op_macs, monotone=True)
    return noted(model, encoding)


def sparse_macs(encoding: Any) -> CostModel:
    """Number of multiply-accumulates per image in theory, if none by a pruned weight were done."""
    model = sum_over_ops("sparse_macs", "MACs", encoding, op_sparse_macs, monotone=True)
    model.note = (
        "sparse_macs: a count in theory; dense kernels (PyTorch, onnxruntime, TensorFlow Lite, our C files, CMSIS-NN) "
        "multiply zeros, too, and gain no time"
    )
    return model
