"""The cost models that need nothing but the search space."""

from __future__ import annotations

from typing import Any

from apq_tune.cost.activation_bytes import peak_activation_bytes
from apq_tune.cost.bit_ops import bit_ops
from apq_tune.cost.macs import macs
from apq_tune.cost.model import CostModel
from apq_tune.cost.weight_bytes import weight_bytes
from apq_tune.errors import SpaceError
from apq_tune.space.network_encoding import NetworkEncoding


def cost_models(encoding: NetworkEncoding | Any) -> tuple[CostModel, ...]:
    """Every cost model that needs nothing but the search space.

    Raises:
        SpaceError: if the space has no network, whose costs could be counted.
    """
    if not isinstance(encoding, NetworkEncoding):
        name = getattr(encoding, "name", encoding)
        raise SpaceError(
            f"{name!r} has no network whose costs could be counted; give a NetworkEncoding of a SearchSpace"
        )
    return macs(encoding), bit_ops(encoding), weight_bytes(encoding), peak_activation_bytes(encoding)
