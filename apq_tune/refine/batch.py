"""Which of the trained candidates go on to a longer training: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.gene import BIT_KINDS, places_of

Floats = NDArray[np.float64]
Rows = list[int]


def is_uniform(encoding: Encoding, genomes: Genomes) -> NDArray[np.bool_]:
    """``(n, n_genes) -> (n,)``: whether all searched layers of a network have the same bits."""
    active, first = encoding.active_genes(genomes), np.full(len(genomes), np.nan)
    same = np.ones(len(genomes), bool)
    for gene in places_of(encoding.genes, BIT_KINDS):
        values = np.array(encoding.genes[gene].values, np.float64)
        bits = np.where(active[:, gene], values[genomes[:, gene]], np.nan)
        first = np.where(np.isnan(first), bits, first)
        same &= np.isnan(bits) | (bits == first)
    return np.asarray(same & ~np.isnan(first))


def survivors(losses: Floats, kinds: Sequence[NDArray[np.bool_]], n: int) -> Rows:
    """The best ``n`` of one rung of successive halving (Jamieson 2016), the best one of each kind among them.

    Short training under-rates the fewest bits, and a joint find that no uniform and no staged one was trained against
    proves nothing: so the best of each kind stays, and takes the last places if it has not earned a better one. The
    best of all stays in any case.

    Args:
        losses: ``(p,)`` after equal training.
        kinds: ``(p,)`` each: who belongs to it; nobody may.
        n: places; more are taken if the best of all and of each kind need them.

    Returns:
        Rows, best first.
    """
    order = np.argsort(losses, kind="stable").tolist()
    stay = {order[0], *(next(row for row in order if kind[row]) for kind in kinds if kind.any())}
    for row in order:
        if len(stay) >= n:
            break
        stay.add(row)
    return [row for row in order if row in stay]
