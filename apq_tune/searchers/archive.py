"""What a search has seen: which genomes, and the best of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apq_tune.problem.pareto import is_non_dominated
from apq_tune.problem.problem import Evaluation
from apq_tune.space.encoding import Genomes

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 over the golden ratio (Knuth 1998, vol. 3, 6.4)

BUFFER = 4000
"""Rows that may wait before dominated ones are dropped."""


class Seen:
    """The genomes that were evaluated, as 64-bit fingerprints.

    Two different genomes share one with a chance of about 1 in 10^7 in a search of a million candidates; the second
    would then be passed over.
    """

    def __init__(self, n_genes: int) -> None:
        self._known: set[int] = set()
        self._powers = np.multiply.accumulate(np.full(n_genes, FACTOR))

    def __len__(self) -> int:
        return len(self._known)

    def fingerprints(self) -> NDArray[np.uint64]:
        """``(len(self),)``, sorted: all that there is to save."""
        return np.array(sorted(self._known), np.uint64)

    def restore(self, fingerprints: NDArray[np.uint64]) -> None:
        """Know these, and nothing else."""
        self._known = set(fingerprints.tolist())

    def new(self, genomes: Genomes, limit: int) -> list[int]:
        """The first ``limit`` rows that were never given before, each once; from now on they are known.

        Args:
            genomes: ``(n, n_genes)``, canonical.
            limit: how many at most.
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
    """The non-dominated feasible candidates so far; while there are none, the one that comes closest.

    Of equals by a single objective it keeps the one that stays farthest below the limits.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Genomes, Evaluation]] = []
        self._waiting = 0
        self.closest: Evaluation | None = None

    def add(self, genomes: Genomes, evaluation: Evaluation) -> None:
        """Take over a batch."""
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
        """The candidates and their scores; ``None`` if nothing feasible was found."""
        if not self._parts:
            return None
        self._reduce()
        return self._parts[0]

    def restore(self, best: tuple[Genomes, Evaluation] | None, closest: Evaluation | None) -> None:
        """Hold what another archive gave as ``best()`` and as ``closest``, and nothing else."""
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
