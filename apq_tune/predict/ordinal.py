"""Ordinal features of candidates, which encode the order of choices, unlike one-hot features."""

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
"""Number of random candidates from which the mean and the standard deviation of each column are estimated."""


@dataclass(frozen=True)
class OrdinalFeatures:
    """Active blocks, logarithms of their choices, and logarithms of costs, with equal weight of each kind of column.

    Kinds of columns are: activity of blocks; kernel sizes, channels, sparsity and bits, separately for each layer of a
    block (``log2(bits)``, and ``2**-bits``, to which rounding errors are proportional); resolution; costs; and for
    named choices one-hot columns and numbers (``named.columns``). Columns of inactive blocks are zero, and genes with a
    single value have no column. Columns are standardised over random candidates and divided by the square roots of the
    number of columns of their kind and of the number of kinds, so that the mean squared norm of random candidates is 1.

    Attributes:
        encoding: Encoding of the search space.
        mean: Means of the columns over random candidates, shape ``(n_features,)``.
        factor: Factors of the centred columns, shape ``(n_features,)``.
    """

    encoding: Encoding
    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, encoding: Encoding, rng: np.random.Generator) -> OrdinalFeatures:
        """Estimate the means and standard deviations of the columns from random candidates."""
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
        """Kind of each column, shape ``(n_features,)``."""
        return self._layout.kinds

    @cached_property
    def _layout(self) -> _Layout:
        return _Layout.of(self.encoding)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Columns of a search space, neither centred nor scaled.

    Attributes:
        encoding: Encoding of the search space.
        blocks: Index of one gene of each block, shape ``(n_blocks,)``.
        numbers: Index of the gene of each numeric column, shape ``(n_numbers,)``.
        tables: Entries of the numeric columns for each value of their gene, shape ``(n_numbers, n_values)``.
        choices: Indices of the genes of named choices, shape ``(n_choices,)``.
        sizes: Indices of the genes of the resolution.
        costs: Cost models.
        kinds: Kind of each column, shape ``(n_features,)``.
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
        """One cost model of each layout; models with the same layout share table indices."""
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
    """Base-2 logarithms of a gene's values, for sparsity of the share of remaining weights, shape ``(n_values,)``."""
    values = np.array(gene.values, np.float64)
    return np.asarray(np.log2(1 - values if gene.kind == "sparsity" else values))


def n_features(encoding: Encoding) -> int:
    """Number of columns for a space."""
    return len(_Layout.of(encoding).kinds)
