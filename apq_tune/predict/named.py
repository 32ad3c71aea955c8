"""Named choices as numbers: what has an order is known by its place in it, and everything by its name as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import Gene

Floats = NDArray[np.float64]


def columns(genes: Sequence[Gene], genomes: Genomes) -> Floats:
    """``(n, n_genes) -> (n, n_columns)``: one-hots, then one column for each choice of several numbers.

    Numbers that are all positive count by their logarithm, as sizes and rates do.

    Args:
        genes: ``(n_genes,)`` named choices.
        genomes: Their columns of genomes.
    """
    one_hot = [genomes[:, [place]] == np.arange(len(gene.values)) for place, gene in enumerate(genes)]
    ordered = [numbers[genomes[:, place]][:, None] for place, numbers in _ordered(genes).items()]
    return np.concatenate([np.zeros((len(genomes), 0)), *one_hot, *ordered], axis=1).astype(np.float64)


def kinds(genes: Sequence[Gene]) -> NDArray[np.intp]:
    """``(n_columns,)``: which kind each column is of; the names of a choice are one, its order is another."""
    names = np.repeat(np.arange(len(genes)), [len(gene.values) for gene in genes])
    return np.concatenate([names, np.array([len(genes) + place for place in _ordered(genes)], np.intp)])


def _ordered(genes: Sequence[Gene]) -> dict[int, Floats]:
    """Place of a gene -> the numbers of its values, for those that are numbers."""
    found: dict[int, Floats] = {}
    for place, gene in enumerate(genes):
        if len(gene.values) > 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in gene.values):
            numbers = np.array(gene.values, np.float64)
            found[place] = np.log(numbers) if (numbers > 0).all() else numbers
    return found
