"""Places of the tensors of an integer program in one block of memory, one byte for each integer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from apq_tune.deploy.program import AddStep, IntegerTensor, MoveStep, Program, RequantizeStep


class Arena(NamedTuple):
    """Block of memory.

    Attributes:
        n_bytes: Size of the block.
        offsets: Offset of each integer tensor by name.
    """

    n_bytes: int
    offsets: Mapping[str, int]


class Span(NamedTuple):
    """Steps during which a part of the block is in use, and its size in bytes."""

    first: int
    last: int
    size: int

    def meets(self, other: Span) -> bool:
        """Whether both are in use during some step."""
        return self.first <= other.last and other.first <= self.last


def arena_of(program: Program) -> Arena:
    """Place tensors so that no two overlap while both are needed, the largest first.

    Steps that go element by element write over an input that no later step reads.
    """
    owners, spans = _spans(program)
    places: dict[str, int] = {}
    for name in sorted(spans, key=lambda name: -spans[name].size):
        span = spans[name]
        taken = sorted((places[other], spans[other].size) for other in places if spans[other].meets(span))
        place = 0
        for low, size in taken:
            if place + span.size <= low:
                break
            place = max(place, low + size)
        places[name] = place
    n_bytes = max((places[name] + spans[name].size for name in spans), default=0)
    return Arena(n_bytes, {name: places[owner] for name, owner in owners.items()})


def _spans(program: Program) -> tuple[dict[str, str], dict[str, Span]]:
    """Tensor in whose place each integer tensor is, and the span of each such place."""
    last = {name: number for number, step in enumerate(program.steps) for name in step.inputs}
    owners: dict[str, str] = {}
    spans: dict[str, Span] = {}
    for number, step in enumerate(program.steps):
        output = program.tensors[step.output]
        if not isinstance(output, IntegerTensor):
            continue
        size, end = math.prod(output.shape), last.get(step.output, number)
        done = [name for name in step.inputs if name in owners and spans[owners[name]].last == number]
        flat = isinstance(step, MoveStep) and step.kind == "flatten"
        if (isinstance(step, AddStep | RequantizeStep) or flat) and done:
            owner = owners[done[0]]
            owners[step.output], spans[owner] = owner, spans[owner]._replace(last=end)
        else:
            owners[step.output], spans[step.output] = step.output, Span(number, end, size)
    return owners, spans
