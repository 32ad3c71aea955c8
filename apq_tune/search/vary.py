"""Variation: new genomes from parents. A pure function of its arguments and the generator."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from apq_tune.encoding import Genomes, Genotype


def vary(
    parents: Genomes,
    n: int,
    encoding: Genotype,
    rng: np.random.Generator,
    *,
    crossover: float = 0.5,
    mutation: float = 0.1,
) -> Genomes:
    """Make children by uniform crossover and by mutation that reaches every gene, depths included.

    Genes of a block that a child switches on, and that its parent had off, are drawn afresh.

    Args:
        parents: ``(p, n_genes)``, p >= 1, canonical; each is used equally often in the mean.
        n: number of children.
        encoding: of the space.
        rng: source of randomness.
        crossover: share of children that mix two parents before mutation.
        mutation: chance of each gene to be redrawn.

    Returns:
        ``(n, n_genes)`` canonical and allowed. A child may equal a parent; the caller filters duplicates.
    """
    first, second = parents[rng.integers(len(parents), size=(2, n))]
    from_second = _coins(first.shape, rng) & (rng.random((n, 1)) < crossover)
    children = np.where(from_second, second, first)
    _mutate(children, encoding.n_choices, mutation, rng)
    children = encoding.revive(children, first, second, from_second, rng)
    return encoding.canonicalise(encoding.repair(children, rng))


def _coins(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Fair coins, eight to a random byte."""
    n, width = shape
    return np.unpackbits(rng.integers(0, 256, (n, -(-width // 8)), np.uint8), axis=1, count=width).view(bool)


def _mutate(genomes: Genomes, n_choices: NDArray[np.int16], chance: float, rng: np.random.Generator) -> None:
    """Redraw each gene with a chance, in place.

    Draws as many places as hit, instead of a number for each gene: with a Poisson number of hits at uniform places, the
    hits of different genes are independent, and a gene has at least one with probability ``1 - exp(-rate)``.
    """
    rate = math.inf if chance >= 1 else -math.log1p(-chance)
    if math.isinf(rate):
        hit = np.arange(genomes.size)
    else:
        hit = rng.integers(0, genomes.size, rng.poisson(rate * genomes.size))
    genes = n_choices[hit % len(n_choices)]
    genomes.reshape(-1)[hit] = (rng.random(len(hit), np.float32) * genes).astype(np.int16)
