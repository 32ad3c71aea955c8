"""Smallest and largest value of a cost over a whole search space.

Genes are eliminated one by one (bucket elimination, Dechter 1999): all terms of a gene are combined, and its best value
is found for each combination of the other genes in them, which is exact. If such a combination of terms has too many
choices, the terms are split and each takes its own best value, which gives a proven bound (mini-buckets, Dechter 2003).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from apq_tune.cost.terms import Term
from apq_tune.network.spread import Spread

MAX_CHOICES = 1_000_000
"""Maximum number of combinations of genes per elimination step."""

Combine = Literal["sum", "max"]


class Reach(NamedTuple):
    """Range of a cost, and whether its ends are attained by candidates or are bounds."""

    low: float
    high: float
    exact: bool


def reach(terms: Sequence[Term], genes: Mapping[str, tuple[int, ...]], combine: Combine) -> Reach:
    """Range of a cost over a search space.

    Args:
        terms: Terms of the cost, none of them negative.
        genes: Values of all genes by name.
        combine: Whether the cost is the sum or the maximum of its terms.
    """
    low, low_exact = _end(terms, genes, combine, best=np.minimum)
    high, high_exact = _end(terms, genes, combine, best=np.maximum)
    return Reach(low, high, low_exact and high_exact)


def _end(
    terms: Sequence[Term], genes: Mapping[str, tuple[int, ...]], combine: Combine, best: np.ufunc
) -> tuple[float, bool]:
    uses = Counter(gene for term in terms for gene in term.all_genes)
    factors = [_factor(term, genes, best, uses) for term in terms]
    exact = True
    while left := list(dict.fromkeys(gene for factor in factors for gene in factor.genes)):
        own = {gene: [factor for factor in factors if gene in factor.genes] for gene in left}
        effort = {gene: (_n_choices(some, genes), len(some)) for gene, some in own.items()}
        gene = min(left, key=lambda name: effort[name])
        exact &= effort[gene][0] <= MAX_CHOICES
        factors = _eliminate(gene, factors, genes, combine, best)
    together = sum if combine == "sum" else max
    return float(together(float(factor.values) for factor in factors)), exact


def _factor(term: Term, genes: Mapping[str, tuple[int, ...]], best: np.ufunc, uses: Mapping[str, int]) -> Spread:
    """Eliminate the genes that only one term has, and apply its switch."""
    worst = np.inf if best is np.minimum else -np.inf
    switched = None if term.switch is None else term.switch.gene
    kept = tuple(gene for gene in term.genes if uses[gene] > 1 or gene == switched)
    gone = tuple(axis for axis, gene in enumerate(term.genes) if gene not in kept)
    values = best.reduce(np.where(term.allowed, term.table, worst), axis=gone)
    if term.switch is None:
        return Spread(kept, values)
    if term.switch.gene not in kept:
        kept, values = (term.switch.gene, *kept), values[None]
    axis = kept.index(term.switch.gene)
    on = np.array(genes[term.switch.gene]) >= term.switch.at_least
    return Spread(kept, np.where(on.reshape([-1 if i == axis else 1 for i in range(len(kept))]), values, 0.0))


def _n_choices(factors: Iterable[Spread], genes: Mapping[str, tuple[int, ...]]) -> int:
    return math.prod(len(genes[gene]) for gene in {gene for factor in factors for gene in factor.genes})


def _eliminate(
    gene: str, factors: Sequence[Spread], genes: Mapping[str, tuple[int, ...]], combine: Combine, best: np.ufunc
) -> list[Spread]:
    """The same factors, those with a gene replaced, where the first of them was, by what its best value gives."""
    groups: list[list[Spread]] = []
    left: list[Spread | None] = []
    for factor in factors:
        if gene not in factor.genes:
            left.append(factor)
        elif groups and _n_choices([*groups[-1], factor], genes) <= MAX_CHOICES:
            groups[-1].append(factor)
        else:
            groups.append([factor])
            left.append(None)
    given = (_best(gene, group, combine, best) for group in groups)
    return [next(given) if factor is None else factor for factor in left]


def _best(gene: str, factors: Sequence[Spread], combine: Combine, best: np.ufunc) -> Spread:
    genes = tuple(dict.fromkeys(name for factor in factors for name in factor.genes))
    together = np.add if combine == "sum" else np.maximum
    total = functools.reduce(together, (factor.over(genes) for factor in factors))
    axis = genes.index(gene)
    return Spread(genes[:axis] + genes[axis + 1 :], best.reduce(total, axis=axis))
