"""What separate searches would choose under the same constraints, by predictors alone: a joint find must beat them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.errors import ProblemError
from apq_tune.genotype import Genomes
from apq_tune.methods.subspace import ARCHITECTURE_FIELDS, Subspace, fixed
from apq_tune.problem import Constraint, Floats, FunctionMetric, Metric, Objective, Problem
from apq_tune.search import search


@dataclass(frozen=True)
class Rivals:
    """Searches in parts of the space; each scores ``n_evaluations`` distinct candidates.

    Attributes:
        encoding: of the space.
        loss: predicts the loss.
        fp32: predicts the full-precision loss.
        constraints: to keep.
        n_evaluations: of each search.
        seed: of the searches.
    """

    encoding: Encoding
    loss: Metric
    fp32: Metric
    constraints: tuple[Constraint, ...]
    n_evaluations: int
    seed: int

    def uniform(self, limits: Sequence[Constraint] = ()) -> list[Genomes]:
        """``(n_genes,)`` each, best first: the predicted best network at every width at which one fits.

        Args:
            limits: that these have to keep, too.
        """
        return self._ranked(self._networks(self.loss, limits))

    def staged(self, limits: Sequence[Constraint] = ()) -> list[Genomes]:
        """``(n_genes,)`` each, best first: the predicted best bits for networks that were chosen without them.

        At every uniform width the network of the least full-precision loss that fits is chosen, then bits for its
        layers; ``apq_tune.methods.staged`` does the same with measurements.

        Args:
            limits: that these have to keep, too.
        """
        found = []
        for network in self._networks(self.fp32, ()):
            part = Subspace(self.encoding, fixed(self.encoding, network, (*ARCHITECTURE_FIELDS, "channels")))
            problem = part.problem(self.loss, (*self.constraints, *limits))
            with contextlib.suppress(ProblemError):  # none of its policies keeps the limits
                front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed)
                found.append(self.encoding.encode(front.candidates[:1], check=False)[0])
        return self._ranked(found)

    def _networks(self, metric: Metric, limits: Sequence[Constraint]) -> Iterator[Genomes]:
        """The best network by a metric at each uniform width at which one fits."""
        for bits in self.encoding.uniform_bits():
            at = _AtBits(self.encoding, bits)
            own = tuple(replace(c, metric=at.of(c.metric)) for c in (*self.constraints, *limits, self._allowed))
            problem = Problem(self.encoding, [Objective(at.of(metric))], own)
            with contextlib.suppress(ProblemError):
                front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed)
                yield self.encoding.at_bits(self.encoding.encode(front.candidates[:1], check=False), bits)[0]

    def _ranked(self, genomes: Iterable[Genomes]) -> list[Genomes]:
        return sorted(genomes, key=lambda genome: float(self.loss(genome[None])[0]))

    @property
    def _allowed(self) -> Constraint:
        def forbidden(genomes: Genomes) -> Floats:
            return (~self.encoding.is_allowed(genomes)).astype(np.float64)

        return Constraint(FunctionMetric("forbidden", "", forbidden), 0.0)


@dataclass(frozen=True)
class _AtBits:
    """Metrics of candidates whose bits are overruled by one width."""

    encoding: Encoding
    bits: int

    def of(self, metric: Metric) -> FunctionMetric:
        return FunctionMetric(metric.name, metric.unit, lambda g: metric(self.encoding.at_bits(g, self.bits)))
