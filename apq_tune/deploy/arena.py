"""Places of the tensors of an integer program in one block of memory, one byte for each integer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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


ORDERS: tuple[Callable[[Span], tuple[int, ...]], ...] = (
    lambda span: (-span.size,),
    lambda span: (span.first - span.last, -span.size),
    lambda span: (span.first,),
)
"""Orders in which tensors are placed: the largest first, those that are needed for longest, those that come first."""


TRIES = 20
"""Number of times that tensors are placed again, each time with the topmost one first."""


def arena_of(program: Program) -> Arena:
    """Place tensors so that no two overlap while both are needed, in the order of some that needs the least memory.

    Steps that go element by element write over an input that no later step reads: the sum of a residual block over the
    output of its last convolution, or over the input of the block, whichever leaves fewer gaps.
    """
    found: list[Arena] = []
    for first in (True, False):
        owners, spans = _spans(program, first=first)
        least = _least(spans)
        for order in ORDERS:
            names = sorted(spans, key=lambda name: order(spans[name]))
            for _ in range(TRIES):
                places = _places(spans, names)
                ends = {name: places[name] + spans[name].size for name in names}
                top = max(names, key=lambda name: ends[name], default="")
                found.append(Arena(ends.get(top, 0), {name: places[owner] for name, owner in owners.items()}))
                if found[-1].n_bytes == least:
                    return found[-1]
                names = sorted(names, key=lambda name: name != top)
    return min(found, key=lambda arena: arena.n_bytes)  # the first one of equal ones


def _least(spans: Mapping[str, Span]) -> int:
    """Largest sum of the sizes of tensors that are needed during one step."""
    steps = {span.first for span in spans.values()}
    return max((sum(s.size for s in spans.values() if s.first <= step <= s.last) for step in steps), default=0)


def _places(spans: Mapping[str, Span], names: Sequence[str]) -> dict[str, int]:
    """Offsets of tensors that are placed one after the other, each as low as it fits."""
    places: dict[str, int] = {}
    for name in names:
        span = spans[name]
        taken = sorted((places[other], spans[other].size) for other in places if spans[other].meets(span))
        place = 0
        for low, size in taken:
            if place + span.size <= low:
                break
            place = max(place, low + size)
        places[name] = place
    return places


def _spans(program: Program, *, first: bool) -> tuple[dict[str, str], dict[str, Span]]:
    """Tensor in whose place each integer tensor is, and the span of each such place.

    Args:
        program: Integer program.
        first: Whether steps write over the first of several inputs that no later step reads, rather than the last.
    """
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
            owner = owners[done[0 if first else -1]]
            owners[step.output], spans[owner] = owner, spans[owner]._replace(last=end)
        else:
            owners[step.output], spans[step.output] = step.output, Span(number, end, size)
    return owners, spans
