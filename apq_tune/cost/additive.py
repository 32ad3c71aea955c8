"""Metrics that are sums of terms over few genes, and what is known of any metric of this form.

Costs of networks are such sums, as are losses that are measured gene by gene or layer by layer. A metric that says so
(``HasTerms``) can be minimised exactly by an integer program.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.reach import reach
from apq_tune.cost.terms import Term
from apq_tune.errors import SpaceError
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding

CHECKS = 64
"""Number of random genomes on which the genes that switch another one are checked."""


class OpenTerm(NamedTuple):
    """Term of a cost in which some genes are still open.

    Attributes:
        genes: Indices of the open genes; without any the term is a constant.
        values: Cost at each combination of their values, one axis per gene; infinite where it is not allowed.
    """

    genes: tuple[int, ...]
    values: NDArray[np.float64]


class Sum(NamedTuple):
    """A constant and terms that are added to it."""

    fixed: float
    terms: tuple[OpenTerm, ...]

    def at(self, genomes: Genomes) -> NDArray[np.float64]:
        """Values of genomes of shape ``(n, n_genes)``, shape ``(n,)``."""
        total = np.full(len(genomes), self.fixed)
        for term in self.terms:
            total += term.values[tuple(genomes[:, gene] for gene in term.genes)]
        return total


@runtime_checkable
class HasTerms(Protocol):
    """Metric that is a sum of terms over few genes, or the largest of several such sums."""

    def additive(self) -> tuple[Sum, ...] | None:
        """Sums over all genes whose largest is the metric; ``None`` if it is of another form in its search space."""
        ...


class AdditiveMetric:
    """Metric that is a sum of terms over few genes each, in any search space.

    Attributes:
        name: Name of the metric.
        unit: Unit of its values, for display.
    """

    def __init__(
        self, name: str, unit: str, space: Any, terms: Sequence[OpenTerm], fixed: float = 0.0, *, note: str = ""
    ) -> None:
        """Keep the terms.

        Args:
            name: Name of the metric.
            unit: Unit of its values.
            space: Search space, or its encoding.
            terms: Terms over indices of genes; see ``gene_term`` for one that an inert gene does not count in.
            fixed: Constant that is added to all of them.
            note: Remark for those who limit the metric.
        """
        self.name, self.unit, self.note = name, unit, note
        self._encoding: GeneEncoding = encoding_of(space)
        self._sum = Sum(float(fixed), tuple(terms))

    @classmethod
    def of_genes(
        cls, name: str, unit: str, space: Any, values: Mapping[int, NDArray[np.float64]], fixed: float = 0.0
    ) -> AdditiveMetric:
        """Metric with one value for each value of some genes; inert genes add nothing.

        Args:
            name: Name of the metric.
            unit: Unit of its values.
            space: Search space, or its encoding.
            values: What each value of a gene adds, shape ``(n_values,)``, by the index of the gene.
            fixed: Constant that is added to all of them.
        """
        encoding = encoding_of(space)
        return cls(name, unit, encoding, [gene_term(encoding, gene, own) for gene, own in values.items()], fixed)

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Values of genomes of shape ``(n, n_genes)``, shape ``(n,)``."""
        return self._sum.at(genomes)

    def additive(self) -> tuple[Sum, ...]:
        """The one sum that the metric is."""
        return (self._sum,)

    def reachable(self) -> tuple[float, float]:
        """Bounds of the values in the search space, attained unless combinations are forbidden."""
        names = self._encoding.names
        genes = {name: tuple(range(int(n))) for name, n in zip(names, self._encoding.n_choices, strict=True)}
        terms = [
            Term(str(number), tuple(names[gene] for gene in term.genes), term.values, np.ones(term.values.shape, bool))
            for number, term in enumerate(self._sum.terms)
        ]
        found = reach(terms, genes, "sum")
        return self._sum.fixed + found.low, self._sum.fixed + found.high


def gene_term(encoding: GeneEncoding, gene: int, values: NDArray[np.float64]) -> OpenTerm:
    """Term of one gene that is zero where the gene is inert.

    Args:
        encoding: Encoding of a search space.
        gene: Index of the gene.
        values: What each of its values adds, shape ``(n_values,)``.
    """
    switches, active = switches_of(encoding, gene)
    own = np.asarray(values, np.float64)
    if not switches:
        return OpenTerm((gene,), own)
    return OpenTerm((*switches, gene), np.where(active[..., None], own, 0.0))


def switches_of(encoding: GeneEncoding, gene: int) -> tuple[tuple[int, ...], NDArray[np.bool_]]:
    """Genes of depth that decide whether a gene is active.

    Args:
        encoding: Encoding of a search space.
        gene: Index of the gene.

    Returns:
        Their indices, and whether the gene is active at each combination of their values; none if it always is.

    Raises:
        SpaceError: If anything else decides about it.
    """
    depths = [int(place) for place in encoding.places_of(["depth"]) if place != gene]
    n = encoding.n_choices
    rows = np.zeros((1 + len(depths), len(n)), np.int16)
    rows[np.arange(1, 1 + len(depths)), depths] = n[depths] - 1
    alone = encoding.active_genes(rows)[:, gene]
    own = () if alone[0] else tuple(depth for depth, on in zip(depths, alone[1:], strict=True) if on)
    sizes = [int(n[depth]) for depth in own]
    grid = np.array(list(itertools.product(*map(range, sizes))), np.int16).reshape(math.prod(sizes), len(own))
    rows = np.zeros((len(grid), len(n)), np.int16)
    rows[:, list(own)] = grid
    active = np.asarray(encoding.active_genes(rows)[:, gene]).reshape(sizes)
    rng = np.random.default_rng(0)
    drawn = (rng.random((CHECKS, len(n))) * n).astype(np.int16)
    if (encoding.active_genes(drawn)[:, gene] != active[tuple(drawn[:, depth] for depth in own)]).any():
        raise SpaceError(
            f"{encoding.name}: more than depth decides whether {encoding.names[gene]} is active, so it has no term of "
            "its own; give the metric as a FunctionMetric"
        )
    return own, active
