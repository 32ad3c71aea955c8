"""Cost models of devices by name. Nothing is computed or listed of those that nobody names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apq_tune.cost.device_ram import BUFFERS, device_ram_bytes
from apq_tune.cost.diana import DIANA
from apq_tune.cost.gap8 import GAP8
from apq_tune.cost.model import CostModel
from apq_tune.cost.mpic import MPIC
from apq_tune.cost.ne16 import NE16
from apq_tune.cost.op_model import OpModel
from apq_tune.cost.stm32h7 import STM32H7
from apq_tune.errors import ProblemError
from apq_tune.network.layer import Op

OP_MODELS: Mapping[str, OpModel] = {model.name: model for model in (MPIC, NE16, GAP8, DIANA, STM32H7)}
"""Cost models that are sums over operations."""

NAMED = (*OP_MODELS, *BUFFERS)
"""Names of all cost models of devices."""


def named_cost(name: str, encoding: Any, *, strict: bool = True) -> CostModel:
    """Cost model of a device.

    Args:
        name: One of ``NAMED``.
        encoding: Encoding of a search space that has networks.
        strict: Whether to refuse spaces with a layer that its source does not cover; else networks with such a layer
            have an infinite cost, so that they keep no limit.

    Raises:
        ProblemError: If there is no such cost model.
        TableError: If the space allows a layer that its source does not cover; the message names it.
    """
    if name not in NAMED:
        raise ProblemError(f"unknown cost model {name!r}; known: {', '.join(NAMED)}")
    return device_ram_bytes(name, encoding) if name in BUFFERS else OP_MODELS[name].of(encoding, strict=strict)


def named_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Cost models of devices that names or limits such as ``ne16_cycles<=1M`` ask for, each once."""
    words = (re.match(r"\s*(\w*)", text) for text in texts)
    return tuple(dict.fromkeys(word[1] for word in words if word is not None and word[1] in NAMED))


def op_cost_of(name: str) -> Callable[[Op], float] | None:
    """Cost of one operation in a cost model of a device; ``None`` if that is no sum over operations."""
    model = OP_MODELS.get(name)
    return None if model is None else lambda op: float(model.cost(op))
