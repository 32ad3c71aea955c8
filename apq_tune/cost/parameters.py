"""Number of weights, the simplest proxy of what a network can learn."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.model import CostModel
from apq_tune.cost.sums import sum_over_ops


def parameters(encoding: Any) -> CostModel:
    """Number of weights of convolutions and linear layers, without biases.

    Args:
        encoding: Encoding of a search space that has networks.
    """
    return sum_over_ops("parameters", "weights", encoding, lambda op: op.n_weights, monotone=True)
