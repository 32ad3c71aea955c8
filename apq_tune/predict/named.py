"""Features of named choices: one-hot columns, and additionally the numbers of numeric choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import Gene

Floats = NDArray[np.float64]


def columns(genes: Sequence[Gene], genomes: Genomes) -> Floats:
    """Columns of named choices, shape ``(n, n_columns)``: one-hot columns, then one for each numeric choice.

    Choices with only positive numbers are represented by logarithms.

    Args:
        genes: Genes of the named choices, shape ``(n_genes,)``.
        genomes: Columns of these genes in genomes, shape ``(n, n_genes)``.
    """
    one_hot = [genomes[:, [place]] == np.arange(len(gene.values)) for place, gene in enumerate(genes)]
    ordered = [numbers[genomes[:, place]][:, None] for place, numbers in _ordered(genes).items()]
    return np.concatenate([np.zeros((len(genomes), 0)), *one_hot, *ordered], axis=1).astype(np.float64)


def kinds(genes: Sequence[Gene]) -> NDArray[np.intp]:
    """Kind of each column, shape ``(n_columns,)``: one for the one-hot columns of a choice, another for its numbers."""
    names = np.repeat(np.arange(len(genes)), [len(gene.values) for gene in genes])
    return np.concatenate([names, np.array([len(genes) + place for place in _ordered(genes)], np.intp)])


def _ordered(genes: Sequence[Gene]) -> dict[int, Floats]:
    """Numbers of the values of numeric genes with more than two values, by index of the gene."""
    found: dict[int, Floats] = {}
    for place, gene in enumerate(genes):
        if len(gene.values) > 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in gene.values):
            numbers = np.array(gene.values, np.float64)
            found[place] = np.log(numbers) if (numbers > 0).all() else numbers
    return found
