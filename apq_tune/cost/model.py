"""Cost models as tables: parts of a network are priced once at every choice, and genomes by gather and reduction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.additive import OpenTerm, Sum
from apq_tune.cost.reach import Combine, Reach, reach
from apq_tune.cost.terms import Term, TermLayout, layout_of, long_table
from apq_tune.errors import TableError
from apq_tune.network.layer import Layer
from apq_tune.network.network import Network, Part, Switch
from apq_tune.space.encoding import Genomes

PartCost = Callable[[tuple[Layer, ...], int], Any]
"""Function from the layers of a part, whose numbers are broadcastable arrays, and the image size to the cost of the
part at each combination of its choices."""


class CostModel:
    """Metric that is the sum (or the maximum) of terms that depend on few genes each.

    Attributes:
        name: Name of the metric, its unit included where it has one.
        unit: Unit for people.
        layout: Positions of terms in the table; models with the same layout share the result of ``index``.
        note: Remark for those who limit the metric, empty if there is none.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        network: Network,
        fixed: Sequence[float],
        terms: Sequence[Term],
        combine: Combine = "sum",
        *,
        exact: bool = True,
    ) -> None:
        """Concatenate the terms to one table.

        Args:
            name: Name of the metric.
            unit: Unit of its values.
            network: Networks of the search space.
            fixed: Cost of the fixed parts, by image size.
            terms: Costs of the searched parts.
            combine: How terms and fixed parts combine.
            exact: Whether the terms give the exact cost rather than an upper bound.

        Raises:
            TableError: If a part that the space allows has no finite cost.
        """
        self.name, self.unit, self.note = name, unit, ""
        self._network, self._combine, self._exact = network, combine, exact
        self._fixed = np.array(fixed, np.float64)
        for term in terms:
            if not np.isfinite(term.table[term.allowed]).all():
                raise TableError(f"{name} of part {term.name} is not finite everywhere; correct the cost of its layers")
        self._terms = tuple(terms)
        self._table = long_table(terms)
        self._size_column = None if network.size_gene is None else list(network.genes).index(network.size_gene)
        self.layout: TermLayout = layout_of(terms, dict(network.genes))

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Costs of genomes of shape ``(n, n_genes)``, shape ``(n,)``."""
        return self.at(*self.index(genomes))

    def index(self, genomes: Genomes) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
        """Table entries of all terms, shape ``(n, n_terms)``, and index of the image size, shape ``(n,)``."""
        size = np.zeros(len(genomes), np.int16) if self._size_column is None else genomes[:, self._size_column]
        return self.layout.index(genomes), size

    def at(self, entries: NDArray[np.int32], size: NDArray[np.int16]) -> NDArray[np.float64]:
        """Costs at the indices that ``index`` returns, shape ``(n,)``."""
        costs = self._table.take(entries)
        if self._combine == "sum":
            return np.asarray(self._fixed[size] + costs.sum(axis=1))
        return np.asarray(np.maximum(self._fixed[size], costs.max(axis=1, initial=0.0)))

    def fixed(self, size: int) -> float:
        """Cost of the fixed parts at an image size."""
        return float(self._fixed[self._network.sizes.index(size)])

    def part(self, name: str, values: Mapping[str, int]) -> float:
        """Cost of one searched part at given values of its genes.

        Args:
            name: Name of the part.
            values: Values of its genes by name.
        """
        (term,) = (term for term in self._terms if term.name == name)
        return float(term.table[tuple(self._network.genes[gene].index(values[gene]) for gene in term.genes)])

    def sums(self, genome: Genomes, open_genes: Sequence[int]) -> list[tuple[float, list[OpenTerm]]]:
        """Sums whose largest is the cost of the candidates that differ from one only in some genes.

        Args:
            genome: Candidate, shape ``(n_genes,)``.
            open_genes: Indices of the genes that differ; they change neither the image size nor which parts are active.

        Returns:
            Constant part and terms over open genes of each sum; one sum for a cost that adds its terms.
        """
        column = {name: number for number, name in enumerate(self._network.genes)}
        size = 0 if self._size_column is None else int(genome[self._size_column])
        sums: list[tuple[float, list[OpenTerm]]] = [(float(self._fixed[size]), [])]
        for term in self._terms:
            if term.switch is not None:
                value = self._network.genes[term.switch.gene][genome[column[term.switch.gene]]]
                if value < term.switch.at_least:
                    continue
            own = [column[gene] for gene in term.genes]
            at = tuple(slice(None) if place in open_genes else int(genome[place]) for place in own)
            values = np.asarray(np.where(term.allowed, term.table, np.inf)[at])
            part = OpenTerm(tuple(place for place in own if place in open_genes), values)
            if self._combine == "sum":
                sums[0][1].append(part)
            else:
                sums.append((0.0, [part]))
        return sums

    def additive(self) -> tuple[Sum, ...] | None:
        """Sums over all genes whose largest is the cost; combinations that are not allowed may have any value."""
        column = {name: number for number, name in enumerate(self._network.genes)}
        fixed = OpenTerm((), np.asarray(self._fixed[0]))
        if self._size_column is not None:
            fixed = OpenTerm((self._size_column,), self._fixed)
        terms = [fixed]
        for term in self._terms:
            genes, values = term.genes, term.table
            if term.switch is not None:
                genes, values = switched(self._network, term.switch, genes, values)
            terms.append(OpenTerm(tuple(column[gene] for gene in genes), values))
        if self._combine == "sum":
            return (Sum(0.0, tuple(terms)),)
        return tuple(Sum(0.0, (term,)) for term in terms)

    def reachable(self) -> tuple[float, float]:
        """Smallest and largest value over the search space, or proven bounds of them; see ``reach``."""
        return self.reach.low, self.reach.high

    @functools.cached_property
    def reach(self) -> Reach:
        """Smallest and largest value over the search space, and whether both are attained by candidates."""
        size_genes = () if self._network.size_gene is None else (self._network.size_gene,)
        fixed = self._fixed if size_genes else self._fixed[0]
        base = Term("fixed", size_genes, np.asarray(fixed), np.ones_like(fixed, bool))
        found = reach([base, *self._terms], self._network.genes, self._combine)
        return found._replace(exact=found.exact and self._exact)


def switched(
    network: Network, switch: Switch, genes: tuple[str, ...], values: NDArray[np.float64]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Values of a part that are zero where it is inactive, with an axis for the gene that decides about it.

    Args:
        network: Networks of a search space.
        switch: Condition under which the part is active.
        genes: Names of the genes of the values, one for each axis.
        values: Values of the active part.
    """
    if switch.gene not in genes:
        genes, values = (switch.gene, *genes), values[None]
    axis = genes.index(switch.gene)
    on = np.array(network.genes[switch.gene]) >= switch.at_least
    return genes, np.where(on.reshape([-1 if i == axis else 1 for i in range(len(genes))]), values, 0.0)


def term_of(network: Network, part: Part, cost: Callable[[int], Any], genes: Sequence[str] = ()) -> Term:
    """Build the term of a part of a network.

    Args:
        network: Networks of a search space.
        part: The part.
        cost: Function from the image size to the cost at each combination of genes, an array that broadcasts to their
            numbers of values.
        genes: Genes that the cost depends on, those of the part first; by default the genes of the part.
    """
    genes = tuple(genes) or part.genes
    shape = tuple(len(network.genes[gene]) for gene in genes)
    table = np.stack([np.broadcast_to(np.asarray(cost(size), np.float64), shape) for size in network.sizes])
    own = network.allowed(part)
    allowed = np.broadcast_to(own.reshape(own.shape + (1,) * (len(shape) - own.ndim)), table.shape)
    if network.size_gene is None:
        return Term(part.name, genes, table[0], allowed[0], part.switch)
    return Term(part.name, (network.size_gene, *genes), table, allowed, part.switch)
