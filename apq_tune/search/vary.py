"""Variation: new genomes from parents. A pure function of its arguments and the generator."""

from __future__ import annotations

import numpy as np

from apq_tune.encoding import Encoding, Genomes


def vary(
    parents: Genomes,
    n: int,
    encoding: Encoding,
    rng: np.random.Generator,
    *,
    crossover: float = 0.5,
    mutation: float = 0.1,
) -> Genomes:
    """Make children by uniform crossover and by mutation that reaches every gene, depths included.

    Inert genes of the parents are drawn afresh first, so that a block which a child switches on is a random one.

    Args:
        parents: ``(p, n_genes)``, p >= 1; each is used equally often in the mean.
        n: number of children.
        encoding: of the space.
        rng: source of randomness.
        crossover: share of children that mix two parents before mutation.
        mutation: chance of each gene to be redrawn.

    Returns:
        ``(n, n_genes)`` canonical and allowed. A child may equal a parent; the caller filters duplicates.
    """
    first, second = parents[rng.integers(len(parents), size=(2, n))]
    from_second = (rng.random((n, 1)) < crossover) & (rng.random(first.shape) < 0.5)
    children = np.where(from_second, encoding.fill_inert(second, rng), encoding.fill_inert(first, rng))
    redrawn = rng.integers(0, encoding.n_choices, children.shape, dtype=np.int16)
    children = np.where(rng.random(children.shape) < mutation, redrawn, children)
    return encoding.canonicalise(encoding.repair(children, rng))
