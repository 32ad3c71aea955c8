"""Variation operators: crossover and mutation of genomes.

Genomes of a population keep the genes of inactive blocks, so that a block that becomes active again with a change of
depth has the genes that it had before, or that crossover gave it since. Genomes are made canonical for evaluation only.
"""

from __future__ import annotations

import numpy as np

from apq_tune.space.encoding import Genes, Genomes

SPREAD = 2.0
"""Standard deviation of the logarithm of the power by which an initial genome is skewed to small or large choices."""

STEP_POWER = 0.25
"""1 / (eta + 1) of polynomial mutation with eta = 3 (Deb 1996): steps are on average a fifth of the range."""


def spread(n: int, encoding: Genes, rng: np.random.Generator) -> Genomes:
    """Sample genomes over the whole range of network sizes.

    Independent uniform genes would give networks of medium size only. Here all genes of a genome are skewed to small or
    to large choices by ``u ** power``, with a random power per genome.

    Args:
        n: Number of genomes.
        encoding: Encoding of the search space.
        rng: Random number generator.

    Returns:
        Allowed genomes, not canonical, shape ``(n, n_genes)``.
    """
    power = np.exp(rng.normal(0, SPREAD, (n, 1)))
    genes = (rng.random((n, len(encoding.n_choices))) ** power * encoding.n_choices).astype(np.int16)
    return encoding.repair(np.minimum(genes, encoding.n_choices - 1), rng)


def vary(
    first: Genomes,
    second: Genomes,
    encoding: Genes,
    rng: np.random.Generator,
    *,
    crossover: float = 0.9,
    mutation: tuple[float, float] = (1.0, 8.0),
) -> Genomes:
    """Create one child per pair of parents, by uniform crossover and mutation of any genes.

    Args:
        first: First parents, shape ``(n, n_genes)``.
        second: Second parents, shape ``(n, n_genes)``.
        encoding: Encoding of the search space.
        rng: Random number generator.
        crossover: Share of children that mix both parents before mutation; the others are copies of the first parent.
        mutation: Smallest and largest expected number of mutated genes; each child draws its own, log-uniformly.

    Returns:
        Allowed genomes, not canonical, shape ``(n, n_genes)``. A child may equal a parent.
    """
    n, n_genes = first.shape
    coins = np.unpackbits(rng.integers(0, 256, (n, -(-n_genes // 8)), np.uint8), axis=1, count=n_genes).view(bool)
    children = np.where(coins & (rng.random((n, 1)) < crossover), second, first)
    _mutate(children, encoding, mutation, rng)
    return encoding.repair(children, rng)


def _mutate(genomes: Genomes, encoding: Genes, mutation: tuple[float, float], rng: np.random.Generator) -> None:
    """Mutate genomes in place: half of the mutations resample a gene, half move it by a polynomial step."""
    low, high = mutation
    changes = rng.poisson(low * (high / low) ** rng.random(len(genomes)))
    rows = np.repeat(np.arange(len(genomes)), changes)
    genes = rng.integers(genomes.shape[1], size=len(rows))
    last = encoding.n_choices[genes].astype(np.float64) - 1
    old = genomes[rows, genes]
    u = rng.random((2, len(rows)))
    redrawn = np.floor(u[0] * (last + 1))
    step = np.maximum(np.rint((1 - u[0] ** STEP_POWER) * last), 1)
    up = old + step <= last
    down = old - step >= 0
    stepped = np.clip(np.where(up & (~down | (u[1] < 0.25)), old + step, old - step), 0, last)
    genomes[rows, genes] = np.where(u[1] < 0.5, stepped, redrawn)
