"""Which tensors are in memory while a layer runs, from the edges of the network alone.

A tensor is there from the layer that makes it to the last one that reads it. A layer has all of its inputs and its
output in memory; one that works in place makes no new tensor if nothing reads its first input later. A part that is
switched off makes no tensor: its output is the one that it passes on, counted once. A tensor waits for a part that
reads it even where that part is switched off, so there, and only there, the count is an upper bound.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.network.layer import IMAGE, Layer
from apq_tune.network.network import Network, Part
from apq_tune.network.spread import Spread

MAX_CHOICES = 4_000_000
"""Combinations of genes that one layer's memory is worked out for; with more, tensors count at their largest."""


class Memory(NamedTuple):
    """Bits in memory while a part's layers run, at most.

    Attributes:
        genes: Genes of the part, then those of other parts whose tensors wait meanwhile.
        bits: Array that broadcasts to these genes' numbers of values.
        exact: Whether it is; otherwise an upper bound.
    """

    genes: tuple[str, ...]
    bits: NDArray[Any]
    exact: bool


def working_sets(network: Network, size: int) -> dict[str, Memory]:
    """Name of each part -> the most bits that are in memory while one of its layers runs.

    Args:
        network: Networks of a search space.
        size: Side of the image.
    """
    tensors = {IMAGE: Spread.of(network.image(size).n_bits, ())}
    outputs = {IMAGE: IMAGE}  # part -> the tensor that it leaves
    switched: dict[str, tuple[Part, str]] = {}  # output of a part that can be off -> that part and what it passes on
    steps: list[tuple[Part, Layer, tuple[str, ...]]] = []
    for part in network.parts:
        layers = network.layers(part, size)
        for layer in layers:
            tensors[layer.name] = Spread.of(layer.output.n_bits, part.genes)
            steps.append((part, layer, tuple(outputs.get(name, name) for name in layer.inputs)))
        outputs[part.name] = layers[-1].name
        if part.switch is not None and part.passes is not None:
            switched[layers[-1].name] = part, outputs[part.passes]
    last_read = {name: number for number, (_, _, inputs) in enumerate(steps) for name in inputs}
    waiting: list[str] = [IMAGE]
    sets: dict[str, list[tuple[Spread, ...]]] = {}
    for number, (part, layer, inputs) in enumerate(steps):
        in_place = layer.in_place and last_read[inputs[0]] == number
        alive = waiting if in_place else [*waiting, layer.name]
        there = tuple(_there(name, part, alive, switched, network) for name in alive)
        sizes = (
            tensors[name] if share is None else tensors[name].times(share)
            for name, share in zip(alive, there, strict=True)
        )
        sets.setdefault(part.name, []).append(tuple(sizes))
        waiting = [name for name in [*waiting, layer.name] if last_read.get(name, -1) > number]
    return {part.name: _largest(part, sets[part.name], network) for part in network.parts}


def _there(
    name: str, part: Part, alive: list[str], switched: dict[str, tuple[Part, str]], network: Network
) -> Spread | None:
    """1 where a tensor is one of its own, 0 where it is another one that was handed on; ``None`` if always of its own.

    Args:
        name: Output of some part.
        part: The part that runs.
        alive: Tensors in memory.
        switched: Outputs of parts that can be off -> the part, and the tensor that it passes on.
        network: Networks of the search space.
    """
    off: Spread | None = None
    while name in switched and switched[name][0] is not part:
        maker, name = switched[name]
        assert maker.switch is not None
        values = np.array(network.genes[maker.switch.gene]) < maker.switch.at_least
        own = Spread.of(values.astype(np.int64), (maker.switch.gene,))
        off = own if off is None else off.times(own)
        if name in alive:
            return Spread(off.genes, 1 - off.values)
    return None


def _largest(part: Part, sets: list[tuple[Spread, ...]], network: Network) -> Memory:
    """The largest working set of a part at each combination of genes."""
    exact = True
    while True:
        others = dict.fromkeys(
            gene for own in sets for spread in own for gene in spread.genes if gene not in part.genes
        )
        genes = (*part.genes, *others)
        n_choices = {gene: len(network.genes[gene]) for gene in genes}
        if not others or math.prod(n_choices.values()) <= MAX_CHOICES:
            break
        exact, dropped = False, max(others, key=lambda gene: n_choices[gene])
        sets = [tuple(_at_most(spread, dropped) for spread in own) for own in sets]
    totals = [sum(spread.over(genes) for spread in own) for own in sets]
    return Memory(genes, np.maximum.reduce(np.broadcast_arrays(*totals)), exact)


def _at_most(spread: Spread, gene: str) -> Spread:
    if gene not in spread.genes:
        return spread
    axis = spread.genes.index(gene)
    return Spread(tuple(other for other in spread.genes if other != gene), spread.values.max(axis=axis))
