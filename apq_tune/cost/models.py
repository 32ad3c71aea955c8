"""Cost models that need no file."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.activation_bytes import peak_activation_bytes
from apq_tune.cost.bit_ops import bit_ops
from apq_tune.cost.macs import macs
from apq_tune.cost.model import CostModel
from apq_tune.cost.weight_bytes import weight_bytes
from apq_tune.network.network import network_of


def cost_models(encoding: Any) -> tuple[CostModel, ...]:
    """Cost models of a search space that need no file.

    Args:
        encoding: Encoding of a search space.

    Raises:
        SpaceError: If the space is one of named choices, which has no networks.
    """
    network_of(getattr(encoding, "space", encoding))
    return macs(encoding), bit_ops(encoding), weight_bytes(encoding), peak_activation_bytes(encoding)
