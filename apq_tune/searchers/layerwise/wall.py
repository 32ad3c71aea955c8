"""Walls of AMC and HAQ, which keep every policy within its limits.

Both rest on one candidate within the limits, in which each gene that is still open has the value of the cheapest
candidate. As long as a decision leaves that candidate within the limits, by its true cost, there is a way to end within
them. So nothing is assumed of costs: they need not be sums, nor fall with each gene. If they do fall with each gene,
the cheapest candidate has the first value of every gene, and the wall is the published one: a decision is limited so
that the limits can still be kept with all later layers at their least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.problem.problem import Constraint
from apq_tune.searchers.layerwise.walk import Walk, Walkable
from apq_tune.space.encoding import Genomes

Floats = NDArray[np.float64]

STARTS, ROUNDS = 20, 4
"""Number of random candidates from which the cheapest one is sought, and of rounds over all genes for each."""


@dataclass(frozen=True, eq=False)
class Wall:
    """Limits that every policy keeps, forbidden combinations included.

    Attributes:
        encoding: Encoding of the search space.
        limits: The limits, on metrics that need not be measured.
        candidates: Function from genomes to those that metrics take; ``None`` if they are the same.
    """

    encoding: Walkable
    limits: tuple[Constraint, ...] = ()
    candidates: Callable[[Genomes], Genomes] | None = None

    def violations(self, genomes: Genomes) -> Floats:
        """Violation of each limit, kept where ``<= 0``, shape ``(n, n_limits)``."""
        own = self.encoding.canonicalise(genomes)
        own = own if self.candidates is None else self.candidates(own)
        columns = [limit.violation(np.asarray(limit.metric(own), np.float64)) for limit in self.limits]
        return np.stack(columns, axis=1) if columns else np.zeros((len(own), 0))

    def misses(self, genomes: Genomes) -> Floats:
        """Largest violation of any limit, infinite for what is not allowed; kept where ``<= 0``, shape ``(n,)``."""
        worst = self.violations(genomes).max(axis=1, initial=-1.0)
        return np.where(self._allowed(genomes), worst, np.inf)

    def _allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether nothing would be repaired."""
        allowed = self.encoding.is_allowed(genomes)
        own = self.encoding.canonicalise(genomes[allowed])
        repaired = self.encoding.canonicalise(self.encoding.repair(own, np.random.default_rng(0)))
        allowed[allowed] = (repaired == own).all(axis=1)
        return allowed

    def cheapest(self, walk: Walk, start: Genomes, rng: np.random.Generator) -> Genomes:
        """A candidate within the limits with as small values as can be found.

        It is the one with the first value of each decided gene, if that keeps the limits. Otherwise violations are
        reduced gene by gene, from there and from random candidates.

        Args:
            walk: Genes that are decided.
            start: Values of all other genes, shape ``(n_genes,)``.
            rng: Random number generator.

        Returns:
            Genome of shape ``(n_genes,)``.

        Raises:
            ProblemError: If no candidate within the limits is found; the message has the smallest violation.
        """
        places = np.array([*walk.unordered, *walk.channels, *walk.bits], np.intp)
        genome = start.astype(np.int16)
        genome[places] = 0
        closest = np.inf
        for attempt in range(1 + STARTS):
            if attempt:
                n_choices = self.encoding.n_choices[places]
                genome[places] = (rng.random(len(places)) * n_choices).astype(np.int16)
            fixed = self.encoding.repair(genome[None], rng)[0]
            genome[places] = fixed[places]
            genome, miss = self._reduced(genome, places.tolist(), ROUNDS)
            if miss <= 0:
                return genome
            closest = min(closest, miss)
        raise ProblemError(
            f"no policy with {' and '.join(map(str, self.limits))} was found; the closest misses one by "
            f"{100 * closest:.3g}%; relax a bound"
        )

    def _reduced(self, genome: Genomes, places: Sequence[int], rounds: int) -> tuple[Genomes, float]:
        """Reduce the largest violation gene by gene until the limits are kept or no gene reduces it."""
        miss = float(self.misses(genome[None])[0])
        for _ in range(rounds):
            before = miss
            for place in places:
                if miss <= 0:
                    return genome, miss
                rows = every_value(genome, place, int(self.encoding.n_choices[place]))
                own = self.misses(rows)
                best = int(own.argmin())
                if own[best] < miss:
                    genome, miss = rows[best].copy(), float(own[best])
            if miss >= before:
                break
        return genome, miss

    def decided(self, genome: Genomes, gene: int, wanted: int, open_: Sequence[int]) -> Genomes:
        """Give a gene the value next to a wanted one that leaves a candidate within the limits, a smaller one if any.

        Open genes keep the values of the cheapest candidate. Others are tried for them only if these are not the first
        ones, as costs then do not fall with every gene, or if a combination is forbidden.

        Args:
            genome: Candidate within the limits, shape ``(n_genes,)``.
            gene: Index of the gene.
            wanted: Index of the wanted value.
            open_: Genes that are decided later.

        Returns:
            Candidate within the limits, shape ``(n_genes,)``.
        """
        row = genome.copy()
        row[gene] = wanted
        if self.misses(row[None])[0] <= 0:
            return row
        rows = every_value(genome, gene, int(self.encoding.n_choices[gene]))
        misses = self.misses(rows)
        for value in (*range(wanted, -1, -1), *range(wanted + 1, len(rows))):
            if misses[value] <= 0:
                return np.asarray(rows[value])
            if misses[value] == np.inf or genome[list(open_)].any():
                other, miss = self._reduced(rows[value], open_, 1)
                if miss <= 0:
                    return other
        return genome  # its own value is always kept

    def lowered(self, genome: Genomes, base: Genomes, bits: Sequence[int]) -> Genomes:
        """Lower bits as HAQ does, until the limits are kept: from the last layer backwards, the input's bits first.

        Each round lowers every gene by one value; round follows round. A gene goes no further than in ``base``, and
        where that has more bits, it is raised instead.

        Args:
            genome: Candidate, shape ``(n_genes,)``.
            base: Candidate within the limits that differs from it in bits alone, shape ``(n_genes,)``.
            bits: Genes of bits layer by layer, those of the weights first.

        Returns:
            Candidate within the limits, shape ``(n_genes,)``.
        """
        rows = [genome]
        while not np.array_equal(rows[-1], base):
            for gene in reversed(bits):
                if rows[-1][gene] != base[gene]:
                    lower = rows[-1].copy()
                    lower[gene] += np.sign(int(base[gene]) - int(lower[gene]))
                    rows.append(lower)
        kept = self.misses(np.stack(rows)) <= 0
        return np.asarray(rows[int(kept.argmax())])


def every_value(genome: Genomes, gene: int, n: int) -> Genomes:
    """A candidate at each value of a gene, shape ``(n, n_genes)``."""
    rows = np.repeat(genome[None], n, axis=0)
    rows[:, gene] = np.arange(n)
    return rows
