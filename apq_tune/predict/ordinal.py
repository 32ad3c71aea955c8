"""Candidates as numbers that know what is more and what is less; one-hot columns have to learn that from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost import CostModel, cost_models
from apq_tune.network.network import has_network
from apq_tune.predict import named
from apq_tune.predict.pairs import Floats
from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.gene import BIT_KINDS, Gene, places_of

N_REFERENCE = 2000
"""Random candidates that say how far each column spreads: the space is known before any pair is."""


@dataclass(frozen=True)
class OrdinalFeatures:
    """Which blocks are on, logarithms of their choices and of the costs; every kind of column weighs the same.

    Kinds: on or off; kernel sizes, channels, sparsity and bits, those of each layer of a block apart (``log2(bits)``,
    and ``2**-bits`` as rounding errors go); resolution; the cost models; and the names, and the order, of each choice
    of which nothing else is known (``named.columns``). A block that is off has zeros. Genes without a choice have no
    column. Each column is centred and scaled by its spread over random candidates, each kind divided by the root of its
    number of columns and of the number of kinds, so that a random candidate's squared length is 1 in the mean.

    Attributes:
        encoding: Encoding of the search space.
        mean: ``(n_features,)`` mean of the columns over random candidates.
        factor: ``(n_features,)`` numbers that the centred columns are multiplied by.
    """

    encoding: Encoding
    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, encoding: Encoding, rng: np.random.Generator) -> OrdinalFeatures:
        """Measure the spread of the columns on random candidates."""
        kinds = _Layout.of(encoding).kinds
        raw = cls(encoding, np.zeros(len(kinds)), np.ones(len(kinds)))
        columns = raw(encoding.sample(N_REFERENCE, rng))
        spread = columns.std(axis=0)
        varies = spread > 1e-9 * np.abs(columns).max(axis=0)
        used = np.unique(kinds[varies])
        factor = np.zeros(len(kinds))
        for kind in used:
            own = varies & (kinds == kind)
            factor[own] = 1 / (spread[own] * np.sqrt(own.sum() * len(used)))
        return cls(encoding, columns.mean(axis=0), factor)

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n, n_features)``."""
        return np.asarray((self._layout.columns(genomes) - self.mean) * self.factor)

    @property
    def kinds(self) -> NDArray[np.intp]:
        """``(n_features,)``: which kind each column is of."""
        return self._layout.kinds

    @cached_property
    def _layout(self) -> _Layout:
        return _Layout.of(self.encoding)


@dataclass(frozen=True, eq=False)
class _Layout:
    """The columns of one search space, neither centred nor scaled.

    Attributes:
        encoding: Encoding of the search space.
        blocks: ``(n_blocks,)`` place of one gene of each block.
        numbers: ``(n_numbers,)`` places of the genes with a column of their own number.
        tables: ``(n_numbers, n_values)`` these numbers.
        choices: ``(n_choices,)`` places of the genes that are named choices.
        sizes: Places of the genes that choose the resolution.
        costs: Cost models.
        kinds: ``(n_features,)`` which kind each column is of.
    """

    encoding: Encoding
    blocks: NDArray[np.intp]
    numbers: NDArray[np.intp]
    tables: Floats
    choices: NDArray[np.intp]
    sizes: NDArray[np.intp]
    costs: tuple[CostModel, ...]
    kinds: NDArray[np.intp]

    @classmethod
    def of(cls, encoding: Encoding) -> _Layout:
        genes = encoding.genes
        first: dict[str, int] = {}
        for place, gene in enumerate(genes):
            if gene.block:
                first.setdefault(gene.block, place)
        known = ("kernel", "width", "sparsity", *BIT_KINDS)
        numbers = [place for place, gene in enumerate(genes) if gene.kind in known and len(gene.values) > 1]
        bits = [place for place in numbers if genes[place].kind in BIT_KINDS]
        tables = [_logarithms(genes[place]) for place in numbers]
        tables += [2.0 ** -np.array(genes[place].values, np.float64) for place in bits]
        padded = np.zeros((len(tables), max(map(len, tables), default=0)))
        for row, table in zip(padded, tables, strict=True):
            row[: len(table)] = table
        choices, sizes = places_of(genes, ["choice"]), places_of(genes, ["resolution"])
        costs = cost_models(encoding) if has_network(encoding.space) else ()
        groups: list[object] = ["block"] * len(first)
        groups += [(genes[place].kind, genes[place].layer) for place in (*numbers, *bits)]
        groups += [("choice", kind) for kind in named.kinds([genes[place] for place in choices]).tolist()]
        groups += ["resolution"] * len(sizes) + ["cost"] * len(costs)
        number = {group: n for n, group in enumerate(dict.fromkeys(groups))}
        kinds = np.array([number[group] for group in groups], np.intp)
        blocks, places = np.array(list(first.values()), np.intp), np.array([*numbers, *bits], np.intp)
        return cls(encoding, blocks, places, padded, choices, sizes, costs, kinds)

    @cached_property
    def _layouts(self) -> tuple[CostModel, ...]:
        """One cost model of each layout: models of one layout look in the same places."""
        return tuple({id(cost.layout): cost for cost in self.costs}.values())

    def columns(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n, n_features)``."""
        genes, active = self.encoding.genes, self.encoding.active_genes(genomes)
        columns = [active.take(self.blocks, axis=1).astype(np.float64)]
        rows = np.arange(len(self.numbers))
        columns.append(self.tables[rows, genomes.take(self.numbers, axis=1)] * active.take(self.numbers, axis=1))
        columns.append(named.columns([genes[place] for place in self.choices], genomes.take(self.choices, axis=1)))
        columns += [np.log2(genes[place].values)[genomes[:, place]][:, None] for place in self.sizes]
        if self.costs:
            entries = {id(cost.layout): cost.index(genomes) for cost in self._layouts}
            columns.append(np.log(np.column_stack([cost.at(*entries[id(cost.layout)]) for cost in self.costs])))
        return np.concatenate(columns, axis=1)


def _logarithms(gene: Gene) -> Floats:
    """``(n_values,)``: ``log2`` of a gene's values; of sparsity that of the share of weights that is left."""
    values = np.array(gene.values, np.float64)
    return np.asarray(np.log2(1 - values if gene.kind == "sparsity" else values))


def n_features(encoding: Encoding) -> int:
    """Number of columns for a space."""
    return len(_Layout.of(encoding).kinds)
