"""Costs computed from the genes of each candidate, for networks whose layers depend on too many genes for tables."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.additive import OpenTerm, Sum
from apq_tune.cost.model import CostModel, PartCost, switched
from apq_tune.cost.reach import Reach
from apq_tune.network.described import Columns, Described, choices_of, describe, peak_bits
from apq_tune.network.graph import MOVING
from apq_tune.network.layer import IMAGE, Layer
from apq_tune.network.liveness import PACKED, BufferModel, live_tensors, no_scratch
from apq_tune.network.network import Network, Part
from apq_tune.space.encoding import Genomes

BATCH = 2048
"""Candidates whose layers are in memory at once."""

MOST_COMBINATIONS = 1_000_000
"""Combinations of the genes of a part that are gone through for the range of a cost that need not be monotone."""

MOST_CELLS = 200_000
"""Combinations of the genes of a part up to which its cost is a term over few genes."""


class DirectCost(CostModel):
    """Metric computed from the layers of each candidate.

    Attributes:
        name: Name of the metric.
        unit: Unit for people.
        note: Remark for those who limit the metric, empty if there is none.
        layout: The network, whose layers metrics of the same network share.
    """

    def __init__(self, name: str, unit: str, network: Network) -> None:
        self.name, self.unit, self.note = name, unit, ""
        self._network = network
        self.layout: Any = network
        self._values = [np.array(values) for values in network.genes.values()]

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Costs of genomes of shape ``(n, n_genes)``, shape ``(n,)``."""
        parts = [self.at(*self.index(genomes[i : i + BATCH])) for i in range(0, len(genomes), BATCH)]
        return np.concatenate([np.zeros(0), *parts])

    def columns(self, genomes: Genomes) -> Columns:
        """Values of all genes by name, each of shape ``(n,)``."""
        return {
            name: values[genomes[:, place]]
            for place, (name, values) in enumerate(zip(self._network.genes, self._values, strict=True))
        }

    def _at(self, genome: Genomes) -> tuple[dict[str, int], int]:
        """Values of all genes of one genome, and its image size."""
        values = {name: own[0].item() for name, own in self.columns(genome[None]).items()}
        gene = self._network.size_gene
        return values, self._network.sizes[-1] if gene is None else values[gene]

    def index(self, genomes: Genomes) -> tuple[Any, ...]:
        """Layers of the candidates, and their number."""
        return tuple(describe(self._network, self.columns(genomes), len(genomes))), len(genomes)

    def at(self, *index: Any) -> NDArray[np.float64]:
        """Costs of what ``index`` returns, shape ``(n,)``."""
        described, n = index
        costs = np.zeros(n)
        for own in described:
            costs[own.rows] = self._costs(own)
        return costs

    @abc.abstractmethod
    def _costs(self, described: Described) -> NDArray[np.float64]:
        """Costs of candidates of the same image size, shape ``(n,)``."""

    def _end_genomes(self) -> tuple[Genomes, Genomes]:
        """First and last values of all genes, at each image size."""
        network, last = self._network, [len(values) - 1 for values in self._values]
        ends = np.zeros((2, len(network.sizes), len(last)), np.int16)
        ends[1] = last
        if network.size_gene is not None:
            ends[:, :, list(network.genes).index(network.size_gene)] = np.arange(len(network.sizes))
        return ends[0], ends[1]

    def _ends(self) -> Reach:
        """Range of a cost that grows with every gene but that of the image size."""
        smallest, largest = self._end_genomes()
        return Reach(float(self(smallest).min()), float(self(largest).max()), exact=True)


