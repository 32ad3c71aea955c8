"""Named choices as numbers: what has an order is known by its place in it, and everything by its name as well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.choices import ChoiceEncoding
from apq_tune.space.encoding import Genomes

Floats = NDArray[np.float64]


def columns(encoding: ChoiceEncoding, genomes: Genomes) -> Floats:
    """``(n, n_genes) -> (n, n_columns)``: one-hots, then one column for each choice of several numbers.

    Numbers that are all positive count by their logarithm, as sizes and rates do.
    """
    one_hot = encoding.features(genomes).astype(np.float64)
    ordered = [numbers[genomes[:, gene]] for gene, numbers in _ordered(encoding).items()]
    return np.column_stack([one_hot, *ordered])


def kinds(encoding: ChoiceEncoding) -> NDArray[np.intp]:
    """``(n_columns,)``: which kind each column is of; the names of a choice are one, its order is another."""
    names = np.repeat(np.arange(encoding.n_genes), encoding.n_choices)
    return np.concatenate([names, np.array([encoding.n_genes + gene for gene in _ordered(encoding)], np.intp)])


def _ordered(encoding: ChoiceEncoding) -> dict[int, Floats]:
    """Gene -> the numbers of its values, for those that are numbers."""
    found: dict[int, Floats] = {}
    for gene, values in enumerate(encoding.choices):
        if len(values) > 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            numbers = np.array(values, np.float64)
            found[gene] = np.log(numbers) if (numbers > 0).all() else numbers
    return found
