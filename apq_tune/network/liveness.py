"""Liveness analysis: activation tensors that are in memory while a layer runs, from the edges of the network.

A tensor is live from the layer that writes it to the last layer that reads it. While a layer runs, all of its inputs
and its output are live, and what else it needs, except that an in-place layer allocates no output if no later layer
reads its input. An inactive part allocates nothing; its output is the tensor that it passes on. Since tensors stay live
for inactive parts that would read them, the result can be an upper bound there.

How large a tensor is, what else a layer needs, and which layers work in place, is a ``BufferModel``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.network.layer import IMAGE, Layer, Numbers, Tensor
from apq_tune.network.network import Network, Part
from apq_tune.network.spread import Spread

MAX_CHOICES = 4_000_000
"""Maximum number of gene combinations for exact memory of a layer; beyond it tensors count with their maximum size."""


class BufferModel(NamedTuple):
    """What takes memory while a network runs.

    Attributes:
        size: Number of bits of a stored tensor.
        scratch: Number of bits that a layer needs beside its tensors while it runs.
        overwrites: Number of inputs of a layer, the first ones, in whose memory it may store its output if no later
            layer reads them.
    """

    size: Callable[[Tensor], Numbers]
    scratch: Callable[[Layer], Numbers]
    overwrites: Callable[[Layer], int]


def _packed(tensor: Tensor) -> Numbers:
    return tensor.n_bits


def no_scratch(_layer: Layer) -> int:
    """Scratch of layers that need none."""
    return 0


def _first_if_in_place(layer: Layer) -> int:
    return int(layer.in_place)


PACKED = BufferModel(_packed, no_scratch, _first_if_in_place)
"""Values packed at their bits, no scratch; layers that are ``in_place`` write over their first input."""


class Memory(NamedTuple):
    """Maximum number of bits in memory while the layers of a part run.

    Attributes:
        genes: Genes of the part, then those of other parts with live tensors.
        bits: Numbers of bits, broadcastable to the numbers of values of these genes.
        exact: Whether the numbers are exact; otherwise they are upper bounds.
    """

    genes: tuple[str, ...]
    bits: NDArray[Any]
    exact: bool


def live_bits(layers: Sequence[Layer], image: Tensor, buffers: BufferModel = PACKED) -> dict[str, float]:
    """Number of bits in memory while each layer of one candidate runs, by name of the layer.

    Args:
        layers: Layers in the order of the forward pass, with integer numbers, see ``Network.at``.
        image: Input tensor of the network.
        buffers: What takes memory.
    """
    tensors = {IMAGE: float(buffers.size(image))}
    tensors |= {layer.name: float(buffers.size(layer.output)) for layer in layers}
    scratch = {layer.name: float(buffers.scratch(layer)) for layer in layers}
    alive = live_tensors(layers, buffers)
    return {name: sum(tensors[one] for one in names) + scratch[name] for name, names in alive.items()}


def live_tensors(layers: Sequence[Layer], buffers: BufferModel = PACKED) -> dict[str, frozenset[str]]:
    """Names of the tensors in memory while each layer of one candidate runs, by name of the layer.

    Args:
        layers: Layers in the order of the forward pass.
        buffers: What takes memory.
    """
    last_read = {name: number for number, layer in enumerate(layers) for name in layer.inputs}
    alive, found = frozenset({IMAGE}), dict[str, frozenset[str]]()
    for number, layer in enumerate(layers):
        replaced = any(last_read[name] == number for name in layer.inputs[: buffers.overwrites(layer)])
        found[layer.name] = alive if replaced else alive | {layer.name}
        alive = frozenset(name for name in alive | {layer.name} if last_read.get(name, -1) > number)
    return found


def working_sets(network: Network, size: int, buffers: BufferModel = PACKED) -> dict[str, Memory]:
    """Peak memory of each part, by name.

    Args:
        network: Networks of a search space.
        size: Image size.
        buffers: What takes memory.
    """
    tensors = {IMAGE: Spread.of(buffers.size(network.image(size)), ())}
    outputs = {IMAGE: IMAGE}  # output tensor of each part
    switched: dict[str, tuple[Part, str]] = {}  # by output tensor: part that can be inactive, passed tensor
    steps: list[tuple[Part, Layer, tuple[str, ...]]] = []
    for part in network.parts:
        layers = network.layers(part, size)
        for layer in layers:
            tensors[layer.name] = Spread.of(buffers.size(layer.output), part.genes)
            steps.append((part, layer, tuple(outputs.get(name, name) for name in layer.inputs)))
        outputs[part.name] = layers[-1].name
        if part.switch is not None and part.passes is not None:
            switched[layers[-1].name] = part, outputs[part.passes]
    last_read = {name: number for number, (_, _, inputs) in enumerate(steps) for name in inputs}
    waiting: list[str] = [IMAGE]
    sets: dict[str, list[tuple[Spread, ...]]] = {}
    for number, (part, layer, inputs) in enumerate(steps):
        in_place = any(last_read[name] == number for name in inputs[: buffers.overwrites(layer)])
        alive = waiting if in_place else [*waiting, layer.name]
        there = tuple(_there(name, part, alive, switched, network) for name in alive)
        sizes = [
            tensors[name] if share is None else tensors[name].times(share)
            for name, share in zip(alive, there, strict=True)
        ]
        if np.any(scratch := buffers.scratch(layer)):
            sizes.append(Spread.of(scratch, part.genes))
        sets.setdefault(part.name, []).append(tuple(sizes))
        waiting = [name for name in [*waiting, layer.name] if last_read.get(name, -1) > number]
    return {part.name: _largest(part, sets[part.name], network) for part in network.parts}


def _there(
    name: str, part: Part, alive: list[str], switched: dict[str, tuple[Part, str]], network: Network
) -> Spread | None:
    """Factor of the size of a tensor: 0 where it is another live tensor that was passed on, else 1; ``None`` for 1.

    Args:
        name: Output tensor of some part.
        part: Part that runs.
        alive: Live tensors.
        switched: Parts that can be inactive, and the tensors that they pass on, by output tensor.
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
    """Maximum over the layers of a part at each combination of genes."""
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
