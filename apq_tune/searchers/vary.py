"""Variation: new genomes from parents. Pure functions of their arguments and the generator.

Genomes here keep the genes of blocks that are off: when depth switches a block on again, it comes back as it was, or as
crossover made it in the meantime. Only what is evaluated is canonical.
"""

from __future__ import annotations

import numpy as np

from apq_tune.space.encoding import Genes, Genomes

SPREAD = 2.0
"""Standard deviation, in log, of the power by which a first genome leans to small or large choices."""

STEP_POWER = 0.25
"""1 / (eta + 1) of polynomial mutation with eta = 3 (Deb 1996): steps are a fifth of the range in the mean."""


def spread(n: int, encoding: Genes, rng: np.random.Generator) -> Genomes:
    """Random genomes from all over the range of sizes.

    Genes drawn one by one make all networks about middling. Here every genome leans, as a whole, to early or to late
    choices, by ``u ** power`` with a power of its own.

    Args:
        n: how many.
        encoding: of the space.
        rng: source of randomness.

    Returns:
        ``(n, n_genes)`` allowed genomes, not canonical.
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
    """Make one child of each pair, by uniform crossover and by mutation that reaches every gene, depths included.

    Args:
        first: ``(n, n_genes)`` parents.
        second: ``(n, n_genes)`` their mates.
        encoding: of the space.
        rng: source of randomness.
        crossover: share of children that mix both parents before mutation; the others start as the first.
        mutation: fewest and most genes to change in a child, in the mean; each child draws its own, log-uniform.

    Returns:
        ``(n, n_genes)`` allowed genomes, not canonical. A child may equal a parent; the caller filters duplicates.
    """
    n, n_genes = first.shape
    coins = np.unpackbits(rng.integers(0, 256, (n, -(-n_genes // 8)), np.uint8), axis=1, count=n_genes).view(bool)
    children = np.where(coins & (rng.random((n, 1)) < crossover), second, first)
    _mutate(children, encoding, mutation, rng)
    return encoding.repair(children, rng)


def _mutate(genomes: Genomes, encoding: Genes, mutation: tuple[float, float], rng: np.random.Generator) -> None:
    """Change genes in place: half of them are redrawn, half move up or down by a polynomial step."""
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