class DirectSum(DirectCost):
    """Sum over the parts of a network."""

    def __init__(
        self,
        name: str,
        unit: str,
        network: Network,
        part_cost: PartCost,
        fixed_cost: Callable[[int], float],
        *,
        monotone: bool,
    ) -> None:
        """Name the summands.

        Args:
            name: Name of the metric.
            unit: Unit of its values.
            network: Networks of the search space.
            part_cost: Cost of a searched part.
            fixed_cost: Function from the image size to the cost of all fixed parts.
            monotone: Whether the cost of a part grows with every gene but that of the image size.
        """
        super().__init__(name, unit, network)
        self._part_cost, self._monotone = part_cost, monotone
        self._fixed_costs = {size: fixed_cost(size) for size in network.sizes}

    def _costs(self, described: Described) -> NDArray[np.float64]:
        total: Any = np.full(described.rows.size, self._fixed_costs[described.size])
        for own in described.parts:
            if own.part.searched:
                cost = self._part_cost(own.layers, described.size)
                total = total + (cost if own.active is None else np.where(own.active, cost, 0.0))
        return np.asarray(total, np.float64)

    def fixed(self, size: int) -> float:
        """Cost of the fixed parts at an image size."""
        return self._fixed_costs[size]

    def part(self, name: str, values: Mapping[str, int]) -> float:
        """Cost of one searched part at given values of its genes, at the largest image size by default."""
        part, size = self._network.by_name[name], self._network.sizes[-1]
        size = values.get(self._network.size_gene or "", size)
        return float(self._part_cost(part.describe(size, *(values[gene] for gene in part.genes)), size))

    def sums(self, genome: Genomes, open_genes: Sequence[int]) -> list[tuple[float, list[OpenTerm]]]:
        """Sums whose largest is the cost of the candidates that differ from one only in some genes."""
        network, places = self._network, {name: place for place, name in enumerate(self._network.genes)}
        values, size = self._at(genome)
        terms = []
        for part in network.searched:
            if part.switch is None or values[part.switch.gene] >= part.switch.at_least:
                layers = _open(part, size, values, {name for name in places if places[name] in open_genes}, network)
                cost = np.asarray(self._part_cost(layers, size), np.float64)
                terms.append(_term(cost, [gene for gene in part.genes if places[gene] in open_genes], places))
        return [(self._fixed_costs[size], terms)]

    def additive(self) -> tuple[Sum, ...] | None:
        """The sum over all genes; ``None`` if a part depends on too many combinations of them."""
        network, places = self._network, {name: place for place, name in enumerate(self._network.genes)}
        names = () if network.size_gene is None else (network.size_gene,)
        fixed = np.array([self._fixed_costs[size] for size in network.sizes])
        terms = [_term(fixed, names, places)]
        for part in network.searched:
            shape = network.shape(part)
            if math.prod(shape) * len(network.sizes) > MOST_CELLS:
                return None
            costs = [self._part_cost(network.layers(part, size), size) for size in network.sizes]
            values = np.stack([np.broadcast_to(np.asarray(own, np.float64), shape) for own in costs])
            genes, values = (*names, *part.genes), values if names else values[0]
            if part.switch is not None:
                genes, values = switched(network, part.switch, genes, values)
            terms.append(_term(values, genes, places))
        return (Sum(0.0, tuple(terms)),)

    @functools.cached_property
    def reach(self) -> Reach:
        """Smallest and largest value over the search space, or proven bounds of them."""
        return self._ends() if self._monotone else self._bounds()

    def _bounds(self) -> Reach:
        """Sums of the least and of the greatest costs of the parts."""
        lows, highs = [], []
        for size in self._network.sizes:
            low = high = self._fixed_costs[size]
            for part in self._network.searched:
                costs = self._all_costs(part, size)
                low += 0.0 if part.switch is not None or costs is None else float(costs.min())
                high += math.inf if costs is None else max(float(costs.max()), 0.0)
            lows.append(low)
            highs.append(high)
        return Reach(min(lows), max(highs), exact=False)

    def _all_costs(self, part: Part, size: int) -> NDArray[np.float64] | None:
        """Costs of a part at all combinations of its genes; ``None`` if there are too many."""
        if math.prod(self._network.shape(part)) > MOST_COMBINATIONS:
            return None
        return np.asarray(self._part_cost(self._network.layers(part, size), size), np.float64)


