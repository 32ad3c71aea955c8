"""Layers of many candidates at once, computed from the values of their genes, and the memory that they need.

For networks whose layers depend on too many genes for tables of all their combinations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.network.layer import IMAGE, Layer, Numbers
from apq_tune.network.liveness import PACKED, BufferModel
from apq_tune.network.network import Network, Part, Switch

Columns = Mapping[str, NDArray[np.int64]]
"""Values of genes by name, one for each candidate."""

NEVER = -1

MOST_CHOICES = 100_000
"""Combinations of the genes of a part that ``choices_of`` goes through."""


class DescribedPart(NamedTuple):
    """Layers of a part for all candidates.

    Attributes:
        part: The part.
        layers: Its layers, whose numbers are arrays with one entry for each candidate, or one number for all.
        active: Whether the part is active, shape ``(n,)``; ``None`` if it always is.
    """

    part: Part
    layers: tuple[Layer, ...]
    active: NDArray[np.bool_] | None


class Described(NamedTuple):
    """Layers of candidates with the same image size.

    Attributes:
        size: Image size.
        rows: Places of the candidates among all.
        parts: All parts of the network.
    """

    size: int
    rows: NDArray[np.intp]
    parts: tuple[DescribedPart, ...]


def describe(network: Network, columns: Columns, n: int) -> Iterator[Described]:
    """Describe candidates, those of one image size after the other.

    Args:
        network: Networks of a search space.
        columns: Values of all genes.
        n: Number of candidates.
    """
    sizes = np.full(n, network.sizes[-1]) if network.size_gene is None else columns[network.size_gene]
    for size in network.sizes:
        rows = np.flatnonzero(sizes == size)
        if rows.size:
            own = columns if rows.size == n else {gene: values[rows] for gene, values in columns.items()}
            yield Described(size, rows, tuple(_described(part, size, own) for part in network.parts))


def _described(part: Part, size: int, columns: Columns) -> DescribedPart:
    layers = part.describe(size, *(columns[gene] for gene in part.genes))
    return DescribedPart(part, layers, is_active(part.switch, columns))


def choices_of(network: Network, part: Part, size: int) -> tuple[tuple[Layer, ...], NDArray[np.bool_]]:
    """Layers of a part at its choices, and which of these are allowed.

    If there are more than ``MOST_CHOICES``, genes that change neither bits nor kernels keep their ends, or the last
    value, those with the most values first.

    Args:
        network: Networks of a search space.
        part: One of its parts.
        size: Image size.
    """
    values = [np.array(network.genes[gene]) for gene in part.genes]
    if math.prod(map(len, values)) <= MOST_CHOICES:
        return part.describe(size, *np.ix_(*values)), network.allowed(part)
    kept = _genes_of_bits(part, size, values)
    order = sorted(range(len(values)), key=lambda place: (place in kept, -len(values[place])))
    for place in order:
        for ends in ([0, -1], [-1]):
            if math.prod(map(len, values)) > MOST_CHOICES and len(values[place]) > len(ends):
                values[place] = values[place][ends]
    return part.describe(size, *np.ix_(*values)), np.ones(tuple(map(len, values)), bool)


def _genes_of_bits(part: Part, size: int, values: Sequence[NDArray[np.int64]]) -> frozenset[int]:
    """Places of the genes of a part that change bits or kernels of its operations."""
    found = set()
    for place, own in enumerate(values):
        alone = [own if other == place else last[-1:] for other, last in enumerate(values)]
        ops = [layer.op for layer in part.describe(size, *alone) if layer.op is not None]
        if any(np.size(number) > 1 for op in ops for number in (op.w_bits, op.a_bits, op.kernel_size)):
            found.add(place)
    return frozenset(found)


def is_active(switch: Switch | None, columns: Columns) -> NDArray[np.bool_] | None:
    """Whether parts with a switch are active, shape ``(n,)``; ``None`` if they always are."""
    return None if switch is None else np.asarray(columns[switch.gene] >= switch.at_least)


def peak_bits(network: Network, described: Described, buffers: BufferModel = PACKED) -> NDArray[np.float64]:
    """Largest number of bits in memory while a layer runs, shape ``(n,)``; see ``liveness.live_bits``.

    Args:
        network: Networks of the search space.
        described: Layers of n candidates.
        buffers: What takes memory.
    """
    n = described.rows.size
    lives = _lives(described, n, buffers)
    steps = len(lives) + 1
    changes = np.zeros((n, steps + 1))
    rows = np.arange(n)
    image = float(buffers.size(network.image(described.size)))
    changes[:, 0] += image
    changes[rows, lives[IMAGE].last + 1] -= image
    for name, life in lives.items():
        if name == IMAGE:
            continue
        bits = np.broadcast_to(np.asarray(life.bits, np.float64), (n,))
        if life.active is not None:
            bits = bits * life.active
        end = np.maximum(life.last, life.first)
        changes[rows, np.where(life.replaces, life.first + 1, life.first)] += bits
        changes[rows, end + 1] -= bits
        if np.any(life.scratch):
            scratch = np.asarray(life.scratch, np.float64) * (1.0 if life.active is None else life.active)
            changes[:, life.first] += scratch
            changes[:, life.first + 1] -= scratch
    return np.asarray(changes.cumsum(axis=1).max(axis=1))


class _Life(NamedTuple):
    """Life of a tensor.

    Attributes:
        bits: Its size.
        first: Number of the layer that makes it.
        last: Number of the last layer that reads it, shape ``(n,)``; -1 if none does.
        replaces: Whether it takes the place of the first input of its layer, shape ``(n,)``.
        active: Whether there is such a tensor; ``None`` if there always is.
        scratch: What its layer needs beside its tensors.
    """

    bits: object
    first: int
    last: NDArray[np.intp]
    replaces: NDArray[np.bool_]
    active: NDArray[np.bool_] | None
    scratch: Numbers = 0


def _lives(described: Described, n: int, buffers: BufferModel) -> dict[str, _Life]:
    """Lives of all tensors, by the name of the layer that makes them."""
    output = {IMAGE: IMAGE} | {own.part.name: own.layers[-1].name for own in described.parts}
    passed = {
        own.layers[-1].name: (own.active, output[own.part.passes or IMAGE])
        for own in described.parts
        if own.active is not None
    }
    made: dict[str, tuple[int, Layer, DescribedPart]] = {}
    for own in described.parts:
        for layer in own.layers:
            made[layer.name] = len(made) + 1, layer, own
    last = {name: np.full(n, NEVER, np.intp) for name in (IMAGE, *made)}
    for name, (number, layer, own) in reversed(made.items()):
        if name in passed:  # read by those that read the output of an inactive part
            active, source = passed[name]
            assert active is not None
            last[source] = np.maximum(last[source], np.where(active, NEVER, last[name]))
        reads = np.intp(number) if own.active is None else np.where(own.active, number, NEVER)
        for source in dict.fromkeys(output.get(one, one) for one in layer.inputs):
            last[source] = np.maximum(last[source], reads)
    ends: dict[str, NDArray[np.intp]] = {IMAGE: last[IMAGE]}  # the end of what readers of a name read
    lives = {IMAGE: _Life(0, 0, last[IMAGE], np.zeros(n, bool), None)}
    for name, (number, layer, own) in made.items():
        ends[name] = last[name]
        if name in passed:
            active, source = passed[name]
            assert active is not None
            ends[name] = np.where(active, last[name], ends[source])
        replaces = np.zeros(n, bool)
        for one in layer.inputs[: buffers.overwrites(layer)]:
            replaces = replaces | (ends[output.get(one, one)] == number)
        size, scratch = buffers.size(layer.output), buffers.scratch(layer)
        lives[name] = _Life(size, number, last[name], replaces, own.active, scratch)
    return lives
