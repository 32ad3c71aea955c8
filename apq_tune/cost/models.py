"""Cost models that need no file."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.activation_bytes import peak_activation_bytes
from apq_tune.cost.bit_ops import bit_ops
from apq_tune.cost.macs import macs, sparse_macs
from apq_tune.cost.model import CostModel
from apq_tune.cost.sparse import is_sparse
from apq_tune.cost.weight_bytes import weight_bytes
from apq_tune.network.network import network_of
from apq_tune.space.encodings import encoding_of


def cost_models(space: Any) -> tuple[CostModel, ...]:
    """Cost models of a search space that need no file: MACs, BitOps, weight bytes, peak activation bytes.

    Spaces with sparse layers have the MACs that are left in theory, too.

    Args:
        space: Search space, or its encoding.

    Raises:
        SpaceError: If the space is one of named choices, which has no networks.
    """
    network_of(getattr(space, "space", space))
    encoding = encoding_of(space)
    known = (macs, bit_ops, weight_bytes, peak_activation_bytes)
    own = (*known, sparse_macs) if is_sparse(network_of(encoding.space)) else known
    return tuple(make(encoding) for make in own)
