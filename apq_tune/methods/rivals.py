"""Baselines of joint search by predictors alone: uniform policies and staged searches under the same constraints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.methods.projections import Project, at_bits, fixed
from apq_tune.methods.subspace import Subspace
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.searchers import search
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS
from apq_tune.space.gene_encoding import GeneEncoding

RIVALS = ("uniform", "staged")
"""Names of the baselines."""


@dataclass(frozen=True)
class Rivals:
    """Searches in parts of the space; each scores ``n_evaluations`` distinct candidates.

    Attributes:
        encoding: Encoding of the search space.
        loss: Predictor of the loss.
        fp32: Predictor of the full-precision loss.
        constraints: Constraints on candidates.
        n_evaluations: Number of distinct candidates that each search scores.
        seed: Seed of the searches.
    """

    encoding: GeneEncoding
    loss: Metric
    fp32: Metric
    constraints: tuple[Constraint, ...]
    n_evaluations: int
    seed: int

    def uniform(self, limits: Sequence[Constraint] = ()) -> list[Genomes]:
        """Predicted best network at every uniform bit-width at which one is feasible, best first.

        Args:
            limits: Further constraints.

        Returns:
            Genomes of shape ``(n_genes,)``.
        """
        return self._ranked(self._networks(self.loss, limits))

    def staged(self, limits: Sequence[Constraint] = ()) -> list[Genomes]:
        """Predicted best bits for networks that were chosen by full-precision losses, best first.

        At every uniform bit-width, the feasible network with the lowest full-precision loss is chosen, then the bits of
        its layers; ``apq_tune.methods.staged`` does the same with measurements.

        Args:
            limits: Further constraints.

        Returns:
            Genomes of shape ``(n_genes,)``.
        """
        found = []
        for network in self._networks(self.fp32, ()):
            bits = fixed(self.encoding, network, (*ARCHITECTURE_KINDS, "width"))
            with contextlib.suppress(ProblemError):  # none of its policies is feasible
                found.append(self._best(bits, self.loss, limits))
        return self._ranked(found)

    def _networks(self, metric: Metric, limits: Sequence[Constraint]) -> Iterator[Genomes]:
        """Best network by a metric at each uniform bit-width at which one is feasible, each of shape ``(n_genes,)``."""
        for bits in self.encoding.uniform_bits():
            with contextlib.suppress(ProblemError):
                yield self._best(at_bits(self.encoding, bits), metric, limits)

    def _best(self, project: Project, metric: Metric, limits: Sequence[Constraint]) -> Genomes:
        """Best genome of a subspace, shape ``(n_genes,)``."""
        problem = Subspace(self.encoding, project).problem(metric, (*self.constraints, *limits))
        front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed)
        return np.asarray(self.encoding.encode(front.candidates[:1], check=False)[0])

    def _ranked(self, genomes: Iterable[Genomes]) -> list[Genomes]:
        return sorted(genomes, key=lambda genome: float(self.loss(genome[None])[0]))
