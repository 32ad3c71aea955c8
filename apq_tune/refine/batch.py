"""Kinds of candidates of which successive halving keeps the best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.gene import BIT_KINDS, places_of


def is_uniform(encoding: Encoding, genomes: Genomes) -> NDArray[np.bool_]:
    """Whether all searched layers of a network have the same bit-width, shape ``(n,)``."""
    active, first = encoding.active_genes(genomes), np.full(len(genomes), np.nan)
    same = np.ones(len(genomes), bool)
    for gene in places_of(encoding.genes, BIT_KINDS):
        values = np.array(encoding.genes[gene].values, np.float64)
        bits = np.where(active[:, gene], values[genomes[:, gene]], np.nan)
        first = np.where(np.isnan(first), bits, first)
        same &= np.isnan(bits) | (bits == first)
    return np.asarray(same & ~np.isnan(first))