class DirectPeak(DirectCost):
    """Largest working set of any layer, in bytes."""

    def __init__(self, name: str, unit: str, network: Network, buffers: BufferModel = PACKED) -> None:
        super().__init__(name, unit, network)
        self._buffers = buffers

    def _costs(self, described: Described) -> NDArray[np.float64]:
        return peak_bits(self._network, described, self._buffers) / 8

    def fixed(self, size: int) -> float:
        """The image alone."""
        return float(self._buffers.size(self._network.image(size))) / 8

    @functools.cached_property
    def reach(self) -> Reach:
        """Smallest and largest value over the search space, or proven bounds of them.

        What a block reads is stored at the most bits as long as the block is there. If it has no other reader, a
        network with the block never needs less memory. Else it could be stored at more bits without the block than the
        output of the block; then it has the least bits in the smallest value, and all have the most in the largest.
        Scratch that falls with a gene has its least and its greatest size there.
        """
        found, shared, scratch = self._ends(), _read_elsewhere(self._network), self._scratch_range()
        if not shared and not scratch:
            return found
        smallest, largest = (list(self.index(genome)[0]) for genome in self._end_genomes())
        lows = [self._at_end(own, min, shared, scratch) for own in smallest]
        highs = [self._at_end(own, max, None if shared else (), scratch) for own in largest]
        low, high = min(lows), max(highs)
        return Reach(low, high, exact=(low, high) == (found.low, found.high))

    def _scratch_range(self) -> dict[tuple[int, str], tuple[float, float]]:
        """Least and greatest scratch of each layer by image size and name; empty if no layer needs any."""
        found: dict[tuple[int, str], tuple[float, float]] = {}
        if self._buffers.scratch is no_scratch:
            return found
        for size in self._network.sizes:
            for part in self._network.parts:
                layers, allowed = choices_of(self._network, part, size)
                for layer in layers:
                    scratch = np.broadcast_to(self._buffers.scratch(layer), allowed.shape)[allowed]
                    found[size, layer.name] = float(scratch.min()), float(scratch.max())
        return found if any(most for _, most in found.values()) else {}

    def _at_end(
        self,
        described: Described,
        best: Callable[[Iterable[Any]], Any],
        names: Collection[str] | None,
        scratch: Mapping[tuple[int, str], tuple[float, float]],
    ) -> float:
        """Least or greatest cost if some tensors, or all, have the least or the most bits of all, and so has scratch.

        Args:
            described: Smallest or largest networks.
            best: ``min`` or ``max``.
            names: Layers whose outputs have other bits; ``None`` for all.
            scratch: Range of each layer's scratch.
        """
        layers = [layer for own in described.parts for layer in own.layers]
        bits = best(int(best(np.ravel(layer.output.bits).tolist())) for layer in layers)

        def at_bits(layer: Layer) -> Layer:
            changed = names is None or layer.name in names
            return layer._replace(output=layer.output._replace(bits=bits)) if changed else layer

        parts = tuple(own._replace(layers=tuple(map(at_bits, own.layers))) for own in described.parts)
        buffers, size = self._buffers, described.size
        if scratch:
            buffers = buffers._replace(scratch=lambda layer: best(scratch[size, layer.name]))
        return float(best((peak_bits(self._network, described._replace(parts=parts), buffers) / 8).tolist()))

    def additive(self) -> tuple[Sum, ...] | None:
        """Sums over all genes whose largest is the cost; ``None`` where blocks or image sizes are open.

        Which tensors are in memory together depends on these.
        """
        network = self._network
        if network.size_gene is not None or any(part.switch is not None for part in network.parts):
            return None
        if any(math.prod(network.shape(part)) > MOST_CELLS for part in network.parts):
            return None
        genome = np.zeros(len(network.genes), np.int16)
        return tuple(Sum(fixed, tuple(terms)) for fixed, terms in self.sums(genome, range(len(genome))))

    def sums(self, genome: Genomes, open_genes: Sequence[int]) -> list[tuple[float, list[OpenTerm]]]:
        """Sums whose largest is the cost of the candidates that differ from one only in some genes."""
        network, places = self._network, {name: place for place, name in enumerate(self._network.genes)}
        values, size = self._at(genome)
        open_ = {name for name in places if places[name] in open_genes}
        terms = {IMAGE: OpenTerm((), np.asarray(self.fixed(size)))}
        scratch: dict[str, list[OpenTerm]] = {}
        for part in network.parts:
            for layer in _open(part, size, values, open_, network):
                genes = [gene for gene in part.genes if gene in open_]
                terms[layer.name] = _term(np.asarray(self._buffers.size(layer.output), np.float64) / 8, genes, places)
                own = np.asarray(self._buffers.scratch(layer), np.float64) / 8
                scratch[layer.name] = [_term(own, genes, places)] if own.any() else []
        sets = {
            (alive, name if scratch[name] else ""): [*(terms[one] for one in alive), *scratch[name]]
            for name, alive in live_tensors(network.at(values), self._buffers).items()
        }
        return [(0.0, own) for own in sets.values()]


def _read_elsewhere(network: Network) -> frozenset[str]:
    """Names of the layers whose outputs replace that of a part that can be inactive, and are read by others, too.

    With them come those that replace their outputs in turn.
    """
    values = {gene: own[-1] for gene, own in network.genes.items()}
    layers = {
        part.name: part.describe(network.sizes[-1], *(values[name] for name in part.genes)) for part in network.parts
    }
    passed: dict[str, set[str]] = {}
    for part in network.parts:
        if part.switch is not None and part.passes is not None:
            passed.setdefault(part.passes, set()).add(part.switch.gene)
    found: set[str] = set()
    for part in network.parts:
        own = {layer.name for layer in layers[part.name]}
        read = {name for layer in layers[part.name] for name in layer.inputs} - own
        gene = None if part.switch is None else part.switch.gene
        found |= {name for name in read if passed.get(name, set()) - {gene}}
    if not found:
        return frozenset()
    for part in reversed(network.parts):
        if part.name in found and part.passes is not None:
            found.add(part.passes)
    moved = (
        layer.name for own in layers.values() for layer in own if layer.kind in MOVING
    )  # as wide as what they move
    return frozenset((*moved, *(layers[name][-1].name for name in found if name in layers)))


def _open(
    part: Part, size: int, values: Mapping[str, int], open_genes: set[str], network: Network
) -> tuple[Layer, ...]:
    """Layers of a part at all values of some genes and given ones of the others."""
    own = [gene for gene in part.genes if gene in open_genes]
    grid = dict(zip(own, np.ix_(*(network.genes[gene] for gene in own)), strict=True))
    return part.describe(size, *(grid.get(gene, values[gene]) for gene in part.genes))


def _term(numbers: NDArray[np.float64], genes: Sequence[str], places: Mapping[str, int]) -> OpenTerm:
    """Term of numbers with one axis for each gene, without the genes that they do not depend on."""
    numbers = numbers.reshape((1,) * (len(genes) - numbers.ndim) + numbers.shape)
    kept = [axis for axis, size in enumerate(numbers.shape) if size > 1]
    shape = [numbers.shape[axis] for axis in kept]
    return OpenTerm(tuple(places[genes[axis]] for axis in kept), numbers.reshape(shape))
