"""Values of the arguments of calls while a program is walked through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Value = Any
"""``Output``, ``Stored``, a tensor (a constant), a plain value, or a list of them."""


def seen(value: Value) -> Value:
    """Argument as rules see it: constants of one value as numbers, types by name."""
    if isinstance(value, list):
        return [seen(item) for item in value]
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        return value.item()
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def flat(value: Value) -> Iterator[Value]:
    """All values in lists and mappings."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from flat(item)
    else:
        yield value


def plain_values(value: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings in plain data."""
    if isinstance(value, Mapping):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from plain_values(item)


def functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """Operation that returns what an in-place one writes; ``None`` if there is none."""
    base = target._schema.name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, base.removesuffix("_"), None)
    found = getattr(packet, target._overloadname, None)
    return found if isinstance(found, torch._ops.OpOverload) else None
