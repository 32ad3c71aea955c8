"""Archives of a search: fingerprints of all evaluated genomes, and the non-dominated candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.problem.pareto import is_non_dominated
from apq_tune.problem.problem import Evaluation
from apq_tune.space.encoding import Genomes

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 over the golden ratio (Knuth 1998, vol. 3, 6.4)

BUFFER = 4000
"""Number of added rows after which dominated ones are dropped."""


class Seen:
    """Set of evaluated genomes, stored as 64-bit fingerprints.

    In a search of a million candidates, the probability that two different genomes collide is about 10^-7; the second
    one would then be skipped.
    """

    def __init__(self, n_genes: int) -> None:
        self._known: set[int] = set()
        self._powers = np.multiply.accumulate(np.full(n_genes, FACTOR))

    def __len__(self) -> int:
        return len(self._known)

    def fingerprints(self) -> NDArray[np.uint64]:
        """Sorted fingerprints, shape ``(len(self),)``; they are the whole state."""
        return np.array(sorted(self._known), np.uint64)

    def restore(self, fingerprints: NDArray[np.uint64]) -> None:
        """Replace the content by saved fingerprints."""
        self._known = set(fingerprints.tolist())

    def new(self, genomes: Genomes, limit: int) -> list[int]:
        """Add the first ``limit`` genomes that are not known yet, and return their rows.

        Args:
            genomes: Canonical genomes, shape ``(n, n_genes)``.
            limit: Maximum number of rows.
        """
        keys = ((genomes.astype(np.uint64) + 1) * self._powers).sum(axis=1, dtype=np.uint64).tolist()
        rows: list[int] = []
        for row, key in enumerate(keys):
            if len(rows) == limit:
                break
            if key not in self._known:
                self._known.add(key)
                rows.append(row)
        return rows


class Archive:
    """Archive of the non-dominated feasible candidates, or of the least infeasible one while there are none.

    With a single objective, ties are broken in favour of the candidate that is farthest below the limits.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Genomes, Evaluation]] = []
        self._waiting = 0
        self.closest: Evaluation | None = None

    def add(self, genomes: Genomes, evaluation: Evaluation) -> None:
        """Add an evaluated batch."""
        feasible = evaluation.feasible
        if feasible.any():
            self._parts.append((genomes[feasible], Evaluation(*(part[feasible] for part in evaluation))))
            self._waiting += int(feasible.sum())
            if self._waiting > BUFFER:
                self._reduce()
        elif not self._parts:
            best = np.clip(evaluation.G, 0, None).sum(axis=1).argmin()
            if self.closest is None or _miss(evaluation, best) < _miss(self.closest, 0):
                self.closest = Evaluation(*(part[best : best + 1] for part in evaluation))

    def best(self) -> tuple[Genomes, Evaluation] | None:
        """Non-dominated genomes and their evaluation; ``None`` if no candidate is feasible."""
        if not self._parts:
            return None
        self._reduce()
        return self._parts[0]

    def restore(self, best: tuple[Genomes, Evaluation] | None, closest: Evaluation | None) -> None:
        """Replace the content by the saved ``best()`` and ``closest`` of an archive."""
        self._parts, self._waiting, self.closest = [] if best is None else [best], 0, closest

    def _reduce(self) -> None:
        genomes = np.concatenate([part for part, _ in self._parts])
        evaluation = Evaluation(*(np.concatenate(parts) for parts in zip(*(e for _, e in self._parts), strict=True)))
        if evaluation.F.shape[1] == 1:
            best = np.lexsort((evaluation.G.sum(axis=1), evaluation.F[:, 0]))[:1]
        else:
            best = np.flatnonzero(is_non_dominated(evaluation.F))
        self._parts = [(genomes[best], Evaluation(*(part[best] for part in evaluation)))]
        self._waiting = 0


def _miss(evaluation: Evaluation, row: int | np.intp) -> float:
    return float(np.clip(evaluation.G[row], 0, None).sum())
