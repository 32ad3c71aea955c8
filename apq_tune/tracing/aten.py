"""Operations of ATen as nodes of few kinds, functional and in-place forms alike."""

from __future__ import annotations

from collections.abc import Mapping

from apq_tune.tracing.aten_layers import EITHER, LAYERS
from apq_tune.tracing.aten_shapes import LISTS, SHAPES
from apq_tune.tracing.calls import Call, Output, Result, Rule

RULES: Mapping[str, Rule] = {**LAYERS, **SHAPES}
"""Rule for each name of an operation whose first argument is a tensor."""

MIXED: Mapping[str, Rule] = {**EITHER, **LISTS}
"""Rule for each name of an operation whose first argument may also be a parameter or a list."""


def recognise(call: Call) -> Result:
    """Node of a known kind that does what a call does.

    Args:
        call: Call whose tensors are ``Output`` with a batch of its own, or ``Stored``.

    Returns:
        The node; for operations that change nothing the argument; ``None`` if no kind of node does that.
    """
    if call.name in MIXED:
        return MIXED[call.name](call)
    rule = RULES.get(call.name)
    return None if rule is None or not isinstance(call.x, Output) else rule(call)
